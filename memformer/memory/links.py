"""The order of writing as lists: the DNC's temporal links between the slots of a language model.

A slot has one slot before it and one after it, so two lists hold the same order as the DNC's link
matrix. The lists are made from the text clock, so that links skip forgotten and evicted slots.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.columns import EMPTY


class Links(NamedTuple):
    """The order of writing as lists, and how far each head reads along them.

    Attributes:
        prev: the slot written before each slot, -1 where there is none.
        next: the slot written after each slot, -1 where there is none.
        modes: pi, the shares of backward, content and forward reads, per head; they sum to one.
    """

    prev: Int[Tensor, "batch slots"]
    next: Int[Tensor, "batch slots"]
    modes: Float[Tensor, "heads 3"]


def neighbours(
    seen_at: Int[Tensor, "batch slots"], present: Bool[Tensor, "batch slots"], step: int
) -> Int[Tensor, "batch slots"]:
    """The slot written `step` places after (below 0: before) each slot; -1 where there is none.

    Args:
        seen_at: the text clock of each slot.
        present: which slots count; the others are skipped, and have no neighbours.
        step: 1 or -1.
    """
    slots = seen_at.shape[1]
    if slots == 0:
        return torch.zeros_like(seen_at)
    late = torch.iinfo(torch.long).max
    order = seen_at.masked_fill(~present, late).argsort(dim=-1, stable=True)
    shifted = order.roll(-step, dims=-1)
    count = present.sum(-1, keepdim=True)
    place = torch.arange(slots, device=order.device)[None]
    inside = (place + step >= 0) & (place + step < count) & (place < count)
    link = torch.full_like(order, EMPTY)
    return link.scatter_(-1, order, shifted.masked_fill(~inside, EMPTY))


def linked(
    values: Float[Tensor, "batch slots kv_heads width"], link: Int[Tensor, "batch slots"]
) -> Float[Tensor, "batch slots kv_heads width"]:
    """The value of every slot's neighbour, in the slot's place; zero without a neighbour."""
    index = link.clamp_min(0)[..., None, None].expand_as(values)
    return values.gather(1, index).masked_fill((link < 0)[..., None, None], 0.0)
