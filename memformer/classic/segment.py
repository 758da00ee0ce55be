"""`SegmentDNC`: a DNC that takes a segment of tokens in one step, as the language models here do.

The writes and keys of a token depend on that token alone. Only the memory can relate two tokens,
for example by their order.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.classic.addressing import oneplus
from memformer.classic.controller import check_sizes, unroll
from memformer.classic.step import DNCInterface, DNCState, dnc_step


class SegmentDNC(nn.Module):
    """A DNC without a controller: K writes and K x R reads a segment, made by linear maps.

    All tokens of a segment are written, in order, to the least used slots. Then each token reads,
    starting from the slots that match its key (`dnc_step` with anchored reads).

    Args:
        input_size: numbers in one token.
        output_size: numbers in one output.
        slots: N.
        width: W, numbers in one word.
        reads: R, reads of one token.
        links: whether tokens read along temporal links too; without links they read by content.

    Raises:
        ValueError: a size below one.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 64,
        width: int = 16,
        reads: int = 1,
        links: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(
            input_size=input_size, output_size=output_size, slots=slots, width=width, reads=reads
        )
        self.input_size, self.slots, self.width = input_size, slots, width
        self.reads, self.links = reads, links
        # write key, strength, erase, write vector, allocation gate, write gate
        self.write_sizes = [width, 1, width, width, 1, 1]
        self.write = nn.Linear(input_size, sum(self.write_sizes))
        # read keys, strengths and modes
        self.read_sizes = [reads * width, reads, reads * 3]
        self.read = nn.Linear(input_size, sum(self.read_sizes))
        self.output = nn.Linear(reads * width, output_size)
        self._warm_start()

    def _warm_start(self) -> None:
        """Sets parameters with which the memory works before any training.

        | parameter | starts as |
        |---|---|
        | write vector, write key | random |
        | read keys | the map of the write vector: a read finds the word of the same token |
        | read strengths | 11: sharp |
        | allocation gate | 0.98: into free slots |
        """
        width = self.width
        vector = slice(sum(self.write_sizes[:3]), sum(self.write_sizes[:4]))
        with torch.no_grad():
            self.read.weight[: self.reads * width] = self.write.weight[vector].repeat(self.reads, 1)
            self.read.bias[: self.reads * width] = self.write.bias[vector].repeat(self.reads)
            self.read.bias[self.reads * width : -3 * self.reads] = 10.0
            self.write.bias[-2] = 4.0

    def start(self, batch: int) -> DNCState:
        """The memory before the first segment."""
        return DNCState.empty(
            batch, self.slots, self.width, 0, 0, links=self.links, like=self.output.weight
        )

    def step(
        self, inputs: Float[Tensor, "batch tokens input"], state: DNCState
    ) -> tuple[Float[Tensor, "batch tokens output"], DNCState]:
        """One segment."""
        batch, tokens, _ = inputs.shape
        parts = self.write(inputs).split(self.write_sizes, -1)
        keys, strengths, modes = self.read(inputs).split(self.read_sizes, -1)
        flat = (batch, tokens * self.reads)
        interface = DNCInterface(
            read_keys=keys.reshape(*flat, self.width),
            read_strengths=oneplus(strengths).reshape(flat),
            write_keys=parts[0],
            write_strengths=oneplus(parts[1][..., 0]),
            erase=parts[2].sigmoid(),
            write_vectors=parts[3],
            free_gates=inputs.new_zeros(batch, 0),
            allocation_gates=parts[4][..., 0].sigmoid(),
            write_gates=parts[5][..., 0].sigmoid(),
            read_modes=modes.reshape(*flat, 3).softmax(-1) if self.links else None,
            free_weights=inputs.new_zeros(batch, 0, self.slots),
        )
        state, words = dnc_step(state, interface, anchored=True)
        return self.output(words.reshape(batch, tokens, self.reads * self.width)), state

    @staticmethod
    def weights(
        state: DNCState,
    ) -> tuple[Float[Tensor, "batch reads slots"], Float[Tensor, "batch writes slots"]]:
        """The places that the last segment read, token after token, and wrote."""
        return state.read_weights, state.write_weights

    def forward(
        self,
        inputs: Float[Tensor, "batch segments tokens input"],
        state: DNCState | None = None,
    ) -> tuple[Float[Tensor, "batch segments tokens output"], DNCState]:
        """All segments of a batch of texts; the returned state continues them.

        Raises:
            ValueError: `inputs` has another shape.
        """
        if inputs.dim() != 4 or inputs.shape[-1] != self.input_size:
            raise ValueError(
                f"inputs must have the shape [batch, segments, tokens, {self.input_size}]; "
                f"got {list(inputs.shape)}."
            )
        return unroll(self.step, inputs, self.start(len(inputs)) if state is None else state)
