"""The classic machines: their steps, their states, and the sparse one against a dense twin."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memformer.classic import DNC, NTM, SAM, SegmentDNC, detached, search
from memformer.classic.addressing import content_weights, oneplus
from memformer.classic.search import ExactSearch, FaissSearch
from memformer.classic.sparse import Accesses, SparseMemory
from memformer.classic.step import DNCInterface, DNCState, dnc_step

BATCH, STEPS, INPUT, OUTPUT, SLOTS, WIDTH, READS = 2, 6, 4, 3, 7, 5, 3
SIZES = {"slots": SLOTS, "width": WIDTH, "reads": READS, "hidden": 8}
MACHINES = {
    "dnc": (DNC, {}),
    "dnc, feed-forward": (DNC, {"controller": "feedforward"}),
    "dnc, several writes": (DNC, {"writes": 2}),
    "dnc, 2019": (DNC, {"masks": True, "deallocate": True, "sharpness": True}),
    "dnc, no links": (DNC, {"links": False}),
    "dnc, evicts": (DNC, {"half_life": 4.0}),
    "ntm": (NTM, {"writes": 2}),
    "sam": (SAM, {"topk": 2}),
    "sam, feed-forward": (SAM, {"topk": 2, "controller": "feedforward"}),
}


def made(name: str, **options):
    torch.manual_seed(1)
    kind, own = MACHINES[name]
    return kind(INPUT, OUTPUT, **SIZES | own | options)


@pytest.fixture(params=MACHINES)
def machine(request):
    return made(request.param)


def test_a_sequence_in_two_parts_is_the_sequence(machine):
    inputs = torch.randn(BATCH, STEPS, INPUT)
    whole, _ = machine(inputs)
    first, state = machine(inputs[:, :2])
    second, _ = machine(inputs[:, 2:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)


def test_no_gradient_reaches_beyond_a_detach(machine):
    inputs = torch.randn(3, BATCH, 2, INPUT, requires_grad=True)
    expected, _ = machine(inputs.transpose(0, 1).flatten(1, 2))
    _, state = machine(inputs[0])
    _, state = machine(inputs[1], detached(state))
    outputs, _ = machine(inputs[2], state)
    torch.testing.assert_close(outputs, expected[:, 4:])
    outputs.square().sum().backward()
    reached = inputs.grad.abs().sum((1, 2, 3)) > 0
    assert reached.tolist() == [False, True, True]


def test_rows_of_a_batch_do_not_meet(machine):
    inputs = torch.randn(BATCH, STEPS, INPUT)
    whole, _ = machine(inputs)
    alone, _ = machine(inputs[1:])
    torch.testing.assert_close(alone, whole[1:])


def test_every_parameter_gets_a_finite_gradient(machine):
    machine(torch.randn(BATCH, STEPS, INPUT))[0].square().sum().backward()
    for name, parameter in machine.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


def test_weights_tell_where_the_last_step_read_and_wrote(machine):
    _, state = machine(torch.randn(BATCH, STEPS, INPUT))
    reading, writing = machine.weights(state)
    for weights in (reading, writing):
        assert weights.shape[-1] == SLOTS
        assert weights.min() >= 0
        assert weights.sum(-1).max() <= 1 + 1e-6


# the compiler itself looks at .grad of the state that it is given
@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")
@pytest.mark.parametrize("name", ["dnc", "dnc, 2019", "ntm"])
def test_a_step_is_one_graph_for_the_compiler(name):
    machine = made(name)
    step, state = torch.compile(machine.step, fullgraph=True, backend="eager"), machine.start(BATCH)
    for vector in torch.randn(3, BATCH, INPUT):
        expected, _ = machine.step(vector, state)
        output, state = step(vector, state)
        torch.testing.assert_close(output, expected)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"slots": 0}, "slots must be at least 1; got 0"),
        ({"controller": "gru"}, "controller must be 'lstm' or 'feedforward'; got 'gru'"),
    ],
)
def test_bad_options_get_a_sentence(options, sentence):
    for name in ("dnc", "ntm", "sam"):
        with pytest.raises(ValueError, match=sentence):
            made(name, **options)


def test_more_bad_input_gets_a_sentence(machine):
    with pytest.raises(ValueError, match=r"shape \[batch, steps, 4\]; got \[2, 6, 5\]"):
        machine(torch.zeros(BATCH, STEPS, INPUT + 1))
    with pytest.raises(ValueError, match="topk must be at most slots; got topk=8, slots=7"):
        made("sam", topk=8)
    with pytest.raises(ValueError, match="search must be 'exact' or 'faiss'"):
        made("sam", search="near")
    with pytest.raises(ValueError, match="half_life must be above 0"):
        made("dnc", half_life=0.0)


def write(state: DNCState, vector: torch.Tensor, **options) -> DNCState:
    """A full write to a free slot; nothing is read."""
    sizes = DNCInterface.sizes(WIDTH, 1)
    interface = DNCInterface.parse(torch.zeros(len(vector), sum(sizes)), WIDTH, 1)
    one = torch.ones(len(vector), 1)
    interface = interface._replace(
        write_gates=one,
        allocation_gates=one,
        free_gates=0 * one,
        erase=torch.ones(len(vector), 1, WIDTH),
        write_vectors=vector[:, None],
        read_modes=None,
    )
    after, _ = dnc_step(state, interface, **options)
    # nothing counts as read
    return after._replace(read_weights=torch.zeros_like(after.read_weights))


@pytest.mark.parametrize(("half_life", "kept"), [(None, 0), (1.0, 5)])
def test_a_full_memory_takes_no_more_unless_usage_fades(half_life, kept):
    state = DNCState.empty(1, SLOTS, WIDTH, 1, links=False)
    vectors = torch.randn(SLOTS + 5, 1, WIDTH)
    for vector in vectors:
        state = write(state, vector, half_life=half_life)
    like = torch.cosine_similarity(state.memory, vectors[-5:], -1)
    assert (like.max(-1).values > 0.98).sum() == kept


@pytest.mark.parametrize("contents", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("steps", [500, pytest.param(100_000, marks=pytest.mark.slow)])
def test_nothing_overflows_in_many_random_steps(contents, steps):
    generator = torch.Generator().manual_seed(0)
    state = DNCState.empty(1, SLOTS, WIDTH, READS)
    state = state._replace(memory=state.memory.to(contents))
    size = sum(DNCInterface.sizes(WIDTH, READS))
    with torch.no_grad():
        for step in range(steps):
            scale = (1.0, 5.0, 20.0)[step % 3]
            vector = scale * torch.randn(1, size, generator=generator)
            state, words = dnc_step(state, DNCInterface.parse(vector, WIDTH, READS), half_life=20.0)
            assert words.isfinite().all()
    assert all(value.isfinite().all() for value in state)
    assert state.memory.dtype == contents
    assert state.usage.dtype == torch.float32
    assert state.link.sum(-1).max() <= 1 + 1e-4


def dense_sam(machine: SAM, inputs: torch.Tensor) -> torch.Tensor:
    """SAM's equations over all slots, with a memory that is copied at every step."""
    batch = len(inputs)
    memory = torch.zeros(batch, SLOTS, WIDTH, dtype=inputs.dtype)
    reading = torch.zeros(batch, READS, SLOTS, dtype=inputs.dtype)
    words = torch.zeros(batch, READS, WIDTH, dtype=inputs.dtype)
    controller = machine.controller.start(batch, inputs)
    order = [list(range(SLOTS)) for _ in range(batch)]
    outputs = []
    for step in inputs.unbind(1):
        hidden, controller = machine.controller(torch.cat([step, words.flatten(1)], -1), controller)
        parts = machine.interface(hidden).split(machine.sizes, -1)
        keys, strengths = parts[0].unflatten(-1, (READS, WIDTH)), oneplus(parts[1])
        alpha, gamma = parts[3].sigmoid(), parts[4].sigmoid()
        oldest = torch.nn.functional.one_hot(torch.tensor([row[0] for row in order]), SLOTS)
        writing = alpha * (gamma * reading.mean(1) + (1 - gamma) * oldest)
        memory = memory * (1 - oldest[..., None]) + writing[..., None] * parts[2][:, None]
        reading = content_weights(memory, keys, strengths)
        words = reading @ memory
        reading = reading * memory.any(-1)[:, None]
        for row in range(batch):
            # a slot that is read is accessed after those that were written, best match first
            accessed = [slot for slot in range(SLOTS) if writing[row, slot] > 0.005]
            order[row] = [slot for slot in order[row] if slot not in accessed] + accessed
            for head in range(READS):
                for slot in reading[row, head].argsort(descending=True, stable=True).tolist():
                    if reading[row, head, slot] > 0.005:
                        order[row].remove(slot)
                        order[row].append(slot)
        outputs.append(machine.output(torch.cat([hidden, words.flatten(1)], -1)))
    return torch.stack(outputs, 1)


