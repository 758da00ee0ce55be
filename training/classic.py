"""Trains a classic machine on a task, and draws how it went.

    python -m training.classic configs/classic/copy_dnc.yaml [key=value ...]

Writes `OUT.json` (config, versions, machine, curve, errors), `OUT.png` (the curve) and
`OUT_weights.png` (where the machine reads and writes on one sequence). The same command gives the
same numbers on the same machine: nothing is timed but for the report.
"""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from omegaconf import MISSING
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Generator, nn

from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json
from memformer.classic import DNC, NTM, SAM, SegmentDNC
from training.machines.machine import LSTM, Machine, MemoryMachine
from training.machines.tasks import TASKS, Task
from training.machines.weights import draw_weights
from training.setup.config import BadConfig, read_config
from training.setup.places import BadPlace, check_file

MACHINES: dict[str, type] = {
    "dnc": DNC,
    "ntm": NTM,
    "sam": SAM,
    "segment_dnc": SegmentDNC,
    "lstm": LSTM,
}
# batches between two points of the curve, and between two looks at the test sizes
REPORT_EVERY = 250
# what the training stops by, and what is reported: seeds of sequences that are not trained on
VALIDATION, TEST = 2_000_003, 1_000_003


@dataclass
class TaskSection:
    """Which task, and in which sizes; what a size is, the task says."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    smallest: int = 1
    largest: int = MISSING
    test_sizes: list[int] = MISSING
    curriculum: bool = False


@dataclass
class MachineSection:
    """Which machine; the options are those of its class."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    test_slots: int | None = None


@dataclass
class OptimSection:
    """How it is trained: Adam on batches of one size each.

    Attributes:
        lr_end: the learning rate goes from `lr` to this share of it, along a cosine.
        stop_below: ends the training once so little is wrong at the first test size, on sequences
            made for that alone.
    """

    batches: int = MISSING
    batch_size: int = 16
    lr: float = 1e-3
    lr_end: float = 1.0
    clip: float = 10.0
    stop_below: float = 0.0


@dataclass
class ClassicConfig:
    """One experiment."""

    task: TaskSection = field(default_factory=TaskSection)
    machine: MachineSection = field(default_factory=MachineSection)
    optim: OptimSection = field(default_factory=OptimSection)
    seed: int = 0
    out: str = MISSING


@dataclass
class Curve:
    """How training went, one entry for every so many batches."""

    batches: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)
    tests: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Mistakes:
    """What is wrong on some sequences, as shares.

    Attributes:
        parts: of the bits; where answers are choices, of the answers.
        answers: of the answers, which are wrong if any part is.
        by_number: of the answers that have the same number.
    """

    parts: float
    answers: float
    by_number: list[float]

    @classmethod
    def of(cls, wrong: torch.Tensor, nth: torch.Tensor | None) -> Mistakes:
        """Sums up.

        Args:
            wrong: which parts of each answer are wrong.
            nth: the number of each answer; None: its place in the sequence.
        """
        answers = wrong.any(-1).float()
        # the tokens of a segment have one number
        answers = answers.reshape(*answers.shape[:2], -1).mean(-1)
        nth = torch.arange(answers.shape[1]).expand_as(answers) if nth is None else nth
        by_number = [answers[nth == number].mean().item() for number in range(int(nth.max()) + 1)]
        return cls(wrong.float().mean().item(), answers.mean().item(), by_number)


class Sizes:
    """Draws the size of each batch; with a curriculum, larger ones once the machine is ready.

    The limit rises by one when the error over the last 50 batches is below 5 %.
    """

    READY, WINDOW = 0.05, 50

    def __init__(self, section: TaskSection, generator: Generator) -> None:
        self.section, self.generator = section, generator
        self.limit = section.smallest + 1 if section.curriculum else section.largest
        self.recent: list[float] = []

    def draw(self) -> int:
        low, high = self.section.smallest, min(self.limit, self.section.largest)
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def learn(self, error: float) -> None:
        self.recent = [*self.recent[1 - self.WINDOW :], error]
        ready = len(self.recent) == self.WINDOW and sum(self.recent) / self.WINDOW < self.READY
        if ready and self.limit < self.section.largest:
            self.limit, self.recent = self.limit + 1, []


