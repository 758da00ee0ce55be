"""A record of cases on disk, so that a long run can be interrupted and continued.

JSON, one object a line: first the settings of the run, then one result after the other. What a
result holds is the benchmark's business.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class OtherRun(ValueError):
    """The file is of a run with other settings, or no such file; the message says which."""


class CaseLog:
    """The results so far, and a file to which new ones are appended.

    Args:
        path: made if it is not there.
        settings: of this run; those in the file must be the same.
        again: whether to start over, whatever the file holds.

    Attributes:
        results: in the order in which they came.

    Raises:
        OtherRun: the file holds something else.
    """

    def __init__(self, path: Path, settings: dict[str, Any], again: bool) -> None:
        self.path = path
        self.results: list[dict[str, Any]] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        if again or not path.exists() or not self._read(settings):
            path.write_text(json.dumps({"settings": settings}) + "\n", encoding="utf-8")

    def _read(self, settings: dict[str, Any]) -> bool:
        """Takes up what is there; False if that is nothing."""
        raw = self.path.read_bytes()
        if not raw:
            return False
        # a run that was killed may have left half a line
        whole = raw[: raw.rfind(b"\n") + 1]
        try:
            first, *self.results = [json.loads(line) for line in whole.splitlines()]
            theirs = first["settings"]
        except (ValueError, TypeError, KeyError):
            raise OtherRun(
                f"{self.path} is no record of cases; give --again to overwrite it, or another "
                "--out."
            ) from None
        if not self.results:  # of a run that ended before its first result
            return False
        mine = json.loads(json.dumps(settings))
        names = dict.fromkeys([*theirs, *mine])
        if different := [name for name in names if theirs.get(name) != mine.get(name)]:
            raise OtherRun(
                f"{self.path} is of a run with other settings ({', '.join(different)}); give "
                "--again to start over, or another --out."
            )
        if whole != raw:
            self.path.write_bytes(whole)
        return True

    def add(self, results: Sequence[dict[str, Any]]) -> None:
        """Appends results, which are on disk when this returns."""
        self.results += results
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(result) + "\n" for result in results)
