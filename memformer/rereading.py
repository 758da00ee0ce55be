"""Reading again: the words of the passages that were found stand before the question.

A slot holds what a token meant where it was told; its words, read again beside the question, can
answer what the slot does not. They are seen and not written: the memory has them already.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from memformer.memory import MemoryState
from memformer.recalling import for_replies, with_text
from memformer.recollection import Passage, Recollection, within
from memformer.template import Frame, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# a passage is read again beside the best if its score is at least this share of the best score: two
# that contradict each other share the votes, and the newer one counts
NEAR = 0.5
# the longest first line of a turn that its passages are given
HEADING_TOKENS = 24
# between two passages, and between the last and the question
BREAK = "\n\n"
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Reread:
    """A prompt with words that are read again.

    Attributes:
        ids: the token ids of the prompt.
        begin: the place of the first token that is read again.
        end: the place after the last.
        recalled: the passages found that say more than the question; `reread` is set where the
            words are among `ids`.
    """

    ids: list[int]
    begin: int
    end: int
    recalled: list[Passage]

    @property
    def mask(self) -> list[bool]:
        """Whether each token of the prompt is read again."""
        return [self.begin <= place < self.end for place in range(len(self.ids))]


def with_words(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    marks: Frame | None,
    memory: MemoryState,
    questions: Sequence[str],
    prompts: Sequence[Sequence[int]],
) -> list[Reread]:
    """Prompts with the words that are read again, and what was found for each.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer.
        marks: the tokens that its template writes around a turn. None: there are none, so that
            nothing is read again.
        memory: a row for each prompt.
        questions: the words to find passages by.
        prompts: the token ids of each.
    """
    found = for_replies(model, tokenizer, memory, questions)
    rows = enumerate(zip(prompts, questions, found, strict=True))
    if marks is None:
        return [Reread(list(ids), 0, 0, list(one)) for _, (ids, _, one) in rows]
    return [reread(model, tokenizer, marks, *one, memory, row) for row, one in rows]


def reread(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    marks: Frame,
    ids: Sequence[int],
    question: str,
    recalled: Recollection,
    memory: MemoryState,
    row: int = 0,
) -> Reread:
    """Puts the words of the best passages before a question, in the order in which they were told.

    They take `MemoryConfig.reread_tokens` at most, and no more than fits into one segment with the
    prompt. Where the best passage is longer, or nothing told is about the question, none is read
    again. A passage that only repeats the question, which was asked before, is left out. A turn
    that begins with a short line, such as a date or a title, gives it to its passages, so that it
    is known when they were said; these lines come on top, where there is room.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer.
        marks: the tokens that its template writes around a turn.
        ids: the token ids of the prompt; the question begins after those of the template.
        question: the words by which the passages were found.
        recalled: the passages found, best first.
        memory: the memory in which they were found.
        row: its row.
    """
    config = model.memory_config
    room = min(config.reread_tokens, config.segment_tokens - len(ids))
    told: list[Passage] = list(recalled)
    if recalled.is_about:
        told = [one for one in with_text(recalled, tokenizer, marks) if _says_more(one, question)]
    best = within(told, room, NEAR) if recalled.is_about else []
    shown = sorted(best, key=lambda one: one.start)
    place = len(marks.begin)
    record = memory.told[row], memory.told_turn[row]
    lines = [heading(tokenizer, marks, *record, one) for one in shown]
    texts = [one.text for one in shown]
    words = word_ids(tokenizer, [f"{line}{text}" for line, text in zip(lines, texts, strict=True)])
    if len(words) + len(ids) > config.segment_tokens:
        words = word_ids(tokenizer, texts)
    starts = {one.start for one in best}
    return Reread(
        [*ids[:place], *words, *ids[place:]],
        place,
        place + len(words),
        [dataclasses.replace(one, reread=one.start in starts) for one in told],
    )


def _says_more(passage: Passage, question: str) -> bool:
    """Whether a passage has a word that a question has not."""
    said, asked = (set(_WORD.findall(one.lower())) for one in (passage.text, question))
    return not said <= asked


def heading(
    tokenizer: PreTrainedTokenizerBase,
    marks: Frame,
    told: Int[Tensor, " told"],
    turns: Int[Tensor, " told"],
    passage: Passage,
) -> str:
    """The first line of a passage's turn, with its line break.

    Empty where the line is longer than `HEADING_TOKENS`, or stands in the passage.

    Args:
        tokenizer: the tokenizer of the model.
        marks: the tokens that its template writes around a turn.
        told: the token ids of the record.
        turns: the turn of each.
        passage: one of its passages.
    """
    first = int((turns == passage.turn).long().argmax())
    most = HEADING_TOKENS + len(marks.begin)
    ids = told[first : min(first + most, passage.start)]
    opening = Passage(tuple(ids[ids >= 0].tolist()), 0.0, passage.turn, 0, first)
    found = with_text([opening], tokenizer, marks)
    line, end, _ = found[0].text.partition("\n") if found else ("", "", "")
    return line + end if end else ""


def word_ids(tokenizer: PreTrainedTokenizerBase, passages: Sequence[str]) -> list[int]:
    """The token ids of passages that stand before a question."""
    return text_ids(tokenizer, "".join(f"{one}{BREAK}" for one in passages))
