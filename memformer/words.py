"""Finding by words: BM25 over the token ids of a record (Robertson and Zaragoza 2009).

Token ids that are the same word in another case count as one (`attach/words.py`), so no text is
decoded. The search is bm25s, which the extra `words` installs.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.attach.words import CONTROL

# a stretch with fewer words is the name of a role, such as "user"
LEAST_WORDS = 3


def can_compare_words() -> bool:
    """Whether bm25s is installed."""
    return importlib.util.find_spec("bm25s") is not None


def content(
    question: Int[Tensor, " tokens"], words: Int[Tensor, " vocabulary"]
) -> Int[Tensor, " tokens"]:
    """A question without the turns and names that a chat template writes around it.

    It is the last stretch between control tokens that has a few words; the whole question where
    there is none.

    Args:
        question: token ids.
        words: which word each token id is; see `word_table`.
    """
    kinds = words[question.long()]
    stretch = (kinds == CONTROL).long().cumsum(0)
    counts = torch.zeros_like(stretch).scatter_add(
        0, stretch.clamp_max(len(stretch) - 1), (kinds >= 0).long()
    )
    enough = (counts >= LEAST_WORDS).nonzero().flatten()
    if not len(enough):
        return question
    return question[(stretch == enough[-1]) & (kinds != CONTROL)]


def word_scores(
    question: Int[Tensor, " tokens"],
    texts: Sequence[Int[Tensor, " tokens"]],
    words: Int[Tensor, " vocabulary"],
) -> Float[Tensor, " texts"]:
    """How much the words of each text are those of the question.

    Args:
        question: token ids.
        texts: token ids of each text; at least one.
        words: which word each token id is; see `word_table`.
    """
    engine: Any = importlib.import_module("bm25s")

    def of(ids: Int[Tensor, " tokens"]) -> list[str]:
        numbers = words[ids.long()]
        return [str(number) for number in numbers[numbers >= 0].tolist()]

    asked, known = of(question), [of(text) for text in texts]
    if not asked or not any(known):
        return torch.zeros(len(texts))
    index = engine.BM25()
    index.index(known, show_progress=False)
    return torch.as_tensor(index.get_scores(asked)).float()
