"""The algorithmic tasks: what they show is what they ask for."""

from __future__ import annotations

import pytest
import torch

from training.tasks import TASKS, AssociativeRecall, Copy, PrioritySort, RepeatCopy

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
        answers = batch.targets.shape[1]
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
