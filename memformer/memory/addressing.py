"""The equations of addressing a memory, each as one pure function.

The memory of a language model calls these functions for a segment of text at a time. They take
tensors and return tensors, know no layers and no files, and compute in float32 or better even under
autocast. "..." stands for any leading axes, which never mix.

Sources: A. Graves et al. 2016 (DNC, Methods); R. Csordas and J. Schmidhuber 2019 (masks).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_F = TypeVar("_F", bound=Callable[..., Tensor])


class Guards(NamedTuple):
    """Small numbers that keep the equations finite; the papers have none.

    The default sets `norm` only: a row of zeros then matches nothing, and its gradient is finite.
    `Guards(0, 0, 0)` is the paper, with 0/0 taken as 0. Weights that were trained with another
    implementation need its guards: `Guards(0, 1e-6, 1e-6)` for the DNC of Csordas and Schmidhuber,
    `Guards(1e-6, 1e-6, 1e-6)` for the DNC of DeepMind.

    Attributes:
        norm: added to the sum of squares under each norm of a cosine.
        product: added to the product of the two norms.
        usage: the least usage that allocation sees.
    """

    norm: float = 1e-6
    product: float = 0.0
    usage: float = 0.0


SAFE = Guards()


def full_precision(function: _F) -> _F:
    """Makes a function take half-precision tensors as float32, with autocast off.

    Tensors in float64 stay in float64.
    """

    def raised(value: Any) -> Any:
        half = isinstance(value, Tensor) and value.dtype in (torch.float16, torch.bfloat16)
        return value.float() if half else value

    @wraps(function)
    def run(first: Tensor, *others: Any) -> Tensor:
        tensors = [raised(value) for value in (first, *others)]
        # entering a context costs more than some of the equations
        if not torch.is_autocast_enabled(first.device.type):
            return function(*tensors)
        with torch.autocast(first.device.type, enabled=False):
            return function(*tensors)

    return cast(_F, run)


@full_precision
def cosine_similarity(
    memory: Float[Tensor, "... slots width"],
    keys: Float[Tensor, "... reads width"],
    mask: Float[Tensor, "... reads width"] | None = None,
    guards: Guards = SAFE,
) -> Float[Tensor, "... reads slots"]:
    """The match of every key with every slot, in [-1, 1].

    Equation (DNC, "Content-based addressing"; masked: Csordas and Schmidhuber, eq. 1):
        D(m k, m M_i) = (m k . m M_i) / (|m k| |m M_i|)

    Args:
        memory: one word a slot.
        keys: k, one word for each read.
        mask: m in [0, 1], the part of the word that each key compares; None: the whole word.
        guards: see `Guards`.
    """
    if mask is None:
        dot = keys @ memory.mT
        slot_squares = memory.square().sum(-1).unsqueeze(-2)
        key_squares = keys.square().sum(-1, keepdim=True)
    else:
        squares = mask.square()
        dot = (keys * squares) @ memory.mT
        slot_squares = squares @ memory.square().mT
        key_squares = (keys * mask).square().sum(-1, keepdim=True)
    if guards.norm:
        norms = (slot_squares + guards.norm).sqrt() * (key_squares + guards.norm).sqrt()
        return dot / (norms + guards.product)
    # a zero vector has no direction, and its norm has no gradient: both count as zero
    nothing = (slot_squares == 0) | (key_squares == 0)
    norms = slot_squares.where(slot_squares > 0, 1.0).sqrt()
    norms = norms * key_squares.where(key_squares > 0, 1.0).sqrt()
    return (dot / (norms + guards.product)).masked_fill(nothing, 0.0)


@full_precision
def matches(
    memory: Float[Tensor, "... slots width"],
    keys: Float[Tensor, "... reads width"],
    sharpness: Float[Tensor, ""],
    threshold: Float[Tensor, ""],
) -> Float[Tensor, "... reads slots"]:
    """How well each slot matches each key, in [0, 1], whatever the other slots hold.

    Equation (content weighting with a threshold in place of the softmax, because several slots may
    match, or none):
        c_i = sigmoid(kappa (D(k, M_i) - tau))

    Args:
        memory: one word a slot.
        keys: k, one word for each read.
        sharpness: kappa > 0.
        threshold: tau, the cosine at which the match is one half.
    """
    return torch.sigmoid(sharpness * (cosine_similarity(memory, keys) - threshold))


@full_precision
def retention(
    free_gates: Float[Tensor, "... reads"], read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... slots"]:
    """The share of each slot's usage that stays after the read heads freed slots, in [0, 1].

    Equation (DNC, "Dynamic memory allocation"):
        psi_i = prod_r (1 - f_r w_r(i))

    Args:
        free_gates: f in [0, 1]; a head with gate 0 frees nothing.
        read_weights: w, the last read weights of each head.
    """
    return (1.0 - free_gates.unsqueeze(-1) * read_weights).prod(-2)


@full_precision
def hard_gate(gate: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """Rounds a gate to 1 (from one half on) or 0; the gradient passes as if there were no rounding.

    Source: the straight-through estimator (Y. Bengio et al. 2013, arXiv:1308.3432).
    """
    return (gate >= 0.5).to(gate.dtype) + gate - gate.detach()


def aged_usage(
    usage: Float[Tensor, "batch slots"],
    read_mass: Float[Tensor, "batch slots"],
    written: Int[Tensor, " batch"],
    half_life: float,
) -> Float[Tensor, "batch slots"]:
    """Usage after one segment: every written token lowers usage, and reads renew it.

    Equation (DNC usage, with decay in place of free gates):
        u <- 1 - (1 - u 2^(-n / h)) (1 - min(1, m))

    Args:
        usage: u before the segment, in [0, 1].
        read_mass: m, the read weight of each slot, summed over the segment's tokens.
        written: n, the number of tokens that the segment wrote.
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
