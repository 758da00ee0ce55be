"""Algorithmic tasks for machines with a memory; every batch has new sequences.

A task makes sequences of a given size (length, or number of items). Training draws sizes from a
range, and tests take larger ones. All sequences of a batch have one length, so nothing is padded.
Sources: A. Graves et al. 2014 (copy, repeat copy, associative recall, priority sort), A. Graves et
al. 2016 (graph traversal), A. Santoro et al. 2016 (few-shot classification).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn


class Batch(NamedTuple):
    """Sequences with the right outputs of their last steps.

    Attributes:
        inputs: inputs of the machine; a step is one token, or for `After` a segment of tokens.
        targets: right outputs at the last `answers` steps, zeros and ones.
        nth: number of each answer, from 0; errors are reported by number. None: the number is the
            place in the sequence.
    """

    inputs: Float[Tensor, "batch steps *tokens input"]
    targets: Float[Tensor, "batch answers *tokens output"]
    nth: Int[Tensor, "batch answers"] | None = None


class Scoring(NamedTuple):
    """Compares outputs with targets.

    Attributes:
        part: name of the parts of an answer, each of which is right or wrong.
        loss: the loss of outputs and targets.
        wrong: takes outputs and targets; marks the wrong parts of each answer.
        chances: takes outputs; gives the probability of a one for each number of an answer.
    """

    part: str
    loss: Callable[[Tensor, Tensor], Tensor]
    wrong: Callable[[Tensor, Tensor], Tensor]
    chances: Callable[[Tensor], Tensor]


# an answer is a vector of bits
BITS = Scoring(
    part="bit",
    loss=nn.functional.binary_cross_entropy_with_logits,
    wrong=lambda outputs, targets: (outputs > 0) != (targets > 0.5),
    chances=torch.sigmoid,
)
# an answer is a choice, marked by a one, and right or wrong as a whole
CHOICE = Scoring(
    part="answer",
    loss=lambda outputs, targets: -(outputs.log_softmax(-1) * targets).sum(-1).mean(),
    wrong=lambda outputs, targets: (outputs.argmax(-1) != targets.argmax(-1))[..., None],
    chances=lambda outputs: outputs.softmax(-1),
)


class Task(Protocol):
    """The interface of a task."""

    scoring: Scoring
    input_size: int
    output_size: int

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """Makes `count` sequences of a size."""
        ...


def _bits(*shape: int, generator: Generator) -> Tensor:
    return torch.randint(0, 2, shape, generator=generator).float()


class Copy:
    """Put out the vectors that were shown, in order. Size: number of vectors.

    Args:
        width: bits in a vector.
    """

    scoring = BITS

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
    """Put out the vectors that were shown, several times, then a mark. Size: number of times.

    Args:
        width: bits in a vector.
        items: most vectors that are shown.
        scale: the machine sees the number of times divided by this.
    """

    scoring = BITS

    def __init__(self, width: int = 6, items: int = 5, scale: int = 10) -> None:
        self.width, self.items, self.scale = width, items, scale
        self.input_size, self.output_size = width + 1, width + 1

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """The vectors, the number of times, then silence in which to answer."""
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

    scoring = BITS

    def __init__(self, width: int = 6, vectors: int = 3) -> None:
        self.width, self.vectors = width, vectors
        self.input_size, self.output_size = width + 2, width

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """Each item after a mark; the question after another mark, which also ends it."""
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
        share: share of the vectors to put out; 16 of 20 in the paper.
    """

    scoring = BITS

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

    The answer for the last vector is zeros. The task is for machines that take a segment in one
    step, where tokens see the memory but not each other. Size: vectors.

    Args:
        width: bits in a vector.
    """

    scoring = BITS

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
    """The edges of a random graph, then a walk: name each node on the walk. Size: nodes.

    A node has a name, and two edges with different labels to random nodes. A step of the walk shows
    a label; the first step also shows the node where the walk begins.

    Args:
        names: number of names for nodes; a graph has some of them.
        labels: kinds of edges.
        walk: steps.
    """

    scoring = CHOICE

    def __init__(self, names: int = 12, labels: int = 3, walk: int = 4) -> None:
        self.names, self.labels, self.walk = names, labels, walk
        # first node, label, second node, and a mark on the walk
        self.input_size, self.output_size = 2 * names + labels + 1, names

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """All edges in random order, then the walk; each step of the walk is answered at once."""
        names, labels, edges = self.names, self.labels, 2 * size
        if size > names:
            raise ValueError(f"a graph with {names} names has at most {names} nodes; got {size}.")
        rows = torch.arange(count)
        name = torch.rand(count, names, generator=generator).argsort(-1)[:, :size]
        kinds = torch.rand(count, size, labels, generator=generator).argsort(-1)[..., :2]
        ends = torch.randint(0, size, (count, size, 2), generator=generator)
        inputs = torch.zeros(count, edges + self.walk, self.input_size)
        start, label, end = inputs[..., :-1].split([names, labels, names], -1)
        order = torch.rand(count, edges, generator=generator).argsort(-1)
        for place in range(edges):
            node, edge = order[:, place] // 2, order[:, place] % 2
            start[rows, place, name[rows, node]] = 1
            label[rows, place, kinds[rows, node, edge]] = 1
            end[rows, place, name[rows, ends[rows, node, edge]]] = 1
        at = torch.randint(0, size, (count,), generator=generator)
        start[rows, edges, name[rows, at]] = 1
        inputs[:, edges:, -1] = 1
        targets = torch.zeros(count, self.walk, names)
        for step in range(self.walk):
            edge = torch.randint(0, 2, (count,), generator=generator)
            label[rows, edges + step, kinds[rows, at, edge]] = 1
            at = ends[rows, at, edge]
            targets[rows, step, name[rows, at]] = 1
        return Batch(inputs, targets)


class Glyphs:
    """Few-shot classification: label each drawing with one of several new classes.

    A step shows a drawing, to be labelled at once, and the drawing before it with its label. The
    label of a class's first drawing can only be guessed; each later drawing has one more known
    example. In Santoro et al. 2016 the label comes without its drawing. A class is a line through a
    few random points; each drawing moves, turns and bends the line. Every sequence has new classes
    and labels, so knowledge about them is in the memory, not in the weights. Size: drawings of each
    class.

    Args:
        classes: number of classes in a sequence.
        pixels: side of a drawing.
    """

    scoring = CHOICE
    POINTS = 4
    # how far a drawing's points lie from those of its class, as shares of the picture
    BEND, SHIFT, TURN = 0.05, 0.04, 0.25
    # half the breadth of a line
    INK = 0.06

    def __init__(self, classes: int = 5, pixels: int = 12) -> None:
        self.classes, self.pixels = classes, pixels
        self.input_size, self.output_size = 2 * pixels**2 + classes, classes

    def batch(self, count: int, size: int, generator: Generator) -> Batch:
        """All drawings in random order; answers are numbered within their class."""
        classes = self.classes
        lines = 0.15 + 0.7 * torch.rand(count, classes, self.POINTS, 2, generator=generator)
        labels = torch.rand(count, size * classes, generator=generator).argsort(-1) % classes
        drawn = lines.gather(1, labels[..., None, None].expand(-1, -1, self.POINTS, 2))
        answers = torch.eye(classes)[labels]
        drawings = self._draw(self._vary(drawn, generator))
        known = torch.cat([drawings, answers], -1)
        inputs = torch.cat([drawings, nn.functional.pad(known[:, :-1], (0, 0, 1, 0))], -1)
        nth = (answers.cumsum(1) * answers).sum(-1).long() - 1
        return Batch(inputs, answers, nth)

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
