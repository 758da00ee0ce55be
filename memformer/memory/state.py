"""`MemoryState`: everything that a memory remembers, as one explicit value.

A state is passed in and returned; modules keep none of it. Its tensors are never changed in place,
so copies may share them. `reset` and `forget` alone change a state itself: they put other tensors
in the place of its own. `calm` keeps what finding works out whatever is asked; it goes
when the record changes, and is not saved. This file is long because the methods of one public value
stand together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memformer.memory.addressing import aged_usage, least_used
from memformer.memory.columns import COLUMNS, COUNTS, EMPTY, RECORD
from memformer.memory.entries import chosen, in_turns, table_rows, turn_numbers
from memformer.memory.file import IncompatibleMemory
from memformer.memory.finding import Calm
from memformer.memory.links import neighbours
from memformer.memory.parts import Parts, ReadDocument
from memformer.memory.record import blanked, empty_record, places_of, resized, to_bits
from memformer.memory.saving import load_parts, save_parts

__all__ = ["IncompatibleMemory", "MemoryOwner", "MemoryState", "ReadDocument"]


class MemoryOwner(Protocol):
    """A model that takes over a memory from a file."""

    def adopt_memory(self, memory: MemoryState, *, source: str) -> MemoryState:
        """A memory from a file, checked, on the model's device and in its dtype."""
        ...


