"""Which slots are most like a key: exactly, or with a faiss index that is kept up to date.

A search only proposes slot numbers. Whoever calls it computes the match of those slots again, with
gradient, so that an approximate search can miss a slot but never misjudge one.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from memformer.memory.addressing import SAFE, cosine_similarity

# with fewer written slots an exact search is as fast as an index
INDEX_FROM = 20_000
# lists in an index: this many times the square root of the slots, of which so many are searched.
# On 10^6 slots of 32 random numbers that finds 52 % of the 4 nearest to a random key, the hardest
# case, and each of 200 words by a key near it
LISTS, PROBES = 4, 32
# faiss asks for 39 rows a list to place it well
TRAINING_ROWS = 40


class Search(Protocol):
    """Proposes slots for keys."""

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Takes note that these slots of the memory were written."""
        ...

    def nearest(
        self, keys: Float[Tensor, "batch reads width"], count: int
    ) -> Int[Tensor, "batch reads count"]:
        """The slots most like each key, best first."""
        ...


class ExactSearch:
    """Compares a key with every slot.

    Args:
        memory: the memory that is searched, as it is at the time of each search.
    """

    def __init__(self, memory: Float[Tensor, "batch slots width"]) -> None:
        self.memory = memory

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Nothing to note: the memory itself is searched."""

    def nearest(
        self, keys: Float[Tensor, "batch reads width"], count: int
    ) -> Int[Tensor, "batch reads count"]:
        """The slots most like each key, best first. Cost: O(slots width) a key."""
        with torch.no_grad():
            return cosine_similarity(self.memory, keys).topk(count, -1).indices


def load_faiss() -> Any:
    """The faiss module; it is typed in part only.

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

    The index is built once `INDEX_FROM` slots hold something, and again after as many writes as it
    has slots, as what is written moves away from the lists. Until then the search is exact.

    Args:
        memory: the memory that is searched, as it is at the time of each search.

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
        # evenly spaced rows: the same index every time
        index.train(words[:: max(1, len(words) // (TRAINING_ROWS * lists))])
        index.set_direct_map_type(self.faiss.DirectMap.Hashtable)
        index.add_with_ids(words, slots.numpy())
        index.nprobe = PROBES
        self.indexes[row], self.stale[row] = index, 0

    @staticmethod
    def _unit(words: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        # the length that `cosine_similarity` gives them
        words = words.detach().float().cpu()
        return words * (words.square().sum(-1, keepdim=True) + SAFE.norm).rsqrt()

    def update(self, slots: Int[Tensor, "batch written"]) -> None:
        """Puts the slots into the index anew. Cost: O(written), but for a rebuild now and then."""
        for row, index in enumerate(self.indexes):
            changed = slots[row].unique().cpu()
            self.written[row, changed] = True
            self.stale[row] += len(changed)
            if index is None:
                # counting is O(slots): not at every write
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
        """The slots most like each key, best first, as far as the searched lists hold them."""
        found = []
        for row, index in enumerate(self.indexes):
            one = keys[row : row + 1].detach()
            if index is None:
                found.append(ExactSearch(self.memory[row : row + 1]).nearest(one, count)[0])
                continue
            slots = torch.from_numpy(index.search(self._unit(one[0]).numpy(), count)[1])
            # -1 where the lists held too few: the best again, which a read counts once
            found.append(slots.where(slots >= 0, slots[:, :1]).clamp_min(0).to(keys.device))
        return torch.stack(found)
