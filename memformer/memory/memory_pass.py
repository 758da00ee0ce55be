"""`MemoryPass`: one pass, in which one chunk of text reads and writes one memory.

A pass has five steps. Each takes the result of the step before, so the types enforce their order:

| step | where | gives |
|---|---|---|
| gate | `gate.gate`, from the lowest memory layer's input | which tokens are written |
| let go | `gate.let_go` | the strength that older slots keep |
| write | `MemoryPass.write`, in every memory layer | keys and values |
| read | `MemoryPass.read`, in every memory layer | read words, and how much each slot was read |
| commit | `commit.commit`, after the backbone | the next `MemoryState` |

This file is long because the steps of one pass share its state.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memformer.memory.chunk import Chunk, Rules, passages
from memformer.memory.commit import LayerWrites, Provenance, commit
from memformer.memory.gate import Release, TableWrites, gate, let_go
from memformer.memory.links import Links, neighbours
from memformer.memory.reach import Near, working_set
from memformer.memory.read import SlotView, content_read, prepare_slots
from memformer.memory.record import check_room, to_bits
from memformer.memory.state import MemoryState

T = TypeVar("T")


class ReadHeads(NamedTuple):
    """The learned numbers of a layer's read heads, in float32.

    Attributes:
        age_slope: see `read.prepare_slots`.
        null_logit: see `read.prepare_slots`.
        softcap: the backbone caps its attention logits at this magnitude; None: no cap.
        modes: see `Links`; None: heads read by content alone.
    """

    age_slope: Float[Tensor, " heads"]
    null_logit: Float[Tensor, " heads"]
    softcap: float | None
    modes: Float[Tensor, "heads 3"] | None


class MemoryPass:
    """Carries one memory through the backbone's layers, as an explicit argument of its forward.

    Args:
        state: the memory before the chunk; its open segment is closed or taken out.
        chunk: the text.
        rules: how text is written and read.
        writes: whether memory layers shall write. A decoding step only reads.
        limit: see `gate.gate`.
        slot_views: the prepared slots of each layer, shared by passes over the same state that
            write nothing; None: each layer prepares its slots anew.
        notes: what `once` has made, shared by the same passes; None: nothing is kept.
        reach: the slots that each segment reads, and beside them the segments before it; None: a
            pass that writes reads the slots written last, another pass reads all.

    Raises:
        ValueError: the record has no room for the text; see `MemoryConfig.record_tokens`.
    """

    def __init__(
        self,
        state: MemoryState,
        chunk: Chunk,
        rules: Rules,
        *,
        writes: bool = True,
        limit: Float[Tensor, "batch segments tokens"] | None = None,
        slot_views: dict[int, SlotView] | None = None,
        notes: dict[Hashable, Any] | None = None,
        reach: Bool[Tensor, "batch segments slots"] | None = None,
    ) -> None:
        self.state = state
        self.chunk = chunk
        self.rules = rules
        self.writes = writes
        self.limit = limit
        self.slot_views = slot_views
        self.notes = notes
        if writes:
            check_room(state.told, self.is_told, state.record_tokens)
        self.table = TableWrites.none(state, chunk)
        # None: every segment reads all slots
        self.near: Near | None = None
        if reach is not None:
            new = chunk.is_new[:, None].expand(-1, reach.shape[1], -1)
            self.near = Near.of(torch.cat([reach, new], -1), state.token.shape[1])
        self.reach = reach
        if not writes:  # else the order of writing is known once it is decided what is written
            self.passage = self.once(
                "passage",
                lambda: passages(self._taken(state.written_at), rules.passage_tokens),
            )
        # split once for all layers, so that the gradient of one layer is no copy of the whole
        self._stored = self.once(
            "stored", lambda: tuple(zip(state.keys, state.values, strict=True))
        )
        self._written: dict[int, LayerWrites] = {}
        self._read_mass: dict[int, list[Tensor | None]] = {}
        self._neighbours: dict[int, tuple[Tensor, Tensor]] = {}
        self._finder_keys: dict[int, Tensor] = {}

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """A value that passes which share `notes` make once; other passes make it anew."""
        if self.notes is None:
            return make()
        if name not in self.notes:
            self.notes[name] = make()
        found: T = self.notes[name]
        return found

    @property
    def reads(self) -> bool:
        """Whether any segment has anything to read; without, a read costs nothing."""
        return self.state.token.shape[1] > 0 or self._reads_chunk

    @property
    def _reads_chunk(self) -> bool:
        return self.chunk.real.shape[1] > 1 and self.chunk.until is None

    @property
    def _num_passages(self) -> int | None:
        """The number of passages of a pass that writes nothing; None: it differs by segment."""
        if self.notes is None:
            return None
        return self.once("passages", lambda: int(self.passage.max()) + 1)

    def decide(
        self,
        gate_logits: Float[Tensor, "entries tokens"],
        addresses: Float[Tensor, "entries tokens address"] | None = None,
        releases: Sequence[Release] = (),
    ) -> None:
        """Takes the decisions of the slot table's heads, before any layer writes."""
        self.table = gate(self.state, self.chunk, gate_logits, self.limit, self.rules)
        if addresses is not None:
            self.table = let_go(
                self.state, self.chunk, self.table, addresses, releases, self.rules.least_age
            )
        if self.reach is None:
            reach = working_set(self.state, self.table, self.rules.working_set)
            self.near = None if reach is None else Near.of(reach, self.state.token.shape[1])
        order = torch.cat([self._taken(self.state.written_at), self.table.written_at], 1)
        self.passage = passages(order, self.rules.passage_tokens)

    def positions(self) -> Int[Tensor, "entries tokens"]:
        """Position of every token counted from the end of its passage: -64, ..., -2, -1."""
        tokens = self.rules.passage_tokens
        places = self.table.written_at.view_as(self.chunk.real) % tokens - tokens
        return self.chunk.scatter(places[..., None])[..., 0]

    def write(
        self,
        layer: int,
        keys: Float[Tensor, "entries tokens kv_heads width"],
        values: Float[Tensor, "entries tokens kv_heads width"],
    ) -> None:
        """Takes keys and values of one memory layer, which later segments of the chunk read."""
        gather = self.chunk.gather
        self._written[layer] = LayerWrites(gather(keys).flatten(1, 2), gather(values).flatten(1, 2))

    def find_keys(self, index: int, keys: Float[Tensor, "entries tokens width"]) -> None:
        """Takes the keys of one finder, which the record keeps as small floats.

        A finder that no layer hands over has keys of zero. A memory with fewer finders than the
        layers have leaves the others out.

        Args:
            index: the number of the finder.
            keys: one key a token.
        """
        self._finder_keys[index] = to_bits(self.chunk.gather(keys).flatten(1, 2))

    @property
    def is_told(self) -> Bool[Tensor, "batch new"]:
        """The tokens that the record keeps: all but padding and tokens with limit 0."""
        if self.limit is None:
            return self.chunk.is_new
        return self.chunk.is_new & (self.limit.flatten(1) > 0)

    @property
    def written(self) -> Float[Tensor, " tokens"]:
        """For every token of text, 1 if it is written and 0 if not; straight-through."""
        return self.table.kept[self.chunk.is_new]

    def read(
        self, layer: int, queries: Float[Tensor, "entries tokens heads width"], heads: ReadHeads
    ) -> (
        tuple[Float[Tensor, "entries tokens heads width"], Float[Tensor, "entries tokens heads"]]
        | None
    ):
        """Reads for every token of the chunk.

        Returns:
            Read words and evidence; None where no segment has anything to read, so that an empty
            memory costs nothing and changes nothing.
        """
        chunk, stored = self.chunk, self._num_taken
        tokens = chunk.real.shape[2]
        reads_chunk = self._reads_chunk
        if stored == 0 and not reads_chunk:
            return None
        pool = self._pool(layer, reads_chunk)
        held = pool.strength
        words, evidence = [], []
        mass: list[Tensor | None] = []
        for segment, query in enumerate(chunk.gather(queries).unbind(1)):
            seen = stored + segment * tokens if reads_chunk else stored
            if segment and self.table.retained:
                # the segment before this one has weakened slots
                left = self._taken_of_pool(self.table.retained[segment - 1])
                held = held * torch.nn.functional.pad(left, (0, held.shape[1] - seen), value=1.0)
            if seen == 0:
                words.append(torch.zeros_like(query, dtype=torch.float32))
                evidence.append(query.new_zeros(query.shape[:-1], dtype=torch.float32))
                mass.append(None)
                continue
            counts = self.writes or chunk.until is not None
            found = content_read(
                query,
                self._view(layer, segment, seen, pool, held, heads),
                chunk.real[:, segment] if counts else None,
                self.passage[:, :seen],
                self.rules.focus,
                None if pool.kept is None else pool.kept[:, :seen],
                self._num_passages,
            )
            words.append(found[0])
            evidence.append(found[1])
            mass.append(found[2])
        if self.writes or chunk.until is not None:
            self._read_mass[layer] = mass
        if len(words) == 1 and chunk.sequences is None:
            return words[0], evidence[0]
        return chunk.scatter(torch.stack(words, 1)), chunk.scatter(torch.stack(evidence, 1))

    def read_mass(self, segment: int, slots: int) -> Float[Tensor, "batch slots"]:
        """Read weight that one segment put on each slot: summed over tokens, mean over heads."""
        rows = [mass[segment] for mass in self._read_mass.values()]
        found = [row for row in rows if row is not None]
        if not found:
            return self.state.usage.new_zeros(self.state.batch_size, slots)
        mean = torch.stack(found).mean(0)
        if self.near is not None:
            mean = self.near.put(mean, self.state.token.shape[1])
        return torch.nn.functional.pad(mean, (0, slots - mean.shape[1]))

    def commit(
        self,
        ids: Int[Tensor, "batch segments tokens"],
        turns: Int[Tensor, "batch segments tokens"],
        closes: Bool[Tensor, "batch segments"],
    ) -> MemoryState:
        """The memory after the chunk; see `commit.commit`."""
        slots = self.state.token.shape[1] + self.chunk.is_new.shape[1]
        mass = [self.read_mass(segment, slots) for segment in range(self.chunk.real.shape[1])]
        layers = [self._written[layer] for layer in sorted(self._written)]
        provenance = Provenance(ids, turns, closes, self.is_told, self._keys_to_record())
        by_reads = self.rules.usage_by_reads
        return commit(self.state, self.chunk, self.table, layers, mass, provenance, by_reads)

    def _keys_to_record(self) -> UInt8[Tensor, "batch new finders width"]:
        """The keys of the finders that the memory has."""
        batch, new = self.chunk.is_new.shape
        finders, width = self.state.finder_keys.shape[2:]
        recorded = self.state.finder_keys.new_zeros(batch, new, finders, width)
        for index, keys in self._finder_keys.items():
            if index < finders:
                recorded[:, :, index] = keys
        return recorded

    @property
    def _num_taken(self) -> int:
        """How many slots of the memory the segments read."""
        return self.state.token.shape[1] if self.near is None else self.near.slots.shape[1]

    def _taken(self, x: Tensor) -> Tensor:
        """The rows or numbers of the slots that the segments read."""
        return x if self.near is None else self.near.take(x)

    def _taken_of_pool(self, x: Float[Tensor, "batch pool"]) -> Float[Tensor, "batch taken"]:
        """The same for numbers of slots and, behind them, of tokens."""
        stored = self.state.token.shape[1]
        return x if self.near is None else torch.cat([self._taken(x[:, :stored]), x[:, stored:]], 1)

    def _pool(self, layer: int, reads_chunk: bool) -> _Pool:
        """The slots that a layer can read and, where segments read each other, the chunk."""
        table = self.table
        keys, values = (self._taken(one) for one in self._stored[layer])
        held, written_at = self._taken(self.state.strength), self._taken(self.state.written_at)
        if not reads_chunk:
            return _Pool(keys, values, held, written_at, None)
        written = self._written[layer]
        kept = None
        strength = table.strength
        # where every token is written, the gradient of the gate can go through the strength
        if table.has_gradient_of_gate:
            kept = torch.cat([torch.ones_like(held), table.kept], 1)
        else:
            strength = strength * table.kept
        return _Pool(
            torch.cat([keys, written.keys.to(keys.dtype)], 1),
            torch.cat([values, written.values.to(values.dtype)], 1),
            torch.cat([held, strength], 1),
            torch.cat([written_at, table.written_at], 1),
            kept,
        )

    def _view(
        self,
        layer: int,
        segment: int,
        seen: int,
        pool: _Pool,
        held: Float[Tensor, "batch pool"],
        heads: ReadHeads,
    ) -> SlotView:
        """The slots prepared for one segment, taken from an earlier pass if it has them."""
        if self.slot_views is not None and layer in self.slot_views:
            return self.slot_views[layer]
        strength = held[:, :seen]
        if self.near is not None:
            strength = strength.where(self.near.within[:, segment, :seen], 0.0)
        if self.chunk.until is not None:
            before = self._taken(self.state.seen_at) < self.chunk.until[:, segment, None]
            strength = strength.where(before, 0.0)
        age = (self.table.starts[:, segment, None] - pool.written_at[:, :seen]).clamp_min(0)
        links = None
        if heads.modes is not None:
            links = Links(*self._links(segment, seen), heads.modes)
        view = prepare_slots(
            pool.keys[:, :seen],
            pool.values[:, :seen],
            strength,
            age.float(),
            heads.age_slope,
            heads.null_logit,
            heads.softcap,
            links,
        )
        if self.slot_views is not None:
            self.slot_views[layer] = view
        return view

    def _links(self, segment: int, seen: int) -> tuple[Tensor, Tensor]:
        """The neighbours of each slot that a segment sees, the same in all layers."""
        if segment not in self._neighbours:
            seen_at = self._taken(self.state.seen_at)
            present = self._taken(self.state.strength > 0)
            if self.chunk.until is not None:
                present = present & (seen_at < self.chunk.until[:, segment, None])
            elif segment:
                written = (self.table.kept > 0) & self.chunk.is_new
                seen_at = torch.cat([seen_at, self.chunk.seen_at], 1)[:, :seen]
                present = torch.cat([present, written], 1)[:, :seen]
            if self.near is not None:
                present = present & self.near.within[:, segment, :seen]
            self._neighbours[segment] = (
                neighbours(seen_at, present, -1),
                neighbours(seen_at, present, 1),
            )
        return self._neighbours[segment]


class _Pool(NamedTuple):
    """The slots and new tokens that a chunk can read in one layer."""

    keys: Float[Tensor, "batch pool kv_heads width"]
    values: Float[Tensor, "batch pool kv_heads width"]
    strength: Float[Tensor, "batch pool"]
    written_at: Int[Tensor, "batch pool"]
    kept: Float[Tensor, "batch pool"] | None
