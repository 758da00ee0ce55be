"""`MemoryCache`: the state that generation carries from step to step.

The cache is a `DynamicCache` of the current segment's keys and values. It also holds the memory of
all text before that segment, and the segment's tokens, which go to memory when the segment is full.
Each row has its own segment border.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NoReturn

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import DynamicCache

from memformer.memory.read import SlotView
from memformer.memory.state import MemoryState


class MemoryCache(DynamicCache):
    """The state of a generation.

    Args:
        memory: the memory when generation starts; its open segment is closed.
        num_seen: columns of the input that are in `memory` already for every row.
        first_column: `[batch]`, the column at which each row's own unread text begins.
    """

    # transformers reads both; a memory can't be rolled back after a write
    is_compileable = False
    is_croppable = False

    def __init__(
        self,
        memory: MemoryState,
        num_seen: int = 0,
        first_column: Int[Tensor, " batch"] | None = None,
    ) -> None:
        super().__init__()
        self.memory = memory.closed()
        # the places of the record that the prompt was found to be about; None: not looked for yet
        self.recalled: Bool[Tensor, "batch told"] | None = None
        # whether rows read nothing beside what was recalled, however small their memory
        self.rereads: Bool[Tensor, " batch"] = torch.zeros_like(memory.num_seen, dtype=torch.bool)
        self.num_seen = num_seen
        batch = memory.batch_size
        self.first_column = (
            torch.zeros_like(memory.num_seen) if first_column is None else first_column
        )
        self.ids: Int[Tensor, "batch columns"] = memory.num_seen.new_zeros(batch, 0)
        self.real: Bool[Tensor, "batch columns"] = self.ids.bool()

    @property
    def memory(self) -> MemoryState:
        """The memory of all text before the current segments."""
        return self._memory

    @memory.setter
    def memory(self, memory: MemoryState) -> None:
        self._memory = memory
        # the slots that are read until the memory changes; `recollection.reading` chooses them
        self.reading: MemoryState | None = None
        # their contents prepared in each layer, at the first token for the next tokens
        self.slot_views: dict[int, SlotView] = {}
        self.notes: dict[Hashable, Any] = {}

    @property
    def segment(self) -> DynamicCache:
        """The current segment's keys and values, as the backbone needs them."""
        segment = DynamicCache()
        segment.layers = self.layers
        return segment

    @property
    def lengths(self) -> Int[Tensor, " batch"]:
        """Tokens in each row's current segment."""
        return self.real.sum(-1)

    def append(
        self, ids: Int[Tensor, "batch columns"], real: Bool[Tensor, "batch columns"]
    ) -> None:
        """Adds the tokens that the backbone has just seen."""
        self.ids = torch.cat([self.ids, ids], 1)
        self.real = torch.cat([self.real, real], 1)
        self.num_seen += ids.shape[1]

    def turn_page(
        self,
        rows: Int[Tensor, " rows"],
        memory: MemoryState,
        staying: Bool[Tensor, "rows columns"],
    ) -> None:
        """Starts a new segment in some rows.

        Args:
            rows: the rows whose segment is finished.
            memory: their memory, with the finished segment.
            staying: the tokens that are not in memory and begin the new segment.
        """
        self.memory = self.memory.put(rows, memory)
        self.real = self.real.index_copy(0, rows, staying)
        unused = int((~self.real).all(0).long().cumprod(0).sum())
        if unused:
            self.ids, self.real = self.ids[:, unused:], self.real[:, unused:]
            layer: Any
            for layer in self.layers:
                layer.keys = layer.keys[:, :, unused:]
                layer.values = layer.values[:, :, unused:]

    def renew(self, rows: Int[Tensor, " rows"], recalled: Bool[Tensor, "rows told"]) -> None:
        """Replaces what some rows recall; their record has grown, and no words stand before."""
        self.rereads = self.rereads.index_fill(0, rows, False)
        before = recalled.new_zeros(len(self.real), recalled.shape[1])
        if self.recalled is not None:
            before[:, : self.recalled.shape[1]] = self.recalled
        self.recalled = before.index_copy(0, rows, recalled)

    def put(self, rows: Int[Tensor, " rows"], segment: DynamicCache) -> None:
        """Replaces the keys and values of some rows' current segments."""
        layer: Any
        new: Any
        for layer, new in zip(self.layers, segment.layers, strict=True):
            layer.keys = layer.keys.index_copy(0, rows, new.keys)
            layer.values = layer.values.index_copy(0, rows, new.values)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns of the input consumed so far, as `generate` counts them."""
        return self.num_seen

    def _choose_rows(self, rows: Int[Tensor, " rows"]) -> None:
        reading = self.reading
        self.memory = self.memory.select(rows)
        self.reading = None if reading is None else reading.select(rows)
        if self.recalled is not None:
            self.recalled = self.recalled[rows.to(self.recalled.device)]
        rows = rows.to(self.ids.device)
        self.rereads = self.rereads[rows]
        self.first_column = self.first_column[rows]
        self.ids, self.real = self.ids[rows], self.real[rows]

    def reorder_cache(self, beam_idx: Any) -> None:
        """Reorders beams together with their memories."""
        super().reorder_cache(beam_idx)
        self._choose_rows(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keeps the given rows."""
        super().batch_select_indices(indices)
        self._choose_rows(torch.arange(self.memory.batch_size, device=indices.device)[indices])

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row, for beams and several answers."""
        super().batch_repeat_interleave(repeats)
        rows = torch.arange(self.memory.batch_size, device=self.memory.device)
        self._choose_rows(rows.repeat_interleave(repeats))

    def crop(self, *_: Any) -> NoReturn:
        """Refuses, because finished segments are in memory already.

        Raises:
            ValueError: always; clone the memory before generating instead.
        """
        raise ValueError(
            "A MemoryCache can't be cropped: finished segments are in memory already. "
            "Keep a clone of the memory and start again from it."
        )

    def reset(self) -> None:
        """Empties the memory and the current segment."""
        super().reset()
        self.layers.clear()
        self.memory, self.recalled = self.memory.emptied(), None
        self.rereads = torch.zeros_like(self.rereads)
        self.ids, self.real = self.ids[:, :0], self.real[:, :0]
        self.num_seen = 0
