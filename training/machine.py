"""What training asks of a machine; the classes of `memformer.classic` have it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn


class Machine(Protocol):
    """A module whose state is passed in and returned."""

    slots: int

    def start(self, batch: int) -> Any:
        """The state before anything was seen."""
        ...

    def step(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        """One step of a batch."""
        ...

    def __call__(self, inputs: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """All steps of a batch."""
        ...

    def weights(self, state: Any) -> tuple[Tensor, Tensor]:
        """Where the last step read and wrote."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """What is trained."""
        ...
