"""Trains one machine on the twenty bAbI tasks at once.

    python -m training.babi configs/classic/babi_dnc.yaml data=FOLDER [key=value ...]

A step of the machine is one sentence; the published machines take a step for every word. Writes
`OUT.json` (config, errors by task, curve) and `OUT.png`.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from eval.corpora.stories import BadStory
from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json
from training import missing
from training.machines.babi import HELD_OUT, Reader, task_error, train
from training.machines.command import ConfigArgument, OverridesArgument, ThreadsOption, fail
from training.machines.settings import BabiConfig
from training.machines.stories import Vocabulary, read_tasks
from training.setup.config import BadConfig, read_config
from training.setup.places import BadPlace, check_file

# a task is failed above this error, as in the literature
FAILED = 0.05


app = typer.Typer(add_completion=False)


@app.command()
def main(
    config: ConfigArgument, overrides: OverridesArgument = None, threads: ThreadsOption = 1
) -> None:
    """Trains one machine on the twenty bAbI tasks at once.

    Example: python -m training.babi configs/classic/babi_dnc.yaml data=tasks_1-20_v1-2/en-10k
    """
    console = Console()
    torch.set_num_threads(threads)
    try:
        settings = read_config(BabiConfig, config, overrides or [])
        if lacks := missing("matplotlib"):
            raise BadConfig(lacks)
        check_file(Path(settings.out).with_suffix(".json"))
        folder = Path(settings.data)
        tasks = read_tasks(folder, "train", settings.think)
        tests = read_tasks(folder, "test", settings.think)
        vocabulary = Vocabulary([story for stories in tasks for story in stories])
        vocabulary.encode([story for stories in tests for story in stories])
        for_training = sum(len(stories) - len(stories[::HELD_OUT]) for stories in tasks)
        if not 1 <= settings.train.batch_size <= for_training:
            raise BadConfig(
                f"train.batch_size must be between 1 and the {for_training} stories to train on; "
                f"got {settings.train.batch_size}."
            )
        torch.manual_seed(settings.seed)
        reader = Reader(len(vocabulary), vocabulary.longest, settings.words, settings.machine)
        if settings.compile:
            reader.machine.step = torch.compile(reader.machine.step, dynamic=False)
    except (BadConfig, BadPlace, BadStory) as error:
        fail(error, console)
    report: dict[str, Any] = head("training.babi", asdict(settings))
    report["parameters"] = sum(p.numel() for p in reader.parameters())
    report["stories"] = {"train": len(sum(tasks, [])), "test": len(sum(tests, []))}
    began = time.monotonic()
    curve, kept_back = train(reader, vocabulary, tasks, settings, console)
    report["seconds"] = round(time.monotonic() - began)
    errors = [task_error(reader, vocabulary, stories, 64) for stories in tests]
    report |= {"errors": errors, "mean_error": fmean(errors), "curve": curve}
    report |= {"failed": sum(error > FAILED for error in errors), "kept_back": kept_back}
    out = Path(settings.out)
    write_json(out.with_suffix(".json"), report)
    line = Line("mean over the tasks", [at for at, _, _ in curve], [error for _, _, error in curve])
    panel = Panel("batches", "share of wrong answers", [line])
    draw(
        out.with_suffix(".png"),
        f"bAbI jointly, {settings.machine.name}: stories kept back",
        [panel],
    )
    table = Table("task", "wrong answers")
    for task, share in enumerate(errors, 1):
        table.add_row(str(task), f"{100 * share:.1f} %")
    table.add_row("mean", f"{100 * fmean(errors):.1f} %")
    console.print(table)


if __name__ == "__main__":
    app()
