"""The losses and the exact matches of one forward, and their sums over batches and processes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.asides import IGNORED_LABEL
from memformer.model import BUDGET_WEIGHT, MemformerOutput

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sums:
    """Losses of a batch, summed over tokens; counts over all processes divide them.

    Attributes:
        answers: cross entropy of the answers' tokens, in nats.
        text: cross entropy of the document's tokens.
        teacher: Kullback-Leibler divergence from the teacher's predictions of the document.
    """

    answers: Float[Tensor, ""]
    text: Float[Tensor, ""]
    teacher: Float[Tensor, ""]


@dataclass(frozen=True)
class Counts:
    """Numbers of tokens of a batch, or of a step.

    Attributes:
        answers: tokens of answers that are predicted.
        text: tokens of documents that are predicted.
        tokens: tokens that are read.
    """

    answers: Tensor
    text: Tensor
    tokens: Tensor


@dataclass(frozen=True)
class Totals:
    """Sums over a batch, or over a step, without gradients.

    Attributes:
        answers: cross entropy of the answers' tokens, in nats.
        text: cross entropy of the document's tokens.
        teacher: Kullback-Leibler divergence from the teacher.
        written: share of the text that is written, summed over rows.
        slots: occupied slots.
        evidence: how much each question reads from memory, summed over questions.
        entropy: how widely the reads of each question are spread, in nats.
        rows: documents.
        asides: questions that read from memory.
    """

    answers: Tensor
    text: Tensor
    teacher: Tensor
    written: Tensor
    slots: Tensor
    evidence: Tensor
    entropy: Tensor
    rows: Tensor
    asides: Tensor


@dataclass(frozen=True)
class Scored:
    """Sums over a batch, or over a source, that is measured.

    Attributes:
        right: questions with an exact answer.
        asked: questions.
        loss: cross entropy of the answers; of the text, where nothing is asked.
        tokens: tokens that `loss` is summed over.
    """

    right: Tensor
    asked: Tensor
    loss: Tensor
    tokens: Tensor


T = TypeVar("T", Counts, Totals, Scored)


def summed(kind: type[T], parts: Sequence[T], accelerator: Accelerator) -> T:
    """Sums over the batches of all processes, in float32 and reduced as one tensor.

    Args:
        kind: the class of the parts.
        parts: the sums of each batch of this process; may be empty.
        accelerator: knows the other processes.
    """
    total = torch.zeros(len(fields(kind)), device=accelerator.device)
    for part in parts:
        total += torch.stack([getattr(part, field.name).to(total) for field in fields(kind)])
    return kind(*accelerator.reduce(total, "sum").cpu())


def counts(batch: Batch) -> Counts:
    """The numbers of tokens of a batch."""
    _, of_answers = predicted(batch)
    return Counts(of_answers.sum(), (~of_answers).sum(), batch["attention_mask"].sum())


def predicted(batch: Batch) -> tuple[Int[Tensor, " labels"], Bool[Tensor, " labels"]]:
    """The labels of a batch in the order of the logits, and whether each belongs to an answer."""
    labels = batch["labels"][:, 1:]
    there = labels != IGNORED_LABEL
    return labels[there], ~batch["remembered"][:, 1:][there]


def sums(output: MemformerOutput, batch: Batch, teacher: Tensor | None = None) -> Sums:
    """The losses of a forward.

    Args:
        output: the result of `MemformerForCausalLM.forward` for text with asides.
        batch: the arguments of the forward.
        teacher: the teacher's logits for the same labels; None: there is no teacher.
    """
    assert output.logits is not None
    targets, of_answers = predicted(batch)
    logits = output.logits.float()
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    taught = losses.new_zeros(())
    if teacher is not None:
        taught = torch.nn.functional.kl_div(
            logits[~of_answers].log_softmax(-1),
            teacher[~of_answers].float().log_softmax(-1),
            reduction="sum",
            log_target=True,
        )
    return Sums(losses[of_answers].sum(), losses[~of_answers].sum(), taught)


def budget_penalty(
    written: Float[Tensor, ""], share: float | None, budget: float
) -> Float[Tensor, ""]:
    """A loss whose gradient is that of (share - budget)^2; its value means nothing.

    Args:
        written: share of the text that is written, with a gradient; the sum over micro-batches and
            processes is the share of the whole text.
        share: share that the step before wrote, in all processes; None: there was no step.
        budget: the wanted share.
    """
    return BUDGET_WEIGHT * 2.0 * ((budget if share is None else share) - budget) * written


def exact(output: MemformerOutput, batch: Batch) -> Bool[Tensor, " asides"]:
    """Whether greedy decoding gives the whole answer of each aside, with its end.

    If every token of an answer is the most likely one after the tokens before it, greedy decoding
    gives these tokens one after the other, so no text has to be generated.
    """
    assert output.logits is not None
    targets, of_answers = predicted(batch)
    right = (output.logits.argmax(-1) == targets)[of_answers]
    there = batch["labels"][:, 1:] != IGNORED_LABEL
    rows = torch.arange(len(there), device=there.device)[:, None].expand_as(there)
    numbers = batch["segment_ids"][:, 1:]
    asides = torch.stack([rows[there], numbers[there]], -1)[of_answers]
    _, which = torch.unique(asides, dim=0, return_inverse=True)
    wrong = torch.zeros(int(which.max()) + 1 if len(which) else 0, device=right.device)
    return wrong.index_add(0, which, (~right).float()) == 0