def build(config: ClassicConfig) -> tuple[Task, Machine]:
    """The task and the machine of a config.

    Raises:
        BadConfig: an unknown name, or an option that its class does not have.
    """
    task = _made(TASKS, "task", config.task)
    sizes = {"input_size": task.input_size, "output_size": task.output_size}
    torch.manual_seed(config.seed)
    return task, made_machine(config.machine, **sizes)


def made_machine(section: MachineSection, **sizes: int) -> Any:
    """The machine of a config.

    Args:
        section: its name and options.
        sizes: what else its class takes: `input_size` and `output_size`.

    Raises:
        BadConfig: an unknown name, or an option that its class does not have.
    """
    return _made(MACHINES, "machine", section, **sizes)


def _made(known: dict[str, type], what: str, section: Any, **given: int) -> Any:
    if section.name not in known:
        names = ", ".join(sorted(known))
        raise BadConfig(f"{what}.name is {section.name!r}; it must be one of {names}.")
    options = set(inspect.signature(known[section.name]).parameters) - set(given)
    if unknown := set(section.options) - options:
        raise BadConfig(
            f"{what}.options: {section.name} has no option {min(unknown)!r}; it has "
            f"{', '.join(sorted(options))}."
        )
    try:
        return known[section.name](**given, **section.options)
    except (ValueError, ModuleNotFoundError) as error:
        raise BadConfig(f"{what}.options of {section.name}: {error}") from None


def mistakes(
    machine: Machine, task: Task, config: ClassicConfig, count: int, seed: int
) -> dict[str, Mistakes]:
    """What is wrong at each test size, on sequences made with a seed so far from the training's."""
    generator = Generator().manual_seed(config.seed + seed)
    found = {}
    with torch.no_grad(), _with_slots(machine, config.machine.test_slots):
        for size in config.task.test_sizes:
            batch = task.batch(count, size, generator)
            outputs = machine(batch.inputs)[0][:, -batch.targets.shape[1] :]
            found[str(size)] = Mistakes.of(task.scoring.wrong(outputs, batch.targets), batch.nth)
    return found


@contextlib.contextmanager
def _with_slots(machine: Machine, slots: int | None) -> Iterator[None]:
    """How many slots a machine has is no part of what it learned."""
    if slots is None or not isinstance(machine, MemoryMachine):
        yield
        return
    before, machine.slots = machine.slots, slots
    try:
        yield
    finally:
        machine.slots = before


def train(task: Task, machine: Machine, config: ClassicConfig, console: Console) -> Curve:
    """Trains a machine in place."""
    optim, curve = config.optim, Curve(tests={str(size): [] for size in config.task.test_sizes})
    optimizer = torch.optim.Adam(machine.parameters(), optim.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, optim.batches, optim.lr * optim.lr_end
    )
    generator = Generator().manual_seed(config.seed)
    sizes = Sizes(config.task, generator)
    losses: list[float] = []
    errors: list[float] = []
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=optim.batches)
        for done in range(1, optim.batches + 1):
            batch = task.batch(optim.batch_size, sizes.draw(), generator)
            outputs = machine(batch.inputs)[0][:, -batch.targets.shape[1] :]
            loss = task.scoring.loss(outputs, batch.targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(machine.parameters(), optim.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            wrong = task.scoring.wrong(outputs.detach(), batch.targets)
            errors.append(wrong.float().mean().item())
            sizes.learn(errors[-1])
            if done % REPORT_EVERY == 0 or done == optim.batches:
                curve.batches.append(done)
                curve.loss.append(sum(losses) / len(losses))
                curve.error.append(sum(errors) / len(errors))
                curve.largest.append(sizes.limit)
                found = mistakes(machine, task, config, 128, VALIDATION)
                tested = {size: one.parts for size, one in found.items()}
                for size, error in tested.items():
                    curve.tests[size].append(error)
                losses, errors = [], []
                shown = ", ".join(f"{error:.4f} at {size}" for size, error in tested.items())
                console.print(f"{done:6} batches  error {curve.error[-1]:.4f}  tests {shown}")
                if tested[str(config.task.test_sizes[0])] < optim.stop_below:
                    break
            progress.update(bar, completed=done)
    return curve


app = typer.Typer(add_completion=False)


@app.command()
def main(
    config: Annotated[Path, typer.Argument(help="YAML file, as in configs/classic/.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="KEY=VALUE each.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of torch.")] = 1,
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
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
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
