"""What must hold of addressing whatever the numbers are; the golden cases say what they are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memformer.classic import addressing as a
from memformer.classic.step import DNCInterface, DNCState, dnc_step
from memformer.memory.addressing import SAFE, Guards, cosine_similarity, retention

PAPER = Guards(0.0, 0.0, 0.0)
# all different, so that a swapped axis can't pass
BATCH, SLOTS, WIDTH, READS, WRITES = 2, 7, 5, 3, 4
SEEDS = st.integers(0, 10_000)
ROUNDING = 1e-12


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def raw(seed: int, steps: int, scale: float = 2.0, batch: int = BATCH) -> torch.Tensor:
    """Interface vectors of so many steps."""
    size = sum(DNCInterface.sizes(WIDTH, READS))
    return scale * torch.randn(steps, batch, size, generator=generator(seed), dtype=torch.float64)


def empty(batch: int = BATCH, dtype: torch.dtype = torch.float64) -> DNCState:
    return DNCState.empty(batch, SLOTS, WIDTH, READS, like=torch.zeros((), dtype=dtype))


def run(vectors: torch.Tensor, state: DNCState, guards: Guards = SAFE):
    words = []
    for vector in vectors:
        state, word = dnc_step(state, DNCInterface.parse(vector, WIDTH, READS), guards)
        words.append(word)
    return state, torch.stack(words)


def used(seed: int, batch: int = BATCH) -> DNCState:
    """A state after some steps; no two usages are alike."""
    return run(raw(seed, 9, batch=batch), empty(batch))[0]


def dirichlet(seed: int, *shape: int) -> torch.Tensor:
    """Weights that sum to less than one, most of them small."""
    drawn = torch.rand(*shape, generator=generator(seed), dtype=torch.float64) ** 4
    total = torch.rand(*shape[:-1], 1, generator=generator(seed + 1), dtype=torch.float64)
    return drawn / drawn.sum(-1, keepdim=True) * total


@settings(deadline=None, max_examples=30)
@given(SEEDS, st.sampled_from([0.5, 2.0, 30.0]), st.sampled_from([PAPER, SAFE]))
def test_every_quantity_stays_in_its_range(seed, scale, guards):
    state = empty()
    for vector in raw(seed, 20, scale):
        state, words = dnc_step(state, DNCInterface.parse(vector, WIDTH, READS), guards)
        assert all(value.isfinite().all() for value in (*state, words))
        assert state.usage.min() >= 0
        assert state.usage.max() <= 1 + ROUNDING
        for weights in (state.precedence, state.write_weights, state.read_weights):
            assert weights.min() >= -ROUNDING
            assert weights.sum(-1).max() <= 1 + ROUNDING
        assert state.link.min() >= -ROUNDING
        assert (state.link.diagonal(dim1=-2, dim2=-1) == 0).all()
        assert state.link.sum(-1).max() <= 1 + ROUNDING
        # stronger than the bound of the paper: what follows a slot, and what may still follow it
        assert (state.link.sum(-2) + state.precedence).max() <= 1 + ROUNDING


@settings(deadline=None)
@given(SEEDS)
def test_allocation_sums_to_one_minus_the_product_of_usage(seed):
    usage = torch.rand(BATCH, SLOTS, generator=generator(seed), dtype=torch.float64)
    allocated = a.allocation(usage)
    assert allocated.min() >= 0
    torch.testing.assert_close(allocated.sum(-1), 1 - usage.prod(-1), rtol=0, atol=ROUNDING)
    order = torch.randperm(SLOTS, generator=generator(seed))
    torch.testing.assert_close(a.allocation(usage[:, order]), allocated[:, order], rtol=0, atol=0)


def test_allocation_takes_the_first_free_slot_and_vanishes_when_all_are_used():
    usage = torch.tensor([[0.5, 0.0, 0.0, 1.0], [1.0, 1.0, 1.0, 1.0]])
    expected = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    assert a.allocation(usage).equal(expected)
    assert a.free_list(usage)[0].tolist() == [1, 2, 0, 3]


@settings(deadline=None)
@given(SEEDS, st.floats(0, 1), st.floats(0, 1))
def test_write_weights_sum_to_what_the_gates_let_through(seed, allocate, write):
    usage = torch.rand(BATCH, SLOTS, generator=generator(seed), dtype=torch.float64)
    gates = torch.tensor([allocate, write], dtype=torch.float64)
    content = torch.rand(BATCH, SLOTS, generator=generator(seed), dtype=torch.float64).softmax(-1)
    weights = a.write_weights(content, a.allocation(usage), gates[0], gates[1])
    total = write * (allocate * (1 - usage.prod(-1)) + 1 - allocate)
    torch.testing.assert_close(weights.sum(-1), total, rtol=0, atol=ROUNDING)


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_a_closed_write_gate_changes_nothing_bit_for_bit(seed):
    state = used(seed)
    interface = DNCInterface.parse(raw(seed + 1, 1)[0], WIDTH, READS)
    closed = interface._replace(
        write_gates=torch.zeros_like(interface.write_gates),
        free_gates=torch.zeros_like(interface.free_gates),
    )
    after, _ = dnc_step(state, closed)
    for name in ("memory", "link", "precedence"):
        assert getattr(after, name).equal(getattr(state, name)), name
    assert retention(closed.free_gates, state.read_weights).equal(torch.ones_like(state.usage))


@given(SEEDS, st.integers(0, SLOTS - 1))
@settings(deadline=None, max_examples=20)
def test_a_full_write_to_one_slot_replaces_it_and_touches_no_other(seed, slot):
    state = used(seed)
    weights = torch.zeros(BATCH, SLOTS, dtype=torch.float64)
    weights[:, slot] = 1
    vector = torch.randn(BATCH, 1, WIDTH, generator=generator(seed), dtype=torch.float64)
    memory = a.erase_and_add(state.memory, weights[:, None], torch.ones_like(vector), vector)
    others = torch.arange(SLOTS) != slot
    assert memory[:, slot].equal(vector[:, 0])
    assert memory[:, others].equal(state.memory[:, others])
    link = a.link_after(state.link, state.precedence, weights)
    assert link[:, slot, others].equal(state.precedence[:, others])
    assert (link[:, :, slot] == 0).all()
    assert a.precedence_after(state.precedence, weights).equal(weights)


def test_links_lead_along_the_order_of_writing_and_back():
    link, precedence = torch.zeros(SLOTS, SLOTS), torch.zeros(SLOTS)
    order = [4, 1, 6, 0, 3]
    for slot in order:
        weights = torch.nn.functional.one_hot(torch.tensor(slot), SLOTS).float()
        link = a.link_after(link, precedence, weights)
        precedence = a.precedence_after(precedence, weights)
    for earlier, later in zip(order, order[1:], strict=False):
        at = torch.nn.functional.one_hot(torch.tensor([earlier]), SLOTS).float()
        forward = a.forward_weights(link, at)
        assert forward.argmax() == later
        assert forward.sum() == 1
        assert a.backward_weights(link, forward).equal(at)
    last = torch.nn.functional.one_hot(torch.tensor([order[-1]]), SLOTS).float()
    assert (a.forward_weights(link, last) == 0).all()


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_slot_numbers_mean_nothing(seed):
    """Permuting the slots at the start permutes every state and leaves what is read unchanged."""
    state, vectors = used(seed), raw(seed + 1, 5)
    order = torch.randperm(SLOTS, generator=generator(seed))
    moved = DNCState(
        state.memory[:, order],
        state.usage[:, order],
        state.precedence[:, order],
        state.link[:, order][:, :, order],
        state.read_weights[:, :, order],
        state.write_weights[:, :, order],
    )
    # ties are broken by slot number, so there must be none
    assert state.usage.diff(dim=-1).ne(0).all()
    after, words = run(vectors, state)
    after_moved, words_moved = run(vectors, moved)
    torch.testing.assert_close(words_moved, words, rtol=0, atol=ROUNDING)
    torch.testing.assert_close(after_moved.memory, after.memory[:, order], rtol=0, atol=ROUNDING)
    torch.testing.assert_close(
        after_moved.link, after.link[:, order][:, :, order], rtol=0, atol=ROUNDING
    )


@given(SEEDS)
@settings(deadline=None, max_examples=10)
def test_rows_of_a_batch_never_meet(seed):
    vectors = raw(seed, 6)
    together, words = run(vectors, empty())
    for row in range(BATCH):
        alone, word = run(vectors[:, row : row + 1], empty(1))
        torch.testing.assert_close(word[:, 0], words[:, row], rtol=0, atol=ROUNDING)
        for one, all_rows in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], all_rows[row], rtol=0, atol=ROUNDING)


@given(SEEDS, st.floats(0.1, 100))
@settings(deadline=None)
def test_only_the_direction_of_a_key_counts(seed, factor):
    memory, keys = (
        torch.randn(BATCH, count, WIDTH, generator=generator(seed + count), dtype=torch.float64)
        for count in (SLOTS, READS)
    )
    strengths = torch.full((BATCH, READS), 3.0, dtype=torch.float64)
    weights = a.content_weights(memory, keys, strengths, None, PAPER)
    torch.testing.assert_close(
        a.content_weights(memory, factor * keys, strengths, None, PAPER), weights, rtol=0, atol=1e-9
    )
    hard = a.content_weights(memory, keys, 1e6 * strengths, None, PAPER)
    assert hard.argmax(-1).equal(weights.argmax(-1))
    torch.testing.assert_close(hard.max(-1).values, torch.ones_like(strengths))


@given(SEEDS)
@settings(deadline=None)
def test_a_mask_of_ones_is_no_mask_and_masked_numbers_do_not_count(seed):
    memory, keys = (
        torch.randn(BATCH, count, WIDTH, generator=generator(seed + count), dtype=torch.float64)
        for count in (SLOTS, READS)
    )
    ones = torch.ones_like(keys)
    torch.testing.assert_close(
        cosine_similarity(memory, keys, ones), cosine_similarity(memory, keys)
    )
    mask = torch.cat([ones[..., :3], torch.zeros_like(ones[..., 3:])], -1)
    torch.testing.assert_close(
        cosine_similarity(memory, keys, mask),
        cosine_similarity(memory[..., :3], keys[..., :3]),
    )


@given(SEEDS, st.sampled_from([1, WIDTH]))
@settings(deadline=None, max_examples=20)
def test_many_writes_at_once_are_the_writes_one_after_the_other(seed, columns):
    memory = torch.randn(BATCH, SLOTS, WIDTH, generator=generator(seed), dtype=torch.float64)
    weights = dirichlet(seed, BATCH, WRITES, SLOTS)
    erase = torch.rand(BATCH, WRITES, columns, generator=generator(seed), dtype=torch.float64)
    vectors = torch.randn(BATCH, WRITES, WIDTH, generator=generator(seed + 1), dtype=torch.float64)
    once, one_by_one = a.erase_and_add(memory, weights, erase, vectors), memory
    for write in range(WRITES):
        at = slice(write, write + 1)
        one_by_one = a.erase_and_add(one_by_one, weights[:, at], erase[:, at], vectors[:, at])
    torch.testing.assert_close(once, one_by_one, rtol=0, atol=ROUNDING)


@given(SEEDS)
@settings(deadline=None, max_examples=20)
def test_one_hot_writes_in_one_step_are_as_many_steps(seed):
    """Writes to free slots, together and one after the other: the same memory and links."""
    drawn = generator(seed)
    state = used(seed)
    # as many free slots as writes
    state.usage[:, torch.randperm(SLOTS, generator=drawn)[:WRITES]] = 0
    size = sum(DNCInterface.sizes(WIDTH, READS, WRITES))
    vector = torch.randn(BATCH, size, generator=drawn, dtype=torch.float64)
    together = DNCInterface.parse(vector, WIDTH, READS, WRITES)
    together = together._replace(
        allocation_gates=torch.ones_like(together.allocation_gates),
        free_gates=torch.zeros_like(together.free_gates),
    )
    whole, words = dnc_step(state, together)
    targets = []
    for write in range(WRITES):
        at = slice(write, write + 1)
        one = {
            name: getattr(together, name)[:, at]
            for name in together._fields
            if name in ("erase", "allocation_gates") or name.startswith("write_")
            if getattr(together, name) is not None
        }
        after, words_after = dnc_step(state, together._replace(**one))
        # heads stay where they were until all is written
        state = after._replace(read_weights=state.read_weights)
        targets.append(after.write_weights[:, 0])
    torch.testing.assert_close(whole.write_weights, torch.stack(targets, 1), rtol=0, atol=ROUNDING)
    assert (whole.write_weights > 0).sum(-1).eq(1).all()
    torch.testing.assert_close(words, words_after, rtol=0, atol=ROUNDING)
    for name in ("memory", "link", "precedence", "usage"):
        torch.testing.assert_close(
            getattr(whole, name), getattr(state, name), rtol=0, atol=ROUNDING
        )


def test_gradients_of_a_step_are_right_and_finite_from_an_empty_memory():
    def read(vector, *start):
        _, words = dnc_step(
            DNCState(*start), DNCInterface.parse(vector, WIDTH, READS), usage_gradient=True
        )
        return words

    start = tuple(value.requires_grad_() for value in used(3))
    assert torch.autograd.gradcheck(read, (raw(4, 1)[0].requires_grad_(), *start))

    for guards in (PAPER, SAFE):
        vectors = raw(5, 4, scale=20.0).requires_grad_()
        state = DNCState(*(value.requires_grad_() for value in empty()))
        run(vectors, state, guards)[1].square().sum().backward()
        assert vectors.grad.isfinite().all()
        assert all(value.grad is None or value.grad.isfinite().all() for value in state)


def test_float32_follows_float64_for_a_hundred_steps():
    vectors = raw(6, 100)
    _, words = run(vectors, empty())
    _, single = run(vectors.float(), empty(dtype=torch.float32))
    torch.testing.assert_close(single.double(), words, rtol=0, atol=1e-5)


def test_addressing_is_in_float32_whatever_autocast_says():
    state, vector = used(7), raw(8, 1)[0].float()
    state = DNCState(*(value.float() for value in state))
    interface = DNCInterface.parse(vector, WIDTH, READS)
    expected, _ = dnc_step(state, interface)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = dnc_step(state, interface)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == torch.float32
        assert one.equal(other)
    halves = a.content_weights(
        state.memory.bfloat16(), interface.read_keys.bfloat16(), interface.read_strengths.bfloat16()
    )
    assert halves.dtype == torch.float32


@given(SEEDS, st.floats(1, 20))
@settings(deadline=None)
def test_sharpening_keeps_a_distribution_and_nothing_stays_nothing(seed, exponent):
    weights = dirichlet(seed, BATCH, SLOTS)
    sharp = a.sharpened(weights, torch.full((BATCH,), exponent, dtype=torch.float64))
    torch.testing.assert_close(sharp.sum(-1), torch.ones(BATCH, dtype=torch.float64))
    assert (
        sharp.max(-1).values >= (weights / weights.sum(-1, keepdim=True)).max(-1).values - ROUNDING
    ).all()
    nothing = torch.zeros(1, SLOTS, requires_grad=True)
    power = torch.tensor([2.0], requires_grad=True)
    still = a.sharpened(nothing, power)
    assert (still == 0).all()
    still.sum().backward()
    assert nothing.grad.isfinite().all()
    assert power.grad.isfinite().all()


@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_a_shift_moves_weights_around_the_ring(offset):
    weights = torch.eye(SLOTS)[SLOTS - 1]
    moved = a.shifted(weights, torch.eye(3)[offset + 1])
    assert moved.argmax() == (SLOTS - 1 + offset) % SLOTS
    assert a.interpolated(moved, weights, torch.tensor(0.0)).equal(weights)
