"""Draws how a fine-tuning went, from the logs of its runs, one after the other.

python -m training.curve curve.png runs/babilong-1/log.jsonl runs/babilong-2/log.jsonl
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.reporting.app import make_app
from eval.reporting.plots import Line, Panel, draw
from training import missing


def read_log(path: Path, begin: float = 0.0) -> list[dict[str, Any]]:
    """The lines of a run's log, each with `seen`: the tokens trained on so far.

    Args:
        path: `log.jsonl` of a run; steps that were repeated after a resume count once.
        begin: tokens of the runs before this one.

    Raises:
        typer.BadParameter: the file can't be read, or is not the log of a run.
    """
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        known = {(line["step"], "tokens" in line): line for line in lines}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise typer.BadParameter(f"{path} is no log of training.finetune: {error}") from None
    seen, last = begin, 0
    found = []
    for (step, trained), line in sorted(
        known.items(), key=lambda entry: (entry[0][0], -entry[0][1])
    ):
        if trained:
            seen += line["tokens"] * (step - last)
            last = step
        found.append(line | {"seen": seen})
    return found


def lines_of(runs: Sequence[tuple[str, list[dict[str, Any]]]], ending: str) -> list[Line]:
    """The columns of the logs whose names end with `ending`, against tokens.

    A column about a file of data has one line over all runs; any other has a line for each run.
    """
    points: dict[str, list[tuple[float, float]]] = {}
    for name, log in runs:
        for line in log:
            for key in sorted(key for key in line if key.endswith(ending)):
                label = name if key == ending else Path(key.split()[0]).name.partition(".")[0]
                points.setdefault(label, []).append((line["seen"] / 1e6, line[key]))
    return [Line(label, *zip(*found, strict=True)) for label, found in points.items()]


def main(
    out: Annotated[Path, typer.Argument(help="PNG to write.", dir_okay=False)],
    logs: Annotated[list[Path], typer.Argument(help="log.jsonl of each run, in order.")],
) -> None:
    if lacks := missing("matplotlib"):
        raise typer.BadParameter(lacks)
    runs: list[tuple[str, list[dict[str, Any]]]] = []
    seen = 0.0
    for path in logs:
        log = read_log(path, seen)
        seen = log[-1]["seen"] if log else seen
        runs.append((path.parent.name, log))
    losses = lines_of(runs, "answer_loss")
    if not losses:
        raise typer.BadParameter("nothing was learned yet: the logs hold no answer_loss.")
    panels = [Panel("million tokens", "loss of answers, nats a token", losses)]
    if matches := lines_of(runs, " exact"):
        panels.append(Panel("million tokens", "exact matches, held out", matches, top=1.02))
    draw(out, "Fine-tuning", panels)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
