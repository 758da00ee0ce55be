"""Cuts text into segments, row by row.

A segment ends at the end of a paragraph or of a sentence, if there is one in its second half. The
cut depends on the tokens from the beginning of the segment alone, never on the padding, on other
rows, or on where a text was interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

# what a token ends, in a table of borders
NOTHING, SENTENCE, PARAGRAPH = 0, 1, 2


@dataclass(frozen=True)
class Segments:
    """Text cut into segments, with the place of each token in the input.

    Args:
        ids: token ids, 0 at padding.
        real: False at padding, which stands only at the end of a row.
        column: the column of each token in the input.
        closes: whether each segment ends with its last token, whatever text follows.
    """

    ids: Int[Tensor, "batch segments tokens"]
    real: Bool[Tensor, "batch segments tokens"]
    column: Int[Tensor, "batch segments tokens"]
    closes: Bool[Tensor, "batch segments"]

    def __len__(self) -> int:
        return self.ids.shape[1]

    def part(self, begin: int, end: int) -> Segments:
        """Segments `begin` to `end - 1`, as wide as the longest of them."""
        width = max(1, int(self.real[:, begin:end].sum(-1).max()))
        cut = (slice(None), slice(begin, end), slice(width))
        return Segments(self.ids[cut], self.real[cut], self.column[cut], self.closes[:, begin:end])

    @property
    def sequences(self) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]]:
        """The rows and the numbers of the segments that hold text."""
        rows, segments = self.real.any(-1).nonzero(as_tuple=True)
        return rows, segments


def cut(
    ids: Int[Tensor, "batch columns"],
    real: Bool[Tensor, "batch columns"],
    segment_tokens: int,
    borders: UInt8[Tensor, " vocabulary"],
) -> Segments:
    """Cuts each row into segments of at most `segment_tokens` tokens; padding is left out.

    Where more tokens are left than a segment holds, the segment ends after the last paragraph end
    in its second half, else after the last sentence end there, else where it is full. The tokens
    that are left, `segment_tokens` at most, are the last segment.

    Args:
        ids: token ids.
        real: False at padding.
        segment_tokens: most tokens of a segment.
        borders: `SENTENCE` or `PARAGRAPH` for each token id that ends one, else `NOTHING`.
    """
    order, text = _aligned(real)
    moved = ids.gather(1, order) if ids.shape[1] else order
    kinds = _kinds(moved, borders).masked_fill(~text, NOTHING)
    ends = _ends(kinds, segment_tokens).tolist()
    begins = torch.zeros_like(text)
    closing = []
    for row, length in enumerate(text.sum(-1).tolist()):
        places = [0] if length else []
        while places and length - places[-1] > segment_tokens:
            places.append(ends[row][places[-1]])
        begins[row, places] = True
        full = bool(places) and places[-1] + segment_tokens == length == ends[row][places[-1]]
        closing.append(len(places) - 1 + full)
    number = torch.arange(max(1, int(begins.sum(-1).max())), device=ids.device)
    closes = number < torch.tensor(closing, device=ids.device)[:, None]
    return _laid_out(ids, order, text, begins, closes, segment_tokens)


def whole(
    ids: list[int], most: int, segment_tokens: int, borders: UInt8[Tensor, " vocabulary"]
) -> int:
    """The number of tokens in the first segments of a text that goes on, `most` at most."""
    text = torch.tensor([ids], device=borders.device)
    segments = cut(text, torch.ones_like(text, dtype=torch.bool), segment_tokens, borders)
    ends = segments.real[0].sum(-1).cumsum(-1)
    return int(ends[segments.closes[0] & (ends <= most)].max())


def arrange(
    ids: Int[Tensor, "batch columns"],
    real: Bool[Tensor, "batch columns"],
    segment_ids: Int[Tensor, "batch columns"],
) -> Segments:
    """Cuts each row where its segment id changes; padding is left out, and every segment closes.

    Segments are as wide as the longest, and numbered from 0 in each row whatever their ids are.
    """
    order, text = _aligned(real)
    moved = segment_ids.gather(1, order)
    begins = torch.nn.functional.pad(moved[:, 1:] != moved[:, :-1], (1, 0), value=True) & text
    count = begins.sum(-1, keepdim=True)
    closes = torch.arange(max(1, int(count.max())), device=ids.device) < count
    return _laid_out(ids, order, text, begins, closes)


def _aligned(
    real: Bool[Tensor, "batch columns"],
) -> tuple[Int[Tensor, "batch tokens"], Bool[Tensor, "batch tokens"]]:
    """The column of each token, with each row's padding at its end, and where there is text."""
    counts = real.sum(-1, keepdim=True)
    longest = max(1, int(counts.max()))
    order = (~real).long().argsort(dim=-1, stable=True)[:, :longest]
    order = torch.nn.functional.pad(order, (0, longest - order.shape[1]))
    return order, torch.arange(longest, device=real.device) < counts


def _kinds(
    ids: Int[Tensor, "batch tokens"], borders: UInt8[Tensor, " vocabulary"]
) -> UInt8[Tensor, "batch tokens"]:
    """What each token ends; tokens that the table does not know end nothing."""
    known = ids < len(borders)
    return borders[ids.where(known, 0)].masked_fill(~known, NOTHING)


def _ends(kinds: UInt8[Tensor, "batch tokens"], segment_tokens: int) -> Int[Tensor, "batch tokens"]:
    """For a segment that begins at each token, the place after its last token, if text goes on."""
    here = torch.arange(kinds.shape[1], device=kinds.device)
    last = (here + segment_tokens - 1).clamp_max(len(here) - 1)
    second_half = here + segment_tokens // 2
    ends = (here + segment_tokens).expand(kinds.shape)
    for kind in (SENTENCE, PARAGRAPH):
        # the last border of this kind, or a higher one, up to each token
        border = torch.where(kinds >= kind, here, -1).cummax(-1).values[:, last]
        ends = torch.where(border >= second_half, border + 1, ends)
    return ends


def _laid_out(
    ids: Int[Tensor, "batch columns"],
    order: Int[Tensor, "batch tokens"],
    text: Bool[Tensor, "batch tokens"],
    begins: Bool[Tensor, "batch tokens"],
    closes: Bool[Tensor, "batch segments"],
    width: int = 0,
) -> Segments:
    """Segments that begin at given tokens, as wide as the longest and `width` at least."""
    number = begins.cumsum(-1) - 1
    here = torch.arange(order.shape[1], device=ids.device).expand_as(order)
    place = here - torch.where(begins, here, 0).cummax(-1).values
    rows, columns = text.nonzero(as_tuple=True)
    tokens = max(width, int(place[text].max()) + 1 if len(rows) else 1)
    target = (rows, number[rows, columns], place[rows, columns])
    column = order.new_zeros(*closes.shape, tokens)
    column[target] = order[rows, columns]
    kept = torch.zeros_like(column, dtype=torch.bool)
    kept[target] = True
    if not ids.shape[1]:
        return Segments(torch.zeros_like(column), kept, column, closes)
    taken = ids.gather(1, column.flatten(1)).view_as(column)
    return Segments(taken.masked_fill(~kept, 0), kept, column, closes)
