"""`Finders`: the heads that find passages, and the question without content.

In every decoder that was looked at, a few heads of the middle layers match a question with the
passage that answers it. `choosing.py` chooses them once, when a memory is attached. What they match
can be learned (`training.finder`): reading goes on with the queries as they are.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memformer.memory.finding import Asking

# most tokens of a question without content
LONGEST = 16


class Finders(nn.Module):
    """Which heads find, and the question without content, kept with the weights of a memory.

    | buffer | shape | is |
    |---|---|---|
    | heads | finders, 2 | decoder layer and query head of each finder head, best first; -1: none |
    | nothing | 16 | the token ids of the question without content, -1 behind them |
    | match | finders, width, width | M: each head matches q (I + M) . k; 0 until it is learned |

    Args:
        finders: how many heads; 0: nothing can be found.
        groups: query heads for each key head.
        width: of a head.
    """

    heads: Int[Tensor, "finders 2"]
    nothing: Int[Tensor, " tokens"]
    match: Float[Tensor, "finders width width"]

    def __init__(self, finders: int, groups: int, width: int) -> None:
        super().__init__()
        self.groups = groups
        self.register_buffer("heads", torch.full((finders, 2), -1))
        self.register_buffer("nothing", torch.full((LONGEST,), -1))
        self.register_buffer("match", torch.zeros(finders, width, width))

    def learned(self, asking: Asking) -> Asking:
        """A question with the queries that were learned, in place of the decoder's own."""
        match = self.match[: asking.queries.shape[1]].float()
        change = torch.einsum("tfi,fij->tfj", asking.queries, match)
        return asking._replace(queries=asking.queries + change)

    def set(self, heads: Int[Tensor, "finders 2"], nothing: list[int]) -> None:
        """Takes chosen heads, which have learned nothing, and the question without content."""
        self.match.zero_()
        self.heads[: len(heads)] = heads.to(self.heads.device)
        ids = nothing[:LONGEST]
        self.nothing[: len(ids)] = torch.tensor(ids, device=self.nothing.device)

    @property
    def chosen(self) -> list[tuple[int, int]]:
        """Decoder layer and query head of each finder head; empty: nothing can be found."""
        return [(layer, head) for layer, head in self.heads.tolist() if layer >= 0]

    @property
    def keys(self) -> list[tuple[int, int]]:
        """Decoder layer and key head of each small key; finder heads may share one."""
        return sorted({(layer, head // self.groups) for layer, head in self.chosen})

    @property
    def key_of(self) -> Int[Tensor, " finders"]:
        """Which small key each finder head matches."""
        keys = self.keys
        found = [keys.index((layer, head // self.groups)) for layer, head in self.chosen]
        return torch.tensor(found, dtype=torch.long)

    @property
    def question_without_content(self) -> list[int]:
        """Its token ids."""
        found: list[int] = self.nothing[self.nothing >= 0].tolist()
        return found
