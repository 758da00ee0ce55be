"""`NTM`: the Neural Turing Machine (A. Graves et al. 2014)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.classic.addressing import (
    content_weights,
    erase_and_add,
    interpolated,
    oneplus,
    sharpened,
    shifted,
)
from memformer.classic.controller import (
    CLIP,
    Controller,
    ControllerState,
    Kind,
    check_inputs,
    check_sizes,
    unroll,
)

# the content of every slot at the start; M. Collier and J. Beel (Implementing Neural Turing
# Machines, 2018) found that a small constant makes training fast and steady
START = 1e-6
# offsets -1, 0 and 1, as in the paper
OFFSETS = 3


class NTMState(NamedTuple):
    """The state of an `NTM` between two steps.

    Attributes:
        controller: the state of the controller.
        memory: one word a slot.
        read_weights: the place of each read head.
        write_weights: the place of each write head.
        words: the words that the last step read.
    """

    controller: ControllerState
    memory: Float[Tensor, "batch slots width"]
    read_weights: Float[Tensor, "batch reads slots"]
    write_weights: Float[Tensor, "batch writes slots"]
    words: Float[Tensor, "batch reads width"]


class NTM(nn.Module):
    """A Neural Turing Machine. It reads, then writes; all heads start at the first slot.

    Args:
        input_size: numbers in one input.
        output_size: numbers in one output.
        slots: N.
        width: W, numbers in one word.
        reads: read heads.
        writes: write heads, which write one after the other.
        hidden: size of the controller.
        controller: "lstm" or "feedforward".

    Raises:
        ValueError: a size below one, or an unknown controller.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 64,
        width: int = 16,
        reads: int = 1,
        writes: int = 1,
        hidden: int = 100,
        controller: Kind = "lstm",
    ) -> None:
        super().__init__()
        check_sizes(
            input_size=input_size,
            output_size=output_size,
            slots=slots,
            width=width,
            reads=reads,
            writes=writes,
            hidden=hidden,
        )
        self.input_size, self.slots, self.width = input_size, slots, width
        self.reads, self.writes = reads, writes
        self.controller = Controller(input_size + reads * width, hidden, controller)
        # key, strength, gate, shift and sharpness of every head; erase and add of the write heads
        self.head_sizes = [width, 1, 1, OFFSETS, 1]
        self.heads = nn.Linear(hidden, (reads + writes) * sum(self.head_sizes))
        self.edits = nn.Linear(hidden, writes * 2 * width)
        self.output = nn.Linear(hidden + reads * width, output_size)

    def start(self, batch: int) -> NTMState:
        """The state before the first step."""
        like = self.output.weight
        first = like.new_zeros(batch, self.reads + self.writes, self.slots)
        first[..., 0] = 1.0
        return NTMState(
            controller=self.controller.start(batch, like),
            memory=like.new_full((batch, self.slots, self.width), START),
            read_weights=first[:, : self.reads],
            write_weights=first[:, self.reads :],
            words=like.new_zeros(batch, self.reads, self.width),
        )

    def step(
        self, inputs: Float[Tensor, "batch input"], state: NTMState
    ) -> tuple[Float[Tensor, "batch output"], NTMState]:
        """One step: moves all heads by the content of the memory, reads, then writes."""
        seen = torch.cat([inputs, state.words.flatten(1)], -1)
        hidden, controller = self.controller(seen, state.controller)
        heads = self.heads(hidden).clamp(-CLIP, CLIP).unflatten(-1, (self.reads + self.writes, -1))
        key, strength, gate, shift, sharpness = heads.split(self.head_sizes, -1)
        strength = nn.functional.softplus(strength[..., 0])
        content = content_weights(state.memory, key, strength)
        before = torch.cat([state.read_weights, state.write_weights], 1)
        gated = interpolated(content, before, gate[..., 0].sigmoid())
        weights = sharpened(shifted(gated, shift.softmax(-1)), oneplus(sharpness[..., 0]))
        reading, writing = weights.split([self.reads, self.writes], 1)
        words = reading @ state.memory
        edits = self.edits(hidden).clamp(-CLIP, CLIP).unflatten(-1, (self.writes, 2, -1))
        memory = erase_and_add(state.memory, writing, edits[:, :, 0].sigmoid(), edits[:, :, 1])
        output = self.output(torch.cat([hidden, words.flatten(1)], -1))
        return output, NTMState(controller, memory, reading, writing, words)

    @staticmethod
    def weights(
        state: NTMState,
    ) -> tuple[Float[Tensor, "batch reads slots"], Float[Tensor, "batch writes slots"]]:
        """The places that the last step read and wrote."""
        return state.read_weights, state.write_weights

    def forward(
        self, inputs: Float[Tensor, "batch steps input"], state: NTMState | None = None
    ) -> tuple[Float[Tensor, "batch steps output"], NTMState]:
        """All steps of a batch of sequences; the returned state continues them."""
        check_inputs(inputs, self.input_size)
        return unroll(self.step, inputs, self.start(len(inputs)) if state is None else state)
