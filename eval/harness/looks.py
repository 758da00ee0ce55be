"""How systems look to a reader: words for their names, and a colour that each kind keeps.

A kind has the same colour in every picture. Systems of one kind, such as a search with the released
weights and with the trained ones, differ in marker and line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.harness.roster import Spec, parse

# windows in orange and brown, retrieval in green, memories in blue
COLORS = {
    "nothing": "#999999",
    "truncated": "#e69f00",
    "sliding": "#b8860b",
    "full": "#8c4a2f",
    "bm25": "#00805c",
    "dense": "#8cc152",
    "attached": "#6fb7e9",
    "memformer": "#0060a8",
    "ungated": "#7b3fa0",
    "session": "#3b4cc0",
}
# classes of one's own, one after the other
OTHERS = ("#d55e00", "#cc79a7", "#000000", "#00a6b4")
# of systems of one kind, beginning with the one that names no model
VARIANTS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
# windows and passages where the name has no number; see `systems.py`
NUMBERS = {"truncated": 512, "sliding": 512, "bm25": 8, "dense": 8}
WORDS = {
    "nothing": "the question alone",
    "truncated": "the last {number} tokens",
    "sliding": "a sliding window of {number} tokens",
    "full": "everything in the window",
    "bm25": "BM25, {number} passages",
    "dense": "an encoder, {number} passages",
    "attached": "untrained memory",
    "memformer": "memory",
    "ungated": "memory, gate held open",
    "session": "memory, told as in a chat",
}


@dataclass(frozen=True)
class Look:
    """Colour, marker and line of a system."""

    color: str
    marker: str
    line: str


def words(system: str, model: str) -> str:
    """A system's name for a reader.

    Args:
        system: as it is written on the command line.
        model: what the report is about; a system that takes its weights is said to do so.
    """
    (spec,) = parse(system)
    number = spec.number or NUMBERS.get(spec.name)
    if spec.name in WORDS:
        text = WORDS[spec.name].format(number=f"{number:,}" if number else "")
        if number == 1:
            text = text.removesuffix("s")
        if spec.number and "{number}" not in WORDS[spec.name]:
            text += f", {spec.number:,} slots"
    else:
        text = _last(spec.model) if spec.model else spec.name.rpartition(":")[2]
        text += f" {number:,}" if number else ""
    if spec.style:
        text += {"plain": ", plain text", "chat": ", chat"}[spec.style]
    if spec.model == model:
        text += ", trained weights"
    elif spec.model and spec.name in WORDS:
        text += f", {_last(spec.model)}"
    return text


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def looks(systems: Sequence[str]) -> dict[str, Look]:
    """How each system of a picture is drawn."""
    found: dict[str, Look] = {}
    own: list[tuple[str, str | None]] = []
    for system in systems:
        (spec,) = parse(system)
        color = _color(spec, own)
        taken = {look.marker for look in found.values() if look.color == color}
        first = 0 if spec.model is None else 1
        order = [*VARIANTS[first:], *VARIANTS[:first]]
        marker, line = next((one for one in order if one[0] not in taken), order[0])
        found[system] = Look(color, marker, line)
    return found


def _color(spec: Spec, own: list[tuple[str, str | None]]) -> str:
    """The colour of a kind; `own` are the classes of one's own that have one already."""
    if spec.name in COLORS:
        return COLORS[spec.name]
    if (key := (spec.name, spec.model)) not in own:
        own.append(key)
    return OTHERS[own.index(key) % len(OTHERS)]
