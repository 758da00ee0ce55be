"""A record of cases on disk, so that a long run can be interrupted and continued.

A file of JSON objects, one a line: first the settings of the run and the identities of its systems,
then one result after the other. `runner.py` decides what a result holds.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class OtherRun(ValueError):
    """The file is of a run with other settings, or no record of cases; the message says which."""


class CaseLog:
    """The results so far, and a file to which new results are appended.

    Args:
        path: the file, made if it does not exist.
        settings: the settings of this run; settings in the file must be the same.
        systems: the identity of each system; systems that are in the file too must have the same
            identity. The file keeps other systems, and gets the new ones.
        again: whether to start over, whatever the file holds.

    Attributes:
        results: the results of all systems in the file, in the order in which they came.

    Raises:
        OtherRun: the file is of another run.
    """

    def __init__(
        self, path: Path, settings: dict[str, Any], systems: dict[str, Any], again: bool
    ) -> None:
        self.path = path
        known: dict[str, Any] = {}
        self.results: list[dict[str, Any]] = []
        if not again and path.exists():
            known, self.results = read_cases(path, settings, systems)
        path.parent.mkdir(parents=True, exist_ok=True)
        text = _lines([{"settings": settings, "systems": known | systems}, *self.results])
        if not path.exists() or path.read_bytes() != text.encode():
            # written whole or not at all, because the results took hours
            new = path.with_name(f"{path.name}.new")
            new.write_text(text, encoding="utf-8")
            new.replace(path)

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        """Appends results to the file."""
        self.results += results
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_lines(results))


def read_cases(
    path: Path, settings: dict[str, Any], systems: dict[str, Any]
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The systems and the results in a file; both are empty if the file has no result yet.

    Raises:
        OtherRun: the file is of another run.
    """
    raw = path.read_bytes()
    if not raw:
        return {}, []
    # a killed run may have left half a line
    whole = raw[: raw.rfind(b"\n") + 1]
    try:
        first, *results = [json.loads(line) for line in whole.splitlines()]
        theirs, known = first["settings"], first.get("systems", {})
    except (ValueError, TypeError, KeyError):
        raise OtherRun(
            f"{path} is no record of cases; give --again to overwrite it, or another --out."
        ) from None
    if not results:  # the run ended before its first result
        return {}, []
    different = _different(theirs, settings)
    for name in set(known) & set(systems):
        different += [f"{what} of {name}" for what in _different(known[name], systems[name])]
    if different:
        raise OtherRun(
            f"{path} is of a run with other settings ({', '.join(sorted(different))}); give "
            "--again to start over, or another --out."
        )
    return known, results


def _different(theirs: dict[str, Any], mine: dict[str, Any]) -> list[str]:
    mine = json.loads(json.dumps(mine))
    return [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]


def _lines(entries: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(entry) + "\n" for entry in entries)
