"""What no memory can be: `flaw` names the first thing that is wrong with one.

A memory that memformer made has none; a file may hold anything. Saving and loading (`file.py`) and
the store ask here, so that a flawed memory is neither kept nor used. Knows no model: whether a
memory fits one is `model.check_memory`'s business.
"""

from __future__ import annotations

import torch
from torch import Tensor

from memformer.memory.state import CONTENTS, EMPTY, ROW, TABLE, MemoryState

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# clocks count tokens; beyond this they could overflow
MOST = 2**62


def flaw(state: MemoryState, most: int = MOST) -> str | None:
    """The first thing that is wrong, as the end of a sentence that begins with "the memory"; None
    where nothing is.

    Cost: one pass over all tensors.

    Args:
        state: the memory.
        most: the highest number that a clock may show.
    """
    return (
        _form(state)
        or _finiteness(state)
        or _ranges(state, most)
        or _counts(state)
        or _documents(state)
    )


def all_finite(*tensors: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    # a sum is had in a twentieth of the time, and finite only where every number is; that of large
    # numbers may overflow though none of them does
    return all(
        bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())
        for tensor in tensors
    )


def _form(state: MemoryState) -> str | None:
    """Kinds and shapes: every later check relies on them."""
    slots, capacity = state.token, state.num_slots
    if capacity is not None and (type(capacity) is not int or not 1 <= capacity <= MOST):
        return f"has num_slots {capacity!r}, which is no whole number from 1 to {MOST}"
    names, values = state.fingerprint.keys(), state.fingerprint.values()
    if not all(isinstance(text, str) for text in (*names, *values)):
        return "has a fingerprint that is not text"
    for read in state.documents:
        if [type(value) for value in vars(read).values()] != [str, str, int, int, bool]:
            return f"has a document that can't be one: {read!r:.200}"
    if slots.dim() != 2 or slots.shape[0] < 1:
        return f"has tokens of shape {tuple(slots.shape)} instead of [batch, slots]"
    batch, count = slots.shape
    axes = tuple(state.keys.shape)
    if len(axes) != 5 or axes[1:3] != (batch, count) or 0 in (axes[0], *axes[3:]):
        return f"has keys of shape {axes} for tokens of shape {(batch, count)}"
    if state.keys.dtype not in FLOATS:
        return f"has keys of type {state.keys.dtype}"
    shapes = {name: (batch, count) for name in TABLE} | {name: (batch,) for name in ROW}
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        name: (shape, torch.float32 if isinstance(TABLE.get(name), float) else torch.long)
        for name, shape in shapes.items()
    }
    wanted["values"] = (axes, state.keys.dtype)
    *_, width = state.addresses.shape or (0,)
    wanted["addresses"] = ((batch, count, width), torch.float32)
    for name, (shape, kind) in wanted.items():
        tensor: Tensor = getattr(state, name)
        if tuple(tensor.shape) != shape:
            return f"has {name} of shape {tuple(tensor.shape)} instead of {shape}"
        if tensor.dtype != kind:
            return f"has {name} of type {tensor.dtype} instead of {kind}"
    return None


def _finiteness(state: MemoryState) -> str | None:
    columns = [name for name, fill in TABLE.items() if isinstance(fill, float)]
    for name in (*CONTENTS, *columns):
        if not all_finite(getattr(state, name)):
            return f"has {name} that are not finite (NaN, or an overflow)"
    return None


def _ranges(state: MemoryState, most_of_clock: int) -> str | None:
    """What each number may be: the clocks, then the columns of the slots that are occupied."""
    late = torch.full_like(state.clock, most_of_clock)
    highest = {"clock": late, "writes": state.clock}
    highest |= {"num_segments": state.clock, "num_turns": late}
    for name, limit in highest.items():
        value: Tensor = getattr(state, name)
        if bool(((value < 0) | (value > limit)).any()):
            return f"has {name} {value.tolist()} with a clock of {state.clock.tolist()}"
    occupied = state.occupied
    last = (state.num_turns - 1).clamp_min(0)
    one = torch.ones_like(late)
    most = {name: late for name in ("token", "reads", "open_reads")}
    most |= {name: one for name in ("strength", "settled", "usage")}
    most |= {"written_at": state.clock - 1, "order": state.writes}
    most |= {"segment": state.num_segments, "turn": last}
    for name, highest_of in most.items():
        column, limit = getattr(state, name), highest_of[:, None]
        if bool((occupied & ((column < 0) | (column > limit))).any()):
            return f"has {name} out of range"
        if bool((~occupied & (column != TABLE[name])).any()):
            return f"has {name} in slots that are empty"
    if bool((state.strength > state.settled).any()):
        return "has a strength above the settled strength"
    return None


def _counts(state: MemoryState) -> str | None:
    """How many slots are occupied, and that no two hold the same token of the text."""
    settled = (state.occupied & ~state.is_open).sum(-1)
    if state.num_slots is not None and bool((settled > state.num_slots).any()):
        return f"has {int(settled.max())} slots in use and room for {state.num_slots}"
    times = state.written_at.masked_fill(~state.occupied, EMPTY).sort(-1).values
    if bool(((times[:, 1:] == times[:, :-1]) & (times[:, 1:] != EMPTY)).any()):
        return "has two slots with one written_at"
    return None


def _documents(state: MemoryState) -> str | None:
    """That each document belongs to a turn of the memory and is no longer than what was read."""
    turns, clock = int(state.num_turns.max()), int(state.clock.max())
    for read in state.documents:
        if not (0 <= read.turn < turns and 0 <= read.tokens <= clock):
            return f"has a document of a turn or a length that can't be: {read!r:.200}"
    return None
