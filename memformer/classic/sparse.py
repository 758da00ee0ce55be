"""A memory of any size of which each step touches a few rows, and whose gradient does the same.

`SparseMemory` keeps all rows in one tensor that takes no part in autograd, and beside it the rows
written since the last `detach`, which do. A step reads rows from the second where it has them, so
that the cost of a step, forward and backward, does not depend on the number of slots. `Accesses`
knows the least recently accessed slot at no more cost.

Source: J. W. Rae et al. 2016 (SAM), sections 3.1 to 3.4; there a step is undone on the way back.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SparseMemory:
    """Rows that are read and written a few at a time.

    It changes in place, as a copy for each step would cost as much as the memory is large.

    Args:
        words: what every slot holds at first.
    """

    def __init__(self, words: Float[Tensor, "batch slots width"]) -> None:
        self.words = words.detach().clone()
        self._place = torch.full(words.shape[:2], -1, device=words.device)
        self._slots: list[Int[Tensor, "batch rows"]] = []
        self._recent: Float[Tensor, "batch rows width"] | None = None

    def read(self, slots: Int[Tensor, "batch rows"]) -> Float[Tensor, "batch rows width"]:
        """What the slots hold; with gradient into what was written since the last `detach`."""
        width = self.words.shape[-1]
        held = self.words.gather(1, slots[..., None].expand(-1, -1, width))
        if self._recent is None:
            return held
        place = self._place.gather(1, slots)[..., None]
        recent = self._recent.gather(1, place.clamp_min(0).expand(-1, -1, width))
        return recent.where(place >= 0, held)

    def write(
        self, slots: Int[Tensor, "batch rows"], words: Float[Tensor, "batch rows width"]
    ) -> None:
        """Replaces what the slots hold; a slot that is named twice must get the same word twice."""
        self.words.scatter_(1, slots[..., None].expand_as(words), words.detach())
        if not words.requires_grad:
            self._place.scatter_(1, slots, -1)
            return
        self._slots.append(slots)
        known = 0 if self._recent is None else self._recent.shape[1]
        places = torch.arange(known, known + slots.shape[1], device=slots.device)
        self._place.scatter_(1, slots, places.expand_as(slots))
        self._recent = words if self._recent is None else torch.cat([self._recent, words], 1)

    def detach(self) -> None:
        """Ends the reach of the gradient: what was written so far counts as given."""
        for slots in self._slots:
            self._place.scatter_(1, slots, -1)
        self._slots, self._recent = [], None


class Accesses:
    """The order in which slots were last accessed: a ring, whose end a touched slot moves to.

    Args:
        batch: independent memories.
        slots: N; at first, in the order of their numbers.
    """

    def __init__(self, batch: int, slots: int) -> None:
        self.slots = slots
        # the extra place, at `slots`, is where the ring begins and ends
        ring = np.arange(slots + 1)
        self.next = np.tile(np.roll(ring, -1), (batch, 1))
        self.before = np.tile(np.roll(ring, 1), (batch, 1))

    def least_recent(self) -> Int[Tensor, " batch"]:
        """The slot whose last access is longest ago. Cost: O(1)."""
        return torch.from_numpy(self.next[:, self.slots].copy())

    def touch(self, slots: Int[Tensor, "batch rows"], accessed: Bool[Tensor, "batch rows"]) -> None:
        """Moves the accessed ones of these slots to the end, in their order. Cost: O(rows)."""
        end, following, before = self.slots, self.next, self.before
        columns, marks = slots.cpu().numpy(), accessed.cpu().numpy()
        for column in range(columns.shape[1]):
            row = marks[:, column].nonzero()[0]
            slot = columns[row, column]
            previous, after = before[row, slot], following[row, slot]
            following[row, previous], before[row, after] = after, previous
            last = before[row, end]
            following[row, last], before[row, slot] = slot, last
            following[row, slot], before[row, end] = end, slot
