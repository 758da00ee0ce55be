"""The Differentiable Neural Computer on one screen: `dnc_step`, in the order of its paper.

A function of a state and of what a controller asks for, with no parameters. With one write and as
many reads as heads it is the paper's step. With K writes and any number of anchored reads it is a
segment of text in one step, the form a language model's memory takes. The modules in
`memformer/classic/` put controllers in front of it; `addressing.py` has the equations.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memformer.classic.addressing import (
    allocation,
    content_weights,
    erase_and_add,
    oneplus,
    precedence_after,
    read_weights,
    sharpened,
    usage_after,
    write_weights,
)
from memformer.classic.links import LinkLists, backward_along, forward_along, links_after
from memformer.memory.addressing import SAFE, Guards, aged_usage, retention

# the least weight of a masked number in a match; Csordas and Schmidhuber found it essential
LEAST_MASK = 0.1


class DNCState(NamedTuple):
    """Everything a DNC remembers.

    Attributes:
        memory: one word a slot.
        usage: how occupied each slot is, in [0, 1], with all writes counted. (The paper counts a
            write one step later, before anything looks; the numbers are the same.)
        precedence: how much each slot was the last one written.
        link: how much slot i was written right after slot j; a matrix, or lists of the largest.
        read_weights: where each head read last.
        write_weights: where the last writes went.
    """

    memory: Float[Tensor, "batch slots width"]
    usage: Float[Tensor, "batch slots"]
    precedence: Float[Tensor, "batch slots"]
    link: Float[Tensor, "batch slots slots"] | LinkLists
    read_weights: Float[Tensor, "batch reads slots"]
    write_weights: Float[Tensor, "batch writes slots"]

    @classmethod
    def empty(
        cls,
        batch: int,
        slots: int,
        width: int,
        reads: int,
        writes: int = 1,
        *,
        links: bool = True,
        kept_links: int | None = None,
        like: Tensor | None = None,
    ) -> DNCState:
        """A memory in which nothing was ever written: zeros throughout.

        Args:
            batch: independent memories.
            slots: N.
            width: W.
            reads: R.
            writes: K.
            links: whether to keep temporal links; without them, reads are by content only.
            kept_links: how many links a slot keeps; None: all, as a matrix.
            like: a tensor whose device and dtype to take; None: float32 on the CPU.
        """
        like = torch.empty(()) if like is None else like
        link: Tensor | LinkLists = like.new_zeros(batch, *[slots if links else 0] * 2)
        if links and kept_links is not None:
            link = LinkLists.empty(batch, slots, kept_links, like)
        return cls(
            memory=like.new_zeros(batch, slots, width),
            usage=like.new_zeros(batch, slots),
            precedence=like.new_zeros(batch, slots),
            link=link,
            read_weights=like.new_zeros(batch, reads, slots),
            write_weights=like.new_zeros(batch, writes, slots),
        )


class DNCInterface(NamedTuple):
    """What a controller asks of the memory in one step (DNC, "Interface parameters").

    The last six are optional. The masks and sharpness are Csordas and Schmidhuber's.

    Attributes:
        read_keys: what each head looks for.
        read_strengths: how sharply, >= 1.
        write_keys: what each write looks for, in the memory before the step.
        write_strengths: how sharply, >= 1.
        erase: how much of each number of a written slot goes, in [0, 1]; or one for all of them.
        write_vectors: what is written, in this order.
        free_gates: how much each head lets go of what it read last, in [0, 1].
        allocation_gates: written to free slots (1) or to slots that match (0).
        write_gates: written (1) or not (0).
        read_modes: a distribution over backward, content and forward, per head; None: by content
            only, and no links are kept.
        write_masks: which numbers of a word a write key is about, in [0, 1].
        read_masks: the same for each read key.
        forward_sharpness: exponent of the forward weights, >= 1.
        backward_sharpness: exponent of the backward weights, >= 1.
        free_weights: where heads that free slots read; None: where the read heads last did.
    """

    read_keys: Float[Tensor, "batch reads width"]
    read_strengths: Float[Tensor, "batch reads"]
    write_keys: Float[Tensor, "batch writes width"]
    write_strengths: Float[Tensor, "batch writes"]
    erase: Float[Tensor, "batch writes #width"]
    write_vectors: Float[Tensor, "batch writes width"]
    free_gates: Float[Tensor, "batch frees"]
    allocation_gates: Float[Tensor, "batch writes"]
    write_gates: Float[Tensor, "batch writes"]
    read_modes: Float[Tensor, "batch reads 3"] | None = None
    write_masks: Float[Tensor, "batch writes width"] | None = None
    read_masks: Float[Tensor, "batch reads width"] | None = None
    forward_sharpness: Float[Tensor, "batch reads"] | None = None
    backward_sharpness: Float[Tensor, "batch reads"] | None = None
    free_weights: Float[Tensor, "batch frees slots"] | None = None

    @staticmethod
    def sizes(
        width: int, reads: int, writes: int = 1, masks: bool = False, sharpness: bool = False
    ) -> list[int]:
        """Numbers in each part of the interface vector, in the paper's order."""
        paper = [reads * width, reads, writes * width, writes, writes * width, writes * width]
        paper += [reads, writes, writes, 3 * reads]
        return paper + [writes * width, reads * width] * masks + [reads, reads] * sharpness

    @classmethod
    def parse(
        cls,
        vector: Float[Tensor, "batch interface"],
        width: int,
        reads: int,
        writes: int = 1,
        masks: bool = False,
        sharpness: bool = False,
    ) -> DNCInterface:
        """Splits a controller's output and brings each part into its range."""
        parts = vector.split(cls.sizes(width, reads, writes, masks, sharpness), -1)
        interface = cls(
            read_keys=parts[0].unflatten(-1, (reads, width)),
            read_strengths=oneplus(parts[1]),
            write_keys=parts[2].unflatten(-1, (writes, width)),
            write_strengths=oneplus(parts[3]),
            erase=parts[4].unflatten(-1, (writes, width)).sigmoid(),
            write_vectors=parts[5].unflatten(-1, (writes, width)),
            free_gates=parts[6].sigmoid(),
            allocation_gates=parts[7].sigmoid(),
            write_gates=parts[8].sigmoid(),
            read_modes=parts[9].unflatten(-1, (reads, 3)).softmax(-1),
        )
        if masks:
            floored = [LEAST_MASK + (1 - LEAST_MASK) * part.sigmoid() for part in parts[10:12]]
            interface = interface._replace(
                write_masks=floored[0].unflatten(-1, (writes, width)),
                read_masks=floored[1].unflatten(-1, (reads, width)),
            )
        if sharpness:
            interface = interface._replace(
                forward_sharpness=oneplus(parts[-2]), backward_sharpness=oneplus(parts[-1])
            )
        return interface


