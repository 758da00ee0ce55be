"""The Differentiable Neural Computer on one screen: `dnc_step`, in the order of its paper.

`dnc_step` is a function of a state and of a controller's interface, and has no parameters. With one
write and one read per head it is the step of the paper. With K writes and any number of anchored
reads it takes a segment of text in one step, as the memory of a language model does. The equations
are in `addressing.py` and `memory/addressing.py`.
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
            write at the start of the next step, which gives the same numbers.)
        precedence: how much each slot was the last slot written.
        link: how much slot i was written right after slot j; a matrix, or lists of the largest.
        read_weights: the places that each head read last.
        write_weights: the places of the last writes.
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
        """A memory before the first write: zeros everywhere.

        Args:
            batch: independent memories.
            slots: N.
            width: W.
            reads: R.
            writes: K.
            links: whether to keep temporal links; without links, reads are by content only.
            kept_links: the number of links that a slot keeps; None: all, as a matrix.
            like: a tensor with the device and dtype of the memory; None: float32 on the CPU.
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
    """The interface of a controller to the memory in one step (DNC, "Interface parameters").

    The last six are optional. The masks and sharpness come from Csordas and Schmidhuber.

    Attributes:
        read_keys: the word that each head looks for.
        read_strengths: how sharp the match of a read key is, >= 1.
        write_keys: the word that each write looks for, in the memory before the step.
        write_strengths: how sharp the match of a write key is, >= 1.
        erase: how much a write erases of each number of a word, in [0, 1]; or one share for all.
        write_vectors: the words to write, in this order.
        free_gates: how much each head frees of the slots that it read last, in [0, 1].
        allocation_gates: whether to write to free slots (1) or to slots that match (0).
        write_gates: whether to write (1) or not (0).
        read_modes: a distribution over backward, content and forward, per head; None: heads read by
            content only, and no links are kept.
        write_masks: the numbers of a word that a write key is about, in [0, 1].
        read_masks: the numbers of a word that a read key is about, in [0, 1].
        forward_sharpness: exponent of the forward weights, >= 1.
        backward_sharpness: exponent of the backward weights, >= 1.
        free_weights: the places that the freeing heads read; None: the last places of the read
            heads.
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
        """The length of each part of the interface vector, in the order of the paper."""
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

    The function is longer than others, because a reader should see the whole DNC on one screen.

    Args:
        state: the state after the step before.
        interface: the interface of the controller.
        guards: see `Guards`.
        anchored: whether forward and backward start from the content weights of this step, and not
            from the last read. The tokens of a segment read together, so they have no last read.
        deallocate: whether a freed slot loses its contents too (Csordas and Schmidhuber, section
            3.2); in the paper it keeps them until the next write.
        half_life: steps after which the usage of a slot without reads has halved; None: usage
            lasts, as in the paper, where a full memory accepts no more writes.
        usage_gradient: whether the gradient flows from usage into the writes. The difference is
            small, and both well-known implementations stop it.

    Returns:
        The state after the step, and the words read. The memory keeps its dtype, which may be
        half precision; all other tensors are float32 or better.

    Cost: O(writes slots^2) for the links, O(writes slots kept^2) for lists; everything else is
        linear, except for a sort.
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
