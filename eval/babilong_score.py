"""Scores answers to BABILong that somebody else's code has stored, by the same official metric.

    python -m eval.babilong_score FOLDER

FOLDER holds CSV files as the official scripts write them, `TASK_LENGTH_*.csv` with the columns
target, output and question. Prints accuracy in % by task and length, and the mean of the tasks in
`--mean` at every length that has them all.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from eval.babilong.metric import HEADLINE, LABELS, LEFT_OUT, score
from eval.babilong.samples import LENGTHS
from eval.reporting.app import make_app

COLUMNS = ("target", "output", "question")


class BadPredictions(ValueError):
    """Stored answers that can't be scored; the message names the file and the reason."""


def accuracy(path: Path, task: str) -> float:
    """Share of right answers in a file, in %.

    Raises:
        BadPredictions: the file has another form, or holds no answers.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BadPredictions(f"{path} can't be read: {error}.") from None
    if not rows:
        raise BadPredictions(f"{path} holds no answers.")
    if lacking := [name for name in COLUMNS if name not in rows[0]]:
        raise BadPredictions(f"{path} has no column {lacking[0]}; it has {', '.join(rows[0])}.")
    # csv returns None for an answer without words
    right = [score(task, row["output"] or "", row["target"], row["question"]) for row in rows]
    return 100 * sum(right) / len(right)


def scored(folder: Path) -> dict[tuple[str, str], float]:
    """Accuracy by task and length.

    Raises:
        BadPredictions: no file has such a name, or two files have the same task and length.
    """
    found: dict[tuple[str, str], float] = {}
    for path in sorted(folder.glob("*.csv")):
        named = re.match(r"(qa\d+)_(\d+[kM])(?:_|\.csv)", path.name)
        if named is None or named[1] not in LABELS or named[2] not in LENGTHS:
            continue
        key = named[1], named[2]
        if key in found:
            raise BadPredictions(f"{folder} holds more than one file of {key[0]} at {key[1]}.")
        found[key] = accuracy(path, key[0])
    if not found:
        raise BadPredictions(f"{folder} holds no file such as qa1_0k_*.csv.")
    return found


def mean(found: dict[tuple[str, str], float], tasks: Sequence[str], length: str) -> float | None:
    """The plain mean of some tasks at a length; None if a task is missing.

    Raises:
        BadPredictions: a task must not be averaged.
    """
    for task in tasks:
        if task in LEFT_OUT:
            raise BadPredictions(f"{task} can't be averaged: {LEFT_OUT[task]}.")
    mine = [found.get((task, length)) for task in tasks]
    return None if None in mine else sum(one for one in mine if one is not None) / len(mine)


def main(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False)],
    tasks: Annotated[str, typer.Option("--mean", help="Which tasks; a list.")] = ",".join(HEADLINE),
) -> None:
    try:
        found = scored(folder)
        lengths = [one for one in LENGTHS if any(length == one for _, length in found)]
        table = Table("task", *lengths)
        for task in (one for one in LABELS if any(task == one for task, _ in found)):
            table.add_row(task, *(_shown(found.get((task, length))) for length in lengths))
        table.add_section()
        chosen = tasks.split(",")
        table.add_row("mean", *(_shown(mean(found, chosen, length)) for length in lengths))
    except BadPredictions as error:
        raise typer.BadParameter(str(error)) from None
    console = Console()
    console.print(table)
    console.print(f"mean of {', '.join(chosen)}")


def _shown(share: float | None) -> str:
    return "" if share is None else f"{share:.2f}"


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
