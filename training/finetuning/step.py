"""One step of training: losses, gradients over several batches and processes, new weights."""

from __future__ import annotations

import math
import time
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from memformer import MemformerForCausalLM
from memformer.pretrained import local_path
from training.finetuning.accelerated import Accelerated
from training.finetuning.batches import Batches
from training.finetuning.objective import (
    Batch,
    Counts,
    Totals,
    budget_penalty,
    counts,
    summed,
    sums,
)
from training.finetuning.settings import Settings
from training.finetuning.sources import Source
from training.finetuning.thaw import rate
from training.setup.config import BadConfig


@dataclass(frozen=True)
class Learned:
    """The outcome of one step, alike in all processes.

    Attributes:
        tokens: tokens that were read.
        seconds: time that the step took.
        share: share of the text that was written.
        values: the numbers to log.
    """

    tokens: int
    seconds: float
    share: float
    values: dict[str, float]


class Learner:
    """Takes steps of the optimizer.

    Args:
        accelerated: the model and its optimizer.
        batches: makes the batches of a step.
        settings: the run's.
        teacher: the model to follow where a source asks for a teacher; None: no source does.
    """

    def __init__(
        self,
        accelerated: Accelerated,
        batches: Batches,
        settings: Settings,
        teacher: nn.Module | None,
    ) -> None:
        self.accelerated, self.accelerator = accelerated, accelerated.accelerator
        self.model, self.optimizer = accelerated.model, accelerated.optimizer
        self.batches, self.settings, self.teacher = batches, settings, teacher
        self.total = sum(stage.steps for stage in settings.stages)

    def learn(self, step: int, share: float | None) -> Learned:
        """Takes one step.

        Args:
            step: the number of steps before it.
            share: share of the text that the step before wrote; None: there was none.

        Raises:
            BadConfig: the documents have nothing to learn from, or the gradient is not finite.
        """
        accelerator, optim = self.accelerator, self.settings.optim
        torch.manual_seed(hash((self.settings.seed, step, accelerator.process_index)))
        started = time.perf_counter()
        factor = rate(step, self.total, optim)
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * factor
        source, batches = self.batches.of_step(step)
        counted = summed(Counts, [counts(batch) for batch in batches], accelerator)
        if not counted.answers + counted.text:
            raise BadConfig(f"{source.name}: a batch has nothing to learn from.")
        parts = []
        for number, batch in enumerate(batches):
            last = number == len(batches) - 1
            with nullcontext() if last else accelerator.no_sync(self.model):
                parts.append(self._backward(batch, source, counted, share))
        if step == 0 and not self.accelerated.deepspeed:
            _check_gradients(self.model)
        norm = accelerator.clip_grad_norm_(self.model.parameters(), optim.clip)
        if not math.isfinite(norm):
            raise BadConfig(
                f"The gradient is no number any more at step {step}, in {source.name}; "
                "resume from the last checkpoint with lower rates."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        totals = summed(Totals, parts, accelerator)
        values = self._values(totals, counted, source)
        values |= {"gradient": float(norm), "rate": factor, "tokens": float(counted.tokens)}
        return Learned(int(counted.tokens), seconds, _share(totals), values)

    def _backward(
        self, batch: Batch, source: Source, counted: Counts, share: float | None
    ) -> Totals:
        """Adds a batch's part to the gradient; returns its sums.

        Args:
            batch: some of the documents of the step.
            source: the documents' source.
            counted: the predicted tokens of the whole step, in all processes.
            share: share of the text that the step before wrote; None: there was none.
        """
        optim, accelerator = self.settings.optim, self.accelerator
        answers, text = max(1.0, float(counted.answers)), max(1.0, float(counted.text))
        taught = self._taught(batch) if source.teacher else None
        with accelerator.autocast():
            output = self.model(**batch, chunks=optim.chunks)
        found = sums(output, batch, taught)
        loss = found.answers / answers
        if source.text:
            loss = loss + optim.text_weight * found.text / text
        if source.teacher:
            loss = loss + optim.teacher_weight * found.teacher / text
        if source.reread is not None:
            loss = loss + self._untouched()
        rows = len(batch["input_ids"])
        if (budget := self.accelerated.inner.memory_config.write_budget) is not None:
            loss = loss + budget_penalty(output.written * rows / optim.documents, share, budget)
        # accelerate takes the mean of the processes' gradients, and the loss is a sum over them
        accelerator.backward(loss * accelerator.num_processes)
        occupied = output.memory.occupied.sum() if output.memory is not None else torch.tensor(0)
        return Totals(
            answers=found.answers.detach(),
            text=found.text.detach(),
            teacher=found.teacher.detach(),
            written=(output.written * rows).detach(),
            slots=occupied,
            evidence=output.evidence.sum().detach(),
            entropy=output.entropy.sum().detach(),
            rows=torch.tensor(rows),
            asides=torch.tensor(len(output.evidence)),
        )

    def _untouched(self) -> Tensor:
        """Nothing, with a gradient of 0 for the memory's weights.

        Questions that stand alone use none of them, and processes wait for all gradients.
        """
        weights = self.accelerated.inner.memory.parameters()
        parts = [0.0 * weight.sum() for weight in weights if weight.requires_grad]
        return torch.stack(parts).sum() if parts else torch.zeros(())

    @torch.no_grad()
    def _taught(self, batch: Batch) -> Tensor:
        """The teacher's logits for the student's labels; the teacher sees all text before them."""
        assert self.teacher is not None
        logits = self.teacher(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).logits
        return logits[:, :-1][batch["labels"][:, 1:] != -100]

    def _values(self, totals: Totals, counted: Counts, source: Source) -> dict[str, float]:
        """The means to log."""
        rows, asides = max(float(totals.rows), 1.0), float(totals.asides)
        # questions that stand alone write nothing and read nothing
        values = {} if source.reread is not None else {"slots": float(totals.slots) / rows}
        if self.settings.window is None and source.reread is None:
            values["written"] = _share(totals)
            if asides:
                values["evidence"] = float(totals.evidence) / asides
                values["entropy"] = float(totals.entropy) / asides
        if counted.answers:
            values["answer_loss"] = float(totals.answers) / float(counted.answers)
        if counted.text:
            values["text_loss"] = float(totals.text) / float(counted.text)
        if source.teacher:
            values["teacher_loss"] = float(totals.teacher) / float(counted.text)
        return values


def _share(totals: Totals) -> float:
    """The share of the text that is written, as a mean over documents."""
    return float(totals.written) / max(float(totals.rows), 1.0)


def teacher_of(model: MemformerForCausalLM) -> nn.Module:
    """The model's backbone as it was released: a copy, since training may change the backbone."""
    name = (model.config.backbone or {})["name"]
    place = str(local_path(name) or name)
    teacher: nn.Module = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32)
    return teacher.requires_grad_(False).eval()


def _check_gradients(model: nn.Module) -> None:
    """Refuses weights without a gradient: several processes would train them wrongly, silently.

    Raises:
        BadConfig: there is such a weight.
    """
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and parameter.grad is None
    ]
    if without:
        raise BadConfig(
            f"{len(without)} weights get no gradient, such as {without[0]}; documents of more "
            "than one segment, or with questions, are needed to train what is switched on."
        )
