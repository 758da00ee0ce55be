"""`ReleaseHeads`: new text lets go of slots that it makes worthless.

The DNC's erase vector and free gates, addressed by content. The *erase head* weakens what a token
writes anew ("Anna lives in Rome" weakens the Paris of "Anna lives in Paris"); the *free head* what
a token says is done with, whatever that is: it learns its own keys. Both lower a slot's strength,
so that it is read less, and its usage, so that it is evicted first. The matching itself is in
`memory/segment.py`.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.memory.segment import MemoryPass, Release

# numbers in the address of a slot
ADDRESS_WIDTH = 32
# gates start at sigmoid(-6) = 0.002: nothing is let go of until training asks for it
GATE_BIAS = -6.0
SHARPNESS, THRESHOLD = 20.0, 0.8


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
    """

    def __init__(self, hidden: int, heads: tuple[str, ...]) -> None:
        super().__init__()
        # seeded, so that attaching twice gives one and the same model
        generator = torch.Generator().manual_seed(hidden)
        weight = torch.empty(ADDRESS_WIDTH, 2 * hidden)
        nn.init.normal_(weight, std=(2 * hidden) ** -0.5, generator=generator)
        self.address_weight = nn.Parameter(weight)
        self.address_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        self.heads = nn.ModuleDict(
            {name: ReleaseHead(hidden, weight if name == "free" else None) for name in heads}
        )

    def head(self, name: str) -> ReleaseHead:
        """The head "erase" or "free"."""
        return cast(ReleaseHead, self.heads[name])

    def forward(self, x: Float[Tensor, "entries tokens hidden"], memory: MemoryPass) -> None:
        """Says what the tokens are about, and lets go of what they replace or have done with."""
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            near = torch.cat([x, memory.recent(x)], -1)
            addresses = nn.functional.linear(
                near, self.address_weight.float(), self.address_bias.float()
            )
            memory.let_go(addresses, [head(x, near, addresses) for head in self.heads.values()])
