"""The objective of the finder: the passage that holds the answer against all others in memory.

A batch of `training.finetuning.rows.collate` says for each aside which tokens of the document hold
its answer (`gold`), and which tokens are its question (`asked`). `overlapping` turns ranges of
tokens into a mask over the passages of a memory, and `contrastive` makes a loss of the finder's
scores for them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# the columns of a batch that the model does not take
LABELS = ("asked", "gold", "gold_sentence")


def arguments(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns of a batch that are arguments of `MemformerForCausalLM.forward`."""
    return {name: value for name, value in batch.items() if name not in LABELS}


def overlapping(
    gold: Int[Tensor, "asides 2"], passages: Int[Tensor, "passages 2"]
) -> Bool[Tensor, "asides passages"]:
    """Which passages of a memory share a token with the passage that holds an answer.

    Args:
        gold: begin and end of each aside's range of tokens; (-1, -1): it has none.
        passages: begin and end of each passage, on the same clock.
    """
    begins, ends = gold[:, None].unbind(-1)
    shares = (passages[:, 0] < ends) & (begins < passages[:, 1])
    return shares & (begins >= 0)


def contrastive(
    scores: Float[Tensor, "asides passages"],
    gold: Int[Tensor, " asides"] | Bool[Tensor, "asides passages"],
) -> Float[Tensor, ""]:
    """The mean of -log of the softmax mass of the right passages; 0 if no aside has one.

    Asides without a right passage do not count: nothing in memory answers them.

    Args:
        scores: the finder's score of each passage for each aside; -inf for a passage that an aside
            can't see, such as padding.
        gold: the number of the right passage, -1 for none; or a mask of all right passages.
    """
    if gold.dtype == torch.bool:
        right = gold
    else:
        right = gold[:, None] == torch.arange(scores.shape[1], device=scores.device)
    # a right passage that the aside can't see can't be found
    right = right & (scores > -torch.inf)
    asked = right.any(-1)
    # other rows are left out, not multiplied by 0: their -inf would give gradients of no number
    scores, right = scores[asked].float(), right[asked]
    mass = scores.masked_fill(~right, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
    return -mass.sum() / max(1, len(mass))
