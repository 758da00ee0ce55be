"""The equations that only the classic machines use: one pure function for each.

`memory/addressing.py` has the equations that the memory of a language model uses too, and the rules
for all of them: "..." stands for any leading axes, and the work is in float32 or better.

Sources: A. Graves et al. 2016 (DNC, Methods); A. Graves et al. 2014 (NTM, section 3.3);
R. Csordas and J. Schmidhuber 2019 (masks, sharpness).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.memory.addressing import SAFE, Guards, cosine_similarity, full_precision


def oneplus(x: Float[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """1 + log(1 + e^x), which keeps the strengths of a DNC at or above one."""
    return 1.0 + torch.nn.functional.softplus(x)


@full_precision
def content_weights(
    memory: Float[Tensor, "... slots width"],
    keys: Float[Tensor, "... reads width"],
    strengths: Float[Tensor, "... reads"],
    mask: Float[Tensor, "... reads width"] | None = None,
    guards: Guards = SAFE,
) -> Float[Tensor, "... reads slots"]:
    """Weights over the slots that are most like a key; they sum to one.

    Equation (DNC, "Content-based addressing"; NTM, eq. 5):
        c_i = softmax_i(beta D(k, M_i))

    Args:
        memory: one word a slot.
        keys: k, one word for each read.
        strengths: beta > 0; a larger strength gives more of the weight to the best match.
        mask: as in `cosine_similarity`.
        guards: see `Guards`.
    """
    similarity = cosine_similarity(memory, keys, mask, guards)
    return (strengths.unsqueeze(-1) * similarity).softmax(-1)


@full_precision
def usage_after(
    usage: Float[Tensor, "... slots"], write_weights: Float[Tensor, "... slots"]
) -> Float[Tensor, "... slots"]:
    """Usage after a write, in [0, 1] like the arguments.

    Equation (DNC, "Dynamic memory allocation"; without the factor for retention):
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
        Weights with sum 1 - prod(u): they vanish where every slot is in full use.

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
    """Where to write: into slots that match, into free slots, or nowhere.

    Equation (DNC, "Dynamic memory allocation"):
        w = g_w (g_a a + (1 - g_a) c)

    Args:
        content: c, from `content_weights` on the memory before the write.
        allocated: a, from `allocation`.
        allocation_gate: g_a in [0, 1].
        write_gate: g_w in [0, 1]; a gate of 0 writes nothing.
    """
    gate = allocation_gate.unsqueeze(-1)
    return write_gate.unsqueeze(-1) * (gate * allocated + (1.0 - gate) * content)


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
    as one sum, which is exact, because only later writes erase the words of a write:
        M_K = M prod_k (1 - w_k e_k^T) + sum_k (w_k v_k^T) prod_{l>k} (1 - w_l e_l^T)

    Args:
        memory: M before the writes.
        weights: w_k, in the order of writing.
        erase: e_k in [0, 1], a vector or one number for the whole word. With one number the sum is
            one matrix product.
        vectors: v_k, the words to write.
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
    """The temporal links after a write: L(i, j) says how much slot i was written right after j.

    Equation (DNC, "Temporal memory linkage"):
        L(i, j) <- (1 - w_i - w_j) L(i, j) + w_i p_j;   L(i, i) = 0
    with p the precedence before this write. Rows and columns sum to at most one.

    Cost: O(slots^2).
    """
    rows, columns = write_weights.unsqueeze(-1), write_weights.unsqueeze(-2)
    link = (1.0 - rows - columns) * link + rows * precedence.unsqueeze(-2)
    diagonal = torch.eye(link.shape[-1], dtype=torch.bool, device=link.device)
    return link.masked_fill(diagonal, 0.0)


@full_precision
def precedence_after(
    precedence: Float[Tensor, "... slots"], write_weights: Float[Tensor, "... slots"]
) -> Float[Tensor, "... slots"]:
    """How much each slot was the last slot written; the sum is at most one.

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
    """Sharper weights: w_i^s / sum_j w_j^s; a row of zeros stays a row of zeros.

    Source: NTM, eq. 9; Csordas and Schmidhuber, eq. 4, for forward and backward weights.

    Args:
        weights: w >= 0.
        exponent: s >= 1.
    """
    # divided by the largest weight, so that high powers of small weights do not underflow to zero
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
    """A mixture of a new match and the place of the step before: g c + (1 - g) w (NTM, eq. 7)."""
    gate = gate.unsqueeze(-1)
    return gate * content + (1.0 - gate) * previous


@full_precision
def shifted(
    weights: Float[Tensor, "... slots"], shift: Float[Tensor, "... offsets"]
) -> Float[Tensor, "... slots"]:
    """Weights moved around the ring of slots: w_i <- sum_n s_n w_{i - n mod N} (NTM, eq. 8).

    Args:
        weights: w, the place of a head.
        shift: a distribution over an odd number of offsets around 0, the most negative first.
    """
    reach = shift.shape[-1] // 2
    moved = [weights.roll(offset, -1) for offset in range(-reach, reach + 1)]
    return (torch.stack(moved, -1) * shift.unsqueeze(-2)).sum(-1)
