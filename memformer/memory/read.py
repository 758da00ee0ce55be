"""Reads from a language model's memory: content addressing with a null slot, and focus.

The content weighting of a DNC with the match of the backbone's own attention, for thousands of
queries at once, always in float32. `prepare_slots` makes a `SlotView` once for many reads, and
`content_read` reads the slots of that view.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.links import Links, linked

# a finite stand-in for minus infinity: exp(x - y) is exactly 0, and no inf - inf can arise
MASKED = -1.0e30
# attention weights held at once where no gradient is needed: 4 MiB, which stay in a CPU's cache
BLOCK = 2**20
# passages that may be read in full, whatever the votes; 1 is better for a single fact in a long
# text, a higher number for many facts in a short text
KEPT_PASSAGES = 2


class SlotView(NamedTuple):
    """Slots prepared for queries, with the null slot last.

    Strength, age and the null logit enter a match as a product of three more numbers of the query
    with three more numbers of the slot.

    Attributes:
        keys: one column a slot, with the three numbers unless the backbone caps its logits.
        values: one row a slot, which ends with a 1: the read of this 1 is the sum of the weights.
        query_terms: three numbers a head.
        slot_terms: three numbers a slot.
        softcap: the backbone caps its attention logits at this magnitude.
        modes: as in `Links`; None: heads read by content alone.
    """

    keys: Float[Tensor, "batch kv_heads wide columns"]
    values: Float[Tensor, "batch kv_heads columns value"]
    query_terms: Float[Tensor, "1 1 kv_heads groups 3"]
    slot_terms: Float[Tensor, "batch kv_heads 3 columns"]
    softcap: float | None
    modes: Float[Tensor, "heads 3"] | None


def prepare_slots(
    keys: Float[Tensor, "batch slots kv_heads width"],
    values: Float[Tensor, "batch slots kv_heads width"],
    strength: Float[Tensor, "batch slots"],
    age: Float[Tensor, "batch slots"],
    age_slope: Float[Tensor, " heads"],
    null_logit: Float[Tensor, " heads"],
    softcap: float | None = None,
    links: Links | None = None,
) -> SlotView:
    """Prepares slots for `content_read`.

    Args:
        keys: one row a slot.
        values: one row a slot.
        strength: the strength of each slot, in [0, 1]; a slot of strength 0 is not read.
        age: number of tokens written after each slot, >= 0.
        age_slope: a, per head; 0 makes every age alike.
        null_logit: c, per head.
        softcap: the backbone caps its attention logits at this magnitude.
        links: heads read along these links too; None: by content alone.

    Cost: a float32 copy of keys and values; with links, three copies of the values.
    """
    batch, slots, kv_heads, _ = keys.shape
    # the null slot has key and value zero
    log_strength = strength.clamp_min(1e-30).log().masked_fill(strength <= 0, MASKED)
    slot_terms = torch.stack([log_strength, torch.log1p(age), torch.zeros_like(age)], -1)
    slot_terms = torch.nn.functional.pad(slot_terms, (0, 0, 0, 1))
    nothing = _null(slots + 1, age.device)[:, None]
    slot_terms = slot_terms + slot_terms.new_tensor([0.0, 0.0, 1.0]) * nothing
    query_terms = torch.stack([torch.ones_like(age_slope), -age_slope, null_logit], -1)
    key_rows = torch.nn.functional.pad(keys.float(), (0, 0, 0, 0, 0, 1)).permute(0, 2, 3, 1)
    values = values.float()
    if links is not None:
        values = torch.cat([linked(values, links.prev), values, linked(values, links.next)], -1)
    value_rows = torch.nn.functional.pad(values, (0, 0, 0, 0, 0, 1)).transpose(1, 2)
    value_rows = torch.nn.functional.pad(value_rows, (0, 1), value=1.0)
    slot_terms = slot_terms.mT[:, None].expand(batch, kv_heads, 3, slots + 1)
    if softcap is None:
        key_rows = torch.cat([key_rows, slot_terms], 2)
    query_terms = query_terms.view(1, 1, kv_heads, -1, 3)
    modes = None if links is None else links.modes
    return SlotView(key_rows, value_rows, query_terms, slot_terms, softcap, modes)


def _null(columns: int, device: torch.device) -> Bool[Tensor, " columns"]:
    """Marks the column of the null slot."""
    return torch.arange(columns, device=device) == columns - 1


def content_read(
    queries: Float[Tensor, "batch tokens heads width"],
    slots: SlotView,
    readers: Bool[Tensor, "batch tokens"] | None = None,
    passage: Int[Tensor, "batch slots"] | None = None,
    focus: float = 0.0,
    kept: Float[Tensor, "batch slots"] | None = None,
    passages: int | None = None,
) -> tuple[
    Float[Tensor, "batch tokens heads width"],
    Float[Tensor, "batch tokens heads"],
    Float[Tensor, "batch slots"] | None,
]:
    """Reads by content, with a null slot that means "nothing in memory".

    Equation (DNC content weighting with the match of the backbone's own attention):
        logit_i = q . k_i + log strength_i - a log(1 + age_i)
        p = softmax([logit, c]);   r = sum_i p_i v_i;   g = 1 - p_null
    With focus, p is first narrowed to the passages on which the heads agree; see `focused`.
    With links, (L p)^T V = p^T (L^T V) (DNC, "Temporal memory linkage"), so a forward read takes
    the value of each slot's successor in place of the slot's own:
        r = sum_i p_i (pi_b v_prev(i) + pi_c v_i + pi_f v_next(i))

    Args:
        queries: already multiplied by key strength and by the backbone's attention scale.
        slots: from `prepare_slots`, which defines a and c.
        readers: tokens whose reads count as use of a slot.
        passage: the passage of each slot, numbered from 0.
        focus: how firmly all heads keep to the passages that most heads find; 0: not at all.
        kept: 1 for slots that are read and 0 for the others; unlike a strength of 0, this 0 lets
            the gradient of a hard write gate through.
        passages: the number of passages; None: they are counted.

    Returns:
        The read words r, the evidence g in [0, 1], and per slot the read weight summed over
        readers, mean over heads (None without readers). Where every slot is empty, all are
        exactly zero.

    Cost: O(tokens heads slots width) time; memory for one block of tokens, not for all, where no
        gradient is needed.
    """
    if passage is None or not focus:
        passages = 0
    elif passages is None:
        passages = int(passage.max()) + 1
    reads = _Reads(queries, slots, readers, passage, passages, focus, kept)
    if slots.softcap is None and kept is None:
        if torch.is_grad_enabled():
            return reads.with_one_kernel()
        if queries.shape[1] == 1 and readers is None:
            return reads.of_one_token()
    return reads.by_blocks()


@dataclass(frozen=True)
class _Reads:
    """The reads of one call of `content_read`, with the arguments of the call.

    Attributes:
        passages: how many passages there are; 0 without focus.
    """

    queries: Float[Tensor, "batch tokens heads width"]
    slots: SlotView
    readers: Bool[Tensor, "batch tokens"] | None
    passage: Int[Tensor, "batch slots"] | None
    passages: int
    focus: float
    kept: Float[Tensor, "batch slots"] | None

    def weigh(self, begin: int, end: int) -> tuple[Tensor, Tensor | None]:
        """Read weights of tokens `begin` to `end - 1`, by key head, and the scale of focus."""
        key_rows, _, query_terms, slot_terms, softcap, _ = self.slots
        batch = self.queries.shape[0]
        kv_heads, groups = query_terms.shape[2:4]
        part = self.queries[:, begin:end].float().unflatten(2, (kv_heads, groups))
        terms = query_terms.expand(*part.shape[:-1], 3)
        rows = part if softcap is not None else torch.cat([part, terms], -1)
        # the rows of a key head: all query heads of that key head, all tokens
        shape = (batch, kv_heads, groups * part.shape[1], -1)
        logits = rows.permute(0, 2, 3, 1, 4).reshape(shape) @ key_rows
        if softcap is not None:
            capped = softcap * torch.tanh(logits / softcap)
            logits = capped + terms.permute(0, 2, 3, 1, 4).reshape(shape) @ slot_terms
        weights = logits.softmax(-1)
        if self.kept is not None:
            mask = torch.nn.functional.pad(self.kept, (0, 1), value=1.0)[:, None, None]
            weights = weights * mask
            weights = weights / weights.sum(-1, keepdim=True)
        if self.passage is None or self.passages <= KEPT_PASSAGES:
            return weights, None
        grouped = weights.unflatten(2, (groups, -1))
        votes = grouped.sum((1, 2))[..., :-1]
        scale = focused(votes, self.passage, self.passages, self.focus)
        scale = torch.nn.functional.pad(scale, (0, 1), value=1.0)[:, None, None]
        grouped = grouped * scale if torch.is_grad_enabled() else grouped.mul_(scale)
        return grouped.flatten(2, 3), scale[:, :, 0]

    def mass(self, begin: int, end: int, weights: Tensor, total: Tensor) -> Tensor | None:
        """Read weight per slot, from the tokens that are readers; None without readers."""
        if self.readers is None:
            return None
        kv_heads, groups = self.slots.query_terms.shape[2:4]
        counted = self.readers[:, begin:end].to(weights.dtype) / self.queries.shape[2]
        counted = counted[:, None, None].expand(-1, kv_heads, groups, -1).flatten(2)
        counted = counted / total[..., 0].detach()
        return (counted[:, :, None] @ weights.detach())[:, :, 0, :-1].sum(1)

    def blocks(self) -> Iterator[tuple[int, int]]:
        """Ranges of tokens whose attention weights fit into a CPU's cache."""
        tokens, heads = self.queries.shape[1:3]
        return _blocks(tokens, heads * self.slots.keys.shape[-1])

    def with_one_kernel(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """All reads in one attention kernel, for the gradient.

        The scale of focus carries no gradient. The rest is attention with three more numbers in
        each query and key, and one more in each value.
        """
        key_rows, value_rows, query_terms, _, _, modes = self.slots
        heads, groups = self.queries.shape[2], query_terms.shape[3]
        mass: Tensor | None = None
        scales = []
        with torch.no_grad():
            for begin, end in self.blocks():
                weights, scale = self.weigh(begin, end)
                if scale is not None:
                    scales.append(scale.clamp_min(1e-30).log())
                seen = self.mass(begin, end, weights, weights.sum(-1, keepdim=True))
                mass = seen if mass is None or seen is None else mass + seen
        terms = query_terms.view(heads, 3).expand(*self.queries.shape[:3], 3)
        rows = torch.cat([self.queries.float(), terms], -1)
        # the null slot adds neither to the read nor to the evidence
        there = ~_null(key_rows.shape[-1], self.queries.device)[:, None]
        found = _attend(
            rows.transpose(1, 2),
            key_rows.mT.repeat_interleave(groups, 1),
            value_rows.where(there, 0.0).repeat_interleave(groups, 1),
            torch.cat(scales, 2) if scales else None,
        ).transpose(1, 2)
        return _along(found[..., :-1], modes), found[..., -1], mass

    def of_one_token(self) -> tuple[Tensor, Tensor, None]:
        """The sums of `by_blocks` for a decoding step, in few operations.

        For one token, most operations take longer to call than to run.
        """
        key_rows, value_rows, query_terms, _, _, modes = self.slots
        batch, _, heads, _ = self.queries.shape
        kv_heads, groups = query_terms.shape[2:4]
        terms = query_terms.view(1, heads, 3).expand(batch, heads, 3)
        rows = torch.cat([self.queries[:, 0].float(), terms], -1).view(batch, kv_heads, groups, -1)
        weights = (rows @ key_rows).softmax(-1)
        if self.passage is not None and self.passages > KEPT_PASSAGES:
            scaled = weights[..., :-1]
            votes = scaled.sum((1, 2))[:, None]
            scaled.mul_(focused(votes, self.passage, self.passages, self.focus)[:, None])
        read = weights @ value_rows
        total = read[..., -1:]
        words = (read[..., :-1] / total).view(batch, 1, heads, -1)
        evidence = 1.0 - weights[..., -1:] / total
        return _along(words, modes), evidence.view(batch, 1, heads), None

    def by_blocks(self) -> tuple[Tensor, Tensor, Tensor | None]:
        """Reads for a block of tokens at a time; for all at once where a gradient is needed."""
        _, value_rows, query_terms, _, _, modes = self.slots
        batch, tokens, heads, _ = self.queries.shape
        groups = query_terms.shape[3]
        mass: Tensor | None = None
        words, evidences = [], []
        for begin, end in [(0, tokens)] if torch.is_grad_enabled() else self.blocks():
            weights, _ = self.weigh(begin, end)
            read = weights @ value_rows
            total = read[..., -1:]
            read = (read[..., :-1] / total).unflatten(2, (groups, -1)).permute(0, 3, 1, 2, 4)
            words.append(_along(read.reshape(batch, -1, heads, value_rows.shape[-1] - 1), modes))
            found = 1.0 - weights[..., -1] / total[..., 0]
            evidences.append(found.unflatten(2, (groups, -1)).permute(0, 3, 1, 2).flatten(2))
            seen = self.mass(begin, end, weights, total)
            mass = seen if mass is None or seen is None else mass + seen
        return torch.cat(words, 1), torch.cat(evidences, 1), mass


def _blocks(tokens: int, weights: int) -> Iterator[tuple[int, int]]:
    """Ranges of tokens whose attention weights, `weights` a token, fit into a CPU's cache."""
    block = max(1, BLOCK // weights)
    for begin in range(0, tokens, block):
        yield begin, min(begin + block, tokens)


def _along(read: Tensor, modes: Float[Tensor, "heads 3"] | None) -> Tensor:
    """Mixes the backward read, the read by content and the forward read."""
    if modes is None:
        return read
    return (read.unflatten(-1, (3, -1)) * modes[:, :, None]).sum(-2)


def _attend(
    queries: Float[Tensor, "batch heads tokens wide"],
    keys: Float[Tensor, "batch heads slots wide"],
    values: Float[Tensor, "batch heads slots value"],
    bias: Float[Tensor, "batch 1 tokens slots"] | None,
) -> Float[Tensor, "batch heads tokens value"]:
    """Attention in one kernel, which needs the same width of queries, keys and values."""
    wide = -(-max(keys.shape[-1], values.shape[-1]) // 8) * 8
    pad = torch.nn.functional.pad
    query, key, value = (pad(one, (0, wide - one.shape[-1])) for one in (queries, keys, values))
    attend = torch.nn.functional.scaled_dot_product_attention
    found = attend(query, key, value, attn_mask=bias, scale=1.0)
    return found[..., : values.shape[-1]]


def focused(
    votes: Float[Tensor, "batch tokens slots"],
    passage: Int[Tensor, "batch slots"],
    passages: int,
    focus: float,
) -> Float[Tensor, "batch tokens slots"]:
    """The factor on each slot's read weight by which the heads of a layer read the same passages.

    Among thousands of slots every head finds matches, and most matches are chance. The wanted
    passage is where many heads find matches at once:
        s_b = votes summed over passage b;   m_b = min(1, s_b / s_(2))^focus
    with s_(2) the second largest of all s. Focus has no trained parameter, and no effect on a
    memory of two passages or fewer.

    Args:
        votes: read weight of every slot, summed over heads; a head without a match gives its weight
            to the null slot, and so has no vote.
        passage: as in `content_read`.
        passages: the number of passages.
        focus: the exponent; infinity would choose two passages and drop the others (sparse reads,
            as in SAM, but by passage).
    """
    total = votes.new_zeros(*votes.shape[:2], passages)
    where = passage[:, None].expand_as(votes)
    total = total.scatter_add(-1, where, votes).clamp_min(1e-30).log()
    best = total.topk(KEPT_PASSAGES, -1).values[..., -1:]
    return (focus * (total - best).clamp_max(0.0)).exp().gather(-1, where)
