"""Reading by content: the null slot, focus, and what a full memory gives up."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memformer.memory.addressing import least_used
from memformer.memory.read import content_read, focused, prepare_slots

PASSAGES = 5
SLOTS_EACH = 4


def read(
    focus=0.0, *, tokens=6, null=0.5, passages=PASSAGES, seed=0, reorder=None, nudge=None, **kwargs
):
    """A read by four query heads on two key heads from a random memory.

    `nudge` is added to queries and keys.
    """
    generator = torch.Generator().manual_seed(seed)
    slots = passages * SLOTS_EACH
    queries = torch.randn(1, tokens, 4, 8, generator=generator)
    keys, values = torch.randn(2, 1, slots, 2, 8, generator=generator)
    strength = torch.rand(1, slots, generator=generator) * 0.9 + 0.1
    age = torch.randint(0, 90, (1, slots), generator=generator).float()
    passage = torch.arange(slots)[None] // SLOTS_EACH
    order = torch.arange(slots) if reorder is None else reorder
    if nudge is not None:
        queries, keys = queries + nudge[0], keys + nudge[1]
    return content_read(
        queries,
        prepare_slots(
            keys[:, order],
            values[:, order],
            strength[:, order],
            age[:, order],
            torch.full((4,), 0.1),
            torch.full((4,), null),
        ),
        readers=torch.ones(1, tokens, dtype=torch.bool),
        passage=passage[:, order],
        focus=focus,
        **kwargs,
    )


def by_hand(focus, null=0.5, seed=0):
    """The equations of `content_read` and `focused`, one token and one head after the other."""
    generator = torch.Generator().manual_seed(seed)
    slots = PASSAGES * SLOTS_EACH
    queries = torch.randn(1, 6, 4, 8, generator=generator)[0].double()
    keys, values = torch.randn(2, 1, slots, 2, 8, generator=generator).double()[:, 0]
    strength = (torch.rand(1, slots, generator=generator) * 0.9 + 0.1)[0].double()
    age = torch.randint(0, 90, (1, slots), generator=generator)[0].double()
    words, evidence = torch.zeros(6, 4, 8).double(), torch.zeros(6, 4).double()
    for token in range(6):
        weights = []
        for head in range(4):
            logits = keys[:, head // 2] @ queries[token, head]
            logits = logits + strength.log() - 0.1 * torch.log1p(age)
            weights.append(torch.cat([logits, torch.tensor([null]).double()]).softmax(0))
        votes = torch.stack(weights)[:, :-1].sum(0).view(PASSAGES, SLOTS_EACH).sum(1)
        second = votes.sort(descending=True).values[1]
        scale = (votes / second).clamp_max(1.0) ** focus
        for head in range(4):
            scaled = weights[head][:-1] * scale.repeat_interleave(SLOTS_EACH)
            total = scaled.sum() + weights[head][-1]
            words[token, head] = (scaled / total) @ values[:, head // 2]
            evidence[token, head] = scaled.sum() / total
    return words, evidence


@pytest.mark.parametrize("focus", [0.0, 1.0, 8.0])
def test_a_read_follows_its_equations(focus):
    words, evidence, mass = read(focus)
    expected, found = by_hand(focus)
    torch.testing.assert_close(words[0].double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(evidence[0].double(), found, rtol=1e-5, atol=1e-6)
    # usage counts the weights that were really read with
    torch.testing.assert_close(mass.sum(), evidence.sum() / 4)


def test_focus_changes_nothing_in_two_passages_and_something_in_five():
    for passages, same in ((2, True), (5, False)):
        alone, together = read(0.0, passages=passages), read(8.0, passages=passages)
        assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True)) == same


def test_focus_reads_where_the_heads_agree():
    votes = torch.full((1, 1, 20), 0.01)
    votes[..., 4:8] = 0.3
    votes[..., 8:12] = 0.2
    passage = torch.arange(20)[None] // SLOTS_EACH
    kept = focused(votes, passage, PASSAGES, 8.0).view(PASSAGES, SLOTS_EACH)
    assert torch.equal(kept[1:3], torch.ones(2, 4))
    torch.testing.assert_close(kept[0], torch.full((4,), (0.01 / 0.2) ** 8))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 999), focus=st.sampled_from([0.0, 2.0, 8.0]), null=st.floats(-40, 40))
def test_a_read_is_a_mean_of_the_values_and_knows_no_slot_numbers(seed, focus, null):
    words, evidence, mass = read(focus, null=null, seed=seed)
    assert (evidence >= -1e-6).all() and (evidence <= 1 + 1e-6).all() and (mass >= 0).all()
    assert torch.isfinite(words).all()
    order = torch.randperm(PASSAGES * SLOTS_EACH, generator=torch.Generator().manual_seed(seed))
    moved = read(focus, null=null, seed=seed, reorder=order)
    torch.testing.assert_close(moved[0], words, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(moved[2], mass[:, order], rtol=1e-4, atol=1e-5)


def test_a_read_in_blocks_is_the_same_read(monkeypatch):
    monkeypatch.setattr("memformer.memory.read.BLOCK", 500)  # five tokens at once
    with torch.no_grad():
        blocked = read(8.0, tokens=64)
    torch.testing.assert_close(blocked, read(8.0, tokens=64), rtol=1e-5, atol=1e-6)


def test_gradients_through_focus_are_finite_where_a_passage_gets_no_votes():
    votes = torch.zeros(1, 2, 12, requires_grad=True)
    lively = votes + torch.tensor([0.5] * 4 + [0.0] * 8)
    focused(lively, torch.arange(12)[None] // 4, 3, 8.0).sum().backward()
    assert torch.isfinite(votes.grad).all()


def test_ties_among_the_least_used_go_to_the_lower_slot():
    usage = torch.tensor([[0.5, 0.1, 0.1, 0.1]])
    everyone = torch.ones_like(usage, dtype=torch.bool)
    marked = least_used(usage, everyone, torch.tensor([2]))
    assert marked.tolist() == [[False, True, True, False]]


@pytest.mark.parametrize("focus", [0.0, 8.0])
def test_one_kernel_gives_what_the_equations_give_and_their_gradients(focus):
    """With every slot kept, `kept` is a factor of one: the long way round to the same read."""
    found = []
    for kept in (None, torch.ones(1, PASSAGES * SLOTS_EACH, requires_grad=True)):
        inputs = [torch.zeros(1, 6, 4, 8), torch.zeros(1, PASSAGES * SLOTS_EACH, 2, 8)]
        inputs = [one.requires_grad_() for one in inputs]
        words, evidence, mass = read(focus, kept=kept, nudge=inputs)
        loss = (words * torch.arange(8)).sum() + evidence.square().sum()
        gradients = torch.autograd.grad(loss, inputs)
        found.append((words, evidence, mass, *(gradients if not focus else ())))
    for fused, dense in zip(*found, strict=True):
        torch.testing.assert_close(fused, dense, rtol=1e-4, atol=1e-5)