@dataclass(frozen=True, repr=False, eq=False)
class MemoryState:
    """A batch of memories: slots in every memory layer, a slot table, a record, clocks.

    The last segment stays *open* until something closes it (`memorize` continues it, `forward`
    and `generate` close it): its slots can be read, and its tokens can be taken back and encoded
    anew together with what follows. Tokens that the write gate keeps out stay in the table until
    then, with a strength of 0, which no read finds. Eviction happens when a segment closes, so at
    most `num_slots` slots of closed segments are occupied, and fewer than a segment's beside them.

    The record beside the slots keeps every token that was told, whatever the write gate drops or
    eviction takes, until it is forgotten; see `record.py`.
    """

    keys: Float[Tensor, "layers batch slots kv_heads width"]
    values: Float[Tensor, "layers batch slots kv_heads width"]
    addresses: Float[Tensor, "batch slots address"]  # what a slot is about, for release heads
    strength: Float[Tensor, "batch slots"]  # the write gate and what it lost since; 0: not read
    settled: Float[Tensor, "batch slots"]  # strength before the open segment let go of anything
    usage: Float[Tensor, "batch slots"]  # 0..1; the least used is evicted first
    reads: Float[Tensor, "batch slots"]  # read weight received, summed over tokens
    open_reads: Float[Tensor, "batch slots"]  # the part that came from the open segment
    seen_at: Int[Tensor, "batch slots"]  # text clock: tokens seen before it
    written_at: Int[Tensor, "batch slots"]  # write clock: tokens written before it
    token: Int[Tensor, "batch slots"]  # provenance: token id, segment, turn
    segment: Int[Tensor, "batch slots"]
    turn: Int[Tensor, "batch slots"]
    num_seen: Int[Tensor, " batch"]  # tokens ever seen: the text clock
    num_written: Int[Tensor, " batch"]  # tokens that the gate ever let through: the write clock
    num_segments: Int[Tensor, " batch"]  # closed segments; the open one has this number
    num_turns: Int[Tensor, " batch"]  # calls that wrote something
    told: Int[Tensor, "batch told"]  # the record: token ids by the text clock, -1 where none is
    told_turn: Int[Tensor, "batch told"]  # their turns and segments
    told_segment: Int[Tensor, "batch told"]
    finder_keys: UInt8[Tensor, "batch told finders width"]  # bits of small floats: `record.to_bits`
    num_slots: int | None = None
    record_tokens: int | None = None
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)
    documents: tuple[ReadDocument, ...] = ()
    # by row; shared by memories with the same record, and filled by `recollection.recollect`
    calm: dict[int, Calm] = dataclasses.field(default_factory=dict, init=False)

    @classmethod
    def empty(
        cls,
        batch_size: int,
        num_layers: int,
        kv_heads: int,
        width: int,
        *,
        num_slots: int | None = None,
        record_tokens: int | None = None,
        address_width: int = 0,
        finders: int = 0,
        fingerprint: dict[str, str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """Memories with nothing in them.

        Raises:
            ValueError: `batch_size`, `num_slots` or `record_tokens` below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        for name, most in (("num_slots", num_slots), ("record_tokens", record_tokens)):
            if most is not None and most < 1:
                raise ValueError(f"{name} must be at least 1, or None; got {most}.")
        contents = torch.zeros(
            num_layers, batch_size, 0, kv_heads, width, dtype=dtype, device=device
        )
        columns = {
            name: torch.zeros(
                batch_size,
                0,
                dtype=torch.float32 if isinstance(fill, float) else torch.long,
                device=device,
            )
            for name, fill in COLUMNS.items()
        }
        counts = {name: torch.zeros(batch_size, dtype=torch.long, device=device) for name in COUNTS}
        return cls(
            contents,
            contents,
            torch.zeros(batch_size, 0, address_width, device=device),
            **columns,
            **counts,
            **empty_record(batch_size, finders, width, device),
            num_slots=num_slots,
            record_tokens=record_tokens,
            fingerprint=dict(fingerprint or {}),
            documents=(),
        )

    # ---- contents ------------------------------------------------------------------------

    @property
    def columns(self) -> dict[str, Tensor]:
        """The slot table: one number a slot, by name."""
        return {
            "strength": self.strength,
            "settled": self.settled,
            "usage": self.usage,
            "reads": self.reads,
            "open_reads": self.open_reads,
            "seen_at": self.seen_at,
            "written_at": self.written_at,
            "token": self.token,
            "segment": self.segment,
            "turn": self.turn,
        }

    @property
    def counts(self) -> dict[str, Tensor]:
        """The clocks: one number a row, by name."""
        return {
            "num_seen": self.num_seen,
            "num_written": self.num_written,
            "num_segments": self.num_segments,
            "num_turns": self.num_turns,
        }

    @property
    def record(self) -> dict[str, Tensor]:
        """The record: a place for every token seen, by name."""
        return {
            "told": self.told,
            "told_turn": self.told_turn,
            "told_segment": self.told_segment,
            "finder_keys": self.finder_keys,
        }

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors, by name."""
        contents = {"keys": self.keys, "values": self.values, "addresses": self.addresses}
        return contents | self.columns | self.counts | self.record

    @property
    def batch_size(self) -> int:
        """How many independent memories."""
        return self.num_seen.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.num_seen.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of keys and values; the slot table is float32 and int64 always."""
        return self.keys.dtype

    @property
    def occupied(self) -> Bool[Tensor, "batch slots"]:
        """Which slots hold something."""
        return self.token != EMPTY

    @property
    def is_open(self) -> Bool[Tensor, "batch slots"]:
        """Which slots belong to the segment that may still be continued."""
        return self.occupied & (self.segment == self.num_segments[:, None])

    @property
    def is_unwritten(self) -> Bool[Tensor, "batch slots"]:
        """Which slots hold a token of a closed segment that nothing can read."""
        return self.occupied & (self.strength <= 0) & ~self.is_open

    @property
    def is_told(self) -> Bool[Tensor, "batch told"]:
        """Which places of the record hold a token."""
        return self.told != EMPTY

    @property
    def is_empty(self) -> bool:
        """True while no row holds anything."""
        return not bool(self.occupied.any() or self.is_told.any())

    @property
    def age(self) -> Float[Tensor, "batch slots"]:
        """Tokens written since, per slot: the age that reads use."""
        return (self.num_written[:, None] - self.written_at).clamp_min(0).float()

    def kept_of(self, turn: int) -> int:
        """How many tokens of a turn can be read, in all rows."""
        return int(((self.turn == turn) & self.occupied & (self.strength > 0)).sum())

    def _is_recorded(self, turn: int) -> bool:
        return bool((self.told_turn == turn).any())

    def document(self, checksum: str) -> ReadDocument | None:
        """The document with this checksum, as far as it was read; None where it was forgotten."""
        known = (read for read in self.documents if read.checksum == checksum)
        return next((read for read in known if self._is_recorded(read.turn)), None)

    def with_document(self, read: ReadDocument) -> MemoryState:
        """The same memory that knows a document too; forgotten documents are left out."""
        others = (one for one in self.documents if one.checksum != read.checksum)
        left = tuple(one for one in others if self._is_recorded(one.turn))
        return self.replaced(documents=(*left, read))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    @property
    def next_slot(self) -> Int[Tensor, "batch slots"]:
        """Link to the slot written next, -1 at the end: the DNC's temporal link, as a list.

        Derived from the text clock, so a link over forgotten or evicted slots is whole again.
        """
        return self._neighbour(1)

    @property
    def prev_slot(self) -> Int[Tensor, "batch slots"]:
        """Link to the slot written before, -1 at the start."""
        return self._neighbour(-1)

    def _neighbour(self, step: int) -> Int[Tensor, "batch slots"]:
        return neighbours(self.seen_at, self.occupied & (self.strength > 0), step)

    def __repr__(self) -> str:
        room = "unbounded" if self.num_slots is None else f"{self.num_slots:,} slots"
        used = self.occupied.sum(-1).tolist()
        kept = f"{used[0]:,}" if len(used) == 1 else f"each {min(used):,} to {max(used):,}"
        rows = "" if len(used) == 1 else f"{len(used)} rows, "
        return (
            f"MemoryState({rows}{kept} tokens kept of {int(self.num_seen.max()):,} read, {room}, "
            f"{self.nbytes / 2**20:.1f} MiB, {self.dtype} on {self.device})"
        )

    def inspect(self, tokenizer: Any) -> list[dict[str, Any]]:
        """The slot table as rows in the order of writing.

        Args:
            tokenizer: anything with `decode`, to show token ids as text.

        Returns:
            One dict a slot with keys `row, slot, text, strength, usage, age, reads, turn,
            segment`.
        """
        return table_rows(self.columns, self.age, self.occupied, tokenizer)

    # ---- copies --------------------------------------------------------------------------

    def replaced(self, **changes: Any) -> MemoryState:
        """The same memory with other values for some fields."""
        other = dataclasses.replace(self, **changes)
        if RECORD.keys().isdisjoint(changes):
            object.__setattr__(other, "calm", self.calm)
        return other

    def _map(self, change: Callable[[Tensor], Tensor]) -> MemoryState:
        return self.replaced(**{name: change(tensor) for name, tensor in self.tensors.items()})

    def clone(self) -> MemoryState:
        """A copy that shares no tensor with this one."""
        return self._map(torch.clone)

    def detach(self) -> MemoryState:
        """The same memory, cut from the autograd graph: no gradient passes through it."""
        return self._map(torch.Tensor.detach)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MemoryState:
        """The same memory on another device; `dtype` changes the slot contents only."""
        moved = self._map(lambda tensor: tensor.to(device))
        dtype = dtype or self.dtype
        return moved.replaced(keys=moved.keys.to(dtype), values=moved.values.to(dtype))

    def select(self, rows: Sequence[int] | Int[Tensor, " rows"]) -> MemoryState:
        """The memories of the given rows, in that order; rows may repeat.

        Raises:
            ValueError: a row that does not exist.
        """
        index = torch.as_tensor(rows, dtype=torch.long, device=self.device)
        self._check_rows(index)
        return self.replaced(
            **{
                name: tensor.index_select(_batch_axis(name), index)
                for name, tensor in self.tensors.items()
            },
        )

    def at(self, chosen: Bool[Tensor, "batch slots"]) -> MemoryState:
        """A memory with the chosen slots alone, in their order; clocks and record as they are."""
        width = int(chosen.sum(-1).max())
        order = (~chosen).long().argsort(dim=-1, stable=True)[:, :width]
        there = chosen.gather(1, order)
        rows = torch.arange(self.batch_size, device=self.device)[:, None]
        columns = {
            name: column.gather(1, order).masked_fill(~there, COLUMNS[name])
            for name, column in self.columns.items()
        }
        return self.replaced(
            **columns,
            keys=self.keys[:, rows, order],
            values=self.values[:, rows, order],
            addresses=self.addresses[rows, order],
        )

    def beside(self, row: int, other: MemoryState) -> MemoryState:
        """This batch with the slots of a memory of one row added to one of its rows."""
        slots = self.token.shape[1]
        wide = self.padded(slots + other.token.shape[1])
        tensors = {name: tensor.clone() for name, tensor in wide.tensors.items()}
        for name in (*COLUMNS, "addresses"):
            tensors[name][row, slots:] = other.tensors[name][0]
        for name in ("keys", "values"):
            tensors[name][:, row, slots:] = other.tensors[name][:, 0]
        return wide.replaced(**tensors)

    def at_places(self, marked: Bool[Tensor, "batch told"]) -> Bool[Tensor, "batch slots"]:
        """Which readable slots hold a token of the marked places of the record."""
        there = self.occupied & (self.strength > 0)
        padded = torch.nn.functional.pad(marked, (0, 1))
        places = self.seen_at.where(there, marked.shape[1]).clamp_max(marked.shape[1])
        return padded.gather(1, places)

    def renewed(self, marked: Bool[Tensor, "batch told"]) -> MemoryState:
        """The same memory with the slots of marked places used as if they were just written."""
        usage = torch.maximum(self.usage, self.strength.detach())
        return self.replaced(usage=torch.where(self.at_places(marked), usage, self.usage))

    def put(self, rows: Int[Tensor, " rows"], other: MemoryState) -> MemoryState:
        """This batch with the given rows replaced by the rows of `other`."""
        slots = max(self.token.shape[1], other.token.shape[1])
        size = [max(sizes) for sizes in zip(self._record_size, other._record_size, strict=True)]
        mine = self.padded(slots).replaced(**resized(self.record, *size))
        theirs = other.padded(slots).tensors | resized(other.record, *size)
        return mine.replaced(
            **{
                name: tensor.index_copy(_batch_axis(name), rows, theirs[name])
                for name, tensor in mine.tensors.items()
            },
        )

    def padded(self, slots: int) -> MemoryState:
        """The same memory with empty slots appended up to `slots`."""
        extra = slots - self.token.shape[1]
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        columns = {
            name: pad(column, (0, extra), value=COLUMNS[name])
            for name, column in self.columns.items()
        }
        return self.replaced(
            **columns,
            keys=pad(self.keys, (0, 0, 0, 0, 0, extra)),
            values=pad(self.values, (0, 0, 0, 0, 0, extra)),
            addresses=pad(self.addresses, (0, 0, 0, extra)),
        )

    def with_keys_of_slots(self, heads: Sequence[tuple[int, int]]) -> MemoryState:
        """The same memory with small keys in its record, taken from the slots that are there.

        Args:
            heads: the place among the memory layers and the key head of each small key.
        """
        rows, slots = (self.occupied & ~self.is_unwritten).nonzero(as_tuple=True)
        places = self.seen_at[rows, slots]
        keys = torch.stack([self.keys[layer][rows, slots, head] for layer, head in heads], 1)
        empty = self.finder_keys.new_zeros(*self.told.shape, len(heads), self.keys.shape[-1])
        return self.replaced(finder_keys=empty.index_put((rows, places), to_bits(keys)))

    # ---- taking things out ---------------------------------------------------------------

    def emptied(self, rows: Sequence[int] | Int[Tensor, " rows"] | None = None) -> MemoryState:
        """The same memory with nothing in the given rows (all, if None), their clocks at zero.

        Raises:
            ValueError: a row that does not exist.
        """
        index = torch.arange(self.batch_size) if rows is None else torch.as_tensor(rows)
        index = index.to(device=self.device, dtype=torch.long)
        self._check_rows(index)
        gone, told_gone = torch.zeros_like(self.occupied), torch.zeros_like(self.is_told)
        gone[index] = told_gone[index] = True
        counts = {name: count.index_fill(0, index, 0) for name, count in self.counts.items()}
        record = self._record_without(told_gone, counts["num_seen"])
        return self._erased(gone).replaced(**counts, **record)._with_documents_left()

    def without(
        self, gone: Bool[Tensor, "batch slots"], told_gone: Bool[Tensor, "batch told"]
    ) -> MemoryState:
        """The same memory without some slots and some places of the record.

        Their contents are overwritten with zeros.
        """
        state = self._erased(gone).replaced(**blanked(self.record, told_gone))
        # where nothing is left of the open segment, nothing replaces older text any more
        is_open = state.is_open.any(-1, keepdim=True)
        strength = torch.where(is_open, state.strength, state.settled)
        return state.replaced(strength=strength)._with_documents_left()

    def _erased(self, gone: Bool[Tensor, "batch slots"]) -> MemoryState:
        columns = {
            name: column.masked_fill(gone, COLUMNS[name]) for name, column in self.columns.items()
        }
        return self.replaced(
            **columns,
            keys=self.keys.masked_fill(gone[None, :, :, None, None], 0.0),
            values=self.values.masked_fill(gone[None, :, :, None, None], 0.0),
            addresses=self.addresses.masked_fill(gone[..., None], 0.0),
        )

    def _record_without(
        self, gone: Bool[Tensor, "batch told"], num_seen: Int[Tensor, " batch"]
    ) -> dict[str, Tensor]:
        """The record without some places, as wide as the clocks of the rows need."""
        left = blanked(self.record, gone)
        return resized(left, int(num_seen.max()), self.finder_keys.shape[2])

    @property
    def _record_size(self) -> tuple[int, int]:
        return self.told.shape[1], self.finder_keys.shape[2]

    def _with_documents_left(self) -> MemoryState:
        left = tuple(read for read in self.documents if self._is_recorded(read.turn))
        return self.replaced(documents=left)

    def _become(self, other: MemoryState) -> None:
        """Takes the fields of another state, for `reset` and `forget`."""
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, vars(other)[field.name])

    def reset(self, rows: Sequence[int] | Int[Tensor, " rows"] | None = None) -> MemoryState:
        """Empties the given rows (all, if None) in place, their clocks too; returns itself.

        Raises:
            ValueError: a row that does not exist.
        """
        self._become(self.emptied(rows))
        return self

    def forget(self, what: int | Iterable[int] | Callable[[dict[str, Any]], bool]) -> int:
        """Removes tokens in place, from slots and record: zeros overwrite their contents.

        Args:
            what: a turn, several turns, or a predicate over dicts with keys `row, slot, token,
                strength, usage, age, reads, turn, segment`. Turns that the memory does not have
                are left out. A turn takes its tokens without a slot too; a predicate sees slots
                only, and takes what the record holds of them.

        Returns:
            How many tokens are gone, each counted once.

        Raises:
            ValueError: `what` is none of these.
        """
        if not callable(what):
            what = turn_numbers(what)
        gone = chosen(self.columns, self.age, self.occupied, what)
        told_gone = places_of(self.seen_at, gone, self.told)
        only_slots = int(gone.sum() - told_gone.sum())
        if not callable(what):
            told_gone = told_gone | in_turns(self.told_turn, what)
        self._become(self.without(gone, told_gone))
        return only_slots + int(told_gone.sum())

    # ---- the open segment ----------------------------------------------------------------

    def closed(self) -> MemoryState:
        """The same memory with its open segment closed: reads are credited, the rest evicted."""
        is_open = self.is_open
        ending = is_open.any(-1)
        if not bool(ending.any()):
            return self
        written = is_open.sum(-1)
        usage = aged_usage(self.usage, self.open_reads, written, self.usage_half_life)
        lost = self.strength.detach() / self.settled.detach().clamp_min(1e-30)
        usage = torch.where(is_open, self.strength.detach(), usage * lost)
        state = self.replaced(
            settled=torch.where(ending[:, None], self.strength, self.settled),
            usage=torch.where(ending[:, None], usage, self.usage),
            open_reads=torch.zeros_like(self.open_reads),
            num_segments=self.num_segments + ending.long(),
        )
        unwritten = state.is_unwritten
        if bool(unwritten.any()):
            state = state._erased(unwritten)
        if self.num_slots is not None:
            excess = (state.occupied.sum(-1) - self.num_slots).clamp_min(0)
            if bool(excess.any()):
                state = state._erased(least_used(state.usage, state.occupied, excess))
        return state

    def reopened(
        self,
    ) -> tuple[MemoryState, Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
        """Takes the open segment back out, to be encoded anew with what follows.

        Returns:
            The memory as it was when the segment began, and the token ids and turns of the tokens
            that were taken out, in order, padded at the end with -1.
        """
        is_open = self.is_open
        width = int(is_open.sum(-1).max()) if is_open.numel() else 0
        if width == 0:
            nothing = self.token.new_zeros(self.batch_size, 0)
            return self, nothing, nothing
        late = torch.iinfo(torch.long).max
        order = self.seen_at.masked_fill(~is_open, late).argsort(dim=-1, stable=True)[:, :width]
        real = is_open.gather(1, order)
        ids = self.token.gather(1, order).masked_fill(~real, EMPTY)
        turns = self.turn.gather(1, order).masked_fill(~real, EMPTY)
        begun = self.written_at.masked_fill(~is_open, late).amin(-1)
        num_seen = self.num_seen - is_open.sum(-1)
        in_segment = self.told_segment == self.num_segments[:, None]
        record = self._record_without(in_segment & is_open.any(-1, keepdim=True), num_seen)
        state = self.replaced(
            **record,
            num_seen=num_seen,
            num_written=torch.minimum(self.num_written, begun),
            reads=(self.reads - self.open_reads).clamp_min(0.0),
            open_reads=torch.zeros_like(self.open_reads),
            strength=self.settled,
        )
        return state._erased(is_open), ids, turns

    @property
    def usage_half_life(self) -> float:
        """Tokens after which an unread slot counts half: as many as the memory can hold."""
        return float(self.num_slots or 4096)

    # ---- files ---------------------------------------------------------------------------

    def save(self, path: str | Path, *, user: str | None = None) -> None:
        """Writes the memory to one safetensors file, whole or not at all.

        Args:
            path: the file.
            user: the owner, kept in the header: no other user can be given the file.

        Raises:
            ValueError: the memory holds numbers that no memory can hold, such as NaN; an older
                file stays as it was.
            OSError: the folder can't be written; an older file stays as it was.
        """
        save_parts(path, self._parts(), user)

    @classmethod
    def load(
        cls, path: str | Path, model: MemoryOwner | None = None, *, user: str | None = None
    ) -> MemoryState:
        """Reads a memory that `save` wrote, checking every byte of it.

        Args:
            path: the file.
            model: the model that will read it; the memory is checked against it, moved to its
                device and converted to its dtype.
            user: the owner that the file must name; None: any.

        Raises:
            FileNotFoundError: no such file.
            PermissionError: the file may not be read.
            ValueError: the file is damaged, forged or no memory; nothing of it is used.
            IncompatibleMemory: written by another model, shape or format version.
        """
        parts = load_parts(path, user)
        state = cls(
            **parts.tensors,
            num_slots=parts.num_slots,
            record_tokens=parts.record_tokens,
            fingerprint=dict(parts.fingerprint),
            documents=parts.documents,
        )
        return state if model is None else model.adopt_memory(state, source=f"in {path}")

    def _parts(self) -> Parts:
        return Parts(
            self.tensors, self.num_slots, self.record_tokens, self.fingerprint, self.documents
        )

    def _check_rows(self, index: Tensor) -> None:
        if index.numel() and not (0 <= int(index.min()) and int(index.max()) < self.batch_size):
            raise ValueError(
                f"rows must be between 0 and {self.batch_size - 1}; got {index.tolist()}."
            )


def _batch_axis(name: str) -> int:
    """Which axis of a tensor counts rows: slot contents have the layers before it."""
    return 1 if name in ("keys", "values") else 0
