"""The objective of the finder: the passage that holds the answer against all others in memory."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


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
    scores: Float[Tensor, "asides passages"], right: Bool[Tensor, "asides passages"]
) -> Float[Tensor, ""]:
    """The mean of -log of the softmax mass of the right passages; 0 if no aside has one.

    Asides without a right passage do not count: nothing in memory answers them.

    Args:
        scores: the finder's score of each passage for each aside.
        right: the passages that hold the answer.
    """
    asked = right.any(-1)
    scores, right = scores[asked].float(), right[asked]
    mass = scores.masked_fill(~right, -torch.inf).logsumexp(-1) - scores.logsumexp(-1)
    return -mass.sum() / max(1, len(mass))
