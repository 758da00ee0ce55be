"""A run: step after step, with reports, measurements and checkpoints between them.

`step.py` takes a step, `measure.py` measures, `log.py` writes down, `keep.py` keeps checkpoints.
"""

from __future__ import annotations

import dataclasses
import math
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import torch
from accelerate import Accelerator
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from eval.reporting.report import head, write_json
from memformer import MemformerForCausalLM
from training.finetuning import resume
from training.finetuning.accelerated import accelerated
from training.finetuning.batches import Batches
from training.finetuning.keep import Keeper
from training.finetuning.log import Log, means, shown, warnings
from training.finetuning.measure import measure, score
from training.finetuning.preparation import Prepared
from training.finetuning.progress import Best, Progress
from training.finetuning.step import Learner, teacher_of


class Run:
    """Trains a model to the end, or until it is stopped."""

    def __init__(
        self,
        prepared: Prepared,
        model: MemformerForCausalLM,
        accelerator: Accelerator,
        console: Console,
    ) -> None:
        self.settings = settings = prepared.settings
        self.tokenizer, self.measured = prepared.tokenizer, prepared.measured
        self.accelerator = accelerator
        self.head = head("training.finetune", dataclasses.asdict(settings))
        self.out = Path(settings.out)
        self.log = Log(self.out, accelerator, console)
        asks = any(pool.source.teacher for pool in prepared.pools)
        teacher = teacher_of(model).to(accelerator.device) if asks else None
        self.accelerated = accelerated(model, settings.optim, accelerator)
        self.batches = Batches(prepared, accelerator)
        self.learner = Learner(self.accelerated, self.batches, settings, teacher)
        self.keeper = Keeper(settings, prepared.pools, self.accelerated)
        self.progress = Progress()
        self.stopped = False

    def go_on(self) -> None:
        """Continues from the newest checkpoint.

        Raises:
            BadCheckpoint: there is none, it is of other settings, or can't be used.
        """
        self.progress = self.keeper.go_on()
        self.log.tell(f"resumed at step {self.progress.step}")

    def train(self, minutes: float | None) -> bool:
        """Trains to the end, or until time is up; returns whether it is done."""
        previous = {
            number: signal.signal(number, self._stop) for number in (signal.SIGINT, signal.SIGTERM)
        }
        self.out.mkdir(parents=True, exist_ok=True)
        until = time.monotonic() + 60 * minutes if minutes else math.inf
        progress, total = self.progress, self.learner.total
        recent: list[dict[str, float]] = []
        try:
            with self._bar() as bar:
                task = bar.add_task("", total=total, completed=progress.step)
                while progress.step < total and not self._exhausted():
                    recent.append(self.learn())
                    if progress.step % self.settings.report_every == 0:
                        bar.update(task, description=self._report(recent))
                        recent = []
                    due = progress.step % self.settings.validation.every == 0
                    if self.measured and (due or progress.step == total):
                        self._measure()
                    bar.update(task, completed=progress.step)
                    ending = self._together(self.stopped or time.monotonic() > until)
                    if ending or progress.step % self.settings.save_every == 0:
                        self.keeper.keep(progress)
                    if ending and progress.step < total:
                        self.log.tell(f"stopped at step {progress.step}; go on with --resume")
                        return False
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return True

    def learn(self) -> dict[str, float]:
        """Takes and counts one step; returns the values to log."""
        learned = self.learner.learn(self.progress.step, self.progress.share)
        self.progress.add(learned)
        return learned.values

    def _report(self, recent: Sequence[dict[str, float]]) -> str:
        """Logs the means of the last steps; returns the values to show."""
        progress = self.progress
        entry = means(recent)
        entry["tokens_per_second"] = round(progress.tokens / max(progress.seconds, 1e-9), 1)
        memory = self.accelerated.inner.memory_config
        found = warnings(entry, self.settings, memory)
        self.log.write(progress.step, entry | ({"warnings": found} if found else {}))
        for warning in found:
            self.log.tell(f"[yellow]step {progress.step}:[/] {warning}")
        return shown(entry)

    def _measure(self) -> None:
        """Measures, and keeps the weights if they are the best so far."""
        progress, settings = self.progress, self.settings.validation
        scores = measure(self.accelerated, self.batches, self.measured, settings)
        reached = score(scores, settings.by)
        self.log.write(progress.step, {name: round(value, 5) for name, value in scores.items()})
        listed = "  ".join(f"{Path(name).name} {value:.3f}" for name, value in scores.items())
        self.log.tell(f"step {progress.step}: {listed}")
        if progress.best.score is None or reached > progress.best.score:
            progress.best = Best(reached, progress.step, scores)
            self.keeper.keep_best()

    def _exhausted(self) -> bool:
        """Whether so many measurements as `patience` says were no better than the best one."""
        patience, every = self.settings.validation.patience, self.settings.validation.every
        if patience is None or not self.measured:
            return False
        return self.progress.step - self.progress.best.step >= (patience + 1) * every

    def _stop(self, number: int, frame: FrameType | None) -> None:
        """Asks for a checkpoint at the first signal, and ends the process at the second."""
        if self.stopped:
            raise KeyboardInterrupt
        self.stopped = True

    def _together(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        found = torch.tensor(float(flag), device=self.accelerator.device)
        return bool(self.accelerator.reduce(found, "sum") > 0)

    def _bar(self) -> Bar:
        return Bar(
            MofNCompleteColumn(),
            BarColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
            console=self.log.console,
            disable=not self.accelerator.is_main_process,
        )

    def finish(self) -> None:
        """Puts the best weights back and writes the trained model."""
        progress = self.progress
        weights = self.keeper.whole_weights()
        if not self.accelerator.is_main_process:
            return
        if progress.best.step:
            weights |= resume.load_best(self.keeper.folder)
        dtype = getattr(torch, self.settings.save_dtype)
        self.accelerated.inner.save_pretrained(self.out, state_dict=weights, dtype=dtype)
        self.tokenizer.save_pretrained(self.out)
        report = {
            "steps": progress.step,
            "tokens": progress.tokens,
            "seconds": round(progress.seconds),
            "best": progress.best.entry(),
        }
        write_json(self.out / "finetune.json", self.head | report)
