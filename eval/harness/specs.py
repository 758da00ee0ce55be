"""The systems of a run, as the command line names them: `bm25:8`, `memformer@runs/mine`.

    NAME[SWITCHES][:NUMBER][/STYLE][@MODEL]

NUMBER is a window in tokens (`truncated`, `sliding`), a number of passages (`bm25`, `dense`), or a
number of slots (`memformer`, `ungated`, `session`). `bm25:tokens=512` and `dense:tokens=512` take
as many passages as fit into a window of so many tokens. `memformer[focus=0,links=true]` is a view
of the same model with other values for fields of `MemoryConfig`; all systems with a memory of this
library take SWITCHES, in brackets. STYLE is `chat` or `plain`. Without a MODEL,
`memformer`, `ungated` and `session` are the run's model, and the others are its backbone as it was
released; `attached` is that backbone with an untrained memory. With a MODEL, a system is that model
with its adapter. NAME may also be `package.module:Class`: the class is called with a `Desk` of the
run's model, the NUMBER or None, and the MODEL or None, which it opens itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memformer import MemoryConfig

from eval.harness.benchmark import Document
from eval.harness.prompts import STYLES
from eval.harness.retrieval import PACKAGES, PASSAGE_TOKENS

# systems with the weights of the run's model; all others have its backbone as it was released
TRAINED = ("memformer", "ungated", "session")
# systems with a memory of this library
WITH_MEMORY = (*TRAINED, "attached")
NAMES = ("nothing", "truncated", "sliding", "full", "bm25", "dense", "attached", *TRAINED)
_SPEC = re.compile(
    r"(?P<name>[\w.]+(?::[A-Za-z_]\w*)?)(?:\[(?P<switches>[^\[\]]*)\])?"
    r"(?::(?P<unit>tokens=)?(?P<number>\d+))?(?:/(?P<style>\w+))?(?:@(?P<model>.+))?"
)
# a comma between systems; those in brackets stand between switches
_COMMA = re.compile(r",(?![^\[\]]*\])")
_PLAIN_VALUES = {"null": None, "true": True, "false": False}


class BadSystem(ValueError):
    """A system that is unknown or can't be opened; the message says why."""


@dataclass(frozen=True)
class Spec:
    """One system as the command line names it.

    Attributes:
        text: the whole of it.
        name: a name in `NAMES`, or a class of the user's own.
        number: a window in tokens, or a number of passages or slots.
        style: how it is asked; None: as the run says.
        model: the model that was named with it.
        switches: fields of `MemoryConfig` and their values in this system.
        in_tokens: whether the number of a search is a window in tokens.
    """

    text: str
    name: str
    number: int | None
    style: str | None
    model: str | None
    switches: Mapping[str, Any] = field(default_factory=dict)
    in_tokens: bool = False


def parse(text: str) -> list[Spec]:
    """Reads a list of systems with commas between them.

    Raises:
        BadSystem: a system has another form, is unknown, or stands in the list twice.
    """
    found: dict[str, Spec] = {}
    for part in _COMMA.split(text):
        match = _SPEC.fullmatch(part.strip())
        if match is None:
            raise BadSystem(
                f"a system is written NAME[:NUMBER][/STYLE][@MODEL], such as bm25:8; got {part!r}."
            )
        name, style, unit = match["name"], match["style"], match["unit"]
        if ":" not in name and name not in NAMES:
            raise BadSystem(
                f"there is no system {name!r}; there are {', '.join(NAMES)}, and classes of your "
                "own as package.module:Class."
            )
        if style is not None and style not in STYLES:
            raise BadSystem(f"a style is one of {', '.join(STYLES)}; got {style!r} in {part!r}.")
        if part.strip() in found:
            raise BadSystem(f"the system {part.strip()!r} is named twice.")
        number = int(match["number"]) if match["number"] else None
        if number == 0:
            raise BadSystem(f"the number of a system is at least 1; got {part!r}.")
        if unit and name not in PACKAGES:
            raise BadSystem(f"only {' and '.join(PACKAGES)} take tokens=NUMBER; got {part!r}.")
        switches = _switches(name, match["switches"], part)
        found[part.strip()] = Spec(
            part.strip(), name, number, style, match["model"], switches, bool(unit)
        )
    return list(found.values())


def _switches(name: str, text: str | None, part: str) -> dict[str, Any]:
    """The switches of a system: fields of `MemoryConfig` and values.

    Raises:
        BadSystem: there is no such field or value, or the system has no memory to switch.
    """
    if text is None:
        return {}
    if name not in WITH_MEMORY:
        raise BadSystem(f"only {', '.join(WITH_MEMORY)} have fields to switch; got {part!r}.")
    found: dict[str, Any] = {}
    for one in text.split(","):
        key, equals, value = (piece.strip() for piece in one.partition("="))
        if not (key and equals and value):
            raise BadSystem(f"a switch is written FIELD=VALUE, such as focus=0; got {part!r}.")
        found[key] = _value(value)
    try:
        MemoryConfig.from_dict(found)
    except ValueError as error:
        raise BadSystem(f"{part.strip()!r} can't be: {error}") from None
    return found


def _value(text: str) -> Any:
    """A value as YAML has it: null, true, false, a number, or the text itself."""
    if text.lower() in _PLAIN_VALUES:
        return _PLAIN_VALUES[text.lower()]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def cost(spec: Spec, documents: Sequence[Document]) -> int:
    """The tokens that a system reads for some documents and their questions, roughly."""
    total = 0
    for document in documents:
        questions = len(document.questions)
        match spec.name:
            case "nothing":
                before = 0
            case "truncated":
                before = questions * min(spec.number or 512, document.tokens)
            case "bm25" | "dense":
                most = spec.number if spec.in_tokens else (spec.number or 8) * PASSAGE_TOKENS
                before = questions * min(most or 0, document.tokens)
            case _:
                before = document.tokens
        total += before + 60 * questions
    return total
