"""Reading again: the words of the passages that were found stand before the question.

A slot holds what a token meant where it was told; its words, read again beside the question, can
answer what the slot does not. They are seen and not written: the memory has them already.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from memformer.recalling import with_text
from memformer.recollection import Passage, within
from memformer.template import Frame, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# between two passages, and between the last and the question
BREAK = "\n\n"


@dataclass(frozen=True)
class Reread:
    """A prompt with words that are read again.

    Attributes:
        ids: the token ids of the prompt.
        begin: the place of the first token that is read again.
        end: the place after the last.
        recalled: the passages found; `reread` is set where the words are among `ids`.
    """

    ids: list[int]
    begin: int
    end: int
    recalled: list[Passage]

    @property
    def mask(self) -> list[bool]:
        """Whether each token of the prompt is read again."""
        return [self.begin <= place < self.end for place in range(len(self.ids))]


def reread(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    marks: Frame | None,
    ids: Sequence[int],
    recalled: Sequence[Passage],
) -> Reread:
    """Puts the words of the best passages before a question, in the order in which they were told.

    They take `MemoryConfig.reread_tokens` at most, and no more than fits into one segment with the
    prompt. Where the best passage is longer, none is read again.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer.
        marks: the tokens that its template writes around a turn; None: there are none.
        ids: the token ids of the prompt; the question begins after those of the template.
        recalled: the passages found, best first.
    """
    config = model.memory_config
    best = within(recalled, min(config.reread_tokens, config.segment_tokens - len(ids)))
    texts = with_text(sorted(best, key=lambda one: one.start), tokenizer, marks)
    place = 0 if marks is None else len(marks.begin)
    words = word_ids(tokenizer, [one.text for one in texts])
    found = [dataclasses.replace(one, reread=True) for one in best]
    return Reread(
        [*ids[:place], *words, *ids[place:]],
        place,
        place + len(words),
        [*found, *recalled[len(best) :]],
    )


def word_ids(tokenizer: PreTrainedTokenizerBase, passages: Sequence[str]) -> list[int]:
    """The token ids of passages that stand before a question."""
    return text_ids(tokenizer, "".join(f"{one}{BREAK}" for one in passages))
