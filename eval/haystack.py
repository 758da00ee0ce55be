"""Book text to put between a fact and the question about it.

By default from the excerpt in `eval/data`; any text file, plain or gzipped, will do. This file
knows nothing of questions or models.
"""

from __future__ import annotations

import gzip
import random
from pathlib import Path
from typing import Any

from memformer.template import text_pieces

BOOK = Path(__file__).parent / "data" / "thursday.txt"


def read_book(path: Path | None = None) -> str:
    """The text of a book file, UTF-8, gzipped where the name ends in `.gz`.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no text in it.
    """
    path = path or BOOK
    if not path.is_file():
        raise FileNotFoundError(f"There is no book file {path}; --book takes a text file.")
    opened = (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8")
    )
    with opened as file:
        text = file.read()
    if not text.strip():
        raise ValueError(f"The book file {path} holds no text; --book takes a text file.")
    return text


class Haystack:
    """A book as token ids that can be read from anywhere, for any length.

    Args:
        tokenizer: the tokenizer of the model under test.
        path: the book file; None: the excerpt that comes with the repository.
    """

    def __init__(self, tokenizer: Any, path: Path | None = None) -> None:
        pieces = text_pieces(tokenizer, [read_book(path)], after="")
        self.ids: list[int] = [one for ids, _ in pieces for one in ids]

    def tokens(self, count: int, seed: str | None = None) -> list[int]:
        """So many tokens of the book, from a start that the seed draws (None: the beginning).

        The same seed gives the same start, so a shorter text is the beginning of a longer one. At
        the end of the book the text goes on with its beginning.
        """
        start = 0 if seed is None else random.Random(seed).randrange(len(self.ids))
        rounds = -(-(start + count) // len(self.ids))
        return (self.ids * rounds)[start : start + count]
