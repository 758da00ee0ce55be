"""The controller in front of a memory: an LSTM, or one layer without a state of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

Kind = Literal["lstm", "feedforward"]
# bound on the outputs of a controller, as in DeepMind's DNC: one bad step can't saturate every gate
CLIP = 20.0

ControllerState = tuple[Tensor, ...]
State = TypeVar("State")


@runtime_checkable
class InPlace(Protocol):
    """A part of a state that changes in place."""

    def detach(self) -> None:
        """Ends the reach of the gradient."""
        ...


class Controller(nn.Module):
    """One step of a controller.

    Args:
        input_size: the number of inputs in one step.
        hidden: the number of outputs.
        kind: "lstm" has a state of its own; a "feedforward" controller must use the memory for
            everything.

    Raises:
        ValueError: `kind` is neither.
    """

    def __init__(self, input_size: int, hidden: int, kind: Kind = "lstm") -> None:
        super().__init__()
        if kind not in ("lstm", "feedforward"):
            raise ValueError(f"controller must be 'lstm' or 'feedforward'; got {kind!r}.")
        self.hidden = hidden
        self.cell = nn.LSTMCell(input_size, hidden) if kind == "lstm" else None
        self.layer = nn.Linear(input_size, hidden) if kind == "feedforward" else None

    def start(self, batch: int, like: Tensor) -> ControllerState:
        """The state before the first step."""
        if self.cell is None:
            return ()
        zeros = like.new_zeros(batch, self.hidden)
        return zeros, zeros

    def forward(
        self, inputs: Float[Tensor, "batch input"], state: ControllerState
    ) -> tuple[Float[Tensor, "batch hidden"], ControllerState]:
        """One step."""
        if self.cell is not None:
            hidden, cell = self.cell(inputs, state)
            return hidden.clamp(-CLIP, CLIP), (hidden, cell.clamp(-CLIP, CLIP))
        assert self.layer is not None
        return torch.relu(self.layer(inputs)).clamp_max(CLIP), ()


def detached(state: Any) -> Any:
    """The state of a machine without its gradient, for the next part of a long sequence.

    The memory of a `SAM` changes in place, so its old state loses the gradient too.
    """
    if isinstance(state, Tensor):
        return state.detach()
    if isinstance(state, tuple):
        parts = [detached(part) for part in state]
        # the constructor of a named tuple takes its parts one by one
        return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)
    if isinstance(state, InPlace):
        state.detach()
    return state


def unroll(
    step: Callable[[Tensor, State], tuple[Tensor, State]],
    inputs: Float[Tensor, "batch steps ..."],
    state: State,
) -> tuple[Float[Tensor, "batch steps ..."], State]:
    """All steps of a batch of sequences, one after the other, and the state after the last."""
    outputs = []
    # contiguous steps, so that torch compiles a step once for sequences of any length
    for one in inputs.transpose(0, 1).contiguous().unbind(0):
        output, state = step(one, state)
        outputs.append(output)
    return torch.stack(outputs, 1), state


def check_inputs(inputs: Tensor, input_size: int) -> None:
    """Raises ValueError unless `inputs` is a batch of sequences of the right width."""
    if inputs.dim() != 3 or inputs.shape[-1] != input_size:
        raise ValueError(
            f"inputs must have the shape [batch, steps, {input_size}]; got {list(inputs.shape)}."
        )


def check_sizes(**sizes: int) -> None:
    """Raises ValueError for a size below one."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1; got {size}.")
