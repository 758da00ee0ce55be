"""Training of a machine on one task, and its mistakes on sequences that it is not trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from rich.console import Console
from torch import Generator, Tensor

from training.machines.loop import Pace, learn
from training.machines.machine import Machine, MemoryMachine
from training.machines.settings import ClassicConfig, TaskSection
from training.machines.tasks import Task

# batches between two points of the curve, and between two looks at the test sizes
REPORT_EVERY = 250
# seeds of sequences that are not trained on: those that end the training, those that are reported
VALIDATION, TEST = 2_000_003, 1_000_003


@dataclass
class Curve:
    """How training went: an entry for each report."""

    batches: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    error: list[float] = field(default_factory=list)
    largest: list[int] = field(default_factory=list)
    tests: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Mistakes:
    """Shares of mistakes on some sequences.

    Attributes:
        parts: share of wrong bits; where answers are choices, of wrong answers.
        answers: share of wrong answers; an answer is wrong if any part of it is.
        by_number: share of wrong answers among those that have the same number.
    """

    parts: float
    answers: float
    by_number: list[float]

    @classmethod
    def of(cls, wrong: torch.Tensor, nth: torch.Tensor | None) -> Mistakes:
        """The shares.

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
        """The size of the next batch."""
        low, high = self.section.smallest, min(self.limit, self.section.largest)
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def learn(self, error: float) -> None:
        """Takes the error of a batch into account."""
        self.recent = [*self.recent[1 - self.WINDOW :], error]
        ready = len(self.recent) == self.WINDOW and sum(self.recent) / self.WINDOW < self.READY
        if ready and self.limit < self.section.largest:
            self.limit, self.recent = self.limit + 1, []


def mistakes(
    machine: Machine, task: Task, config: ClassicConfig, count: int, seed: int
) -> dict[str, Mistakes]:
    """The mistakes at each test size.

    Args:
        machine: trained on the task.
        task: makes the sequences.
        config: names the test sizes, and the slots to test with.
        count: sequences of each size.
        seed: is added to the config's seed, so that no sequence is trained on.
    """
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
    """Gives a machine another number of slots, which is no part of the trained weights."""
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
    errors: list[float] = []

    def next_loss() -> Tensor:
        batch = task.batch(optim.batch_size, sizes.draw(), generator)
        outputs = machine(batch.inputs)[0][:, -batch.targets.shape[1] :]
        wrong = task.scoring.wrong(outputs.detach(), batch.targets)
        errors.append(wrong.float().mean().item())
        sizes.learn(errors[-1])
        return task.scoring.loss(outputs, batch.targets)

    def report(done: int, losses: list[float]) -> bool:
        curve.batches.append(done)
        curve.loss.append(sum(losses) / len(losses))
        curve.error.append(sum(errors) / len(errors))
        curve.largest.append(sizes.limit)
        errors.clear()
        found = mistakes(machine, task, config, 128, VALIDATION)
        tested = {size: one.parts for size, one in found.items()}
        for size, error in tested.items():
            curve.tests[size].append(error)
        shown = ", ".join(f"{error:.4f} at {size}" for size, error in tested.items())
        console.print(f"{done:6} batches  error {curve.error[-1]:.4f}  tests {shown}")
        return tested[str(config.task.test_sizes[0])] < optim.stop_below

    pace = Pace(optim.batches, optim.clip, REPORT_EVERY)
    learn(next_loss, optimizer, schedule, report, pace, console)
    return curve
