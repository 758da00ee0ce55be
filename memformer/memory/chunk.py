"""`Chunk`: the text of one pass, S segments of T tokens, and its place on the text clock.

Segment s of a chunk reads the memory before the chunk and the tokens that segments 0..s-1 write,
never its own. With S = 1 this is the recurrent form, with S > 1 the parallel form of the same
computation. The backbone sees the segments that hold text as one batch of *entries*.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.state import MemoryState


@dataclass(frozen=True)
class Rules:
    """How text is written and read; users choose the rules in `MemoryConfig`.

    Attributes:
        passage_tokens: number of written tokens in a row that form a passage.
        gate_reach: number of tokens on either side over which write gates are averaged.
        address_reach: number of tokens in an address: the token and the tokens just before it.
        least_age: a token weakens only slots that were seen at least so many tokens before it.
        focus: how firmly the heads of a layer read the same passages.
        gate: False: every token is written, whatever the write gate says.
        usage_by_reads: False: reads are not counted, and do not renew the usage of a slot.
        working_set: most slots that a segment reads while it is taken in; None: all.
    """

    passage_tokens: int
    gate_reach: int
    address_reach: int
    least_age: int
    focus: float
    gate: bool = True
    usage_by_reads: bool = True
    working_set: int | None = None


@dataclass(frozen=True)
class Chunk:
    """The geometry and the text clock of a chunk.

    Attributes:
        real: False at padding.
        seen_at: the text clock at every token.
        sequences: `(rows, segments)` of the backbone's entries. None: one segment, entry i is
            row i.
        until: for segments that write nothing: each segment reads the memory as it was at this
            text clock, and no other segment. None: segments read as the module says.
    """

    real: Bool[Tensor, "batch segments tokens"]
    seen_at: Int[Tensor, "batch new"]
    sequences: tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]] | None = None
    until: Int[Tensor, "batch segments"] | None = None

    @classmethod
    def after(
        cls,
        state: MemoryState,
        real: Bool[Tensor, "batch segments tokens"],
        sequences: tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]] | None = None,
        until: Int[Tensor, "batch segments"] | None = None,
    ) -> Chunk:
        """The chunk that follows all text that a memory has seen."""
        seen_at = state.num_seen[:, None] + real.flatten(1).long().cumsum(-1) - 1
        return cls(real, seen_at, sequences, until)

    @property
    def is_new(self) -> Bool[Tensor, "batch new"]:
        """`real`, with the segments of a row joined."""
        return self.real.flatten(1)

    @cached_property
    def is_full(self) -> bool:
        """Whether there is no padding."""
        return bool(self.real.all())

    def gather(self, entries: Float[Tensor, "entries tokens ..."]) -> Tensor:
        """Arranges entries as `[batch, segments, tokens, ...]`, zero where there is no text."""
        batch, segments, _ = self.real.shape
        if self.sequences is None:
            full = entries.unsqueeze(1)
        else:
            full = entries.new_zeros(batch, segments, *entries.shape[1:])
            full = full.index_put(self.sequences, entries)
        if self.is_full:
            return full
        mask = self.real.view(*self.real.shape, *[1] * (full.dim() - 3))
        return torch.where(mask, full, torch.zeros((), dtype=full.dtype, device=full.device))

    def scatter(self, full: Float[Tensor, "batch segments tokens ..."]) -> Tensor:
        """The inverse of `gather`, for results that go back into the backbone."""
        return full.squeeze(1) if self.sequences is None else full[self.sequences]

    def recent(
        self, x: Float[Tensor, "entries tokens hidden"], reach: int
    ) -> Float[Tensor, "entries tokens hidden"]:
        """The mean over each token and the tokens just before it in its segment, `reach` in all."""
        before = (reach - 1, 0)
        pad, pool = torch.nn.functional.pad, torch.nn.functional.avg_pool1d
        total = pool(pad(self.gather(x).float().flatten(0, 1).mT, before), reach, 1)
        count = pool(pad(self.real.float().flatten(0, 1)[:, None], before), reach, 1)
        mean = total / count.clamp_min(1.0 / reach)
        return self.scatter(mean.mT.unflatten(0, self.real.shape[:2]))


def passages(
    written_at: Int[Tensor, "batch slots"], passage_tokens: int
) -> Int[Tensor, "batch slots"]:
    """The passage of each slot, by the write clock; numbers run through all rows."""
    return torch.unique(written_at // passage_tokens, return_inverse=True)[1]