def test_sam_with_all_slots_is_the_dense_machine_gradients_included():
    machine = made("sam", topk=SLOTS).double()
    inputs = torch.randn(BATCH, 2 * STEPS, INPUT, dtype=torch.float64, requires_grad=True)
    expected = dense_sam(machine, inputs)
    found, _ = machine(inputs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    weights = torch.randn_like(expected)
    asked = [inputs, *machine.parameters()]
    for one, other in zip(
        torch.autograd.grad((found * weights).sum(), asked),
        torch.autograd.grad((expected * weights).sum(), asked),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-11)


def test_a_segment_in_one_step_reads_what_came_after():
    """Written in order with gates open, each token's forward read is the next token's word."""
    machine = SegmentDNC(INPUT, OUTPUT, slots=SLOTS, width=WIDTH)
    with torch.no_grad():
        machine.write.bias[-2:] = 100.0
        machine.read.bias[WIDTH] = 1000.0
        machine.read.weight[-3:], machine.read.bias[-3:] = 0.0, torch.tensor([0.0, 0.0, 100.0])
    inputs = torch.randn(BATCH, 1, 4, INPUT)
    outputs, state = machine(inputs)
    reading, writing = machine.weights(state)
    assert writing.argmax(-1).tolist() == [[0, 1, 2, 3]] * BATCH
    assert reading[:, :3].argmax(-1).tolist() == [[1, 2, 3]] * BATCH
    # nothing came after the last
    assert reading[:, 3].sum() < 1e-3
    first, state = machine(inputs[:, :, :2])
    torch.testing.assert_close(first[:, 0, 0], outputs[:, 0, 0])
    machine(inputs[:, :, 2:], state)[0].sum().backward()
    with pytest.raises(ValueError, match=r"shape \[batch, segments, tokens, 4\]; got \[2, 4, 4\]"):
        machine(inputs[:, 0])


def test_reads_find_the_best_match_from_the_start_if_asked_to():
    words, inputs = torch.randn(BATCH, SLOTS, WIDTH), torch.randn(BATCH, INPUT)

    def best(name: str, strength: float) -> torch.Tensor:
        machine = made(name, strength=strength)
        if name == "sam":
            state = machine.start(BATCH, words)
        else:
            state = machine.start(BATCH)
            state = state._replace(memory=state.memory._replace(memory=words))
        return machine.weights(machine.step(inputs, state)[1])[0].max(-1).values

    for name in ("dnc, no links", "sam"):
        assert (best(name, 20.0) > best(name, 0.0)).all()


def test_a_sam_forgets_nothing_while_there_are_empty_slots():
    """Though every read finds all slots, empty ones too, and each write goes where it was read."""
    machine = made("sam", topk=SLOTS)
    state = machine.start(BATCH)
    for full, vector in enumerate(torch.randn(SLOTS, BATCH, INPUT), start=1):
        _, state = machine.step(vector, state)
        assert state.memory.store.words.any(-1).sum(-1).tolist() == [full] * BATCH


def test_a_sam_state_is_continued_once():
    machine = made("sam")
    inputs = torch.randn(BATCH, INPUT)
    _, state = machine.step(inputs, machine.start(BATCH))
    machine.step(inputs, state)
    with pytest.raises(ValueError, match="state is of step 1, but its memory has seen 2 steps"):
        machine.step(inputs, state)


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["write", "plain", "detach"]), st.integers(0, 1000)), max_size=12
)


