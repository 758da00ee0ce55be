"""`MemoryState`: everything that a memory remembers, as one explicit value.

A state is passed in and returned; modules keep none of it. Its tensors are never changed in
place, so copies may share them. How text gets into it: `segment.py`. Its file format: `file.py`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.addressing import aged_usage, least_used

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

EMPTY = -1
# fields with one number a slot, and what an empty slot holds
TABLE: dict[str, float] = {
    "strength": 0.0,
    "settled": 0.0,
    "usage": 0.0,
    "reads": 0.0,
    "open_reads": 0.0,
    "written_at": EMPTY,
    "order": EMPTY,
    "token": EMPTY,
    "segment": EMPTY,
    "turn": EMPTY,
}
ROW = ("clock", "writes", "num_segments", "num_turns")
CONTENTS = ("keys", "values", "addresses")


class IncompatibleMemory(ValueError):
    """A memory and a model that do not belong together; the message says in what they differ."""


def neighbours(
    written_at: Int[Tensor, "batch slots"], present: Bool[Tensor, "batch slots"], step: int
) -> Int[Tensor, "batch slots"]:
    """The slot written `step` places after (or before, below 0) each slot; -1 where there is none.

    The DNC's link matrix as a list, derived from the clock: whole over slots that are gone.

    Args:
        written_at: the text clock.
        present: the others are skipped, and have no neighbours.
        step: 1 or -1.
    """
    slots = written_at.shape[1]
    if slots == 0:
        return torch.zeros_like(written_at)
    late = torch.iinfo(torch.long).max
    order = written_at.masked_fill(~present, late).argsort(dim=-1, stable=True)
    shifted = order.roll(-step, dims=-1)
    count = present.sum(-1, keepdim=True)
    place = torch.arange(slots, device=order.device)[None]
    inside = (place + step >= 0) & (place + step < count) & (place < count)
    link = torch.full_like(order, EMPTY)
    return link.scatter_(-1, order, shifted.masked_fill(~inside, EMPTY))


@dataclass(frozen=True)
class ReadDocument:
    """A document that was read into a memory of one row, whole or up to where it was interrupted.

    Attributes:
        checksum: of its text.
        name: what a person calls it.
        turn: that its slots belong to.
        tokens: of the text that are read so far.
        whole: nothing of it is left to read.
    """

    checksum: str
    name: str
    turn: int
    tokens: int
    whole: bool


@dataclass(repr=False)
class MemoryState:
    """A batch of memories: slot contents per memory layer, one slot table, one clock a row.

    The last segment stays *open* until something closes it (`memorize` continues it, `forward`
    and `generate` close it): its slots can be read, and its tokens can be taken back and encoded
    anew together with what follows. Tokens that the write gate keeps out stay in the table until
    then, with a strength of 0, which no read finds. Eviction happens when a segment closes, so at
    most `num_slots` slots of closed segments are occupied, and fewer than a segment's beside them.
    """

    keys: Float[Tensor, "layers batch slots kv_heads width"]
    values: Float[Tensor, "layers batch slots kv_heads width"]
    addresses: Float[Tensor, "batch slots address"]  # what a slot is about, for `release.py`
    strength: Float[Tensor, "batch slots"]  # the write gate and what it lost since; 0: not read
    settled: Float[Tensor, "batch slots"]  # strength before the open segment let go of anything
    usage: Float[Tensor, "batch slots"]  # 0..1; the least used is evicted first
    reads: Float[Tensor, "batch slots"]  # read weight received, summed over tokens
    open_reads: Float[Tensor, "batch slots"]  # the part that came from the open segment
    written_at: Int[Tensor, "batch slots"]  # text clock: tokens seen before it
    order: Int[Tensor, "batch slots"]  # write clock: tokens written before it
    token: Int[Tensor, "batch slots"]  # provenance: token id, segment, turn
    segment: Int[Tensor, "batch slots"]
    turn: Int[Tensor, "batch slots"]
    clock: Int[Tensor, " batch"]  # tokens ever seen
    writes: Int[Tensor, " batch"]  # tokens that the write gate ever let through
    num_segments: Int[Tensor, " batch"]  # closed segments; the open one has this number
    num_turns: Int[Tensor, " batch"]  # calls that wrote something
    num_slots: int | None = None
    fingerprint: dict[str, str] = dataclasses.field(default_factory=dict)
    documents: tuple[ReadDocument, ...] = ()

    @classmethod
    def empty(
        cls,
        batch_size: int,
        num_layers: int,
        kv_heads: int,
        width: int,
        *,
        num_slots: int | None = None,
        address_width: int = 0,
        fingerprint: dict[str, str] | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str | None = None,
    ) -> MemoryState:
        """Memories with nothing in them.

        Raises:
            ValueError: `batch_size` or `num_slots` below 1.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1; got {batch_size}.")
        if num_slots is not None and num_slots < 1:
            raise ValueError(f"num_slots must be at least 1, or None; got {num_slots}.")
        contents = torch.zeros(
            num_layers, batch_size, 0, kv_heads, width, dtype=dtype, device=device
        )
        table = {
            name: torch.zeros(
                batch_size,
                0,
                dtype=torch.float32 if isinstance(fill, float) else torch.long,
                device=device,
            )
            for name, fill in TABLE.items()
        }
        row = {name: torch.zeros(batch_size, dtype=torch.long, device=device) for name in ROW}
        return cls(
            contents,
            contents,
            torch.zeros(batch_size, 0, address_width, device=device),
            **table,
            **row,
            num_slots=num_slots,
            fingerprint=dict(fingerprint or {}),
            documents=(),
        )

    # ---- what is in it -------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """How many independent memories."""
        return self.clock.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.clock.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the slot contents; the slot table is float32 and int64 always."""
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
    def is_empty(self) -> bool:
        """True while no row holds anything."""
        return not bool(self.occupied.any())

    @property
    def age(self) -> Float[Tensor, "batch slots"]:
        """Tokens seen since, per slot."""
        return (self.clock[:, None] - self.written_at).clamp_min(0).float()

    @property
    def num_written(self) -> Int[Tensor, " batch"]:
        """Tokens ever taken in, per row; gates, forgetting and eviction do not lower it."""
        return self.clock

    def kept_of(self, turn: int) -> int:
        """How many tokens of a turn can be read, in all rows."""
        return int(((self.turn == turn) & self.occupied & (self.strength > 0)).sum())

    def document(self, checksum: str) -> ReadDocument | None:
        """The document with this checksum, as far as it was read; None where nothing is left."""
        known = (read for read in self.documents if read.checksum == checksum)
        return next((read for read in known if self.kept_of(read.turn)), None)

    def with_document(self, read: ReadDocument) -> MemoryState:
        """The same memory that knows of a document; of those it knew, what is left is kept."""
        others = (one for one in self.documents if one.checksum != read.checksum)
        left = tuple(one for one in others if self.kept_of(one.turn))
        return self.replaced(documents=(*left, read))

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

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
        return neighbours(self.written_at, self.occupied & (self.strength > 0), step)

    def __repr__(self) -> str:
        room = "unbounded" if self.num_slots is None else f"{self.num_slots:,} slots"
        used = self.occupied.sum(-1).tolist()
        kept = f"{used[0]:,}" if len(used) == 1 else f"each {min(used):,} to {max(used):,}"
        rows = "" if len(used) == 1 else f"{len(used)} rows, "
        return (
            f"MemoryState({rows}{kept} tokens kept of {int(self.clock.max()):,} read, {room}, "
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
        age, strength = self.age, self.strength.detach()
        rows: list[dict[str, Any]] = []
        for row in range(self.batch_size):
            slots = self.occupied[row].nonzero().flatten()
            slots = slots[self.written_at[row, slots].argsort()]
            for slot in slots.tolist():
                rows.append(
                    {
                        "row": row,
                        "slot": slot,
                        "text": tokenizer.decode([int(self.token[row, slot])]),
                        "strength": float(strength[row, slot]),
                        "usage": float(self.usage[row, slot]),
                        "age": int(age[row, slot]),
                        "reads": float(self.reads[row, slot]),
                        "turn": int(self.turn[row, slot]),
                        "segment": int(self.segment[row, slot]),
                    }
                )
        return rows

    # ---- copies --------------------------------------------------------------------------

    def replaced(self, **changes: Any) -> MemoryState:
        """The same memory with other values for some fields."""
        return dataclasses.replace(self, **changes)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in (*CONTENTS, *TABLE, *ROW)}

    def _map(self, change: Callable[[Tensor], Tensor]) -> MemoryState:
        return self.replaced(**{name: change(tensor) for name, tensor in self._tensors().items()})

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
                name: tensor.index_select(1 if name in ("keys", "values") else 0, index)
                for name, tensor in self._tensors().items()
            },
        )

    def put(self, rows: Int[Tensor, " rows"], other: MemoryState) -> MemoryState:
        """This batch with the given rows replaced by the rows of `other`."""
        slots = max(self.token.shape[1], other.token.shape[1])
        mine, theirs = self.padded(slots), other.padded(slots)
        return mine.replaced(
            **{
                name: tensor.index_copy(
                    1 if name in ("keys", "values") else 0, rows, getattr(theirs, name)
                )
                for name, tensor in mine._tensors().items()
            },
        )

    def padded(self, slots: int) -> MemoryState:
        """The same memory with empty slots appended up to `slots`."""
        extra = slots - self.token.shape[1]
        if extra <= 0:
            return self
        pad = torch.nn.functional.pad
        grown: dict[str, Tensor] = {
            name: pad(getattr(self, name), (0, 0, 0, 0, 0, extra)) for name in ("keys", "values")
        }
        grown["addresses"] = pad(self.addresses, (0, 0, 0, extra))
        for name, fill in TABLE.items():
            grown[name] = pad(getattr(self, name), (0, extra), value=fill)
        return self.replaced(**grown)

    # ---- taking things out (in place) ----------------------------------------------------

    def reset(self, rows: Sequence[int] | Int[Tensor, " rows"] | None = None) -> MemoryState:
        """Empties the given rows (all, if None) in place, their clocks too; returns itself.

        Raises:
            ValueError: a row that does not exist.
        """
        index = torch.arange(self.batch_size) if rows is None else torch.as_tensor(rows)
        index = index.to(device=self.device, dtype=torch.long)
        self._check_rows(index)
        gone = torch.zeros_like(self.occupied)
        gone[index] = True
        self._erase(gone)
        for name in ROW:
            setattr(self, name, getattr(self, name).index_fill(0, index, 0))
        self.documents = tuple(read for read in self.documents if self.kept_of(read.turn))
        return self

    def forget(self, what: int | Iterable[int] | Callable[[dict[str, Any]], bool]) -> int:
        """Removes slots in place: their contents are overwritten with zeros.

        Args:
            what: a turn, several turns, or a predicate over dicts with keys `row, slot, token,
                strength, usage, age, reads, turn, segment`. Turns that the memory does not have
                are left out.

        Returns:
            How many slots are gone.

        Raises:
            ValueError: `what` is none of these.
        """
        if callable(what):
            gone = torch.zeros_like(self.occupied)
            for row, slot in self.occupied.nonzero().tolist():
                entry = {"row": row, "slot": slot, "age": float(self.age[row, slot])}
                for name in ("token", "strength", "usage", "reads", "turn", "segment"):
                    entry[name] = getattr(self, name)[row, slot].item()
                gone[row, slot] = bool(what(entry))
        else:
            known = [turn for turn in _turns(what) if 0 <= turn < 2**63]
            wanted = torch.tensor(known, dtype=torch.long, device=self.device)
            gone = self.occupied & torch.isin(self.turn, wanted)
        count = int(gone.sum())
        self._erase(gone)
        # where nothing is left of the open segment, nothing replaces what is older any more
        is_open = self.is_open.any(-1, keepdim=True)
        self.strength = torch.where(is_open, self.strength, self.settled)
        self.documents = tuple(read for read in self.documents if self.kept_of(read.turn))
        return count

    def _erase(self, gone: Bool[Tensor, "batch slots"]) -> None:
        for name in ("keys", "values"):
            setattr(self, name, getattr(self, name).masked_fill(gone[None, :, :, None, None], 0.0))
        self.addresses = self.addresses.masked_fill(gone[..., None], 0.0)
        for name, fill in TABLE.items():
            setattr(self, name, getattr(self, name).masked_fill(gone, fill))

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
            state._erase(unwritten)
        if self.num_slots is not None:
            excess = (state.occupied.sum(-1) - self.num_slots).clamp_min(0)
            if bool(excess.any()):
                state._erase(least_used(state.usage, state.occupied, excess))
        return state

    def reopened(
        self,
    ) -> tuple[MemoryState, Int[Tensor, "batch tokens"], Int[Tensor, "batch tokens"]]:
        """Takes the open segment back out, to be encoded anew with what follows.

        Returns:
            The memory as it was when the segment began, and the token ids and turns of what was
            taken out, in order, padded at the end with -1.
        """
        is_open = self.is_open
        width = int(is_open.sum(-1).max()) if is_open.numel() else 0
        if width == 0:
            nothing = self.token.new_zeros(self.batch_size, 0)
            return self, nothing, nothing
        late = torch.iinfo(torch.long).max
        order = self.written_at.masked_fill(~is_open, late).argsort(dim=-1, stable=True)[:, :width]
        real = is_open.gather(1, order)
        ids = self.token.gather(1, order).masked_fill(~real, EMPTY)
        turns = self.turn.gather(1, order).masked_fill(~real, EMPTY)
        begun = self.order.masked_fill(~is_open, late).amin(-1)
        state = self.replaced(
            clock=self.clock - is_open.sum(-1),
            writes=torch.minimum(self.writes, begun),
            reads=(self.reads - self.open_reads).clamp_min(0.0),
            open_reads=torch.zeros_like(self.open_reads),
            strength=self.settled,
        )
        state._erase(is_open)
        return state, ids, turns

    @property
    def usage_half_life(self) -> float:
        """Tokens after which an unread slot counts half: as many as the memory can hold."""
        return float(self.num_slots or 4096)

    # ---- files ---------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Writes the memory to one safetensors file, whole or not at all.

        Raises:
            ValueError: it holds what no memory can hold, such as NaN.
            OSError: the folder can't be written.
        """
        from memformer.memory.file import save_memory

        save_memory(self, path)

    @classmethod
    def load(cls, path: str | Path, model: MemformerForCausalLM | None = None) -> MemoryState:
        """Reads a memory that `save` wrote.

        Args:
            path: the file.
            model: the model that will read it; the memory is checked against it, moved to its
                device and converted to its dtype.

        Raises:
            FileNotFoundError: no such file.
            PermissionError: the file may not be read.
            ValueError: the file is damaged, forged or no memory; nothing of it is used.
            IncompatibleMemory: written by another model, shape or format version.
        """
        from memformer.memory.file import load_memory

        state = load_memory(path)
        return state if model is None else model.adopt_memory(state, source=f"in {path}")

    def _check_rows(self, index: Tensor) -> None:
        if index.numel() and not (0 <= int(index.min()) and int(index.max()) < self.batch_size):
            raise ValueError(
                f"rows must be between 0 and {self.batch_size - 1}; got {index.tolist()}."
            )


def _turns(what: int | Iterable[int]) -> list[int]:
    """The turn numbers that `forget` was given: whole numbers of any kind, no text and no bool.

    Raises:
        ValueError: `what` is no turn number and holds others than turn numbers.
    """
    try:
        if isinstance(what, (str, bytes)):
            raise TypeError
        try:
            return [_turn(what)]
        except TypeError:
            return [_turn(one) for one in what]  # type: ignore[union-attr]
    except TypeError:
        raise ValueError(
            f"forget expects a turn number, several, or a predicate; got {what!r}; give whole "
            "numbers, such as forget([1, 2])."
        ) from None


def _turn(number: Any) -> int:
    if isinstance(number, bool) or getattr(number, "dtype", None) == torch.bool:
        raise TypeError
    return operator.index(number)
