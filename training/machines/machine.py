"""The interface of a machine, and the machine without a memory to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


class Machine(Protocol):
    """A module whose state is passed in and returned."""

    def __call__(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Runs all steps of a batch."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trained weights."""
        ...


@runtime_checkable
class MemoryMachine(Machine, Protocol):
    """A machine of `memformer.classic`."""

    slots: int

    def start(self, batch: int) -> Any:
        """The state before the first step."""
        ...

    def step(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Runs one step of a batch."""
        ...

    def weights(self, state: Any) -> tuple[Tensor, Tensor]:
        """The read weights and the write weights of the last step."""
        ...


class LSTM(nn.Module):
    """The baseline, which remembers nothing but its own state.

    Args:
        input_size: numbers in one input.
        output_size: numbers in one output.
        hidden: size of the state; chosen to give as many parameters as the machine that is compared
            with.
    """

    def __init__(self, input_size: int, output_size: int, *, hidden: int = 100) -> None:
        super().__init__()
        self.lstm = nn.LSTM(input_size, hidden, batch_first=True)
        self.output = nn.Linear(hidden, output_size)

    def forward(
        self, inputs: Tensor, state: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Runs all steps of a batch of sequences; pass the state on to continue them."""
        hidden, state = self.lstm(inputs, state)
        return self.output(hidden), state
