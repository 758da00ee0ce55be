"""`commit`: a pure function that returns the memory after a chunk.

It records the tokens, updates usage, evicts slots, and gives a slot to every token that stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memformer.memory.addressing import aged_usage, least_used
from memformer.memory.check import all_finite
from memformer.memory.chunk import Chunk
from memformer.memory.columns import COLUMNS, EMPTY
from memformer.memory.gate import TableWrites
from memformer.memory.record import appended, is_nan
from memformer.memory.state import MemoryState


class LayerWrites(NamedTuple):
    """The keys and values that one memory layer writes."""

    keys: Float[Tensor, "batch new kv_heads width"]
    values: Float[Tensor, "batch new kv_heads width"]


class Provenance(NamedTuple):
    """The origin of the tokens of a chunk, and which of its segments close.

    Attributes:
        ids: token ids.
        turns: the turn that each token belongs to.
        closes: whether each segment is closed at its end.
        is_told: which tokens the record keeps.
        finder_keys: the keys of the finders, as bits; see `record.to_bits`.
    """

    ids: Int[Tensor, "batch segments tokens"]
    turns: Int[Tensor, "batch segments tokens"]
    closes: Bool[Tensor, "batch segments"]
    is_told: Bool[Tensor, "batch new"]
    finder_keys: UInt8[Tensor, "batch new finders width"]


def commit(
    state: MemoryState,
    chunk: Chunk,
    writes: TableWrites,
    layers: Sequence[LayerWrites],
    read_mass: Sequence[Float[Tensor, "batch slots_and_new"]],
    provenance: Provenance,
    usage_by_reads: bool = True,
) -> MemoryState:
    """The memory after a chunk.

    Args:
        state: the memory before the chunk.
        chunk: the text.
        writes: which tokens are written, and how much strength they leave to older slots.
        layers: keys and values, lowest layer first.
        read_mass: for each segment, the read weight on every slot and every new token.
        provenance: the origin of the tokens.
        usage_by_reads: see `Rules`.

    Raises:
        ValueError: a number to be written is not finite. The memory before the chunk is unchanged.
    """
    _check_finite(state, writes, layers, read_mass, provenance.finder_keys)
    after = _with_new_columns(state, chunk, writes, provenance)
    after = _recorded(after, chunk, provenance)
    after = _aged(after, state, chunk, writes, read_mass, provenance.closes, usage_by_reads)
    source = _slots(after, state.token.shape[1])
    return _placed(after, state, layers, source)


def _check_finite(
    state: MemoryState,
    writes: TableWrites,
    layers: Sequence[LayerWrites],
    read_mass: Sequence[Tensor],
    finder_keys: UInt8[Tensor, "batch new finders width"],
) -> None:
    """Refuses numbers that are not finite, which would spoil every later read."""
    contents = [tensor for layer in layers for tensor in layer]
    is_finite = all_finite(*contents, writes.addresses, *read_mass)
    if not is_finite or bool(is_nan(finder_keys).any()):
        raise ValueError(
            "The text can't be remembered: what the model makes of it is not finite (NaN, or "
            f"an overflow in {state.dtype}). The memory is as it was before; load the "
            "model in bfloat16 or float32, or check its weights."
        )


def _with_new_columns(
    state: MemoryState, chunk: Chunk, writes: TableWrites, provenance: Provenance
) -> MemoryState:
    """The slot table with a place for every new token behind the slots; no keys or values."""
    counts, closes = chunk.real.sum(-1), provenance.closes
    number = state.num_segments[:, None] + closes.long().cumsum(-1) - closes.long()
    fresh = chunk.is_new
    strength = torch.where(fresh & (writes.kept.detach() > 0), writes.strength, 0.0)
    nothing = torch.zeros_like(strength)
    new = {
        "strength": strength,
        "settled": strength,
        "usage": nothing,
        "reads": nothing,
        "open_reads": nothing,
        "seen_at": chunk.seen_at.masked_fill(~fresh, EMPTY),
        "written_at": writes.written_at.masked_fill(~fresh, EMPTY),
        "token": provenance.ids.flatten(1).masked_fill(~fresh, EMPTY),
        "segment": number[:, :, None]
        .expand_as(provenance.ids)
        .flatten(1)
        .masked_fill(~fresh, EMPTY),
        "turn": provenance.turns.flatten(1).masked_fill(~fresh, EMPTY),
    }
    return state.replaced(
        **{name: torch.cat([old, new[name]], 1) for name, old in state.columns.items()},
        keys=state.keys.new_zeros(0),
        values=state.values.new_zeros(0),
        addresses=torch.cat([state.addresses, writes.addresses], 1),
        num_seen=state.num_seen + counts.sum(-1),
        num_written=writes.end,
        num_segments=state.num_segments + closes.sum(-1),
    )


def _recorded(after: MemoryState, chunk: Chunk, provenance: Provenance) -> MemoryState:
    """The memory whose record has the new tokens too, those that are not written among them."""
    stored = after.token.shape[1] - chunk.is_new.shape[1]
    new = {
        "told": after.token[:, stored:],
        "told_turn": after.turn[:, stored:],
        "told_segment": after.segment[:, stored:],
        "finder_keys": provenance.finder_keys,
    }
    width = int(after.num_seen.max())
    record = appended(after.record, new, chunk.seen_at, provenance.is_told, width)
    return after.replaced(**record)


def _aged(
    after: MemoryState,
    state: MemoryState,
    chunk: Chunk,
    writes: TableWrites,
    read_mass: Sequence[Tensor],
    closes: Bool[Tensor, "batch segments"],
    usage_by_reads: bool,
) -> MemoryState:
    """Updates usage, reads and strength, segment by segment."""
    batch, segments, tokens = chunk.real.shape
    stored, new = state.token.shape[1], segments * tokens
    counts = chunk.real.sum(-1)
    written = after.strength[:, stored:].detach()
    strength, settled, usage = after.strength, after.settled, after.usage
    reads, open_reads = after.reads, after.open_reads
    for segment in range(segments):
        closing = closes[:, segment, None]
        mass = read_mass[segment]
        if not usage_by_reads:
            mass = torch.zeros_like(mass)
        aged = aged_usage(usage, mass, counts[:, segment], state.usage_half_life)
        usage = torch.where(closing, aged, usage)
        reads = reads + mass
        open_reads = open_reads + mass.masked_fill(closing, 0.0)
        begin, end = stored + segment * tokens, stored + (segment + 1) * tokens
        usage = torch.cat(
            [usage[:, :begin], written[:, begin - stored : end - stored], usage[:, end:]], 1
        )
        if writes.retained:
            left = writes.retained[segment]
            left = torch.nn.functional.pad(left, (0, stored + new - end), value=1.0)
            strength = strength * left
            settled = torch.where(closing, settled * left, settled)
            usage = usage * torch.where(closing, left.detach(), 1.0)
    return after.replaced(
        strength=strength, settled=settled, usage=usage, reads=reads, open_reads=open_reads
    )


def _slots(after: MemoryState, stored: int) -> Int[Tensor, "batch slots"]:
    """The place that fills each slot: its own, the place of a new token, or none (-1).

    Every new token that stays gets a slot that is free or was just evicted: free slots in order of
    their number, new tokens in order of writing.
    """
    keep = after.occupied & ~after.is_unwritten
    if after.num_slots is not None:
        settled = keep & ~after.is_open
        excess = (settled.sum(-1) - after.num_slots).clamp_min(0)
        keep = keep & ~least_used(after.usage, settled, excess)
    size = max(int(keep.sum(-1).max()), stored)
    columns = torch.arange(keep.shape[1], device=keep.device)
    free = torch.nn.functional.pad(~keep[:, :stored], (0, size - stored), value=True)
    slots = (~free).long().argsort(dim=-1, stable=True)
    newcomers = keep & (columns >= stored)
    comers = (~newcomers).long().argsort(dim=-1, stable=True)[:, :size]
    comers = torch.nn.functional.pad(comers, (0, size - comers.shape[1]))
    wanted = torch.arange(size, device=keep.device)[None] < newcomers.sum(-1, keepdim=True)
    source = torch.arange(size, device=keep.device).expand_as(free).masked_fill(free, EMPTY)
    return source.scatter(1, slots, torch.where(wanted, comers, source.gather(1, slots)))


def _placed(
    after: MemoryState,
    state: MemoryState,
    layers: Sequence[LayerWrites],
    source: Int[Tensor, "batch slots"],
) -> MemoryState:
    """The memory with every slot filled from its place in `source`."""
    taken, nothing = source.clamp_min(0), source == EMPTY
    columns = {
        name: column.gather(1, taken).masked_fill(nothing, COLUMNS[name])
        for name, column in after.columns.items()
    }
    new_keys, new_values = [new.keys for new in layers], [new.values for new in layers]
    keys, values = (
        _contents(state.keys, new_keys, source),
        _contents(state.values, new_values, source),
    )
    rows = torch.arange(len(taken), device=taken.device)[:, None]
    addresses = after.addresses[rows, taken].masked_fill(nothing[..., None], 0.0)
    return after.replaced(**columns, keys=keys, values=values, addresses=addresses)


def _contents(
    old: Float[Tensor, "layers batch stored kv_heads width"],
    new: Sequence[Tensor],
    source: Int[Tensor, "batch slots"],
) -> Float[Tensor, "layers batch slots kv_heads width"]:
    """The keys or values of all layers, in slots."""
    stored = old.shape[2]
    here = torch.arange(stored, device=source.device).expand(len(source), -1)
    if torch.equal(source[:, :stored], here) and not bool((source == EMPTY).any()):
        # no slot is moved, so the memory is copied once
        rows = torch.arange(len(source), device=source.device)[:, None]
        places = source[:, stored:] - stored
        fresh = torch.stack([one[rows, places] for one in new]).to(old.dtype)
        return torch.cat([old, fresh], 2)
    taken, nothing = source.clamp_min(0), source == EMPTY
    pairs = zip(old, new, strict=True)
    return torch.stack([_arranged(one, other, taken, nothing) for one, other in pairs])


def _arranged(old: Tensor, new: Tensor, source: Tensor, nothing: Tensor) -> Tensor:
    """The keys or values of one layer, in slots."""
    pool = torch.cat([old, new.to(old.dtype)], 1)
    rows = [pool[row].index_select(0, source[row]) for row in range(pool.shape[0])]
    return torch.stack(rows).masked_fill(nothing[..., None, None], 0.0)
