"""The finder's loss: which passages are right, and where its gradient pushes."""

from __future__ import annotations

import pytest
import torch

from training.contrast import contrastive, overlapping


def test_the_loss_is_the_softmax_mass_of_the_right_passages():
    scores = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 0.0]])
    share = scores.softmax(-1)
    one = torch.tensor([[False, False, True], [False, True, False]])
    wanted = -(share[0, 2].log() + share[1, 1].log()) / 2
    assert contrastive(scores, one) == pytest.approx(float(wanted))
    both = torch.tensor([[True, False, True], [False, False, False]])
    wanted = -(share[0, 0] + share[0, 2]).log()
    assert contrastive(scores, both) == pytest.approx(float(wanted))


def test_the_gradient_raises_right_passages_and_lowers_all_others():
    scores = torch.zeros(2, 4, requires_grad=True)
    right = torch.tensor([[True, True, False, False], [False, False, False, False]])
    contrastive(scores, right).backward()
    assert (scores.grad[0, :2] < 0).all() and (scores.grad[0, 2:] > 0).all()
    assert (scores.grad[1] == 0).all()


def test_without_a_right_passage_the_loss_and_its_gradient_are_0():
    scores = torch.randn(2, 3, requires_grad=True)
    loss = contrastive(scores, torch.zeros(2, 3, dtype=torch.bool))
    loss.backward()
    assert loss == 0 and (scores.grad == 0).all()


def test_passages_that_share_a_token_with_the_range_are_right():
    passages = torch.tensor([[0, 4], [4, 8], [8, 12]])
    gold = torch.tensor([[2, 4], [3, 9], [8, 9], [-1, -1]])
    assert overlapping(gold, passages).tolist() == [
        [True, False, False],
        [True, True, True],
        [False, False, True],
        [False, False, False],
    ]