def dnc_step(
    state: DNCState,
    interface: DNCInterface,
    guards: Guards = SAFE,
    *,
    anchored: bool = False,
    deallocate: bool = False,
    half_life: float | None = None,
    usage_gradient: bool = False,
) -> tuple[DNCState, Float[Tensor, "batch reads width"]]:
    """One step: free, write, link, read.

    Args:
        state: from the step before.
        interface: what the controller asks for.
        guards: see `Guards`.
        anchored: forward and backward start from what each read matches now, not from where its
            head was: the tokens of a segment, which read together, have no read before them.
        deallocate: whether a slot that is freed loses its contents too (Csordas and Schmidhuber,
            section 3.2); in the paper it keeps them until something is written there.
        half_life: steps after which the usage of a slot that nobody reads has halved; None: it
            lasts, as in the paper, where a memory that is full takes no more.
        usage_gradient: whether the gradient flows from usage into the writes. It makes little
            difference, and both well-known implementations stop it.

    Returns:
        The state after the step, and the words read. The memory keeps its dtype, which may be
        half precision; all else is float32 or better.

    Cost: O(writes slots^2) for the links, O(writes slots kept^2) for lists; the rest is linear but
        for a sort.
    """
    freeing = state.read_weights if interface.free_weights is None else interface.free_weights
    freed = retention(interface.free_gates, freeing)
    usage = state.usage
    if half_life is not None:
        seen = state.read_weights.sum(1).detach()
        usage = aged_usage(usage, seen, torch.ones_like(usage[:, 0]), half_life)
    usage = usage * freed

    matches = content_weights(
        state.memory, interface.write_keys, interface.write_strengths, interface.write_masks, guards
    )
    link, precedence, writings = state.link, state.precedence, []
    for write in range(matches.shape[1]):
        writing = write_weights(
            matches[:, write],
            allocation(usage, guards),
            interface.allocation_gates[:, write],
            interface.write_gates[:, write],
        )
        if interface.read_modes is not None:
            link = links_after(link, precedence, writing)
        precedence = precedence_after(precedence, writing)
        usage = usage_after(usage, writing if usage_gradient else writing.detach())
        writings.append(writing)
    written = torch.stack(writings, 1)
    kept = state.memory * freed.unsqueeze(-1) if deallocate else state.memory
    memory = erase_and_add(kept, written, interface.erase, interface.write_vectors)
    memory = memory.to(state.memory.dtype)

    content = content_weights(
        memory, interface.read_keys, interface.read_strengths, interface.read_masks, guards
    )
    reading = content
    if interface.read_modes is not None:
        start = content if anchored else state.read_weights
        forward, backward = forward_along(link, start), backward_along(link, start)
        if interface.forward_sharpness is not None:
            forward = sharpened(forward, interface.forward_sharpness)
        if interface.backward_sharpness is not None:
            backward = sharpened(backward, interface.backward_sharpness)
        reading = read_weights(backward, content, forward, interface.read_modes)
    words = reading @ memory.to(reading.dtype)
    return DNCState(memory, usage, precedence, link, reading, written), words
