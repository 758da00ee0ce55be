"""The algorithmic tasks: what they show is what they ask for."""

from __future__ import annotations

import pytest
import torch

from training.tasks import (
    TASKS,
    After,
    AssociativeRecall,
    Copy,
    Glyphs,
    Graph,
    PrioritySort,
    RepeatCopy,
)

COUNT = 50


def made(task, size, seed=0):
    return task.batch(COUNT, size, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", TASKS)
def test_batches_have_the_sizes_that_the_task_says_and_come_again_with_the_seed(name):
    task = TASKS[name]()
    for size in (2, 5):
        batch = made(task, size)
        assert batch.inputs.shape[0] == batch.targets.shape[0] == COUNT
        assert batch.inputs.shape[-1] == task.input_size
        assert batch.targets.shape[-1] == task.output_size
        assert set(batch.targets.unique().tolist()) <= {0.0, 1.0}
        answers = batch.targets.shape[1]
        if name in ("copy", "repeat_copy", "associative_recall", "priority_sort"):
            # nothing is shown where the answer is due
            assert (batch.inputs[:, -answers:] == 0).all()
        assert made(task, size).inputs.equal(batch.inputs)
        assert not made(task, size, seed=1).inputs.equal(batch.inputs)


def test_copy_asks_for_what_was_shown():
    batch = made(Copy(width=5), 4)
    assert batch.inputs[:, :4, :5].equal(batch.targets)
    assert batch.inputs[:, :, 5].nonzero()[:, 1].eq(4).all()


def test_repeat_copy_asks_for_it_so_many_times_and_then_for_a_mark():
    batch = made(RepeatCopy(width=5, items=3, scale=10), 4)
    items = (batch.targets.shape[1] - 1) // 4
    for time in range(4):
        part = batch.targets[:, time * items : (time + 1) * items]
        assert part[..., :5].equal(batch.inputs[:, :items, :5])
        assert (part[..., 5] == 0).all()
    assert batch.targets[:, -1].equal(torch.eye(6)[5].expand(COUNT, -1))
    torch.testing.assert_close(batch.inputs[:, items, 5], torch.full((COUNT,), 0.4))


def test_associative_recall_asks_for_the_item_behind_the_one_in_question():
    batch = made(AssociativeRecall(width=16, vectors=3), 5)
    items = batch.inputs[:, :20, :16].unflatten(1, (5, 4))[:, :, 1:]
    for row in range(COUNT):
        question = batch.inputs[row, 21:24, :16]
        (place,) = [n for n in range(5) if items[row, n].equal(question)]
        assert batch.targets[row].equal(items[row, place + 1])
    with pytest.raises(ValueError, match="at least 2 items; got 1"):
        made(AssociativeRecall(), 1)


def test_priority_sort_asks_for_the_most_urgent_in_order():
    batch = made(PrioritySort(width=16, share=0.8), 5)
    for row in range(COUNT):
        order = batch.inputs[row, :5, 16].argsort(descending=True)[:4]
        assert batch.targets[row].equal(batch.inputs[row, order, :16])


def test_after_asks_for_the_successor_and_for_zeros_behind_the_last():
    batch = made(After(width=16), 5)
    for row in range(COUNT):
        shown = batch.inputs[row, 0, :, :16].tolist()
        for asked, answer in zip(batch.inputs[row, 1], batch.targets[row, 0], strict=True):
            assert asked[16] == 1
            place = shown.index(asked[:16].tolist())
            assert answer.tolist() == (shown[place + 1] if place < 4 else [0.0] * 16)


def test_a_walk_on_a_graph_follows_its_edges():
    task = Graph(nodes=5, width=6, labels=3)
    batch = made(task, 4)
    edges, codes = 10, slice(0, 6)
    for row in range(COUNT):
        known = {}
        for edge in batch.inputs[row, :edges]:
            known[tuple(edge[:9].tolist())] = edge[9:15].tolist()
        assert len(known) == edges
        at = batch.inputs[row, edges, codes].tolist()
        for step, answer in zip(batch.inputs[row, edges:], batch.targets[row], strict=True):
            assert step[15] == 1
            at = known[(*at, *step[6:9].tolist())]
            assert answer.tolist() == at
        assert (batch.inputs[row, edges + 1 :, codes] == 0).all()


def test_glyphs_show_every_class_and_ask_for_labels_that_were_shown():
    task = Glyphs(classes=3, pixels=10, questions=4)
    batch = made(task, 2)
    shown, asked = batch.inputs[:, :6], batch.inputs[:, 6:]
    assert shown[..., 100:].sum(1).eq(2).all()
    assert (asked[..., 100:] == 0).all()
    assert batch.targets.sum(-1).eq(1).all()
    # drawings of one class are more alike than those of different classes
    ink = shown[..., :100]
    alike = torch.cosine_similarity(ink[:, :, None], ink[:, None], -1)
    same = shown[..., 100:].argmax(-1)[:, :, None] == shown[..., 100:].argmax(-1)[:, None]
    other = ~torch.eye(6, dtype=torch.bool)
    assert alike[same & other].mean() > alike[~same].mean() + 0.2


def test_the_seed_makes_the_glyphs_anew():
    """New classes in every sequence: nothing about them can be in the weights."""
    batch = made(Glyphs(classes=3, pixels=10), 1)
    assert not batch.inputs[0, :3, :100].equal(batch.inputs[1, :3, :100])
