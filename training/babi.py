"""Trains one machine on the twenty bAbI tasks at once.

    python -m training.babi configs/classic/babi_dnc.yaml data=FOLDER [key=value ...]

A step of the machine is one sentence; the published machines take a step for every word. Writes
`OUT.json` (config, errors by task, curve) and `OUT.png`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Float, Int
from omegaconf import MISSING
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Generator, Tensor, nn

from eval.corpora.stories import BadStory
from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json
from training import missing
from training.classic import MachineSection, made_machine
from training.machines.stories import SILENT, Story, Vocabulary, batches, read_tasks
from training.setup.config import BadConfig, read_config
from training.setup.places import BadPlace, check_file

# one training story in so many is kept back, to choose by
HELD_OUT = 20
# a task is failed above this error, as in the literature
FAILED = 0.05


@dataclass
class TrainSection:
    """How it is trained: Adam, warmed up, then down to a tenth of `lr` along a cosine."""

    batches: int = MISSING
    batch_size: int = 64
    lr: float = 1e-3
    clip: float = 10.0
    report_every: int = 500


@dataclass
class BabiConfig:
    """One experiment.

    Attributes:
        data: folder with the released files, en-10k.
        machine: which machine, and its options.
        words: numbers that stand for a word, and for a sentence.
        think: steps without input between a question and its answer.
        compile: compile the machine's step, which needs a C++ compiler; training takes two thirds
            of the time.
    """

    data: str = MISSING
    machine: MachineSection = field(default_factory=MachineSection)
    words: int = 64
    think: int = 2
    compile: bool = False
    train: TrainSection = field(default_factory=TrainSection)
    seed: int = 0
    out: str = MISSING


class Reader(nn.Module):
    """A machine that is shown one sentence a step.

    A sentence is the sum of its words, each weighted by where it stands (S. Sukhbaatar et al. 2015,
    section 4.1; the weights are learned, as in M. Henaff et al. 2017). A recurrent network in its
    place hides the first words from an untrained machine, which then learns to guess.

    Args:
        vocabulary: how many words there are.
        longest: words in the longest sentence.
        width: numbers that stand for a word, and for a sentence.
        machine: which machine.
    """

    def __init__(self, vocabulary: int, longest: int, width: int, machine: MachineSection) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(1.0 + 0.5 * torch.randn(longest, width))
        self.machine = made_machine(machine, input_size=width, output_size=vocabulary)

    def forward(
        self, words: Int[Tensor, "batch steps words"]
    ) -> Float[Tensor, "batch steps vocabulary"]:
        """What it would answer at every step."""
        length = words.shape[-1]
        sentences = (self.embedding(words) * self.places[:length]).sum(-2)
        return self.machine(sentences / len(self.places) ** 0.5)[0]


def task_error(
    reader: Reader, vocabulary: Vocabulary, stories: Sequence[Story], batch_size: int
) -> float:
    """The share of questions with any wrong word in the answer."""
    wrong = asked = 0
    order = batches(stories, batch_size, Generator().manual_seed(0))
    # whatever the size of a batch, nothing is compiled for it
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for rows in order:
            batch = vocabulary.encode([stories[row] for row in rows])
            good = (reader(batch.words).argmax(-1) == batch.targets) | (batch.targets == SILENT)
            # answer words that follow one another belong to one question
            is_word = batch.targets != SILENT
            begins = is_word & ~is_word.roll(1, 1)
            question = begins.long().flatten().cumsum(0) - 1
            mistakes = torch.zeros(int(begins.sum())).index_add(
                0, question.clamp_min(0), (~good).float().flatten()
            )
            wrong, asked = wrong + int((mistakes > 0).sum()), asked + len(mistakes)
    return wrong / asked


def train(
    reader: Reader,
    vocabulary: Vocabulary,
    tasks: list[list[Story]],
    config: BabiConfig,
    console: Console,
) -> tuple[list[list[float]], list[float]]:
    """Trains in place, and leaves the weights that did best on the stories kept back.

    Ctrl-C ends the training early.

    Returns:
        The curve, as [batches, loss, error on stories kept back], and the best errors by task.
    """
    section = config.train
    kept_back = [stories[::HELD_OUT] for stories in tasks]
    pool = [story for stories in tasks for at, story in enumerate(stories) if at % HELD_OUT]
    generator = Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(reader.parameters(), section.lr)
    warm = max(1, min(500, section.batches // 10))
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warm),
            torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, section.batches - warm, section.lr / 10
            ),
        ],
        [warm],
    )
    curve: list[list[float]] = []
    losses: list[float] = []
    best, best_errors = None, [1.0]
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with (
        contextlib.suppress(KeyboardInterrupt),
        Progress(*columns, console=console, transient=True) as progress,
    ):
        bar = progress.add_task("training", total=section.batches)
        queue: list[list[int]] = []
        for done in range(1, section.batches + 1):
            queue = queue or [
                rows
                for rows in batches(pool, section.batch_size, generator)
                if len(rows) == section.batch_size
            ]
            batch = vocabulary.encode([pool[row] for row in queue.pop()])
            loss = nn.functional.cross_entropy(
                reader(batch.words).flatten(0, 1), batch.targets.flatten(), ignore_index=SILENT
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(reader.parameters(), section.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if done % section.report_every == 0 or done == section.batches:
                errors = [
                    task_error(reader, vocabulary, stories, section.batch_size)
                    for stories in kept_back
                ]
                curve.append([done, fmean(losses), fmean(errors)])
                losses = []
                if fmean(errors) < fmean(best_errors):
                    best_errors = errors
                    best = {name: one.clone() for name, one in reader.state_dict().items()}
                shown = " ".join(f"{100 * error:.0f}" for error in errors)
                console.print(
                    "{:6} batches  loss {:.3f}  error {:.3f}: ".format(*curve[-1]) + shown,
                    soft_wrap=True,
                )
            progress.update(bar, completed=done)
    if best is not None:
        reader.load_state_dict(best)
    return curve, best_errors


app = typer.Typer(add_completion=False)


@app.command()
def main(
    config: Annotated[Path, typer.Argument(help="YAML file, as in configs/classic/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE each.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
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
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
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
