"""`DNC`: a controller in front of the Differentiable Neural Computer (A. Graves et al. 2016)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.classic.controller import (
    CLIP,
    Controller,
    ControllerState,
    Kind,
    check_inputs,
    check_sizes,
    unroll,
)
from memformer.classic.step import DNCInterface, DNCState, dnc_step


class DNCMachineState(NamedTuple):
    """The state of a `DNC` between two steps.

    Attributes:
        controller: the state of the controller.
        memory: the memory, with the places that the last step read and wrote.
        words: the words that the last step read.
    """

    controller: ControllerState
    memory: DNCState
    words: Float[Tensor, "batch reads width"]


class DNC(nn.Module):
    """A Differentiable Neural Computer.

    Args:
        input_size: numbers in one input.
        output_size: numbers in one output.
        slots: N.
        width: W, numbers in one word.
        reads: R, read heads.
        writes: K, writes in one step, one after the other; 1 in the paper.
        hidden: size of the controller.
        controller: "lstm" or "feedforward".
        links: whether heads read along temporal links too; without links they read by content only,
            as in ADNC.
        kept_links: the number of links that a slot keeps, the largest ones; None: all, as a matrix
            of N x N.
        masks: whether a key is about a part of the word (Csordas and Schmidhuber 2019).
        deallocate: whether freed slots lose their contents (Csordas and Schmidhuber 2019).
        sharpness: whether forward and backward reads are sharpened (Csordas and Schmidhuber 2019).
        strength: a number added to the strengths of reads at the start. With 0 an untrained read
            spreads over all slots; with about 8 it finds the best match.
        half_life: steps after which the usage of a slot without reads has halved, so that a full
            memory evicts; None: a full memory accepts no more writes, as in the paper.

    Raises:
        ValueError: a size below one, more links than slots, a half-life that is not positive, or an
            unknown controller.

    Example:
        >>> machine = DNC(input_size=3, output_size=2, slots=8, width=4)
        >>> outputs, state = machine(torch.zeros(5, 7, 3))  # 5 sequences of 7 steps
        >>> outputs.shape
        torch.Size([5, 7, 2])
        >>> outputs, state = machine(torch.zeros(5, 1, 3), state)  # and an eighth
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
        links: bool = True,
        kept_links: int | None = None,
        masks: bool = False,
        deallocate: bool = False,
        sharpness: bool = False,
        strength: float = 0.0,
        half_life: float | None = None,
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
        if kept_links is not None and not 1 <= kept_links <= slots:
            raise ValueError(
                f"kept_links must be between 1 and the number of slots, {slots}; got {kept_links}."
            )
        if half_life is not None and half_life <= 0:
            raise ValueError(f"half_life must be above 0; got {half_life}.")
        self.input_size, self.slots, self.width = input_size, slots, width
        self.reads, self.writes, self.links = reads, writes, links
        self.masks, self.sharpness = masks, sharpness
        self.deallocate, self.half_life = deallocate, half_life
        self.kept_links = kept_links
        self.controller = Controller(input_size + reads * width, hidden, controller)
        sizes = DNCInterface.sizes(width, reads, writes, masks, sharpness)
        self.interface = nn.Linear(hidden, sum(sizes))
        self.output = nn.Linear(hidden + reads * width, output_size)
        with torch.no_grad():
            self.interface.bias[reads * width : reads * width + reads] += strength

    def start(self, batch: int) -> DNCMachineState:
        """The state before the first step."""
        like = self.output.weight
        memory = DNCState.empty(
            batch,
            self.slots,
            self.width,
            self.reads,
            self.writes,
            links=self.links,
            kept_links=self.kept_links,
            like=like,
        )
        words = like.new_zeros(batch, self.reads, self.width)
        return DNCMachineState(self.controller.start(batch, like), memory, words)

    def step(
        self, inputs: Float[Tensor, "batch input"], state: DNCMachineState
    ) -> tuple[Float[Tensor, "batch output"], DNCMachineState]:
        """One step: the controller takes the input and the last words, and steers the memory."""
        seen = torch.cat([inputs, state.words.flatten(1)], -1)
        hidden, controller = self.controller(seen, state.controller)
        vector = self.interface(hidden).clamp(-CLIP, CLIP)
        interface = DNCInterface.parse(
            vector, self.width, self.reads, self.writes, self.masks, self.sharpness
        )
        if not self.links:
            interface = interface._replace(read_modes=None)
        memory, words = dnc_step(
            state.memory, interface, deallocate=self.deallocate, half_life=self.half_life
        )
        output = self.output(torch.cat([hidden, words.flatten(1)], -1))
        return output, DNCMachineState(controller, memory, words)

    @staticmethod
    def weights(
        state: DNCMachineState,
    ) -> tuple[Float[Tensor, "batch reads slots"], Float[Tensor, "batch writes slots"]]:
        """The places that the last step read and wrote."""
        return state.memory.read_weights, state.memory.write_weights

    def forward(
        self, inputs: Float[Tensor, "batch steps input"], state: DNCMachineState | None = None
    ) -> tuple[Float[Tensor, "batch steps output"], DNCMachineState]:
        """All steps of a batch of sequences; the returned state continues them."""
        check_inputs(inputs, self.input_size)
        return unroll(self.step, inputs, self.start(len(inputs)) if state is None else state)
