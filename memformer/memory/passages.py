"""`Stretches`: a record cut into passages, which are found, and paragraphs, which are read.

A passage is a run of whole sentences, long enough to say something and short enough to be about one
thing. A paragraph is what is read and shown once one of its passages is found.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from memformer.segments import NOTHING, PARAGRAPH

# the most tokens of a paragraph; a longer one is cut between passages
WIDEST = 256


class Stretches(NamedTuple):
    """The passages and paragraphs of one row; both are runs of tokens, numbered in order.

    Attributes:
        passage: the passage of each token; -1 where nothing is recorded.
        begins: the place of the first token of each passage.
        ends: the place after the last token of each passage.
        paragraph: the paragraph of each passage.
    """

    passage: Int[Tensor, " told"]
    begins: list[int]
    ends: list[int]
    paragraph: list[int]

    @property
    def sizes(self) -> Int[Tensor, " passages"]:
        """The number of tokens of each passage."""
        ends = torch.tensor(self.ends, device=self.passage.device)
        return ends - torch.tensor(self.begins, device=self.passage.device)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The first place of each paragraph, and the place after its last."""
        found: list[tuple[int, int]] = []
        for number, begin, end in zip(self.paragraph, self.begins, self.ends, strict=True):
            if number == len(found):
                found.append((begin, end))
            else:
                found[number] = (found[number][0], end)
        return found


def stretches(
    told: Int[Tensor, " told"],
    turn: Int[Tensor, " told"],
    segment: Int[Tensor, " told"],
    kinds: Int[Tensor, " told"],
    passage_tokens: int,
) -> Stretches:
    """Cuts the record of one row.

    A passage ends with the sentence that gives it `passage_tokens` tokens, with a paragraph that
    gives it half of that, and at the end of a turn, of a segment, or of what is recorded.

    Args:
        told: token ids, negative where nothing is recorded.
        turn: the turn of each token.
        segment: the segment of each token.
        kinds: what each token ends; see `segments.py`.
        passage_tokens: see `MemoryConfig`.
    """
    there = (told >= 0).tolist()
    breaks = torch.ones_like(told, dtype=torch.bool)
    breaks[1:] = (turn[1:] != turn[:-1]) | (segment[1:] != segment[:-1])
    breaks[1:] |= (told[1:] < 0) != (told[:-1] < 0)
    # line breaks in a row end one paragraph
    stops = kinds != NOTHING
    stops[:-1] &= kinds[1:] == NOTHING
    last = len(told)
    places = torch.cat([breaks.nonzero().flatten(), stops.nonzero().flatten() + 1])
    marks = [*sorted({place for place in places.tolist() if place < last}), last]
    is_break, kind = breaks.tolist(), kinds.tolist()
    begins: list[int] = []
    ends: list[int] = []
    paragraph: list[int] = []
    number, wide, begin = -1, WIDEST, 0
    fresh = True
    for start, end in zip(marks, marks[1:], strict=False):
        if not there[start]:
            begin, fresh = end, True
            continue
        if is_break[start]:
            begin, fresh = start, True
        is_last = end == last or is_break[end]
        ends_paragraph = is_last or kind[end - 1] == PARAGRAPH
        while end - begin >= passage_tokens * 2:
            # a sentence without an end
            cut = begin + passage_tokens
            number, wide = _next(number, wide, fresh, cut - begin)
            begins.append(begin)
            ends.append(cut)
            paragraph.append(number)
            begin, fresh = cut, False
        size = end - begin
        least = passage_tokens // 2 if ends_paragraph else passage_tokens
        if size and (is_last or size >= least):
            number, wide = _next(number, wide, fresh, size)
            begins.append(begin)
            ends.append(end)
            paragraph.append(number)
            begin, fresh = end, ends_paragraph
    passage = torch.full_like(told, -1, dtype=torch.long)
    sizes = torch.tensor([end - start for start, end in zip(begins, ends, strict=True)])
    numbers = torch.arange(len(begins)).repeat_interleave(sizes.long()).to(told.device)
    passage[told >= 0] = numbers
    return Stretches(passage, begins, ends, paragraph)


def _next(number: int, wide: int, fresh: bool, size: int) -> tuple[int, int]:
    """The paragraph of the next passage, and the tokens in it so far."""
    if fresh or wide + size > WIDEST:
        return number + 1, size
    return number, wide + size
