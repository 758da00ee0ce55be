"""Exact matches and losses on the validation sources, and the one number that ranks weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from training.finetuning.accelerated import Accelerated
from training.finetuning.batches import Batches
from training.finetuning.objective import Scored, exact, predicted, summed, sums
from training.finetuning.settings import Validation
from training.finetuning.sources import Pool


@torch.no_grad()
def measure(
    accelerated: Accelerated, batches: Batches, pools: Sequence[Pool], settings: Validation
) -> dict[str, float]:
    """Exact matches of greedy decoding and losses, by name, on each of the sources.

    Args:
        accelerated: the model; in training mode again afterwards.
        batches: makes batches of documents.
        pools: the validation sources.
        settings: how long segments are, and how many documents a forward has.
    """
    accelerated.model.eval()
    scores = {}
    for pool in pools:
        scored = _scored(accelerated, batches, pool, settings)
        if scored.asked:
            scores[f"{pool.source.name} exact"] = float(scored.right) / float(scored.asked)
        scores[f"{pool.source.name} loss"] = float(scored.loss) / max(float(scored.tokens), 1.0)
    accelerated.model.train()
    return scores


def _scored(accelerated: Accelerated, batches: Batches, pool: Pool, settings: Validation) -> Scored:
    """The sums over one source, which the processes share."""
    accelerator = accelerated.accelerator
    order = sorted(pool.sizes(settings.segment_tokens))
    documents = [pool.documents[number] for _, number in order]
    parts = [
        documents[begin : begin + settings.at_once]
        for begin in range(0, len(documents), settings.at_once)
    ]
    found = []
    # all processes go through the model equally often
    for begin in range(0, len(parts), accelerator.num_processes):
        number = begin + accelerator.process_index
        part = parts[min(number, len(parts) - 1)]
        batch = batches.batch(part, settings.segment_tokens, pool.source)
        with accelerator.autocast():
            output = accelerated.model(**batch)
        if number < len(parts):
            right, losses = exact(output, batch), sums(output, batch)
            targets, of_answers = predicted(batch)
            loss, tokens = losses.answers, of_answers.sum()
            if not tokens:
                loss, tokens = losses.text, torch.tensor(len(targets))
            found.append(Scored(right.sum(), torch.tensor(len(right)), loss, tokens))
    return summed(Scored, found, accelerator)


def score(scores: dict[str, float], by: str) -> float:
    """The number that the best weights are chosen by; the higher, the better.

    Args:
        scores: the result of `measure`.
        by: "exact" for the mean of exact matches, "loss" for minus the mean of losses.
    """
    found = [value for name, value in scores.items() if name.endswith(by)]
    mean = sum(found) / len(found)
    return -mean if by == "loss" else mean
