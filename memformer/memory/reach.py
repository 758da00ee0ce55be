"""Reach: which slots each segment of a pass reads, where a memory is too large to be read whole.

`working_set` is the reach of text that is taken in: the slots written last. `memory_pass.py` takes
only the slots in reach, so that a segment costs the same whatever a memory holds.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from memformer.memory.gate import TableWrites
from memformer.memory.state import MemoryState


def working_set(
    state: MemoryState, table: TableWrites, most: int | None
) -> Bool[Tensor, "batch segments pool"] | None:
    """The `most` slots and new tokens written last before each segment.

    The number is the same in the parallel and the recurrent form: a segment counts the new tokens
    of the segments before it, and the slots for what is left.

    Args:
        state: the memory before the pass.
        table: the writes of the pass.
        most: see `Rules.working_set`.

    Returns:
        Whether each segment reads each slot, and each token of the pass before the segment; None:
        all segments read all.
    """
    occupied = state.occupied
    new = table.starts - state.num_written[:, None]
    if most is None or int((occupied.sum(-1)[:, None] + new).max()) <= most:
        return None
    written_at = state.written_at.masked_fill(~occupied, -1)
    newest = written_at.topk(min(most, written_at.shape[1])).values
    # all slots are in reach where fewer are there than there is room for
    newest = torch.nn.functional.pad(newest, (0, 1), value=-1)
    room = most - new
    since = newest.gather(1, (room - 1).clamp(0, newest.shape[1] - 1))
    since = torch.where(room > 0, since, table.starts - most)
    pool = torch.cat([written_at, table.written_at], 1)
    there = torch.nn.functional.pad(occupied, (0, table.written_at.shape[1]), value=True)
    return (pool[:, None] >= since[..., None]) & there[:, None]


class Near(NamedTuple):
    """The slots that some segment of a pass reads.

    Attributes:
        slots: the numbers of the slots, in order; where a row has fewer than another, slots that no
            segment reads fill it up.
        within: whether each segment reads each of these slots, and each token of the pass.
    """

    slots: Int[Tensor, "batch near"]
    within: Bool[Tensor, "batch segments near_and_new"]

    @classmethod
    def of(cls, reach: Bool[Tensor, "batch segments pool"], stored: int) -> Near:
        """The slots in reach, of a memory of `stored` slots."""
        read = reach[..., :stored].any(1)
        count = int(read.sum(-1).max())
        slots = (~read).long().argsort(dim=-1, stable=True)[:, :count]
        index = slots[:, None].expand(-1, reach.shape[1], -1)
        within = torch.cat([reach[..., :stored].gather(2, index), reach[..., stored:]], 2)
        return cls(slots, within)

    def take(self, x: Tensor) -> Tensor:
        """The rows or numbers of these slots; `x` is `[batch, slots, ...]`."""
        rows = zip(x, self.slots, strict=True)
        return torch.stack([row.index_select(0, slots) for row, slots in rows])

    def put(self, mass: Tensor, stored: int) -> Tensor:
        """Numbers of these slots and of tokens, at the places of all slots and of the tokens."""
        near = self.slots.shape[1]
        full = mass.new_zeros(len(mass), stored).scatter_add(1, self.slots, mass[:, :near])
        return torch.cat([full, mass[:, near:]], 1)
