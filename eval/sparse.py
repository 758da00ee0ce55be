"""Time and memory of a step against the number of slots: SAM, and the dense DNC.

    python -m eval.sparse --slots 1000,10000,100000,1000000 --out reports/sparse

Each cell is a process of its own. It fills a memory with random words, then trains on windows of 8
steps, forward and backward, from the same state on: one to warm up, then until `--min-seconds` are
over. Memory is what a window needs beyond the memory itself, divided by its steps: the highest
resident size in the windows less the size before.

SAM searches with faiss. The DNC runs as in its paper, with links of slots x slots, and without
links; both stop where `--linked-max` and `--dense-max` say, as a step takes gigabytes beyond.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer.classic import DNC, SAM, detached
from rich.console import Console
from rich.table import Table

from eval.reporting.app import make_app
from eval.reporting.extras import PICTURE, require
from eval.reporting.options import OutOption, ThreadsOption, numbers, use_threads
from eval.reporting.plots import Panel, cell_lines, draw
from eval.reporting.report import head, write_json
from eval.reporting.resident import in_fresh_process, peak, release, reset_peak, resident

SAM_ROW, LINKED, DENSE = "SAM, faiss", "DNC", "DNC without links"
INPUT, OUTPUT, WIDTH, READS, STEPS = 8, 8, 32, 4, 8
MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """One measurement: a machine, and a number of slots."""

    machine: str
    slots: int
    min_seconds: float
    seed: int
    threads: int | None = None


@dataclass(frozen=True)
class Cost:
    """The costs of one step, forward and backward."""

    milliseconds: float
    bytes: float
    windows: int
    peak_was_reset: bool


def measure(cell: Cell) -> dict[str, Any]:
    """Runs one cell in this process, which must be fresh."""
    use_threads(cell.threads)
    torch.manual_seed(cell.seed)
    words = torch.randn(1, cell.slots, WIDTH)
    inputs = torch.randn(1, STEPS, INPUT)
    options: Any = {"slots": cell.slots, "width": WIDTH, "reads": READS}
    machine: SAM | DNC
    state: Any
    if cell.machine == SAM_ROW:
        machine = SAM(INPUT, OUTPUT, **options, search="faiss")
        state = machine.start(1, words)
    else:
        machine = DNC(INPUT, OUTPUT, **options, links=cell.machine == LINKED)
        state = machine.start(1)
        state = state._replace(memory=state.memory._replace(memory=words))
    del words

    def window(state: Any) -> Any:
        outputs, state = machine(inputs, state)
        outputs.square().sum().backward()
        return detached(state)

    state = window(state)
    release()
    before, was_reset = resident(), reset_peak()
    windows, elapsed = 0, 0.0
    started = time.perf_counter()
    while windows == 0 or elapsed < cell.min_seconds:
        state = window(state)
        windows += 1
        elapsed = time.perf_counter() - started
    cost = Cost(
        milliseconds=1000 * elapsed / windows / STEPS,
        bytes=max(0, peak() - before) / STEPS,
        windows=windows,
        peak_was_reset=was_reset,
    )
    return asdict(cost)


def table(cells: Sequence[dict[str, Any]], slots: Sequence[int]) -> Table:
    """Costs by machine and number of slots: a row for each machine."""
    found = Table(title="One step, forward and backward: milliseconds, MiB")
    found.add_column("slots")
    for count in slots:
        found.add_column(f"{count:,}", justify="right")
    for machine in (SAM_ROW, LINKED, DENSE):
        mine = {cell["slots"]: cell for cell in cells if cell["machine"] == machine}
        figures = [
            f"{mine[n]['milliseconds']:.1f}, {mine[n]['bytes'] / MIB:.2f}"
            if n in mine
            else "not run"
            for n in slots
        ]
        found.add_row(machine, *figures)
    return found


def plot(path: Path, cells: Sequence[dict[str, Any]]) -> None:
    """Draws time and memory against slots, on logarithmic axes."""
    labels = {machine: machine for machine in (SAM_ROW, LINKED, DENSE)}
    panels = []
    for key, label, unit in (
        ("milliseconds", "milliseconds a step", 1.0),
        ("bytes", "MiB a step", float(MIB)),
    ):
        # a step that took no new page would have no place on a logarithmic axis
        lines = cell_lines(cells, "machine", labels, "slots", key, unit, least=1e-3)
        panels.append(Panel("slots", label, lines, log_x=True, log_y=True))
    draw(path, "One training step against the size of the memory", panels)


def main(
    slots: Annotated[str, typer.Option(help="Slots; a list.")] = "1000,10000,100000,1000000",
    linked_max: Annotated[int, typer.Option(min=0, help="Most slots of the DNC.")] = 1000,
    dense_max: Annotated[
        int, typer.Option(min=0, help="Most slots of the DNC without links.")
    ] = 100_000,
    min_seconds: Annotated[
        float, typer.Option(min=0, help="Run windows until so many seconds are over.")
    ] = 5.0,
    seed: int = 0,
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/sparse"),
) -> None:
    require("the report", PICTURE)
    require("SAM's search", "faiss")
    counts = sorted(numbers(slots, 1, "--slots"))
    use_threads(threads)
    limits = {SAM_ROW: counts[-1], LINKED: linked_max, DENSE: dense_max}
    settings = {
        "slots": counts,
        "limits": limits,
        "width": WIDTH,
        "reads": READS,
        "steps": STEPS,
        "min_seconds": min_seconds,
        "seed": seed,
    }
    console = Console()
    report = head("eval.sparse", settings)
    cells: list[dict[str, Any]] = []
    report |= {"finished": False, "cells": cells}
    path = out.with_name(out.name + ".json")
    for machine, most in limits.items():
        for count in counts:
            if count > most:
                continue
            cell = Cell(machine, count, min_seconds, seed, threads)
            with console.status(f"{machine}, {count:,} slots"):
                cost = in_fresh_process(measure, cell)
            cells.append({"machine": machine, "slots": count, **cost})
            write_json(path, report)
    report["finished"] = True
    write_json(path, report)
    plot(out.with_name(out.name + ".png"), cells)
    console.print(table(cells, counts))


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
