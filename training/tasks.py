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
        inputs: what the machine sees; a step is one token, or for `After` a segment of them.
        targets: what it should put out at the last `answers` steps, bits.
    """

    inputs: Float[Tensor, "batch steps *tokens input"]
    targets: Float[Tensor, "batch answers *tokens output"]


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


class After:
    """A segment of vectors, then each of them again: put out the one that came after it.

    Nothing came after the last: zeros. For machines that take a segment in one step, where each
    token is alone with the memory. Size: vectors.

    Args:
        width: bits in a vector.
    """

    def __init__(self, width: int = 12) -> None:
        self.width = width
        self.input_size, self.output_size = width + 1, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """Two segments: the vectors, and the same with a mark in another order."""
        shown = _bits(count, size, self.width, generator=generator)
        after = torch.nn.functional.pad(shown[:, 1:], (0, 0, 0, 1))
        order = torch.randperm(size, generator=generator)
        inputs = torch.zeros(count, 2, size, self.input_size)
        inputs[:, 0, :, : self.width] = shown
        inputs[:, 1, :, : self.width] = shown[:, order]
        inputs[:, 1, :, self.width] = 1
        return Batch(inputs, after[:, None, order])


class Graph:
    """The edges of a random graph, then a walk: put out each node that it comes to. Size: steps.

    Every node has a random code and two edges, with different labels, to random nodes. A step of
    the walk shows a label, the first step also the node where it begins.

    Args:
        nodes: how many.
        width: bits in the code of a node.
        labels: kinds of edges.
    """

    def __init__(self, nodes: int = 6, width: int = 8, labels: int = 3) -> None:
        self.nodes, self.width, self.labels = nodes, width, labels
        # from, label, to; and a mark on the walk
        self.input_size, self.output_size = 2 * width + labels + 1, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """All edges in random order, then the walk; each step is to be answered at once."""
        nodes, width, labels = self.nodes, self.width, self.labels
        rows = torch.arange(count)
        # different codes within a graph
        codes = torch.rand(count, 2**width, generator=generator).topk(nodes, -1).indices
        codes = (codes[..., None] >> torch.arange(width) & 1).float()
        kinds = torch.rand(count, nodes, labels, generator=generator).argsort(-1)[..., :2]
        ends = torch.randint(0, nodes, (count, nodes, 2), generator=generator)
        edges = 2 * nodes
        inputs = torch.zeros(count, edges + size, self.input_size)
        label = slice(width, width + labels)
        order = torch.rand(count, edges, generator=generator).argsort(-1)
        for place in range(edges):
            node, edge = order[:, place] // 2, order[:, place] % 2
            inputs[:, place, :width] = codes[rows, node]
            inputs[:, place, label] = torch.eye(labels)[kinds[rows, node, edge]]
            inputs[:, place, width + labels : -1] = codes[rows, ends[rows, node, edge]]
        at = torch.randint(0, nodes, (count,), generator=generator)
        inputs[:, edges, :width] = codes[rows, at]
        inputs[:, edges:, -1] = 1
        targets = torch.zeros(count, size, width)
        for place in range(size):
            edge = torch.randint(0, 2, (count,), generator=generator)
            inputs[:, edges + place, label] = torch.eye(labels)[kinds[rows, at, edge]]
            at = ends[rows, at, edge]
            targets[:, place] = codes[rows, at]
        return Batch(inputs, targets)


class Glyphs:
    """Few-shot classification: drawings of classes never seen before, with their labels; then more
    drawings of the same classes, to be labelled. Size: labelled drawings of each class.

    A class is a line through a few random points, each drawing moves, turns and bends it. Every
    sequence has classes of its own, whose labels mean nothing beyond it: what was learned about
    them is in the memory, not in the weights.

    Args:
        classes: in one sequence.
        pixels: side of a drawing.
        questions: drawings to be labelled.
    """

    POINTS = 4
    # of the points of a drawing against those of its class, as shares of the picture
    BEND, SHIFT, TURN = 0.05, 0.04, 0.25
    # half the breadth of a line
    INK = 0.06

    def __init__(self, classes: int = 5, pixels: int = 12, questions: int = 5) -> None:
        self.classes, self.pixels, self.questions = classes, pixels, questions
        self.input_size, self.output_size = pixels**2 + classes, classes

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """The labelled drawings in random order, then those without labels."""
        classes = self.classes
        lines = 0.15 + 0.7 * torch.rand(count, classes, self.POINTS, 2, generator=generator)
        shots = size * classes
        order = torch.rand(count, shots, generator=generator).argsort(-1) % classes
        asked = torch.randint(0, classes, (count, self.questions), generator=generator)
        labels = torch.cat([order, asked], 1)
        steps = labels.shape[1]
        drawn = lines.gather(1, labels[..., None, None].expand(-1, -1, self.POINTS, 2))
        inputs = torch.zeros(count, steps, self.input_size)
        inputs[..., : self.pixels**2] = self._draw(self._vary(drawn, generator))
        answers = torch.eye(classes)[labels]
        inputs[:, :shots, self.pixels**2 :] = answers[:, :shots]
        return Batch(inputs, answers[:, shots:])

    def _vary(self, lines: Tensor, generator: Generator) -> Tensor:
        shape = lines.shape[:2]
        bend = self.BEND * torch.randn(lines.shape, generator=generator)
        shift = self.SHIFT * torch.randn(*shape, 1, 2, generator=generator)
        turn = self.TURN * torch.randn(*shape, 1, generator=generator)
        x, y = (lines + bend - 0.5).unbind(-1)
        turned = [x * turn.cos() - y * turn.sin(), x * turn.sin() + y * turn.cos()]
        return torch.stack(turned, -1) + 0.5 + shift

    def _draw(self, lines: Tensor) -> Tensor:
        """Ink by distance from the line: `[..., points, 2]` to `[..., pixels^2]`."""
        places = (torch.arange(self.pixels) + 0.5) / self.pixels
        grid = torch.cartesian_prod(places, places)
        begin, end = lines[..., :-1, None, :], lines[..., 1:, None, :]
        along = ((grid - begin) * (end - begin)).sum(-1)
        along = (along / (end - begin).square().sum(-1).clamp_min(1e-9)).clamp(0.0, 1.0)
        distance = (grid - begin - along[..., None] * (end - begin)).square().sum(-1)
        return torch.exp(-distance.amin(-2) / (2 * self.INK**2))


TASKS: dict[str, type] = {
    "copy": Copy,
    "repeat_copy": RepeatCopy,
    "associative_recall": AssociativeRecall,
    "priority_sort": PrioritySort,
    "after": After,
    "graph": Graph,
    "glyphs": Glyphs,
}
