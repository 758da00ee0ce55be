"""How a memory is addressed: one pure function for each equation of the DNC and the NTM.

Everything in the project that decides where to read or write calls these: the classic machines one
word at a time, the memory of a language model one segment at a time. They take tensors and return
tensors, know nothing of layers or files, and work in float32 or better whatever autocast says.
"..." stands for any leading axes, which never mix. Next: `dnc.py`, the DNC on one screen.

Sources: A. Graves et al. 2016 (DNC, Methods); A. Graves et al. 2014 (NTM, section 3.3);
R. Csordas and J. Schmidhuber 2019 (masks, de-allocation, sharpness).
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

    The default needs only one: with it, a row of zeros matches nothing and its gradient is finite.
    `Guards(0, 0, 0)` is the paper (0/0 is taken as 0), `Guards(0, 1e-6, 1e-6)` the DNC of Csordas
    and Schmidhuber, `Guards(1e-6, 1e-6, 1e-6)` that of DeepMind: for weights trained with those.

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
    """Takes half-precision tensors as float32, with autocast off; float64 stays float64."""

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


def oneplus(x: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """1 + log(1 + e^x): how a DNC keeps its strengths at or above one."""
    return 1.0 + torch.nn.functional.softplus(x)


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
        keys: what is looked for.
        mask: m, which part of the word each key is about, in [0, 1]; None: all of it.
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
    # a norm of zero has no gradient and no direction: both are taken as zero
    nothing = (slot_squares == 0) | (key_squares == 0)
    norms = slot_squares.where(slot_squares > 0, 1.0).sqrt()
    norms = norms * key_squares.where(key_squares > 0, 1.0).sqrt()
    return (dot / (norms + guards.product)).masked_fill(nothing, 0.0)


@full_precision
def content_weights(
    memory: Float[Tensor, "... slots width"],
    keys: Float[Tensor, "... reads width"],
    strengths: Float[Tensor, "... reads"],
    mask: Float[Tensor, "... reads width"] | None = None,
    guards: Guards = SAFE,
) -> Float[Tensor, "... reads slots"]:
    """Weights that find the slots most like a key; they sum to one.

    Equation (DNC, "Content-based addressing"; NTM, eq. 5):
        c_i = softmax_i(beta D(k, M_i))

    Args:
        memory: one word a slot.
        keys: what is looked for.
        strengths: beta > 0; the larger, the more the best match takes all.
        mask: as in `cosine_similarity`.
        guards: see `Guards`.
    """
    similarity = cosine_similarity(memory, keys, mask, guards)
    return (strengths.unsqueeze(-1) * similarity).softmax(-1)


@full_precision
def matches(
    memory: Float[Tensor, "... slots width"],
    keys: Float[Tensor, "... reads width"],
    sharpness: Float[Tensor, ""],
    threshold: Float[Tensor, ""],
) -> Float[Tensor, "... reads slots"]:
    """How surely each slot is about what a key is about, in [0, 1], whatever the other slots hold.

    Equation (content weighting with a threshold in place of the softmax, since of a million slots
    none may match, or several):
        c_i = sigmoid(kappa (D(k, M_i) - tau))

    Args:
        memory: one word a slot.
        keys: what is looked for.
        sharpness: kappa > 0.
        threshold: tau, the cosine at which a slot matches by half.
    """
    return torch.sigmoid(sharpness * (cosine_similarity(memory, keys) - threshold))


@full_precision
def retention(
    free_gates: Float[Tensor, "... reads"], read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... slots"]:
    """How much of each slot's usage survives what the read heads let go, in [0, 1].

    Equation (DNC, "Dynamic memory allocation"):
        psi_i = prod_r (1 - f_r w_r(i))

    Args:
        free_gates: f in [0, 1]; at 0 a head frees nothing.
        read_weights: where each head read last.
    """
    return (1.0 - free_gates.unsqueeze(-1) * read_weights).prod(-2)


@full_precision
def usage_after(
    usage: Float[Tensor, "... slots"], write_weights: Float[Tensor, "... slots"]
) -> Float[Tensor, "... slots"]:
    """Usage once a write is counted; in [0, 1] like its arguments.

    Equation (DNC, "Dynamic memory allocation"; retention is a factor of its own):
        u <- u + w - u w
    """
    return usage + write_weights - usage * write_weights


@full_precision
def free_list(usage: Float[Tensor, "... slots"]) -> Int[Tensor, "... slots"]:
    """Slot numbers by rising usage; slots of equal usage by rising number."""
    return usage.argsort(dim=-1, stable=True)


@full_precision
def allocation(
    usage: Float[Tensor, "... slots"], guards: Guards = SAFE
) -> Float[Tensor, "... slots"]:
    """Weights that send a write to the least used slots.

    Equation (DNC, "Dynamic memory allocation"):
        a[phi_j] = (1 - u[phi_j]) prod_{i<j} u[phi_i],   phi the free list

    Returns:
        Weights with sum 1 - prod(u): a memory whose slots are all in full use takes no more.

    Gradient: through the usage values, not through their order.
    Cost: O(slots log slots).
    """
    usage = guards.usage + (1.0 - guards.usage) * usage
    order = free_list(usage)
    rising = usage.gather(-1, order)
    before = torch.nn.functional.pad(rising.cumprod(-1)[..., :-1], (1, 0), value=1.0)
    return torch.zeros_like(usage).scatter(-1, order, (1.0 - rising) * before)


@full_precision
def write_weights(
    content: Float[Tensor, "... slots"],
    allocated: Float[Tensor, "... slots"],
    allocation_gate: Float[Tensor, " *any"],
    write_gate: Float[Tensor, " *any"],
) -> Float[Tensor, "... slots"]:
    """Where to write: into what matches, or into what is free, or nowhere.

    Equation (DNC, "Dynamic memory allocation"):
        w = g_w (g_a a + (1 - g_a) c)

    Args:
        content: c, from `content_weights` on the memory before the write.
        allocated: a, from `allocation`.
        allocation_gate: g_a in [0, 1].
        write_gate: g_w in [0, 1]; at 0 nothing changes.
    """
    gate = allocation_gate.unsqueeze(-1)
    return write_gate.unsqueeze(-1) * (gate * allocated + (1.0 - gate) * content)


@full_precision
def hard_gate(gate: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """1 where a gate is at least one half, else 0, with the gradient of the gate itself.

    Source: the straight-through estimator (Y. Bengio et al. 2013, arXiv:1308.3432).
    """
    return (gate >= 0.5).to(gate.dtype) + gate - gate.detach()


@full_precision
def erase_and_add(
    memory: Float[Tensor, "... slots width"],
    weights: Float[Tensor, "... writes slots"],
    erase: Float[Tensor, "... writes #width"],
    vectors: Float[Tensor, "... writes width"],
) -> Float[Tensor, "... slots width"]:
    """The memory after K writes, one after the other.

    Equation (DNC, "Content-based addressing"; NTM, eqs. 3 and 4), K times:
        M <- M (1 - w_k e_k^T) + w_k v_k^T
    as one sum (exact, for what each write adds is erased only by the later ones):
        M_K = M prod_k (1 - w_k e_k^T) + sum_k (w_k v_k^T) prod_{l>k} (1 - w_l e_l^T)

    Args:
        memory: M, before the writes.
        weights: w_k, in the order of writing.
        erase: e_k in [0, 1], a vector or one number for the whole word. With one number the sum is
            one matrix product.
        vectors: v_k.
    """
    kept = memory.new_ones(erase.shape[-1])
    shares = []
    for write in reversed(range(weights.shape[-2])):
        weight = weights[..., write, :].unsqueeze(-1)
        shares.append(weight * kept)
        kept = kept * (1.0 - weight * erase[..., write, :].unsqueeze(-2))
    share = torch.stack(shares[::-1], -3)
    if erase.shape[-1] == 1:
        added = share.squeeze(-1).mT @ vectors
    else:
        added = (share * vectors.unsqueeze(-2)).sum(-3)
    return memory * kept + added


@full_precision
def link_after(
    link: Float[Tensor, "... slots slots"],
    precedence: Float[Tensor, "... slots"],
    write_weights: Float[Tensor, "... slots"],
) -> Float[Tensor, "... slots slots"]:
    """The temporal links after a write: L(i, j) is how much slot i was written right after slot j.

    Equation (DNC, "Temporal memory linkage"):
        L(i, j) <- (1 - w_i - w_j) L(i, j) + w_i p_j;   L(i, i) = 0
    with p the precedence before this write. Rows and columns sum to at most one.

    Cost: O(slots^2); `links.py` has the form that is linear.
    """
    rows, columns = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)
    link = (1.0 - rows - columns) * link + rows * precedence.unsqueeze(-2)
    diagonal = torch.eye(link.shape[-1], dtype=torch.bool, device=link.device)
    return link.masked_fill(diagonal, 0.0)


@full_precision
def precedence_after(
    precedence: Float[Tensor, "... slots"], write_weights: Float[Tensor, "... slots"]
) -> Float[Tensor, "... slots"]:
    """How much each slot was the last one written; sums to at most one.

    Equation (DNC, "Temporal memory linkage"):
        p <- (1 - sum_i w_i) p + w
    """
    return (1.0 - write_weights.sum(-1, keepdim=True)) * precedence + write_weights


@full_precision
def forward_weights(
    link: Float[Tensor, "... slots slots"], read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... reads slots"]:
    """Where the reads would be one write later: f = L w (DNC, "Temporal memory linkage")."""
    return read_weights @ link.mT


@full_precision
def backward_weights(
    link: Float[Tensor, "... slots slots"], read_weights: Float[Tensor, "... reads slots"]
) -> Float[Tensor, "... reads slots"]:
    """Where the reads would be one write earlier: b = L^T w (DNC, "Temporal memory linkage")."""
    return read_weights @ link


@full_precision
def read_weights(
    backward: Float[Tensor, "... reads slots"],
    content: Float[Tensor, "... reads slots"],
    forward: Float[Tensor, "... reads slots"],
    modes: Float[Tensor, "... reads 3"],
) -> Float[Tensor, "... reads slots"]:
    """Where to read: w = pi_1 b + pi_2 c + pi_3 f (DNC, "Read weighting").

    Args:
        backward: b, from `backward_weights`.
        content: c, from `content_weights` on the memory after the write.
        forward: f, from `forward_weights`.
        modes: pi, a distribution over backward, content and forward, in this order.
    """
    back, match, ahead = modes.unsqueeze(-2).unbind(-1)
    return back * backward + match * content + ahead * forward


@full_precision
def sharpened(
    weights: Float[Tensor, "... slots"], exponent: Float[Tensor, " *any"]
) -> Float[Tensor, "... slots"]:
    """Weights made more definite: w_i^s / sum_j w_j^s; all zeros stay all zeros.

    Source: NTM, eq. 9; Csordas and Schmidhuber, eq. 4, for forward and backward weights.

    Args:
        weights: at least 0.
        exponent: s >= 1.
    """
    # relative to the largest, so that a high power of small weights can't underflow to nothing
    largest = weights.amax(-1, keepdim=True)
    relative = weights / largest.where(largest > 0, 1.0)
    powers = relative ** exponent.unsqueeze(-1)
    total = powers.sum(-1, keepdim=True)
    return powers / total.where(total > 0, 1.0)


@full_precision
def interpolated(
    content: Float[Tensor, "... slots"],
    previous: Float[Tensor, "... slots"],
    gate: Float[Tensor, " *any"],
) -> Float[Tensor, "... slots"]:
    """Between a new match and the place of the step before: g c + (1 - g) w (NTM, eq. 7)."""
    gate = gate.unsqueeze(-1)
    return gate * content + (1.0 - gate) * previous


@full_precision
def shifted(
    weights: Float[Tensor, "... slots"], shift: Float[Tensor, "... offsets"]
) -> Float[Tensor, "... slots"]:
    """Weights moved around the ring of slots: w_i <- sum_n s_n w_{i - n mod N} (NTM, eq. 8).

    Args:
        weights: where a head is.
        shift: a distribution over an odd number of offsets around 0, the most negative first.
    """
    reach = shift.shape[-1] // 2
    moved = [weights.roll(offset, -1) for offset in range(-reach, reach + 1)]
    return (torch.stack(moved, -1) * shift.unsqueeze(-2)).sum(-1)


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
