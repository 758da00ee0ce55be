"""The decisions about slots: `gate` chooses tokens to write, then `let_go` weakens older slots.

Both decide for all memory layers at once: a token is written in every memory layer or in none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.memory.addressing import hard_gate, matches, retention
from memformer.memory.chunk import Chunk, Rules
from memformer.memory.state import MemoryState

# the logit of an open gate, sigmoid(4) = 0.98: before training, every token is written
OPEN = 4.0


class Release(NamedTuple):
    """The keys and gates of one release head.

    Attributes:
        keys: the key of each token, which is matched with the addresses of slots.
        gates: the share of a matching slot that each token lets go, in [0, 1].
        sharpness: see `matches`.
        threshold: see `matches`.
    """

    keys: Float[Tensor, "entries tokens address"]
    gates: Float[Tensor, "entries tokens"]
    sharpness: Float[Tensor, ""]
    threshold: Float[Tensor, ""]


@dataclass(frozen=True)
class TableWrites:
    """The changes that a chunk makes to the slot table.

    Attributes:
        strength: the strength with which each token is written, in [0, 1].
        kept: 1 for tokens that are written, 0 for the others; straight-through.
        written_at: the write clock at every token.
        starts: the write clock at the start of every segment.
        end: the write clock after the chunk.
        addresses: the address of each token, which release heads match.
        retained: the share of strength that each segment leaves to the slots before its end; empty
            without release heads.
        has_gradient_of_gate: whether a gradient flows through tokens that are not written.
    """

    strength: Float[Tensor, "batch new"]
    kept: Float[Tensor, "batch new"]
    written_at: Int[Tensor, "batch new"]
    starts: Int[Tensor, "batch segments"]
    end: Int[Tensor, " batch"]
    addresses: Float[Tensor, "batch new address"]
    retained: tuple[Float[Tensor, "batch seen"], ...] = ()
    has_gradient_of_gate: bool = False

    @classmethod
    def none(cls, state: MemoryState, chunk: Chunk) -> TableWrites:
        """Writes nothing, for a chunk that only reads or whose gates are not known yet."""
        batch, segments, tokens = chunk.real.shape
        starts = state.num_written[:, None].expand(batch, segments)
        if chunk.until is not None:
            later = (state.strength > 0)[:, None] & (
                state.seen_at[:, None] >= chunk.until[..., None]
            )
            starts = state.num_written[:, None] - later.sum(-1)
        nothing = state.strength.new_zeros(batch, segments * tokens)
        addresses = state.addresses.new_zeros(batch, segments * tokens, state.addresses.shape[-1])
        written_at = state.num_written[:, None].expand_as(nothing)
        return cls(nothing, nothing, written_at, starts, state.num_written, addresses)


def gate(
    state: MemoryState,
    chunk: Chunk,
    logits: Float[Tensor, "entries tokens"],
    limit: Float[Tensor, "batch segments tokens"] | None,
    rules: Rules,
) -> TableWrites:
    """Decides which tokens are written, and with which strength.

    A gate takes the mean logit of a token and its neighbours in the segment; a token is written
    if its gate is one half or more. Without neighbours, a gate lost one token in twenty in kinds of
    sentences that it was not trained on; with neighbours, none.

    Args:
        state: the memory before the chunk.
        chunk: the text.
        logits: the logits of the write gates.
        limit: the factor on the strength of each token, in [0, 1]; 0: the token is not written and
            is only context for its neighbours. None: 1.
        rules: `gate_reach` and `gate` count.
    """
    if not rules.gate:
        logits = torch.full_like(logits, OPEN)
    around = 2 * rules.gate_reach + 1
    pool = torch.nn.functional.avg_pool1d
    near = pool(chunk.gather(logits), around, 1, rules.gate_reach)
    count = pool(chunk.real.to(near.dtype), around, 1, rules.gate_reach)
    gates = (near / count.clamp_min(1.0 / around)).sigmoid()
    strength = torch.where(chunk.real, gates, 0.0).flatten(1, 2)
    kept = hard_gate(strength)
    if limit is not None:
        strength = strength * limit.flatten(1)
        kept = kept * (limit.flatten(1) > 0)
    written = chunk.is_new & (kept > 0)
    written_at = state.num_written[:, None] + written.long().cumsum(-1) - written.long()
    return dataclasses.replace(
        TableWrites.none(state, chunk),
        strength=strength,
        kept=kept,
        written_at=written_at,
        starts=written_at.view_as(chunk.real)[..., 0],
        end=state.num_written + written.sum(-1),
        has_gradient_of_gate=kept.requires_grad and bool((chunk.is_new & ~written).any()),
    )


def let_go(
    state: MemoryState,
    chunk: Chunk,
    writes: TableWrites,
    addresses: Float[Tensor, "entries tokens address"],
    releases: Sequence[Release],
    least_age: int,
) -> TableWrites:
    """Adds the addresses of the tokens, and the share of strength that they leave to older slots.

    A token that is not written weakens no slot. A match depends on two tokens alone, not on the
    rest of the memory, so the segments of a chunk need no order.

    Args:
        state: the memory before the chunk.
        chunk: the text.
        writes: from `gate`.
        addresses: the address of each token.
        releases: one for each release head; empty: only the addresses are added.
        least_age: see `Rules`.
    """
    batch, segments, tokens = chunk.real.shape
    new = chunk.gather(addresses).flatten(1, 2)
    pool = torch.cat([state.addresses, new], 1)
    seen_at = torch.cat([state.seen_at, chunk.seen_at], 1)
    present = torch.cat([state.occupied, chunk.is_new], 1)
    keys = [chunk.gather(release.keys) for release in releases]
    gates = [chunk.gather(release.gates) * writes.kept.view_as(chunk.real) for release in releases]
    now = chunk.seen_at.view_as(chunk.real)
    retained = []
    for segment in range(segments if releases else 0):
        seen = state.token.shape[1] + (segment + 1) * tokens
        age = now[:, segment, :, None] - seen_at[:, None, :seen]
        within = (age >= least_age) & present[:, None, :seen]
        left = pool.new_ones(batch, seen)
        for release, key, gates_of in zip(releases, keys, gates, strict=True):
            match = matches(pool[:, :seen], key[:, segment], release.sharpness, release.threshold)
            left = left * retention(gates_of[:, segment], match.where(within, 0.0))
        retained.append(left)
    return dataclasses.replace(writes, addresses=new, retained=tuple(retained))
