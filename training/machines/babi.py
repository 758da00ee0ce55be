"""Training of one machine on the twenty bAbI tasks at once, and its errors on each of them."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from statistics import fmean

import torch
from jaxtyping import Float, Int
from rich.console import Console
from torch import Generator, Tensor, nn
from torch.optim import lr_scheduler

from training.machines.build import made_machine
from training.machines.loop import Pace, learn
from training.machines.settings import BabiConfig, MachineSection, TrainSection
from training.machines.stories import SILENT, Story, Vocabulary, batches

# one training story in so many is kept back, to choose the best weights by
HELD_OUT = 20


class Reader(nn.Module):
    """A machine that sees one sentence a step.

    A sentence is the sum of its words, each weighted by its place (S. Sukhbaatar et al. 2015,
    section 4.1; the weights are learned, as in M. Henaff et al. 2017). A recurrent network
    instead of the sum hides the first words from an untrained machine, which then learns to guess.

    Args:
        vocabulary: number of words.
        longest: words in the longest sentence.
        width: numbers that stand for a word, and for a sentence.
        machine: name and options of the machine.
    """

    def __init__(self, vocabulary: int, longest: int, width: int, machine: MachineSection) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.places = nn.Parameter(1.0 + 0.5 * torch.randn(longest, width))
        self.machine = made_machine(machine, input_size=width, output_size=vocabulary)

    def forward(
        self, words: Int[Tensor, "batch steps words"]
    ) -> Float[Tensor, "batch steps vocabulary"]:
        """The scores of every word as the answer, at every step."""
        length = words.shape[-1]
        sentences = (self.embedding(words) * self.places[:length]).sum(-2)
        return self.machine(sentences / len(self.places) ** 0.5)[0]


def task_error(
    reader: Reader, vocabulary: Vocabulary, stories: Sequence[Story], batch_size: int
) -> float:
    """The share of questions with any wrong word in the answer."""
    wrong = asked = 0
    order = batches(stories, batch_size, Generator().manual_seed(0))
    # batches of other sizes than in training: nothing is compiled for them
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
    """Trains in place; the reader gets the weights that were best on the stories kept back.

    Ctrl-C ends the training early.

    Returns:
        The curve, as [batches, loss, error on stories kept back], and the best errors by task.
    """
    section = config.train
    kept_back = [stories[::HELD_OUT] for stories in tasks]
    pool = [story for stories in tasks for at, story in enumerate(stories) if at % HELD_OUT]
    generator = Generator().manual_seed(config.seed)
    optimizer = torch.optim.Adam(reader.parameters(), section.lr)
    curve: list[list[float]] = []
    best: dict[str, Tensor] | None = None
    best_errors = [1.0]
    queue: list[list[int]] = []

    def next_loss() -> Tensor:
        nonlocal queue
        queue = queue or [
            rows
            for rows in batches(pool, section.batch_size, generator)
            if len(rows) == section.batch_size
        ]
        batch = vocabulary.encode([pool[row] for row in queue.pop()])
        return nn.functional.cross_entropy(
            reader(batch.words).flatten(0, 1), batch.targets.flatten(), ignore_index=SILENT
        )

    def report(done: int, losses: list[float]) -> bool:
        nonlocal best, best_errors
        errors = [
            task_error(reader, vocabulary, stories, section.batch_size) for stories in kept_back
        ]
        curve.append([done, fmean(losses), fmean(errors)])
        if fmean(errors) < fmean(best_errors):
            best_errors = errors
            best = {name: one.clone() for name, one in reader.state_dict().items()}
        shown = " ".join(f"{100 * error:.0f}" for error in errors)
        console.print(
            "{:6} batches  loss {:.3f}  error {:.3f}: ".format(*curve[-1]) + shown, soft_wrap=True
        )
        return False

    pace = Pace(section.batches, section.clip, section.report_every)
    with contextlib.suppress(KeyboardInterrupt):
        learn(next_loss, optimizer, _schedule(optimizer, section), report, pace, console)
    if best is not None:
        reader.load_state_dict(best)
    return curve, best_errors


def _schedule(optimizer: torch.optim.Optimizer, section: TrainSection) -> lr_scheduler.LRScheduler:
    """Rises over the first batches, then falls to a tenth along a cosine."""
    warm = max(1, min(500, section.batches // 10))
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.01, 1.0, warm),
            lr_scheduler.CosineAnnealingLR(optimizer, section.batches - warm, section.lr / 10),
        ],
        [warm],
    )
