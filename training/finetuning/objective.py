"""What fine-tuning minimises, and what it counts: losses and exact matches of one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.asides import IGNORED_LABEL
from memformer.model import BUDGET_WEIGHT, MemformerOutput

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Sums:
    """Sums over the tokens of a batch, to be divided by counts over all processes.

    Attributes:
        answers: cross entropy of the answers' tokens, in nats.
        text: cross entropy of the document's tokens.
        teacher: Kullback-Leibler divergence from the teacher's predictions of those tokens.
    """

    answers: Float[Tensor, ""]
    text: Float[Tensor, ""]
    teacher: Float[Tensor, ""]


def predicted(batch: Batch) -> tuple[Int[Tensor, " labels"], Bool[Tensor, " labels"]]:
    """The labels of a batch in the order of the logits, and which of them are of answers."""
    labels = batch["labels"][:, 1:]
    there = labels != IGNORED_LABEL
    return labels[there], ~batch["remembered"][:, 1:][there]


def sums(output: MemformerOutput, batch: Batch, teacher: Tensor | None = None) -> Sums:
    """Losses of a forward.

    Args:
        output: of `MemformerForCausalLM.forward` for laid out text.
        batch: its arguments.
        teacher: logits of the same labels, by the teacher; None: there is none.
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
    """Has the gradient of (share - budget)^2, and no meaning as a number.

    Args:
        written: share of the text that is written, which carries the gradient; what is summed over
            micro-batches and processes is the share of all of it.
        share: of the step before, in all processes; None: there was none.
        budget: what it shall be.
    """
    return BUDGET_WEIGHT * 2.0 * ((budget if share is None else share) - budget) * written


def exact(output: MemformerOutput, batch: Batch) -> Bool[Tensor, " asides"]:
    """For each aside, whether greedy decoding gives its answer, its end included.

    If every token of an answer is the likeliest after those before it, greedy decoding gives
    them one after the other; no text need be generated.
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
