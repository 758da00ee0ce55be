"""The Differentiable Neural Computer as its paper has it: one word written, R words read, per step.

`dnc_step` is the whole machine but for its controller, in the order of the paper's Methods.
`segment_step` is the same machine with K ordered writes and any number of reads at once, the form
that a language model's memory takes. Both are functions of a state and of what a controller asks
for, with no parameters. The modules in `memformer/classic/` put controllers in front of them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from memformer.memory.addressing import (
    SAFE,
    Guards,
    allocation,
    backward_weights,
    content_weights,
    erase_and_add,
    forward_weights,
    link_after,
    oneplus,
    precedence_after,
    read_weights,
    retention,
    sharpened,
    usage_after,
    write_weights,
)


class DNCState(NamedTuple):
    """Everything a DNC remembers.

    Attributes:
        memory: one word a slot.
        usage: how occupied each slot is, in [0, 1], before the last write is counted.
        precedence: how much each slot was the last one written.
        link: how much slot i was written right after slot j.
        read_weights: where each head read last.
        write_weights: where the last write went.
    """

    memory: Float[Tensor, "batch slots width"]
    usage: Float[Tensor, "batch slots"]
    precedence: Float[Tensor, "batch slots"]
    link: Float[Tensor, "batch slots slots"]
    read_weights: Float[Tensor, "batch reads slots"]
    write_weights: Float[Tensor, "batch slots"]

    @classmethod
    def empty(
        cls,
        batch: int,
        slots: int,
        width: int,
        reads: int,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> DNCState:
        """A memory in which nothing was ever written: zeros throughout."""

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(batch, *shape, device=device, dtype=dtype)

        return cls(
            memory=zeros(slots, width),
            usage=zeros(slots),
            precedence=zeros(slots),
            link=zeros(slots, slots),
            read_weights=zeros(reads, slots),
            write_weights=zeros(slots),
        )


class DNCInterface(NamedTuple):
    """What a controller asks of the memory in one step (DNC, "Interface parameters").

    The last four are Csordas and Schmidhuber's; None leaves them out.

    Attributes:
        read_keys: what each head looks for.
        read_strengths: how sharply, >= 1.
        write_key: what the write looks for.
        write_strength: how sharply, >= 1.
        erase: how much of each number of a written slot goes, in [0, 1].
        write_vector: what is written.
        free_gates: how much each head lets go of what it read last, in [0, 1].
        allocation_gate: written to free slots (1) or to slots that match (0).
        write_gate: written (1) or not (0).
        read_modes: a distribution over backward, content and forward, per head.
        write_mask: which numbers of a word the write key is about, in [0, 1].
        read_masks: the same for each read key.
        forward_sharpness: exponent of the forward weights, >= 1.
        backward_sharpness: exponent of the backward weights, >= 1.
    """

    read_keys: Float[Tensor, "batch reads width"]
    read_strengths: Float[Tensor, "batch reads"]
    write_key: Float[Tensor, "batch width"]
    write_strength: Float[Tensor, " batch"]
    erase: Float[Tensor, "batch width"]
    write_vector: Float[Tensor, "batch width"]
    free_gates: Float[Tensor, "batch reads"]
    allocation_gate: Float[Tensor, " batch"]
    write_gate: Float[Tensor, " batch"]
    read_modes: Float[Tensor, "batch reads 3"]
    write_mask: Float[Tensor, "batch width"] | None = None
    read_masks: Float[Tensor, "batch reads width"] | None = None
    forward_sharpness: Float[Tensor, "batch reads"] | None = None
    backward_sharpness: Float[Tensor, "batch reads"] | None = None

    @staticmethod
    def size(width: int, reads: int) -> int:
        """Numbers in the paper's interface vector: W R + 3 W + 5 R + 3."""
        return width * reads + 3 * width + 5 * reads + 3

    @classmethod
    def parse(
        cls, vector: Float[Tensor, "batch interface"], width: int, reads: int
    ) -> DNCInterface:
        """Splits a controller's output in the paper's order and brings each part into its range."""
        sizes = [width * reads, reads, width, 1, width, width, reads, 1, 1, 3 * reads]
        keys, strengths, key, strength, erase, written, free, allocate, write, modes = vector.split(
            sizes, -1
        )
        return cls(
            read_keys=keys.unflatten(-1, (reads, width)),
            read_strengths=oneplus(strengths),
            write_key=key,
            write_strength=oneplus(strength[..., 0]),
            erase=erase.sigmoid(),
            write_vector=written,
            free_gates=free.sigmoid(),
            allocation_gate=allocate[..., 0].sigmoid(),
            write_gate=write[..., 0].sigmoid(),
            read_modes=modes.unflatten(-1, (reads, 3)).softmax(-1),
        )