@given(OPERATIONS)
@settings(deadline=None, max_examples=50)
def test_a_sparse_memory_is_a_memory_that_is_copied(operations):
    generator = torch.Generator().manual_seed(0)
    dense = torch.randn(BATCH, SLOTS, WIDTH, generator=generator, dtype=torch.float64)
    sparse, given_words = SparseMemory(dense), []
    rows = torch.arange(BATCH)[:, None]
    for what, seed in operations:
        if what == "detach":
            sparse.detach()
            dense = dense.detach()
            continue
        generator.manual_seed(seed)
        slots = torch.rand(BATCH, SLOTS, generator=generator).argsort(-1)[:, :3]
        words = torch.randn(BATCH, 3, WIDTH, generator=generator, dtype=torch.float64)
        words.requires_grad_(what == "write")
        given_words += [words] * (what == "write")
        # a word that depends on what was there
        dense = dense.index_put((rows, slots), 0.5 * dense[rows, slots] * words.detach() + words)
        new = 0.5 * sparse.read(slots) * words.detach() + words
        sparse.write(slots, new)
    everything = torch.arange(SLOTS).expand(BATCH, -1)
    torch.testing.assert_close(sparse.read(everything), dense)
    torch.testing.assert_close(sparse.words, dense.detach())
    if dense.requires_grad:
        weights = torch.randn(dense.shape, generator=generator, dtype=torch.float64)
        found, expected = (
            torch.autograd.grad((memory * weights).sum(), given_words, allow_unused=True)
            for memory in (sparse.read(everything), dense)
        )
        for one, other in zip(found, expected, strict=True):
            zero = torch.zeros(BATCH, 3, WIDTH, dtype=torch.float64)
            torch.testing.assert_close(
                zero if one is None else one, zero if other is None else other
            )


