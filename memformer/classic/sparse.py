"""A memory whose steps touch a few rows, forward and backward, however many rows it has.

`SparseMemory` keeps all rows in one tensor outside autograd, and the rows written since the last
`detach` in a second tensor inside autograd. A step reads from the second tensor where it has the
row, so the cost of a step does not depend on the number of slots. `Accesses` finds the least
recently accessed slot in constant time.

Source: J. W. Rae et al. 2016 (SAM), sections 3.1 to 3.4; their backward pass undoes each step.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class SparseMemory:
    """Rows that are read and written a few at a time.

    The memory changes in place, because the cost of a copy grows with the number of slots.

    Args:
        words: the first content of every slot.
    """

    def __init__(self, words: Float[Tensor, "batch slots width"]) -> None:
        self.words = words.detach().clone()
        self._place = torch.full(words.shape[:2], -1, device=words.device)
        self._slots: list[Int[Tensor, "batch rows"]] = []
        self._recent: Float[Tensor, "batch rows width"] | None = None

    def read(self, slots: Int[Tensor, "batch rows"]) -> Float[Tensor, "batch rows width"]:
        """The words of the slots, with a gradient to the writes since the last `detach`."""
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
        """Replaces the words of the slots; a slot named twice must get the same word twice."""
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
        """Ends the reach of the gradient: the words written so far count as constants."""
        for slots in self._slots:
            self._place.scatter_(1, slots, -1)
        self._slots, self._recent = [], None


class Accesses:
    """The order of the last accesses: a ring, in which an access moves a slot to the end.

    Args:
        batch: independent memories.
        slots: N; at first the ring has the order of the slot numbers.
    """

    def __init__(self, batch: int, slots: int) -> None:
        self.slots = slots
        # the ring begins and ends at an extra place with the number `slots`
        ring = np.arange(slots + 1)
        self.next = np.tile(np.roll(ring, -1), (batch, 1))
        self.before = np.tile(np.roll(ring, 1), (batch, 1))

    def least_recent(self) -> Int[Tensor, " batch"]:
        """The slot with the oldest last access. Cost: O(1)."""
        return torch.from_numpy(self.next[:, self.slots].copy())

    def touch(self, slots: Int[Tensor, "batch rows"], accessed: Bool[Tensor, "batch rows"]) -> None:
        """Moves those slots that were accessed to the end, in their order. Cost: O(rows)."""
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
