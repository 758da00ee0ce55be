"""How a memory is addressed: content reads with a null slot, usage, and allocation.

Free functions over plain tensors, one per equation, always in float32. They know nothing of
layers, configs or files. Next: `state.py`, which holds what these functions work on.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

# a finite stand-in for minus infinity: exp(x - y) is exactly 0, and no inf - inf can arise
MASKED = -1.0e30


def slot_bias(
    strength: Float[Tensor, "batch slots"],
    age: Float[Tensor, "batch slots"],
    age_slope: Float[Tensor, " heads"],
) -> Float[Tensor, "batch heads slots"]:
    """What is added to a slot's content match: log strength_i - a_h log(1 + age_i).

    Empty slots (strength 0) get a value that no softmax can see.

    Args:
        strength: how firmly each slot was written, in [0, 1].
        age: tokens written since, >= 0.
        age_slope: a_h; 0 makes every age alike.
    """
    log_strength = strength.clamp_min(1e-30).log().masked_fill(strength <= 0, MASKED)
    return log_strength[:, None] - age_slope[None, :, None] * torch.log1p(age)[:, None]


def content_read(
    queries: Float[Tensor, "batch tokens heads width"],
    keys: Float[Tensor, "batch slots kv_heads width"],
    values: Float[Tensor, "batch slots kv_heads width"],
    bias: Float[Tensor, "batch heads slots"],
    null_logit: Float[Tensor, " heads"],
    softcap: float | None = None,
) -> tuple[
    Float[Tensor, "batch tokens heads width"],
    Float[Tensor, "batch tokens heads"],
    Float[Tensor, "batch heads tokens slots"],
]:
    """Reads by content, with a null slot that means "nothing in memory".

    Equation (DNC content weighting with the match of the backbone's own attention):
        logit_i = q . k_i + bias_i;   p = softmax([c, logit]);   r = sum_i p_i v_i;   g = 1 - p_null

    Args:
        queries: already multiplied by key strength and by the backbone's attention scale.
        keys: one row a slot.
        values: one row a slot.
        bias: see `slot_bias`.
        null_logit: c, the logit of the null slot.
        softcap: the backbone caps its attention logits at this magnitude.

    Returns:
        The read words, the evidence g in [0, 1] and the read weights p over the slots. Where every
        slot is empty, all three are exactly zero.
    """
    batch, tokens, heads, width = queries.shape
    kv_heads = keys.shape[2]
    grouped = queries.float().view(batch, tokens, kv_heads, heads // kv_heads, width)
    grouped = grouped.permute(0, 2, 3, 1, 4).reshape(batch, kv_heads, -1, width)
    logits = grouped @ keys.float().permute(0, 2, 3, 1)
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    logits = logits.view(batch, heads, tokens, -1) + bias[:, :, None]
    null = null_logit.float()[None, :, None, None]
    peak = torch.maximum(logits.detach().amax(-1, keepdim=True), null.detach())
    weights = (logits - peak).exp()
    total = weights.sum(-1, keepdim=True)
    weights = weights / (total + (null - peak).exp())
    evidence = weights.sum(-1)
    words = weights.view(batch, kv_heads, -1, keys.shape[1]) @ values.float().permute(0, 2, 1, 3)
    words = words.view(batch, heads, tokens, width).transpose(1, 2)
    return words, evidence.transpose(1, 2), weights


def aged_usage(
    usage: Float[Tensor, "batch slots"],
    read_mass: Float[Tensor, "batch slots"],
    written: Int[Tensor, " batch"],
    half_life: float,
) -> Float[Tensor, "batch slots"]:
    """Usage after one segment: it fades with every token written and is renewed by reads.

    Equation (DNC usage, with decay in place of free gates):
        u <- 1 - (1 - u 2^(-n / h)) (1 - min(1, m))

    Args:
        usage: before the segment, in [0, 1].
        read_mass: read weight that fell on each slot, summed over the segment's tokens.
        written: n, tokens the segment wrote.
        half_life: h, in tokens.
    """
    faded = usage * torch.exp2(-written.float() / half_life)[:, None]
    return 1.0 - (1.0 - faded) * (1.0 - read_mass.clamp(0.0, 1.0))


def least_used(
    usage: Float[Tensor, "batch slots"],
    candidates: Bool[Tensor, "batch slots"],
    count: Int[Tensor, " batch"],
) -> Bool[Tensor, "batch slots"]:
    """Marks the `count` least used candidates of each row; ties go to the lower slot number.

    The DNC allocates to the least used slot (free list); K one-hot writes take the K least used.
    """
    order = usage.masked_fill(~candidates, torch.inf).argsort(dim=-1, stable=True)
    rank = torch.empty_like(order)
    rank.scatter_(-1, order, torch.arange(order.shape[-1], device=order.device).expand_as(order))
    return candidates & (rank < count[:, None])