@given(st.lists(st.tuples(st.lists(st.integers(0, SLOTS - 1), max_size=4), st.integers(0, 15))))
@settings(deadline=None)
def test_the_ring_of_accesses_is_a_list_whose_touched_slots_move_to_the_end(touches):
    ring, order = Accesses(1, SLOTS), list(range(SLOTS))
    for slots, marks in touches:
        accessed = [bool(marks >> place & 1) for place in range(len(slots))]
        ring.touch(
            torch.tensor(slots, dtype=torch.long)[None], torch.tensor(accessed, dtype=bool)[None]
        )
        for slot, mark in zip(slots, accessed, strict=True):
            if mark:
                order.remove(slot)
                order.append(slot)
        assert ring.least_recent().item() == order[0]
    followed, slot = [], SLOTS
    for _ in range(SLOTS):
        slot = int(ring.next[0, slot])
        followed.append(slot)
    assert followed == order


def test_an_index_finds_what_was_written_also_after_it_was_written_anew(monkeypatch):
    pytest.importorskip("faiss")
    monkeypatch.setattr(search, "INDEX_FROM", 300)
    generator = torch.Generator().manual_seed(0)
    memory = torch.zeros(BATCH, 1000, 8)
    index, exact = FaissSearch(memory), ExactSearch(memory)
    assert index.indexes == [None, None]
    order = torch.randperm(1000, generator=generator)
    for slots in [*order.split(100), *order.split(50), *order.split(90)]:
        memory[:, slots] = torch.randn(BATCH, len(slots), 8, generator=generator)
        index.update(slots.expand(BATCH, -1))
        keys = memory[:, slots[:5]] + 0.01 * torch.randn(BATCH, 5, 8, generator=generator)
        assert index.nearest(keys, 1).equal(slots[:5].expand(BATCH, -1)[..., None])
        # the index holds each slot once, with the word it has now
        for row, one in enumerate(index.indexes):
            if one is not None:
                assert one.ntotal == index.written[row].sum()
    assert None not in index.indexes
    keys = torch.randn(BATCH, 20, 8, generator=generator)
    found, best = index.nearest(keys, 4), exact.nearest(keys, 4)
    share = (found[..., None] == best[..., None, :]).any(-1).float().mean()
    assert share > 0.5


def test_without_faiss_a_sentence_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'memformer-lm\[faiss\]'"):
        made("sam", search="faiss")
