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
    gives it half of that or of which it has only the rest, and at the end of a turn, of a segment,
    or of what is recorded. Short paragraphs, such as lines of talk, share a passage.

    Args:
        told: token ids, negative where nothing is recorded.
        turn: the turn of each token.
        segment: the segment of each token.
        kinds: what each token ends; see `segments.py`.
        passage_tokens: see `MemoryConfig`.
    """
    breaks = torch.ones_like(told, dtype=torch.bool)
    breaks[1:] = (turn[1:] != turn[:-1]) | (segment[1:] != segment[:-1])
    breaks[1:] |= (told[1:] < 0) != (told[:-1] < 0)
    # line breaks in a row end one paragraph
    stops = kinds != NOTHING
    stops[:-1] &= kinds[1:] == NOTHING
    places = torch.cat([breaks.nonzero().flatten(), stops.nonzero().flatten() + 1])
    marks = sorted({*places[places < len(told)].tolist(), len(told)})
    cuts = _cuts(marks, (told >= 0).tolist(), breaks.tolist(), kinds.tolist(), passage_tokens)
    begins, ends = [begin for begin, _, _ in cuts], [end for _, end, _ in cuts]
    passage = torch.full_like(told, -1, dtype=torch.long)
    sizes = torch.tensor([end - begin for begin, end, _ in cuts], dtype=torch.long)
    passage[told >= 0] = torch.arange(len(cuts)).repeat_interleave(sizes).to(told.device)
    return Stretches(passage, begins, ends, _paragraphs(cuts))


def _cuts(
    marks: list[int], there: list[bool], breaks: list[bool], kinds: list[int], tokens: int
) -> list[tuple[int, int, bool]]:
    """Begin and end of each passage, and whether a paragraph begins with it.

    Args:
        marks: where sentences begin, and the end of the record.
        there: whether a token is recorded.
        breaks: whether a turn, a segment or a gap begins with a token.
        kinds: what each token ends.
        tokens: see `MemoryConfig.passage_tokens`.
    """
    cuts: list[tuple[int, int, bool]] = []
    begin, is_first = 0, True
    for start, end in zip(marks, marks[1:], strict=False):
        if not there[start]:
            continue
        if breaks[start]:
            begin, is_first = start, True
        is_last = end == len(there) or breaks[end]
        ends_paragraph = is_last or kinds[end - 1] == PARAGRAPH
        while end - begin >= tokens * 2:  # a sentence without an end
            cuts.append((begin, begin + tokens, is_first))
            begin, is_first = begin + tokens, False
        least = tokens // 2 if ends_paragraph else tokens
        if end > begin and (is_last or end - begin >= least):
            cuts.append((begin, end, is_first))
            begin, is_first = end, ends_paragraph
        elif ends_paragraph and end > begin and not is_first:
            # the short rest of a paragraph belongs to the passage before it
            cuts[-1] = (cuts[-1][0], end, cuts[-1][2])
            begin, is_first = end, True
    return cuts


def _paragraphs(cuts: list[tuple[int, int, bool]]) -> list[int]:
    """The paragraph of each passage; a paragraph of more than `WIDEST` tokens is cut."""
    numbers: list[int] = []
    number, wide = -1, 0
    for begin, end, is_first in cuts:
        wide += end - begin
        if is_first or wide > WIDEST:
            number, wide = number + 1, end - begin
        numbers.append(number)
    return numbers
