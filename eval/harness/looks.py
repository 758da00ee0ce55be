"""The look of systems in a report: words for their names, and a colour for each kind.

A kind has the same colour in every picture. Systems of one kind, such as a search with the released
weights and a search with the trained weights, differ in marker and line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eval.harness.specs import Spec, parse

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
# colours of users' own classes, in turn
OTHERS = ("#d55e00", "#cc79a7", "#000000", "#00a6b4")
# markers and lines of systems of one kind; the first is for a system that names no model
VARIANTS = (("o", "-"), ("s", "--"), ("^", ":"), ("D", "-."))
# default windows and numbers of passages; see `systems.py`
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
        system: the system as written on the command line.
        model: the model of the report; the words mention a system that takes its weights.
    """
    (spec,) = parse(system)
    number = spec.number or NUMBERS.get(spec.name)
    if spec.in_tokens:
        text = WORDS[spec.name].replace("passages", "tokens").format(number=f"{number:,}")
    elif spec.name in WORDS:
        text = WORDS[spec.name].format(number=f"{number:,}" if number else "")
        if number == 1:
            text = text.removesuffix("s")
        if spec.number and "{number}" not in WORDS[spec.name]:
            text += f", {spec.number:,} slots"
    else:
        text = _last(spec.model) if spec.model else spec.name.rpartition(":")[2]
        text += f" {number:,}" if number else ""
    for name, value in spec.switches.items():
        text += f", {name.replace('_', ' ')} {str(value).lower()}"
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
    """The look of each system of a picture."""
    found: dict[str, Look] = {}
    specs = [parse(system)[0] for system in systems]
    own = list(dict.fromkeys(_class(spec) for spec in specs if spec.name not in COLORS))
    for system, spec in zip(systems, specs, strict=True):
        color = COLORS.get(spec.name) or OTHERS[own.index(_class(spec)) % len(OTHERS)]
        taken = {look.marker for look in found.values() if look.color == color}
        first = 0 if spec.model is None else 1
        order = [*VARIANTS[first:], *VARIANTS[:first]]
        marker, line = next((one for one in order if one[0] not in taken), order[0])
        found[system] = Look(color, marker, line)
    return found


def _class(spec: Spec) -> tuple[str, str | None]:
    """The kind of a user's own class: its name, and the model that it opens."""
    return spec.name, spec.model
