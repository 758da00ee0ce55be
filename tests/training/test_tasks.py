"""The algorithmic tasks: what they show is what they ask for."""

from __future__ import annotations

import pytest
import torch

from training.machines.tasks import (
    BITS,
    CHOICE,
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
    task = Graph(names=9, labels=3, walk=4)
    batch = made(task, 5)
    edges, names = 10, slice(0, 9)
    used = set()
    for row in range(COUNT):
        known = {}
        for edge in batch.inputs[row, :edges]:
            known[tuple(edge[:12].tolist())] = edge[12:21].tolist()
        assert len(known) == edges
        assert len({key[:9] for key in known}) == 5
        used |= {key[:9] for key in known}
        at = batch.inputs[row, edges, names].tolist()
        for step, answer in zip(batch.inputs[row, edges:], batch.targets[row], strict=True):
            assert step[21] == 1
            at = known[(*at, *step[9:12].tolist())]
            assert answer.tolist() == at
        assert (batch.inputs[row, edges + 1 :, names] == 0).all()
    assert len(used) == 9
    with pytest.raises(ValueError, match="with 9 names has at most 9 nodes; got 10"):
        made(task, 10)


def test_glyphs_show_each_drawing_and_then_again_with_its_label():
    task = Glyphs(classes=3, pixels=10)
    batch = made(task, 4)
    drawing, before, label = batch.inputs.split([100, 100, 3], -1)
    assert before[:, 1:].equal(drawing[:, :-1])
    assert label[:, 1:].equal(batch.targets[:, :-1])
    assert not batch.inputs[:, 0, 100:].any()
    assert batch.targets.sum(1).eq(4).all()
    for row in range(COUNT):
        seen = [0, 0, 0]
        for answer, nth in zip(batch.targets[row].argmax(-1), batch.nth[row], strict=True):
            assert nth == seen[answer]
            seen[answer] += 1
    # drawings of one class are more alike than those of different classes
    alike = torch.cosine_similarity(drawing[:, :, None], drawing[:, None], -1)
    labels = batch.targets.argmax(-1)
    same = labels[:, :, None] == labels[:, None]
    other = ~torch.eye(12, dtype=torch.bool)
    assert alike[same & other].mean() > alike[~same].mean() + 0.2


def test_the_seed_makes_the_glyphs_anew():
    """New classes in every sequence: nothing about them can be in the weights."""
    batch = made(Glyphs(classes=3, pixels=10), 1)
    assert not batch.inputs[0, :3, :100].equal(batch.inputs[1, :3, :100])


def test_bits_are_right_or_wrong_one_by_one_and_a_choice_as_a_whole():
    outputs = torch.tensor([[[3.0, 1.0, -1.0], [-1.0, 0.5, 2.0]]])
    targets = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    assert BITS.wrong(outputs, targets).tolist() == [[[False, True, False], [False, False, True]]]
    assert CHOICE.wrong(outputs, targets).tolist() == [[[False], [True]]]
    torch.testing.assert_close(
        CHOICE.loss(outputs, targets),
        torch.nn.functional.cross_entropy(outputs[0], torch.tensor([0, 1])),
    )
    torch.testing.assert_close(CHOICE.chances(outputs).sum(-1), torch.ones(1, 2))
    torch.testing.assert_close(
        BITS.loss(outputs, targets),
        torch.nn.functional.binary_cross_entropy(BITS.chances(outputs), targets),
    )
