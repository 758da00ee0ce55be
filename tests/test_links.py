"""Links as lists: the matrix where nothing is dropped, its largest entries where something is."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memformer.classic import DNC
from memformer.classic.addressing import precedence_after
from memformer.classic.links import LinkLists, backward_along, forward_along, links_after


def matrix(lists: LinkLists) -> torch.Tensor:
    """The same links as a matrix."""
    slots = lists.slots.shape[-2]
    dense = lists.weights.new_zeros(*lists.slots.shape[:-1], slots)
    return dense.scatter_add(-1, lists.slots, lists.weights)


def written(kept: int, slots: int, steps: int, sharp: float, seed: int):
    """Lists, the matrix, and the weights of one more read, after random writes."""
    generator = torch.Generator().manual_seed(seed)
    lists = LinkLists.empty(2, slots, kept, torch.zeros((), dtype=torch.float64))
    dense = torch.zeros(2, slots, slots, dtype=torch.float64)
    precedence = torch.zeros(2, slots, dtype=torch.float64)
    for _ in range(steps):
        logits = torch.randn(2, slots, generator=generator, dtype=torch.float64)
        write = (sharp * logits).softmax(-1) * torch.rand(2, 1, generator=generator)
        dense = links_after(dense, precedence, write)
        lists = links_after(lists, precedence, write)
        precedence = precedence_after(precedence, write)
    return lists, dense, torch.rand(2, 3, slots, generator=generator, dtype=torch.float64)


@settings(deadline=None, max_examples=40)
@given(
    slots=st.integers(1, 9), steps=st.integers(0, 12), sharp=st.floats(0, 20), seed=st.integers()
)
def test_lists_of_all_links_are_the_matrix(slots, steps, sharp, seed):
    lists, dense, reads = written(slots, slots, steps, sharp, seed % 1000)
    torch.testing.assert_close(matrix(lists), dense)
    torch.testing.assert_close(forward_along(lists, reads), forward_along(dense, reads))
    torch.testing.assert_close(backward_along(lists, reads), backward_along(dense, reads))


@settings(deadline=None, max_examples=40)
@given(kept=st.integers(1, 8), sharp=st.floats(0, 20), seed=st.integers(0, 999))
def test_short_lists_name_each_slot_once_and_never_more_than_the_matrix(kept, sharp, seed):
    lists, dense, _ = written(kept, 9, 12, sharp, seed)
    for row in lists.slots.flatten(0, -2).tolist():
        assert len(set(row)) == kept
    assert (matrix(lists) <= dense + 1e-12).all()
    assert (lists.weights >= 0).all()


def test_one_link_a_slot_is_enough_for_writes_to_one_slot_each():
    lists = LinkLists.empty(1, 6, 1, torch.zeros(()))
    precedence = torch.zeros(1, 6)
    for slot in (4, 0, 5, 2):
        write = torch.nn.functional.one_hot(torch.tensor([slot]), 6).float()
        lists = links_after(lists, precedence, write)
        precedence = precedence_after(precedence, write)
    here = torch.eye(6)[None, :]
    forward = forward_along(lists, here)[0]
    assert [forward[slot].argmax().item() for slot in (4, 0, 5)] == [0, 5, 2]
    assert backward_along(lists, here)[0, 2].argmax() == 5
    assert forward[2].sum() == 0


@pytest.mark.parametrize("kept", [2, 7])
def test_a_machine_with_all_its_links_in_lists_is_the_machine(kept):
    machines = []
    for kept_links in (None, kept):
        torch.manual_seed(1)
        machines.append(DNC(5, 4, slots=7, width=6, reads=2, hidden=12, kept_links=kept_links))
    inputs = torch.randn(3, 8, 5)
    outputs, gradients = [], []
    for machine in machines:
        output, state = machine(inputs)
        outputs.append(output)
        gradients.append(torch.autograd.grad(output.square().sum(), list(machine.parameters())))
    assert isinstance(state.memory.link, LinkLists)
    same = torch.allclose(*outputs, atol=1e-6)
    assert same == (kept == 7)
    if same:
        for dense, sparse in zip(*gradients, strict=True):
            torch.testing.assert_close(sparse, dense, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kept", [0, 8])
def test_more_links_than_slots_get_a_sentence(kept):
    with pytest.raises(ValueError, match="kept_links must be between 1 and the number of slots, 7"):
        DNC(5, 4, slots=7, kept_links=kept)
