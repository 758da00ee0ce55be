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
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from omegaconf import MISSING
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Generator, nn

from eval.report import Line, Panel, draw, head, write_json
from memformer.classic import DNC, NTM, SAM, SegmentDNC
from training.config import BadConfig, read_config
from training.machine import LSTM, Machine, MemoryMachine
from training.tasks import TASKS, Task
from training.weights import draw_weights

MACHINES: dict[str, type] = {
    "dnc": DNC,
    "ntm": NTM,
    "sam": SAM,
    "segment_dnc": SegmentDNC,
    "lstm": LSTM,
}
# batches between two points of the curve, and between two looks at the test sizes
REPORT_EVERY = 250


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
    """How it is trained: Adam on batches of one size each."""

    batches: int = MISSING
    batch_size: int = 16
    lr: float = 1e-3
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
    except ValueError as error:
        raise BadConfig(f"{what}.options of {section.name}: {error}") from None


def bit_error(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of wrong bits."""
    return ((outputs > 0) != (targets > 0.5)).float().mean().item()


def wrong_answers(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """The share of answers, a vector each, that have any bit wrong."""
    return ((outputs > 0) != (targets > 0.5)).any(-1).float().mean().item()


def test_errors(
    machine: Machine,
    task: Task,
    config: ClassicConfig,
    count: int = 128,
    wrong: Callable[[torch.Tensor, torch.Tensor], float] = bit_error,
) -> dict[str, float]:
    """What is wrong at each test size, on sequences made with another seed than the training's."""
    generator = Generator().manual_seed(config.seed + 1_000_003)
    slots = config.machine.test_slots
    errors = {}
    with torch.no_grad(), _with_slots(machine, slots):
        for size in config.task.test_sizes:
            batch = task.batch(count, size, generator)
            outputs = machine(batch.inputs)[0][:, -batch.targets.shape[1] :]
            errors[str(size)] = wrong(outputs, batch.targets)
    return errors


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
            loss = nn.functional.binary_cross_entropy_with_logits(outputs, batch.targets)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(machine.parameters(), optim.clip)
            optimizer.step()
            losses.append(loss.item())
            errors.append(bit_error(outputs.detach(), batch.targets))
            sizes.learn(errors[-1])
            if done % REPORT_EVERY == 0 or done == optim.batches:
                curve.batches.append(done)
                curve.loss.append(sum(losses) / len(losses))
                curve.error.append(sum(errors) / len(errors))
                curve.largest.append(sizes.limit)
                tested = test_errors(machine, task, config)
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
        task, machine = build(settings)
    except BadConfig as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    report = head("training.classic", asdict(settings))
    report["parameters"] = sum(p.numel() for p in machine.parameters())
    began = time.monotonic()
    curve = train(task, machine, settings, console)
    report["seconds"] = round(time.monotonic() - began)
    report["bit_error"] = test_errors(machine, task, settings, 1000)
    report["wrong_answers"] = test_errors(machine, task, settings, 1000, wrong_answers)
    report["curve"] = asdict(curve)
    out = Path(settings.out)
    write_json(out.with_suffix(".json"), report)
    title = f"{settings.task.name}, {settings.machine.name}: bit error"
    tests = [Line(f"size {size}", curve.batches, errors) for size, errors in curve.tests.items()]
    lines = [Line("training batches", curve.batches, curve.error), *tests]
    draw(out.with_suffix(".png"), title, [Panel("batches", "share of wrong bits", lines)])
    generator = Generator().manual_seed(settings.seed + 1_000_003)
    one = task.batch(1, min(settings.task.test_sizes), generator)
    if isinstance(machine, MemoryMachine):
        draw_weights(out.with_name(f"{out.name}_weights.png"), machine, one)
    for size, bits in report["bit_error"].items():
        answers = report["wrong_answers"][size]
        console.print(f"size {size}: wrong bits {bits:.4f}, wrong answers {answers:.4f}")


if __name__ == "__main__":
    app()
