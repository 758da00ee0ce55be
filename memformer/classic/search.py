"""Finds the slots most like a key: exactly, or with a faiss index that follows every write.

A search only proposes slot numbers. The caller computes the match of those slots again, with
gradient, so an approximate search can miss a slot but never misjudge it.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.memory.addressing import SAFE, cosine_similarity

# the number of written slots from which an index is faster than an exact search
INDEX_FROM = 20_000
# lists in an index, as a multiple of the square root of the slots, and lists in one search. With
# 10^6 slots of 32 random numbers a search finds 52 % of the 4 slots nearest to a random key, which
# is the hardest case, and each of 200 words from a key near it
LISTS, PROBES = 4, 32
# rows to train a list on; faiss asks for at least 39
TRAINING_ROWS = 40


class Search(Protocol):
    """Proposes slots for keys."""

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Notes that these slots of the memory were written."""
        ...

    def nearest(
        self, keys: Float[Tensor, "batch reads width"], count: int
    ) -> Int[Tensor, "batch reads count"]:
        """The slots most like each key, best first."""
        ...


class ExactSearch:
    """Compares a key with every slot.

    Args:
        memory: the memory to search; a search sees its content at that moment.
    """

    def __init__(self, memory: Float[Tensor, "batch slots width"]) -> None:
        self.memory = memory

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Does nothing, because a search reads the memory itself."""

    def nearest(
        self, keys: Float[Tensor, "batch reads width"], count: int
    ) -> Int[Tensor, "batch reads count"]:
        """The slots most like each key, best first. Cost: O(slots width) a key."""
        with torch.no_grad():
            return cosine_similarity(self.memory, keys).topk(count, -1).indices


def load_faiss() -> Any:
    """Imports faiss, which has types in part only.

    Raises:
        ModuleNotFoundError: faiss is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "searching with faiss needs it installed: pip install 'memformer-lm[faiss]'."
        ) from None
    return faiss


class FaissSearch:
    """Compares a key with the slots of the nearest lists of an inverted index (faiss IVF).

    The search is exact until `INDEX_FROM` slots are written; then the index is built. It is built
    again after as many writes as it has slots, because new words drift away from the old lists.

    Args:
        memory: the memory to search; a search sees its content at that moment.

    Raises:
        ModuleNotFoundError: faiss is not installed.
    """

    def __init__(self, memory: Float[Tensor, "batch slots width"]) -> None:
        self.faiss = load_faiss()
        self.memory = memory
        self.written = memory.ne(0).any(-1)
        self.indexes: list[Any] = [None] * len(memory)
        self.stale = [0] * len(memory)
        for row in range(len(memory)):
            self._build(row)

    def _build(self, row: int) -> None:
        slots = self.written[row].nonzero()[:, 0]
        if len(slots) < INDEX_FROM:
            return
        lists = int(LISTS * math.sqrt(len(slots)))
        quantizer = self.faiss.IndexFlatIP(self.memory.shape[-1])
        index = self.faiss.IndexIVFFlat(
            quantizer, self.memory.shape[-1], lists, self.faiss.METRIC_INNER_PRODUCT
        )
        words = self._unit(self.memory[row, slots]).numpy()
        # evenly spaced rows give the same index every time
        index.train(words[:: max(1, len(words) // (TRAINING_ROWS * lists))])
        index.set_direct_map_type(self.faiss.DirectMap.Hashtable)
        index.add_with_ids(words, slots.numpy())
        index.nprobe = PROBES
        self.indexes[row], self.stale[row] = index, 0

    @staticmethod
    def _unit(words: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        # divides by the same norm as `cosine_similarity`
        words = words.detach().float().cpu()
        return words * (words.square().sum(-1, keepdim=True) + SAFE.norm).rsqrt()

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Puts the slots into the index again. Cost: O(written), except for occasional rebuilds."""
        for row, index in enumerate(self.indexes):
            changed = slots[row].unique().cpu()
            self.written[row, changed] = True
            self.stale[row] += len(changed)
            if index is None:
                # a build counts the slots in O(slots), so not at every write
                if self.stale[row] >= INDEX_FROM:
                    self._build(row)
                    self.stale[row] = 0
            elif self.stale[row] > self.memory.shape[1]:
                self._build(row)
            else:
                index.remove_ids(changed.numpy())
                index.add_with_ids(self._unit(self.memory[row, changed]).numpy(), changed.numpy())

    def nearest(
        self, keys: Float[Tensor, "batch reads width"], count: int
    ) -> Int[Tensor, "batch reads count"]:
        """The slots most like each key in the searched lists, best first."""
        found = []
        for row, index in enumerate(self.indexes):
            one = keys[row : row + 1].detach()
            if index is None:
                found.append(ExactSearch(self.memory[row : row + 1]).nearest(one, count)[0])
                continue
            slots = torch.from_numpy(index.search(self._unit(one[0]).numpy(), count)[1])
            # faiss gives -1 where the lists hold too few; a read counts the best slot only once
            found.append(slots.where(slots >= 0, slots[:, :1]).clamp_min(0).to(keys.device))
        return torch.stack(found)