def dnc_step(
    state: DNCState,
    interface: DNCInterface,
    guards: Guards = SAFE,
    *,
    deallocate: bool = False,
    usage_gradient: bool = False,
) -> tuple[DNCState, Float[Tensor, "batch reads width"]]:
    """One step: free, write, link, read.

    Args:
        state: from the step before.
        interface: what the controller asks for.
        guards: see `Guards`.
        deallocate: whether a slot that is freed loses its contents too (Csordas and Schmidhuber,
            section 3.2); in the paper it keeps them until something is written there.
        usage_gradient: whether the gradient flows from usage into the write before. It makes
            little difference, and both well-known implementations stop it.

    Returns:
        The state after the step, and the words read.
    """
    freed = retention(interface.free_gates, state.read_weights)
    written = state.write_weights if usage_gradient else state.write_weights.detach()
    usage = usage_after(state.usage, written, freed)

    mask = None if interface.write_mask is None else interface.write_mask.unsqueeze(1)
    match = content_weights(
        state.memory,
        interface.write_key.unsqueeze(1),
        interface.write_strength[:, None],
        mask,
        guards,
    )
    writing = write_weights(
        match.squeeze(1), allocation(usage, guards), interface.allocation_gate, interface.write_gate
    )
    memory = erase_and_add(
        state.memory * freed.unsqueeze(-1) if deallocate else state.memory,
        writing.unsqueeze(1),
        interface.erase.unsqueeze(1),
        interface.write_vector.unsqueeze(1),
    )
    link = link_after(state.link, state.precedence, writing)
    precedence = precedence_after(state.precedence, writing)

    forward = forward_weights(link, state.read_weights)
    backward = backward_weights(link, state.read_weights)
    if interface.forward_sharpness is not None:
        forward = sharpened(forward, interface.forward_sharpness)
    if interface.backward_sharpness is not None:
        backward = sharpened(backward, interface.backward_sharpness)
    content = content_weights(
        memory, interface.read_keys, interface.read_strengths, interface.read_masks, guards
    )
    reading = read_weights(backward, content, forward, interface.read_modes)
    return DNCState(memory, usage, precedence, link, reading, writing), reading @ memory


class SegmentState(NamedTuple):
    """What a memory remembers between segments: a `DNCState` without the last weights.

    Attributes:
        memory: one word a slot.
        usage: how occupied each slot is, in [0, 1], all writes counted.
        precedence: how much each slot was the last one written.
        link: how much slot i was written right after slot j.
    """

    memory: Float[Tensor, "batch slots width"]
    usage: Float[Tensor, "batch slots"]
    precedence: Float[Tensor, "batch slots"]
    link: Float[Tensor, "batch slots slots"]


class SegmentInterface(NamedTuple):
    """What is asked of the memory in one segment.

    Attributes:
        free_weights: where each free head reads.
        free_gates: how much of that it lets go, in [0, 1].
        write_keys: what each write looks for, in the memory before the segment.
        write_strengths: how sharply, >= 1.
        erase: how much of a written slot goes, in [0, 1]; one number a write, or one a column.
        write_vectors: what is written, in this order.
        allocation_gate: written to free slots (1) or to slots that match (0).
        write_gate: written (1) or not (0).
        read_keys: what each query looks for, after all writes.
        read_strengths: how sharply, >= 1.
        read_modes: a distribution over backward, content and forward, per query.
    """

    free_weights: Float[Tensor, "batch frees slots"]
    free_gates: Float[Tensor, "batch frees"]
    write_keys: Float[Tensor, "batch writes width"]
    write_strengths: Float[Tensor, "batch writes"]
    erase: Float[Tensor, "batch writes #width"]
    write_vectors: Float[Tensor, "batch writes width"]
    allocation_gate: Float[Tensor, "batch writes"]
    write_gate: Float[Tensor, "batch writes"]
    read_keys: Float[Tensor, "batch reads width"]
    read_strengths: Float[Tensor, "batch reads"]
    read_modes: Float[Tensor, "batch reads 3"]


class SegmentWeights(NamedTuple):
    """Where a segment wrote and read.

    Attributes:
        write_weights: of each write.
        read_weights: of each query.
    """

    write_weights: Float[Tensor, "batch writes slots"]
    read_weights: Float[Tensor, "batch reads slots"]


def segment_step(
    state: SegmentState, interface: SegmentInterface, guards: Guards = SAFE
) -> tuple[SegmentState, SegmentWeights, Float[Tensor, "batch reads width"]]:
    """One segment: free, K writes in order, then any number of reads.

    With one write, and the free heads where the read heads last were, the write is that of
    `dnc_step`. Reads start from what each query matches, not from where a head was: tokens that
    are read together have no read before them.

    Returns:
        The state after the segment, where it wrote and read, and the words read.
    """
    usage = state.usage * retention(interface.free_gates, interface.free_weights)
    match = content_weights(
        state.memory, interface.write_keys, interface.write_strengths, None, guards
    )
    link, precedence = state.link, state.precedence
    written = []
    for write in range(match.shape[1]):
        writing = write_weights(
            match[:, write],
            allocation(usage, guards),
            interface.allocation_gate[:, write],
            interface.write_gate[:, write],
        )
        link = link_after(link, precedence, writing)
        precedence = precedence_after(precedence, writing)
        usage = usage_after(usage, writing, torch.ones_like(usage))
        written.append(writing)
    writes = torch.stack(written, 1)
    memory = erase_and_add(state.memory, writes, interface.erase, interface.write_vectors)

    content = content_weights(memory, interface.read_keys, interface.read_strengths, None, guards)
    reading = read_weights(
        backward_weights(link, content),
        content,
        forward_weights(link, content),
        interface.read_modes,
    )
    state = SegmentState(memory, usage, precedence, link)
    return state, SegmentWeights(writes, reading), reading @ memory
