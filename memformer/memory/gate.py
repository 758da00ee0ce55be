"""What a chunk writes into the slot table, and what it lets go of: first `gate`, then `let_go`.

Both work on all layers' slots alike: a token is written in every memory layer or in none.
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

# the logit of an open gate, 0.98 firm: before training, everything is written
OPEN = 4.0


class Release(NamedTuple):
    """What one release head asks for; see `memformer.attach.heads`.

    Attributes:
        keys: what each token looks for.
        gates: how much of what matches it lets go, in [0, 1].
        sharpness: see `matches`.
        threshold: see `matches`.
    """

    keys: Float[Tensor, "entries tokens address"]
    gates: Float[Tensor, "entries tokens"]
    sharpness: Float[Tensor, ""]
    threshold: Float[Tensor, ""]


@dataclass(frozen=True)
class TableWrites:
    """What a chunk writes into the slot table.

    Attributes:
        strength: how firmly each token is written, in [0, 1].
        kept: 1 for tokens that are written, 0 for the others; straight-through.
        written_at: the write clock at every token.
        starts: the write clock at the start of every segment.
        end: the write clock after the chunk.
        addresses: what each token is about.
        retained: how much each segment leaves of the slots before its end; empty where nothing is
            let go.
        has_gradient_of_gate: whether tokens that are not written stay readable to the gradient.
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
        """Nothing is written: the chunk only reads, or its gates are not known yet."""
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
    """Decides which tokens are written, and how firmly.

    A gate is the mean over a token and its neighbours in the segment; a token is written at one
    half or more. A word alone can't be understood later: without neighbours, one token in twenty
    of kinds of sentences that a gate was not trained on was lost, with them none.

    Args:
        state: the memory before the chunk.
        chunk: the text.
        logits: of the write gates.
        limit: how firmly each token may be written at most, in [0, 1]; 0: the token is context for
            those beside it, and not written. None: 1.
        rules: `gate_reach`, and whether there is a gate at all.
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
    """Adds what the tokens are about, and how much they leave of the older slots that they match.

    A token that is not written lets go of nothing. A match depends on two tokens alone, not on what
    else is in memory, so all segments of a chunk are done at once.

    Args:
        state: the memory before the chunk.
        chunk: the text.
        writes: from `gate`.
        addresses: what each token is about.
        releases: one of each release head; none: only the addresses are added.
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
