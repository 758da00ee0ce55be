"""`flaw`: names the first error in a memory.

A memory that memformer made has no flaw; a file may hold anything. A memory is checked before it is
saved and after it is loaded, so that a flawed memory is neither kept nor used. This file does not
check whether a memory fits a model.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from memformer.memory.columns import COLUMNS, CONTENTS, COUNTS, EMPTY, TOLD
from memformer.memory.parts import Parts
from memformer.memory.record import is_nan

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
# the highest number that a clock may show; a higher number could overflow
MOST = 2**62
# the same for turns and segments in the record, as a part of `MOST`: they have 32 bits there
SHORT = 2**32


def flaw(parts: Parts, most: int = MOST) -> str | None:
    """The first error, as the end of a sentence that begins with "the memory"; None without error.

    Cost: linear in the size of all tensors.

    Args:
        parts: the memory.
        most: the highest number that a clock may show.
    """
    return flaw_of_slots(parts, most) or _record_form(parts.tensors) or _record(parts)


def flaw_of_slots(parts: Parts, most: int = MOST) -> str | None:
    """As `flaw`, for all parts but the record, which a memory of an earlier format lacks."""
    return (
        _header(parts)
        or _form(parts.tensors)
        or _finiteness(parts.tensors)
        or _ranges(parts, most)
        or _counts(parts)
        or _documents(parts)
    )


def all_finite(*tensors: Tensor) -> bool:
    """Whether no number is NaN or infinite."""
    # a finite sum proves that every number is finite, in a twentieth of the time; the sum of large
    # finite numbers may overflow, and then every number is checked
    return all(
        bool(tensor.sum(dtype=torch.float32).isfinite() or tensor.isfinite().all())
        for tensor in tensors
    )


def _header(parts: Parts) -> str | None:
    """Checks the types of all parts that are not tensors."""
    for name, room in (("num_slots", parts.num_slots), ("record_tokens", parts.record_tokens)):
        if room is not None and (type(room) is not int or not 1 <= room <= MOST):
            return f"has {name} {room!r}, which is no whole number from 1 to {MOST}"
    names, values = parts.fingerprint.keys(), parts.fingerprint.values()
    if not all(isinstance(text, str) for text in (*names, *values)):
        return "has a fingerprint that is not text"
    for read in parts.documents:
        if [type(value) for value in vars(read).values()] != [str, str, int, int, bool]:
            return f"has a document that can't be one: {read!r:.200}"
    return None


def _form(tensors: Mapping[str, Tensor]) -> str | None:
    """Checks types and shapes, on which every later check relies."""
    slots, keys = tensors["token"], tensors["keys"]
    if slots.dim() != 2 or slots.shape[0] < 1:
        return f"has tokens of shape {tuple(slots.shape)} instead of [batch, slots]"
    batch, count = slots.shape
    axes = tuple(keys.shape)
    if len(axes) != 5 or axes[1:3] != (batch, count) or 0 in (axes[0], *axes[3:]):
        return f"has keys of shape {axes} for tokens of shape {(batch, count)}"
    if keys.dtype not in FLOATS:
        return f"has keys of type {keys.dtype}"
    shapes = {name: (batch, count) for name in COLUMNS} | {name: (batch,) for name in COUNTS}
    wanted: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        name: (shape, torch.float32 if isinstance(COLUMNS.get(name), float) else torch.long)
        for name, shape in shapes.items()
    }
    wanted["values"] = (axes, keys.dtype)
    *_, width = tensors["addresses"].shape or (0,)
    wanted["addresses"] = ((batch, count, width), torch.float32)
    for name, (shape, kind) in wanted.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != shape:
            return f"has {name} of shape {tuple(tensor.shape)} instead of {shape}"
        if tensor.dtype != kind:
            return f"has {name} of type {tensor.dtype} instead of {kind}"
    return None


def _finiteness(tensors: Mapping[str, Tensor]) -> str | None:
    columns = [name for name, fill in COLUMNS.items() if isinstance(fill, float)]
    for name in (*CONTENTS, *columns):
        if not all_finite(tensors[name]):
            return f"has {name} that are not finite (NaN, or an overflow)"
    return None


def _ranges(parts: Parts, most_of_clock: int) -> str | None:
    """Checks the range of the counts, then of the columns."""
    tensors = parts.tensors
    num_seen, num_turns = tensors["num_seen"], tensors["num_turns"]
    late = torch.full_like(num_seen, most_of_clock)
    highest = {"num_seen": late, "num_written": num_seen}
    highest |= {"num_segments": num_seen, "num_turns": late // SHORT}
    for name, limit in highest.items():
        value = tensors[name]
        if bool(((value < 0) | (value > limit)).any()):
            return f"has {name} {value.tolist()} with num_seen {num_seen.tolist()}"
    occupied = parts.occupied
    one = torch.ones_like(late)
    most = {name: late for name in ("token", "reads", "open_reads")}
    most |= {name: one for name in ("strength", "settled", "usage")}
    most |= {"seen_at": num_seen - 1, "written_at": tensors["num_written"]}
    most |= {"segment": tensors["num_segments"], "turn": (num_turns - 1).clamp_min(0)}
    for name, highest_of in most.items():
        column, limit = tensors[name], highest_of[:, None]
        if bool((occupied & ((column < 0) | (column > limit))).any()):
            return f"has {name} out of range"
        if bool((~occupied & (column != COLUMNS[name])).any()):
            return f"has {name} in slots that are empty"
    if bool((tensors["strength"] > tensors["settled"]).any()):
        return "has a strength above the settled strength"
    return None


def _counts(parts: Parts) -> str | None:
    """Checks that no more slots are in use than fit, and that no two hold the same token."""
    occupied, tensors = parts.occupied, parts.tensors
    is_open = tensors["segment"] == tensors["num_segments"][:, None]
    settled = (occupied & ~is_open).sum(-1)
    if parts.num_slots is not None and bool((settled > parts.num_slots).any()):
        return f"has {int(settled.max())} slots in use and room for {parts.num_slots}"
    times = tensors["seen_at"].masked_fill(~occupied, EMPTY).sort(-1).values
    if bool(((times[:, 1:] == times[:, :-1]) & (times[:, 1:] != EMPTY)).any()):
        return "has two slots with one seen_at"
    return None


def _record_form(tensors: Mapping[str, Tensor]) -> str | None:
    """Checks types and shapes of the record."""
    told, keys = tensors["told"], tensors["finder_keys"]
    num_seen, width = tensors["num_seen"], tensors["keys"].shape[-1]
    if told.dim() != 2 or len(told) != len(num_seen) or told.shape[1] < int(num_seen.max()):
        return f"has told of shape {tuple(told.shape)} with num_seen {num_seen.tolist()}"
    for name in TOLD:
        tensor = tensors[name]
        if tensor.shape != told.shape:
            return f"has {name} of shape {tuple(tensor.shape)} instead of {tuple(told.shape)}"
        if tensor.dtype != torch.int32:
            return f"has {name} of type {tensor.dtype} instead of {torch.int32}"
    if keys.dim() != 4 or keys.shape[:2] != told.shape or keys.shape[3] != width:
        return f"has finder_keys of shape {tuple(keys.shape)} for told of {tuple(told.shape)}"
    if keys.dtype != torch.uint8:
        return f"has finder_keys of type {keys.dtype} instead of {torch.uint8}"
    return None


def _record(parts: Parts) -> str | None:
    """Checks the range of the record, its room, and that it agrees with the slots."""
    tensors, told = parts.tensors, parts.tensors["told"]
    is_told, num_seen = told != EMPTY, tensors["num_seen"]
    most = {"told": torch.full_like(num_seen, torch.iinfo(torch.int32).max)}
    most |= {"told_turn": (tensors["num_turns"] - 1).clamp_min(0)}
    most |= {"told_segment": tensors["num_segments"]}
    for name, highest in most.items():
        column = tensors[name]
        if bool((is_told & ((column < 0) | (column > highest[:, None]))).any()):
            return f"has {name} out of range"
        if bool((~is_told & (column != EMPTY)).any()):
            return f"has {name} at places where no token is told"
    places = torch.arange(told.shape[1], device=told.device)
    if bool((is_told & (places >= num_seen[:, None])).any()):
        return f"has tokens told from the future with num_seen {num_seen.tolist()}"
    keys, recorded = tensors["finder_keys"], is_told.sum(-1)
    if keys.numel() and bool((~is_told & (keys.amax((2, 3)) > 0)).any()):
        return "has finder_keys at places where no token is told"
    if bool(is_nan(keys).any()):
        return "has finder_keys that are not finite (NaN)"
    if parts.record_tokens is not None and bool((recorded > parts.record_tokens).any()):
        return f"has {int(recorded.max())} tokens recorded and room for {parts.record_tokens}"
    rows, slots = parts.occupied.nonzero(as_tuple=True)
    there = told[rows, tensors["seen_at"][rows, slots]]
    if bool(((there != EMPTY) & (there != tensors["token"][rows, slots])).any()):
        return "has a slot with another token than its record"
    return None


def _documents(parts: Parts) -> str | None:
    """Checks that each document belongs to a turn and is no longer than the text seen."""
    turns = int(parts.tensors["num_turns"].max())
    num_seen = int(parts.tensors["num_seen"].max())
    for read in parts.documents:
        if not (0 <= read.turn < turns and 0 <= read.tokens <= num_seen):
            return f"has a document of a turn or a length that can't be: {read!r:.200}"
    return None
