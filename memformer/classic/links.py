"""Temporal links as lists: for each slot, the few strongest links to slots written before it.

The DNC's link matrix has N x N numbers, most of them near zero where writes are nearly one-hot.
Lists of k links a slot have N k numbers; with k = N they equal the matrix exactly. Source: the
sparse links of the SDNC (J. Rae et al. 2016, appendix D). Here they have a gradient, and both decay
terms of the DNC, so that no link to an overwritten slot survives.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.classic.addressing import backward_weights, forward_weights, link_after


class LinkLists(NamedTuple):
    """The links of each slot i: a row of slots j and link weights L(i, j); other links are zero.

    Attributes:
        slots: j, each at most once in a row.
        weights: L(i, j), how much slot i was written right after slot j.
    """

    slots: Int[Tensor, "... slots kept"]
    weights: Float[Tensor, "... slots kept"]

    @classmethod
    def empty(cls, batch: int, slots: int, kept: int, like: Tensor) -> LinkLists:
        """Lists with room for `kept` links a slot, all of weight zero."""
        places = torch.arange(kept, device=like.device).expand(batch, slots, kept)
        return cls(places, like.new_zeros(batch, slots, kept))

    def targets(
        self, read_weights: Float[Tensor, "... reads slots"]
    ) -> Int[Tensor, "... reads links"]:
        """The slots j of all links, one list for each read: an index into its weights."""
        return self.slots.flatten(-2).unsqueeze(-2).expand(*read_weights.shape[:-1], -1)


def links_after(
    link: Tensor | LinkLists,
    precedence: Float[Tensor, "... slots"],
    write_weights: Float[Tensor, "... slots"],
) -> Tensor | LinkLists:
    """The links after a write; see `link_after`. Lists keep the largest of each row.

    Cost: O(slots kept^2) for lists.
    """
    if isinstance(link, Tensor):
        return link_after(link, precedence, write_weights)
    kept = link.slots.shape[-1]
    columns = write_weights[..., None, :].expand(*link.slots.shape[:-1], -1)
    rows = write_weights.unsqueeze(-1)
    decay = (1.0 - rows - columns.gather(-1, link.slots)).clamp_min(0.0)
    weights = decay * link.weights
    # new links: from this write to the slots written last, as many as a list can hold
    before, last = precedence.topk(min(kept, precedence.shape[-1]), -1)
    new = rows * before.unsqueeze(-2)
    itself = torch.arange(new.shape[-2], device=new.device)[:, None] == last.unsqueeze(-2)
    new = new.masked_fill(itself, 0.0)
    # a link that is in the list already grows; the other links stand behind the list
    same = link.slots.unsqueeze(-1) == last[..., None, None, :]
    weights = weights + (same * new.unsqueeze(-2)).sum(-1)
    new = new.masked_fill(same.any(-2), 0.0)
    slots = torch.cat([link.slots, last.unsqueeze(-2).expand_as(new)], -1)
    # the second entry of a link has no weight, so the stable sort drops it
    order = torch.cat([weights, new], -1)
    best = order.argsort(dim=-1, descending=True, stable=True)[..., :kept]
    return LinkLists(slots.gather(-1, best), order.gather(-1, best))


def forward_along(
    link: Tensor | LinkLists, read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... reads slots"]:
    """Where the reads would be one write later: f = L w."""
    if isinstance(link, Tensor):
        return forward_weights(link, read_weights)
    found = read_weights.gather(-1, link.targets(read_weights))
    found = found.unflatten(-1, link.slots.shape[-2:])
    return (found * link.weights.unsqueeze(-3)).sum(-1)


def backward_along(
    link: Tensor | LinkLists, read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... reads slots"]:
    """Where the reads would be one write earlier: b = L^T w."""
    if isinstance(link, Tensor):
        return backward_weights(link, read_weights)
    flow = (read_weights.unsqueeze(-1) * link.weights.unsqueeze(-3)).flatten(-2)
    return torch.zeros_like(read_weights).scatter_add(-1, link.targets(read_weights), flow)
