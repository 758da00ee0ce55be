"""`MemoryLayer`: beside one attention module of the backbone, it writes and reads the memory.

It hooks the attention module's input and changes no weight and no name of the backbone. The memory
arrives as the keyword argument `memory_pass` of the backbone's forward; without it the layer does
nothing at all. What was read goes on as the argument `memory_read` of the same call; `mixing.py`
mixes it in.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.attach.backbone import Backbone, StopBackbone
from memformer.attach.heads import ReleaseHeads
from memformer.attach.mixing import Read
from memformer.memory.segment import OPEN, MemoryPass

# memory is matched a little more sharply than the window: among many more tokens, that is better
KEY_STRENGTH = 1.2
# read modes start at 0.96 for content, 0.02 for each direction: enough for a gradient
CONTENT_MODE = 4.0


class Correction(nn.Module):
    """A trainable change of one projection, zero at the start: x W^T with W low-rank or full."""

    def __init__(self, inputs: int, outputs: int, rank: int | None, seed: int) -> None:
        super().__init__()
        if rank is None:
            self.full = nn.Parameter(torch.zeros(outputs, inputs))
        else:
            self.down = nn.Parameter(torch.empty(rank, inputs))
            self.up = nn.Parameter(torch.zeros(outputs, rank))
            # seeded, so that attaching twice gives one and the same model
            generator = torch.Generator().manual_seed(seed)
            nn.init.normal_(self.down, std=inputs**-0.5, generator=generator)
        self.rank = rank

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The change of the projection's output."""
        if self.rank is None:
            return x @ self.full.T.to(x.dtype)
        return (x @ self.down.T.to(x.dtype)) @ self.up.T.to(x.dtype)


class MemoryLayer(nn.Module):
    """Reads and writes at one decoder layer (MEMORY.md, section 2).

    | parameter | shape | starts at |
    |---|---|---|
    | query, key, value corrections | of the backbone's projections | 0: the backbone's own |
    | log_key_strength | heads | log 1.2: a little sharper than the backbone's own scale |
    | age_slope | heads | 0: all ages alike |
    | null_logit | heads | calibrated when the memory is attached |
    | read_modes (with links) | heads, 3 | 0, 4, 0: backward, content, forward before softmax |
    | write_gate (lowest layer only) | hidden + 1 | weight 0, bias 4: everything is written |
    | release (lowest layer only) | see `ReleaseHeads` | nothing is let go of |

    Args:
        backbone: how to reach the projections.
        layer: number of the decoder layer.
        index: place among the memory layers.
        rank: of the corrections; None: full matrices.
        key_positions: `"passage"` or `"none"`.
        read_distance: position of every query; stored keys end at position 0.
        focus: see `memory.read.focused`.
        links: read along the order of writing too.
        release: which of the heads "erase" and "free" it has.
    """

    def __init__(
        self,
        backbone: Backbone,
        layer: int,
        index: int,
        *,
        rank: int | None,
        key_positions: str,
        read_distance: int,
        focus: float,
        links: bool,
        release: tuple[str, ...],
    ) -> None:
        super().__init__()
        self.layer = layer
        self.index = index
        self.key_positions = key_positions
        self.read_distance = read_distance
        self.focus = focus
        self._backbone = [backbone]  # in a list: not a submodule, its weights are not ours
        heads, kv_heads, width = backbone.heads, backbone.kv_heads, backbone.width
        hidden = backbone.hidden
        self.query_correction = Correction(hidden, heads * width, rank, layer)
        self.key_correction = Correction(hidden, kv_heads * width, rank, layer)
        self.value_correction = Correction(hidden, kv_heads * width, rank, layer)
        self.log_key_strength = nn.Parameter(torch.full((heads,), math.log(KEY_STRENGTH)))
        self.age_slope = nn.Parameter(torch.zeros(heads))
        self.null_logit = nn.Parameter(torch.zeros(heads))
        if links:
            self.read_modes = nn.Parameter(torch.tensor([0.0, CONTENT_MODE, 0.0]).repeat(heads, 1))
        self.links = links
        self.release: ReleaseHeads | None = None
        if index == 0:
            self.write_gate_weight = nn.Parameter(torch.zeros(hidden))
            # no scalar: FSDP can not shard one
            self.write_gate_bias = nn.Parameter(torch.tensor([OPEN]))
            if release:
                self.release = ReleaseHeads(hidden, release)

    def before_attention(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Hook on the attention module: writes, reads, and hands on what was read."""
        memory_pass: MemoryPass | None = kwargs.pop("memory_pass", None)
        if memory_pass is not None:
            x = args[0] if args else kwargs["hidden_states"]
            read = self.visit(attention, x, memory_pass)
            if memory_pass.stop_after == self.index:
                raise StopBackbone
            if read is not None:
                kwargs["memory_read"] = Read(*read)
        return args, kwargs

    def visit(
        self, attention: nn.Module, x: Float[Tensor, "entries tokens hidden"], memory: MemoryPass
    ) -> tuple[Tensor, Tensor] | None:
        """Writes what the tokens are, then reads what earlier segments left for them."""
        backbone = self._backbone[0]
        corrections = (self.query_correction(x), self.key_correction(x), self.value_correction(x))
        queries, keys, values = backbone.project(attention, x, corrections)
        if memory.writes:
            if self.index == 0:
                # first of all: what is not written has no place in the order of writing
                with torch.autocast(x.device.type, enabled=False):
                    gate = self.write_gate_weight.float(), self.write_gate_bias.float()
                    memory.gate(x.float() @ gate[0] + gate[1])
                if self.release is not None:
                    self.release(x, memory)
            positions = x.new_zeros(1, 1, dtype=torch.long)
            if self.key_positions == "passage":
                positions = memory.places()
            memory.write(self.index, backbone.rotate(self.layer, keys, positions), values)
        far = torch.tensor([[self.read_distance]], device=x.device)
        queries = backbone.rotate(self.layer, queries, far).float()
        strength = self.log_key_strength.float().exp() * backbone.scale(self.layer)
        with torch.autocast(x.device.type, enabled=False):
            return memory.read(
                self.index,
                queries * strength[:, None],
                self.age_slope.float(),
                self.null_logit.float(),
                backbone.softcap(self.layer),
                self.focus,
                self.read_modes.float().softmax(-1) if self.links else None,
            )


def drop_memory_argument(
    _: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hook for attention modules without a memory: their kernels must not see the argument."""
    kwargs.pop("memory_pass", None)
    return args, kwargs
