"""Book text to put between a fact and the question about it.

This file knows nothing of questions or models.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from memformer.template import text_pieces

from eval.corpora.book import read_book


class Haystack:
    """A book as token ids: texts of any length, from any place in the book.

    Args:
        tokenizer: the tokenizer of the model under test.
        path: the book file; None: the excerpt that comes with the repository.
    """

    def __init__(self, tokenizer: Any, path: Path | None = None) -> None:
        pieces = text_pieces(tokenizer, [read_book(path)], after="")
        self.ids: list[int] = [one for ids, _ in pieces for one in ids]

    def tokens(self, count: int, seed: str | None = None) -> list[int]:
        """`count` tokens of the book, from a place that the seed draws (None: the beginning).

        The same seed gives the same start, so a shorter text is the beginning of a longer one.
        After the end of the book its beginning follows.
        """
        start = 0 if seed is None else random.Random(seed).randrange(len(self.ids))
        rounds = -(-(start + count) // len(self.ids))
        return (self.ids * rounds)[start : start + count]
