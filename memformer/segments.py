"""Cuts text into segments, row by row.

The borders in a row depend on its own tokens alone, never on the padding or on other rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor


@dataclass(frozen=True)
class Segments:
    """Text cut into segments, with the place of each token in the input.

    Args:
        ids: token ids, 0 at padding.
        real: False at padding, which stands only at the end of a row.
        column: the column of each token in the input.
    """

    ids: Int[Tensor, "batch segments tokens"]
    real: Bool[Tensor, "batch segments tokens"]
    column: Int[Tensor, "batch segments tokens"]

    def __len__(self) -> int:
        return self.ids.shape[1]

    def part(self, begin: int, end: int) -> Segments:
        """Segments `begin` to `end - 1`, as wide as the longest of them."""
        width = max(1, int(self.real[:, begin:end].sum(-1).max()))
        cut = (slice(None), slice(begin, end), slice(width))
        return Segments(self.ids[cut], self.real[cut], self.column[cut])

    @property
    def sequences(self) -> tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]]:
        """The rows and the numbers of the segments that hold text."""
        rows, segments = self.real.any(-1).nonzero(as_tuple=True)
        return rows, segments


def cut(
    ids: Int[Tensor, "batch columns"],
    real: Bool[Tensor, "batch columns"],
    segment_tokens: int,
) -> Segments:
    """Moves each row's padding to its end and cuts the row every `segment_tokens` tokens."""
    batch, columns = ids.shape
    order = (~real).long().argsort(dim=-1, stable=True)
    longest = int(real.sum(-1).max()) if real.numel() else 0
    num_segments = max(1, -(-longest // segment_tokens))
    missing = num_segments * segment_tokens - columns
    order = torch.nn.functional.pad(order, (0, max(0, missing)))[:, : num_segments * segment_tokens]
    place = torch.arange(order.shape[1], device=ids.device)[None]
    kept = place < real.sum(-1, keepdim=True)
    moved = ids.gather(1, order) if columns else order
    shape = (batch, num_segments, segment_tokens)
    return Segments(moved.masked_fill(~kept, 0).view(shape), kept.view(shape), order.view(shape))


def arrange(
    ids: Int[Tensor, "batch columns"],
    real: Bool[Tensor, "batch columns"],
    segment_ids: Int[Tensor, "batch columns"],
) -> Segments:
    """Cuts each row where its segment id changes; padding is left out.

    Segments are as wide as the longest, and numbered from 0 in each row whatever their ids are.
    """
    batch = len(ids)
    order = (~real).long().argsort(dim=-1, stable=True)[:, : max(1, int(real.sum(-1).max()))]
    text = real.gather(1, order)
    moved = segment_ids.gather(1, order)
    begins = torch.nn.functional.pad(moved[:, 1:] != moved[:, :-1], (1, 0), value=True) & text
    number = begins.cumsum(-1) - 1
    here = torch.arange(order.shape[1], device=ids.device).expand_as(order)
    place = here - torch.where(begins, here, 0).cummax(-1).values
    rows, columns = text.nonzero(as_tuple=True)
    segments = max(1, int(begins.sum(-1).max()))
    tokens = int(place[text].max()) + 1 if len(rows) else 1
    target = (rows, number[rows, columns], place[rows, columns])
    column = order.new_zeros(batch, segments, tokens)
    column[target] = order[rows, columns]
    kept = torch.zeros_like(column, dtype=torch.bool)
    kept[target] = True
    taken = ids.gather(1, column.flatten(1)).view_as(column)
    return Segments(taken.masked_fill(~kept, 0), kept, column)
