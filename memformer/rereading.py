"""Reading again: the words of the passages that were found stand before the question.

A slot holds what a token meant where it was told; its words, read again beside the question, can
answer what the slot does not. They are seen and not written: the memory has them already.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from memformer.recollection import Passage, within
from memformer.template import text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# between two passages, and between the last and the question
BREAK = "\n\n"


def to_reread(passages: Sequence[Passage], tokens: int) -> list[Passage]:
    """The passages whose words are read again, in the order in which they were told.

    Args:
        passages: from `recall`, best first.
        tokens: the most tokens of all passages; 0: none is read again.
    """
    return sorted(within(passages, tokens), key=lambda passage: passage.start)


def insert_words(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], place: int, words: Sequence[str]
) -> list[int]:
    """A prompt with words before its question.

    Args:
        tokenizer: the tokenizer of the model.
        ids: the token ids of the prompt.
        place: the place of the question's first token in the prompt.
        words: the passages.
    """
    again = text_ids(tokenizer, "".join(f"{one}{BREAK}" for one in words)) if words else []
    return [*ids[:place], *again, *ids[place:]]
