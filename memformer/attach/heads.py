"""`TableHeads`: which tokens enter the slot table, and which slots new text makes worthless.

The *write gate* decides what is written, once for all memory layers. The *release heads* are the
DNC's erase vector and free gates, addressed by content. The erase head weakens older text that a
token replaces ("Anna lives in Rome" weakens the Paris of "Anna lives in Paris"). The free head
weakens older text that is done with, whatever that is: it learns its own keys. Both lower a slot's
strength, so that it is read less, and its usage, so that it is evicted first. `memory/gate.py`
applies what these heads ask for.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.memory.chunk import Chunk
from memformer.memory.gate import OPEN, Release

# numbers in the address of a slot
ADDRESS_WIDTH = 32
# gates start at sigmoid(-6) = 0.002: nothing is let go of until training asks for it
GATE_BIAS = -6.0
SHARPNESS, THRESHOLD = 20.0, 0.8


class Decisions(NamedTuple):
    """What the heads make of the lowest memory layer's input; see `MemoryPass.decide`."""

    gate_logits: Float[Tensor, "entries tokens"]
    addresses: Float[Tensor, "entries tokens address"] | None
    releases: list[Release]


class ReleaseHead(nn.Module):
    """One head: what it looks for, and how much of it each token lets go of.

    Args:
        hidden: width of the backbone.
        keys: where the keys of its own start; None: it looks for what the tokens are about.
    """

    def __init__(self, hidden: int, keys: Float[Tensor, "address inputs"] | None) -> None:
        super().__init__()
        if keys is not None:
            self.key_weight = nn.Parameter(keys.clone())
            self.key_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        self.has_keys = keys is not None
        self.gate_weight = nn.Parameter(torch.zeros(hidden))
        # of one number each, as FSDP can't shard scalars
        self.gate_bias = nn.Parameter(torch.tensor([GATE_BIAS]))
        self.log_sharpness = nn.Parameter(torch.tensor([math.log(SHARPNESS)]))
        self.threshold = nn.Parameter(torch.tensor([THRESHOLD]))

    def forward(
        self,
        x: Float[Tensor, "entries tokens hidden"],
        near: Float[Tensor, "entries tokens inputs"],
        addresses: Float[Tensor, "entries tokens address"],
    ) -> Release:
        """What every token asks for."""
        keys = addresses
        if self.has_keys:
            keys = nn.functional.linear(near, self.key_weight.float(), self.key_bias.float())
        gates = (x @ self.gate_weight.float() + self.gate_bias.float()).sigmoid()
        return Release(keys, gates, self.log_sharpness.float().exp()[0], self.threshold.float()[0])


class ReleaseHeads(nn.Module):
    """Makes addresses, keys and gates from the lowest memory layer's input.

    | parameter | shape | starts at |
    |---|---|---|
    | address_weight, address_bias | address width, 2 hidden + 1 | random |
    | heads.free.key_weight, .key_bias | as address | the address |
    | heads.*.gate_weight, .gate_bias | hidden, 1 | 0, -6: lets go of nothing |
    | heads.*.log_sharpness, .threshold | 1, 1 | log 20, 0.8 |

    Args:
        hidden: width of the backbone.
        heads: which of "erase" and "free" there are.
        reach: tokens, up to and with each one, that say what it is about.
    """

    def __init__(self, hidden: int, heads: tuple[str, ...], reach: int = 6) -> None:
        super().__init__()
        # seeded, so that attaching twice gives one and the same model
        generator = torch.Generator().manual_seed(hidden)
        weight = torch.empty(ADDRESS_WIDTH, 2 * hidden)
        nn.init.normal_(weight, std=(2 * hidden) ** -0.5, generator=generator)
        self.address_weight = nn.Parameter(weight)
        self.address_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        self.reach = reach
        self.heads = nn.ModuleDict(
            {name: ReleaseHead(hidden, weight if name == "free" else None) for name in heads}
        )

    def head(self, name: str) -> ReleaseHead:
        """The head "erase" or "free"."""
        return cast(ReleaseHead, self.heads[name])

    def forward(
        self, x: Float[Tensor, "entries tokens hidden"], chunk: Chunk
    ) -> tuple[Float[Tensor, "entries tokens address"], list[Release]]:
        """What the tokens are about, and what each head asks for."""
        x = x.float()
        near = torch.cat([x, chunk.recent(x, self.reach)], -1)
        addresses = nn.functional.linear(
            near, self.address_weight.float(), self.address_bias.float()
        )
        return addresses, [head(x, near, addresses) for head in self.heads.values()]


class TableHeads(nn.Module):
    """The heads that decide about slots, which all memory layers share.

    | parameter | shape | starts at |
    |---|---|---|
    | write_gate_weight, write_gate_bias | hidden, 1 | 0, 4: everything is written |
    | release | see `ReleaseHeads` | nothing is let go of |

    Args:
        hidden: width of the backbone.
        release: which of the heads "erase" and "free" there are.
        address_reach: see `MemoryConfig`.
    """

    def __init__(self, hidden: int, release: tuple[str, ...], address_reach: int) -> None:
        super().__init__()
        self.write_gate_weight = nn.Parameter(torch.zeros(hidden))
        # no scalar: FSDP can not shard one
        self.write_gate_bias = nn.Parameter(torch.tensor([OPEN]))
        self.release = ReleaseHeads(hidden, release, address_reach) if release else None

    def forward(self, x: Float[Tensor, "entries tokens hidden"], chunk: Chunk) -> Decisions:
        """Decides about every token of a chunk, from the lowest memory layer's input."""
        with torch.autocast(x.device.type, enabled=False):
            weight, bias = self.write_gate_weight.float(), self.write_gate_bias.float()
            logits = x.float() @ weight + bias
            if self.release is None:
                return Decisions(logits, None, [])
            return Decisions(logits, *self.release(x, chunk))
