"""The slot table for people: rows to look at, and slots to forget."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def table_rows(
    columns: Mapping[str, Tensor],
    age: Float[Tensor, "batch slots"],
    occupied: Bool[Tensor, "batch slots"],
    tokenizer: Any,
) -> list[dict[str, Any]]:
    """One row a slot, in the order of the text."""
    strength = columns["strength"].detach()
    rows: list[dict[str, Any]] = []
    for row in range(len(occupied)):
        slots = occupied[row].nonzero().flatten()
        slots = slots[columns["seen_at"][row, slots].argsort()]
        for slot in slots.tolist():
            rows.append(
                {
                    "row": row,
                    "slot": slot,
                    "text": tokenizer.decode([int(columns["token"][row, slot])]),
                    "strength": float(strength[row, slot]),
                    "usage": float(columns["usage"][row, slot]),
                    "age": int(age[row, slot]),
                    "reads": float(columns["reads"][row, slot]),
                    "turn": int(columns["turn"][row, slot]),
                    "segment": int(columns["segment"][row, slot]),
                }
            )
    return rows


def chosen(
    columns: Mapping[str, Tensor],
    age: Float[Tensor, "batch slots"],
    occupied: Bool[Tensor, "batch slots"],
    what: Sequence[int] | Callable[[dict[str, Any]], bool],
) -> Bool[Tensor, "batch slots"]:
    """The slots of some turns, or the slots for which a predicate is true."""
    if not callable(what):
        return in_turns(columns["turn"], what)
    shown = ("token", "strength", "usage", "reads", "turn", "segment")
    gone = torch.zeros_like(occupied)
    for row, slot in occupied.nonzero().tolist():
        entry = {"row": row, "slot": slot, "age": float(age[row, slot])}
        entry |= {name: columns[name][row, slot].item() for name in shown}
        gone[row, slot] = bool(what(entry))
    return gone


def in_turns(turn: Int[Tensor, " *any"], wanted: Sequence[int]) -> Bool[Tensor, " *any"]:
    """Marks the places of some turns; turns that there can't be are left out."""
    known = [number for number in wanted if 0 <= number <= torch.iinfo(turn.dtype).max]
    return torch.isin(turn, torch.tensor(known, dtype=turn.dtype, device=turn.device))


def turn_numbers(what: int | Iterable[int]) -> list[int]:
    """The given turn numbers: whole numbers of any type, but no text and no bool.

    Raises:
        ValueError: `what` is neither a turn number nor several turn numbers.
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
