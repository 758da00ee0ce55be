"""Trains a classic machine on a task, and draws how it went.

    python -m training.classic configs/classic/copy_dnc.yaml [key=value ...]

Writes `OUT.json` (config, versions, machine, curve, errors), `OUT.png` (the curve) and
`OUT_weights.png` (where the machine reads and writes on one sequence). The same command gives the
same numbers on the same machine: nothing is timed but for the report.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import torch
import typer
from rich.console import Console
from torch import Generator

from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json
from training.machines.build import build
from training.machines.classic import TEST, mistakes, train
from training.machines.command import ConfigArgument, OverridesArgument, ThreadsOption, fail
from training.machines.machine import MemoryMachine
from training.machines.settings import ClassicConfig
from training.machines.weights import draw_weights
from training.setup.config import BadConfig, read_config
from training.setup.places import BadPlace, check_file

app = typer.Typer(add_completion=False)


@app.command()
def main(
    config: ConfigArgument, overrides: OverridesArgument = None, threads: ThreadsOption = 1
) -> None:
    """Trains a classic machine on a task.

    Example: python -m training.classic configs/classic/copy_dnc.yaml optim.batches=500
    """
    console = Console()
    torch.set_num_threads(threads)
    try:
        settings = read_config(ClassicConfig, config, overrides or [])
        if not settings.task.test_sizes:
            raise BadConfig("task.test_sizes names no size.")
        check_file(Path(settings.out).with_suffix(".json"))
        task, machine = build(settings)
    except (BadConfig, BadPlace) as error:
        fail(error, console)
    report = head("training.classic", asdict(settings))
    report["parameters"] = sum(p.numel() for p in machine.parameters())
    began = time.monotonic()
    curve = train(task, machine, settings, console)
    report["seconds"] = round(time.monotonic() - began)
    tested = mistakes(machine, task, settings, 1000, TEST)
    report["bit_error"] = {size: found.parts for size, found in tested.items()}
    report["wrong_answers"] = {size: found.answers for size, found in tested.items()}
    report["wrong_by_number"] = {size: found.by_number for size, found in tested.items()}
    report["curve"] = asdict(curve)
    out = Path(settings.out)
    write_json(out.with_suffix(".json"), report)
    part = task.scoring.part
    title = f"{settings.task.name}, {settings.machine.name}: {part} error"
    tests = [Line(f"size {size}", curve.batches, errors) for size, errors in curve.tests.items()]
    lines = [Line("training batches", curve.batches, curve.error), *tests]
    draw(out.with_suffix(".png"), title, [Panel("batches", f"share of wrong {part}s", lines)])
    generator = Generator().manual_seed(settings.seed + TEST)
    one = task.batch(1, min(settings.task.test_sizes), generator)
    if isinstance(machine, MemoryMachine):
        draw_weights(out.with_name(f"{out.name}_weights.png"), machine, one, task.scoring)
    for size, found in tested.items():
        shown = f"wrong bits {found.parts:.4f}, wrong answers {found.answers:.4f}"
        console.print(f"size {size}: {shown}")


if __name__ == "__main__":
    app()
