"""`ReleaseHeads`: new text lets go of slots that it makes worthless.

The DNC's erase vector and free gates, addressed by content. The *erase head* weakens what a token
writes anew ("Anna lives in Rome" weakens the Paris of "Anna lives in Paris"); the *free head* what
a token says is done with, whatever that is: it learns its own keys. Both lower a slot's strength,
so that it is read less, and its usage, so that it is evicted first. The matching itself is in
`memory/segment.py`.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer.memory.segment import MemoryPass, Release

# numbers in the address of a slot
ADDRESS_WIDTH = 32
# gates start at sigmoid(-6) = 0.002: nothing is let go of until training asks for it
GATE_BIAS = -6.0
SHARPNESS, THRESHOLD = 20.0, 0.8


class ReleaseHeads(nn.Module):
    """Makes addresses, keys and gates from the lowest memory layer's input.

    | parameter | shape | starts at |
    |---|---|---|
    | address | address width, 2 hidden + 1 | random |
    | key, of the free head | as address | the address |
    | gate_weight, gate_bias | a head: hidden, 1 | 0, -6: lets go of nothing |
    | log_sharpness, threshold | a head: 1, 1 | log 20, 0.8 |

    Args:
        hidden: width of the backbone.
        heads: which of "erase" and "free" there are.
    """

    def __init__(self, hidden: int, heads: tuple[str, ...]) -> None:
        super().__init__()
        self.heads = heads
        # seeded, so that attaching twice gives one and the same model
        generator = torch.Generator().manual_seed(hidden)
        weight = torch.empty(ADDRESS_WIDTH, 2 * hidden)
        nn.init.normal_(weight, std=(2 * hidden) ** -0.5, generator=generator)
        self.address_weight = nn.Parameter(weight)
        self.address_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        if "free" in heads:
            self.key_weight = nn.Parameter(weight.clone())
            self.key_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        self.gate_weight = nn.Parameter(torch.zeros(len(heads), hidden))
        self.gate_bias = nn.Parameter(torch.full((len(heads),), GATE_BIAS))
        self.log_sharpness = nn.Parameter(torch.full((len(heads),), math.log(SHARPNESS)))
        self.threshold = nn.Parameter(torch.full((len(heads),), THRESHOLD))

    def forward(self, x: Float[Tensor, "entries tokens hidden"], memory: MemoryPass) -> None:
        """Says what the tokens are about, and lets go of what they replace or have done with."""
        x = x.float()
        with torch.autocast(x.device.type, enabled=False):
            near = torch.cat([x, memory.recent(x)], -1)
            addresses = nn.functional.linear(
                near, self.address_weight.float(), self.address_bias.float()
            )
            gates = nn.functional.linear(x, self.gate_weight.float(), self.gate_bias.float())
            asked = []
            for number, head in enumerate(self.heads):
                keys = addresses
                if head == "free":
                    keys = nn.functional.linear(
                        near, self.key_weight.float(), self.key_bias.float()
                    )
                asked.append(
                    Release(
                        keys,
                        gates[..., number].sigmoid(),
                        self.log_sharpness[number].float().exp(),
                        self.threshold[number].float(),
                    )
                )
            memory.let_go(addresses, asked)
