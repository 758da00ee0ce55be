"""`TableHeads`: the heads that choose the tokens to write and the older slots to weaken.

The *write gate* decides which tokens are written, once for all memory layers. The *release heads*
are the DNC's erase vector and free gates, addressed by content. The erase head weakens older text
that a token replaces ("Anna lives in Rome" weakens the Paris of "Anna lives in Paris"). The free
head weakens older text that is no longer needed; it learns its own keys. Both lower a slot's
strength, so that heads read the slot less, and its usage, so that the slot is evicted first.
`memory/gate.py` applies the decisions of these heads.
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
# gates start at sigmoid(-6) = 0.002: before training, no slot is let go
GATE_BIAS = -6.0
SHARPNESS, THRESHOLD = 20.0, 0.8


class Decisions(NamedTuple):
    """The decisions about every token of a pass; `MemoryPass.decide` takes them."""

    gate_logits: Float[Tensor, "entries tokens"]
    addresses: Float[Tensor, "entries tokens address"] | None
    releases: list[Release]


class ReleaseHead(nn.Module):
    """One release head: for every token a key, and a gate for letting go of slots that match it.

    Args:
        hidden: width of the backbone.
        keys: where the head's own keys start; None: the addresses of the tokens are the keys.
    """

    def __init__(self, hidden: int, keys: Float[Tensor, "address inputs"] | None) -> None:
        super().__init__()
        if keys is not None:
            self.key_weight = nn.Parameter(keys.clone())
            self.key_bias = nn.Parameter(torch.zeros(ADDRESS_WIDTH))
        self.has_keys = keys is not None
        self.gate_weight = nn.Parameter(torch.zeros(hidden))
        # tensors of one number each, because FSDP can't shard scalars
        self.gate_bias = nn.Parameter(torch.tensor([GATE_BIAS]))
        self.log_sharpness = nn.Parameter(torch.tensor([math.log(SHARPNESS)]))
        self.threshold = nn.Parameter(torch.tensor([THRESHOLD]))

    def forward(
        self,
        x: Float[Tensor, "entries tokens hidden"],
        near: Float[Tensor, "entries tokens inputs"],
        addresses: Float[Tensor, "entries tokens address"],
    ) -> Release:
        """The key and the gate of every token."""
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
    | heads.*.gate_weight, .gate_bias | hidden, 1 | 0, -6: closed |
    | heads.*.log_sharpness, .threshold | 1, 1 | log 20, 0.8 |

    Args:
        hidden: width of the backbone.
        heads: the heads to make, of "erase" and "free".
        reach: number of tokens in an address: the token and the tokens just before it.
    """

    def __init__(self, hidden: int, heads: tuple[str, ...], reach: int) -> None:
        super().__init__()
        # seeded, so that attaching twice gives the same model
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
        """The addresses of the tokens, and the keys and gates of each head."""
        x = x.float()
        near = torch.cat([x, chunk.recent(x, self.reach)], -1)
        addresses = nn.functional.linear(
            near, self.address_weight.float(), self.address_bias.float()
        )
        return addresses, [head(x, near, addresses) for head in self.heads.values()]


class TableHeads(nn.Module):
    """The write gate and the release heads, which all memory layers share.

    | parameter | shape | starts at |
    |---|---|---|
    | write_gate_weight, write_gate_bias | hidden, 1 | 0, 4: every token is written |
    | release | see `ReleaseHeads` | closed |

    Args:
        hidden: width of the backbone.
        release: the release heads to make, of "erase" and "free".
        address_reach: see `MemoryConfig`.
    """

    def __init__(self, hidden: int, release: tuple[str, ...], address_reach: int) -> None:
        super().__init__()
        self.write_gate_weight = nn.Parameter(torch.zeros(hidden))
        # a tensor of one number, because FSDP can't shard scalars
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
