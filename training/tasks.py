"""Algorithmic tasks for machines with a memory: made up anew for every batch.

A task makes sequences of a given size (how long, how many items); training draws sizes from a range
and tests ask for larger ones. All sequences of a batch have one length, so nothing is padded.
Sources: A. Graves et al. 2014 (copy, repeat copy, associative recall, priority sort), A. Graves et
al. 2016 (graph traversal).
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float
from torch import Generator, Tensor


class Batch(NamedTuple):
    """Sequences with what should come out at their last steps.

    Attributes:
        inputs: what the machine sees.
        targets: what it should put out at the last `answers` steps, bits.
    """

    inputs: Float[Tensor, "batch steps input"]
    targets: Float[Tensor, "batch answers output"]


class Task(Protocol):
    """What `train.py` asks of a task."""

    input_size: int
    output_size: int

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """So many sequences of the given size."""
        ...


def _bits(*shape: int, generator: Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float()


class Copy:
    """Put out the vectors that were shown, in order. Size: how many vectors.

    Args:
        width: bits in a vector.
    """

    def __init__(self, width: int = 8) -> None:
        self.width = width
        self.input_size, self.output_size = width + 1, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """The vectors, a mark, then silence in which to answer."""
        shown = _bits(count, size, self.width, generator=generator)
        inputs = torch.zeros(count, 2 * size + 1, self.input_size)
        inputs[:, :size, : self.width] = shown
        inputs[:, size, self.width] = 1
        return Batch(inputs, shown)


class RepeatCopy:
    """Put out the vectors that were shown several times over, then a mark. Size: how often.

    Args:
        width: bits in a vector.
        items: most vectors that are shown.
        scale: how often is shown to the machine as a fraction of this.
    """

    def __init__(self, width: int = 6, items: int = 5, scale: int = 10) -> None:
        self.width, self.items, self.scale = width, items, scale
        self.input_size, self.output_size = width + 1, width + 1

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """The vectors, how often, then silence in which to answer."""
        items = int(torch.randint(1, self.items + 1, (), generator=generator))
        shown = _bits(count, items, self.width, generator=generator)
        answers = items * size + 1
        inputs = torch.zeros(count, items + 1 + answers, self.input_size)
        inputs[:, :items, : self.width] = shown
        inputs[:, items, self.width] = size / self.scale
        targets = torch.zeros(count, answers, self.output_size)
        targets[:, :-1, : self.width] = shown.repeat(1, size, 1)
        targets[:, -1, self.width] = 1
        return Batch(inputs, targets)


class AssociativeRecall:
    """Several items, then one of them again: put out the item that came after it. Size: items.

    Args:
        width: bits in a vector.
        vectors: vectors in an item.
    """

    def __init__(self, width: int = 6, vectors: int = 3) -> None:
        self.width, self.vectors = width, vectors
        self.input_size, self.output_size = width + 2, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """Each item behind a mark; the question behind another, and the same at its end."""
        if size < 2:
            raise ValueError(f"associative recall needs at least 2 items; got {size}.")
        items = _bits(count, size, self.vectors, self.width, generator=generator)
        asked = torch.randint(0, size - 1, (count,), generator=generator)
        rows = torch.arange(count)
        block = self.vectors + 1
        steps = size * block + block + 1 + self.vectors
        inputs = torch.zeros(count, steps, self.input_size)
        for item in range(size):
            inputs[:, item * block, self.width] = 1
            inputs[:, item * block + 1 : (item + 1) * block, : self.width] = items[:, item]
        question = size * block
        inputs[:, [question, question + block], self.width + 1] = 1
        inputs[:, question + 1 : question + block, : self.width] = items[rows, asked]
        return Batch(inputs, items[rows, asked + 1])


class PrioritySort:
    """Vectors with a priority each: put out the most urgent ones, in order. Size: vectors shown.

    Args:
        width: bits in a vector.
        share: how many of them are to be put out, as a share; 16 of 20 in the paper.
    """

    def __init__(self, width: int = 8, share: float = 0.8) -> None:
        self.width, self.share = width, share
        self.input_size, self.output_size = width + 2, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """The vectors with their priorities in [-1, 1], a mark, then silence."""
        shown = _bits(count, size, self.width, generator=generator)
        priority = 2 * torch.rand(count, size, generator=generator) - 1
        answers = math.ceil(self.share * size)
        inputs = torch.zeros(count, size + 1 + answers, self.input_size)
        inputs[:, :size, : self.width] = shown
        inputs[:, :size, self.width] = priority
        inputs[:, size, self.width + 1] = 1
        order = priority.argsort(-1, descending=True)[:, :answers]
        return Batch(inputs, shown.gather(1, order[..., None].expand(-1, -1, self.width)))


TASKS: dict[str, type] = {
    "copy": Copy,
    "repeat_copy": RepeatCopy,
    "associative_recall": AssociativeRecall,
    "priority_sort": PrioritySort,
}
