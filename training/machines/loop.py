"""The training loop of every machine: one batch after another, with reports in between."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler


@dataclass(frozen=True)
class Pace:
    """How long a training is, and how often it reports.

    Attributes:
        batches: the number of batches at most.
        clip: greatest norm of the gradient.
        report_every: batches between two reports; the last batch is reported too.
    """

    batches: int
    clip: float
    report_every: int


def learn(
    next_loss: Callable[[], Tensor],
    optimizer: Optimizer,
    schedule: LRScheduler,
    report: Callable[[int, list[float]], bool],
    pace: Pace,
    console: Console,
) -> None:
    """Trains the parameters of an optimizer.

    Args:
        next_loss: makes a batch; returns its loss.
        optimizer: has the parameters.
        schedule: changes the optimizer's learning rate after each batch.
        report: takes the number of batches so far and their losses since the last report; returns
            whether the training is to end.
        pace: how long it trains, and how often it reports.
        console: shows how far the training is.
    """
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    losses: list[float] = []
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("training", total=pace.batches)
        for done in range(1, pace.batches + 1):
            loss = next_loss()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, pace.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            if done % pace.report_every == 0 or done == pace.batches:
                if report(done, losses):
                    break
                losses = []
            progress.update(bar, completed=done)
