"""MemoryState: eviction, links, forgetting, files, and what is refused."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from backbones import random_ids, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forms import attached

from memformer import IncompatibleMemory, MemformerForCausalLM, MemoryConfig, MemoryState
from memformer.memory import read
from memformer.memory.addressing import aged_usage, least_used
from memformer.memory.read import content_read, prepare_slots


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("grad", [True, False])
def test_content_read_is_a_softmax_with_a_null_slot(softcap, grad, monkeypatch):
    monkeypatch.setattr(read, "BLOCK", 40)  # several blocks
    queries = torch.randn(2, 3, 4, 5)
    keys, values = torch.randn(2, 7, 2, 5), torch.randn(2, 7, 2, 5)
    strength, age = torch.rand(2, 7), torch.randint(0, 50, (2, 7)).float()
    strength[0, 2] = 0
    slope, null = torch.rand(4), torch.randn(4)
    readers = torch.tensor([[True, True, False], [True, False, True]])
    with torch.set_grad_enabled(grad):
        words, evidence, mass = content_read(
            queries, prepare_slots(keys, values, strength, age, slope, null, softcap), readers
        )
    expected_mass = torch.zeros(2, 7)
    for b in range(2):
        for t in range(3):
            for h in range(4):
                logits = keys[b, :, h // 2] @ queries[b, t, h]
                if softcap:
                    logits = softcap * (logits / softcap).tanh()
                logits = logits + strength[b].log() - slope[h] * (1 + age[b]).log()
                p = torch.cat([null[h : h + 1], logits]).softmax(-1)
                torch.testing.assert_close(evidence[b, t, h], 1 - p[0])
                torch.testing.assert_close(words[b, t, h], p[1:] @ values[b, :, h // 2])
                expected_mass[b] += p[1:] / 4 * readers[b, t]
    torch.testing.assert_close(mass, expected_mass)
    assert mass[0, 2] == 0


def test_empty_slots_read_exactly_nothing():
    words, evidence, mass = content_read(
        torch.randn(1, 3, 4, 5),
        prepare_slots(
            torch.randn(1, 6, 2, 5),
            torch.randn(1, 6, 2, 5),
            torch.zeros(1, 6),
            torch.zeros(1, 6),
            torch.zeros(4),
            torch.full((4,), -50.0),
        ),
        readers=torch.ones(1, 3, dtype=torch.bool),
    )
    assert not words.any() and not evidence.any() and not mass.any()


@given(
    usage=st.lists(st.floats(0, 1, width=32), min_size=5, max_size=5),
    mass=st.lists(st.floats(0, 9, width=32), min_size=5, max_size=5),
    written=st.integers(0, 1000),
)
@settings(deadline=None, max_examples=50)
def test_usage_fades_is_renewed_by_reads_and_stays_a_fraction(usage, mass, written):
    before, reads = torch.tensor([usage]), torch.tensor([mass])
    after = aged_usage(before, reads, torch.tensor([written]), 64.0)
    assert ((after >= 0) & (after <= 1)).all()
    unread = aged_usage(before, torch.zeros_like(reads), torch.tensor([written]), 64.0)
    assert (unread <= before + 1e-6).all() and (after >= unread - 1e-6).all()


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=7, max_size=7), st.integers(0, 7))
@settings(deadline=None, max_examples=50)
def test_least_used_takes_the_smallest_with_ties_to_the_lower_slot(usage, count):
    marked = least_used(
        torch.tensor([usage]), torch.ones(1, 7, dtype=torch.bool), torch.tensor([count])
    )
    wanted = sorted(range(7), key=lambda slot: (usage[slot], slot))[:count]
    assert sorted(marked[0].nonzero().flatten().tolist()) == sorted(wanted)


def test_full_memory_evicts_the_oldest_unread_and_keeps_what_is_read():
    model = attached(num_slots=24)
    with torch.no_grad():
        for layer in model.memory_layers:
            layer.null_logit.fill_(1e4)  # nothing is read
    memory = model.memorize(random_ids(1, 64))
    assert memory.seen_at[0].sort().values.tolist() == list(range(40, 64))
    with torch.no_grad():
        memory.reads[0, 0] = 0.0
        usage = memory.usage.index_fill(1, torch.tensor([3]), 1.0)
        memory = memory.replaced(usage=usage)
    kept = int(memory.seen_at[0, 3])
    memory = model.memorize(random_ids(1, 16, seed=2), memory=memory)
    assert kept in memory.seen_at[0].tolist()


def test_links_follow_the_order_of_writing_and_close_over_gaps():
    model = attached(num_slots=20)
    memory = model.memorize(random_ids(2, 50))
    memory.forget(lambda slot: slot["slot"] % 3 == 0)
    for row in range(2):
        slots = memory.occupied[row].nonzero().flatten()
        order = slots[memory.seen_at[row, slots].argsort()].tolist()
        for before, after in zip(order, order[1:], strict=False):
            assert memory.next_slot[row, before] == after
            assert memory.prev_slot[row, after] == before
        assert memory.prev_slot[row, order[0]] == -1 and memory.next_slot[row, order[-1]] == -1
        empty = ~memory.occupied[row]
        assert (memory.next_slot[row, empty] == -1).all()


def test_forget_removes_turns_for_good():
    model = attached()
    memory = model.memorize(random_ids(1, 9, seed=1)).closed()
    memory = model.memorize(random_ids(1, 5, seed=2), memory=memory)
    copy = memory.clone()
    assert memory.forget(0) == 9
    assert memory.forget(0) == 0
    gone = ~memory.occupied
    assert not memory.keys[:, gone].any() and not memory.values[:, gone].any()
    assert set(memory.turn[memory.occupied].tolist()) == {1}
    assert int(copy.occupied.sum()) == 14
    fresh = model.memorize(random_ids(1, 5, seed=2))
    assert fresh.occupied.sum() == memory.occupied.sum()
    assert memory.forget([1, 7]) == 5 and memory.is_empty


def test_forget_takes_whole_numbers_of_any_kind_and_nothing_else():
    memory = attached().memorize(random_ids(1, 9)).closed()
    memory = attached().memorize(random_ids(1, 5), memory=memory)
    refused = ("everything", "0", "", b"\x00", ["1"], True, [True], 1.5, [1.5], None, [None])
    for wrong in (*refused, torch.tensor([True, False]), np.array([1.0]), {0.5}):
        with pytest.raises(ValueError, match="expects a turn number, several, or a predicate; got"):
            memory.forget(wrong)
    assert memory.forget([10**20, -(10**20), -1, 2**63]) == memory.forget(10**20) == 0
    assert memory.occupied.sum() == 14
    for one in (np.int64(1), np.array([1], dtype=np.uint8), torch.tensor(1), torch.tensor([1])):
        assert memory.clone().forget(one) == 5
    assert memory.forget(range(2)) == 14


def test_reset_select_and_clone():
    model = attached()
    memory = model.memorize(random_ids(3, 9))
    assert memory.select([2, 0]).token[0].tolist() == memory.token[2].tolist()
    copy = memory.clone()
    memory.reset([1])
    assert memory.num_seen.tolist() == [9, 0, 9] and not memory.occupied[1].any()
    assert copy.num_seen.tolist() == [9, 9, 9]
    assert memory.reset().is_empty
    for bad in ([3], [-1]):
        with pytest.raises(ValueError, match="between 0 and 2"):
            memory.select(bad)
        with pytest.raises(ValueError, match="between 0 and 2"):
            memory.reset(bad)
    assert copy.nbytes == sum(t.numel() * t.element_size() for t in copy.tensors.values())


def test_inspect_tells_where_everything_came_from():
    class Letters:
        def decode(self, ids):
            return f"<{ids[0]}>"

    model = attached()
    ids = random_ids(1, 11)
    rows = model.memorize(ids).inspect(Letters())
    assert [row["text"] for row in rows] == [f"<{i}>" for i in ids[0].tolist()]
    assert [row["age"] for row in rows] == list(range(11, 0, -1))
    assert {row["segment"] for row in rows} == {0, 1} and {row["turn"] for row in rows} == {0}
    assert set(rows[0]) == {
        "row",
        "slot",
        "text",
        "strength",
        "usage",
        "age",
        "reads",
        "turn",
        "segment",
    }


@pytest.mark.parametrize("tokens", [3, 40])
def test_memories_of_one_row_can_be_saved(tokens, tmp_path):
    model = attached()
    memory = model.memorize(random_ids(1, tokens))
    memory.save(tmp_path / "m")
    assert MemoryState.load(tmp_path / "m", model=model).num_written.tolist() == [tokens]


def test_saved_memory_is_the_same_memory(tmp_path):
    model = attached(num_slots=20)
    memory = model.memorize(random_ids(2, 50))
    memory.save(tmp_path / "m")
    loaded = MemoryState.load(tmp_path / "m", model=model)
    for name, tensor in memory.tensors.items():
        assert torch.equal(tensor, getattr(loaded, name))
    assert loaded.num_slots == 20
    question = random_ids(2, 5)
    with torch.no_grad():
        a, b = model(question, memory=memory).logits, model(question, memory=loaded).logits
    assert torch.equal(a, b)


def test_truncated_or_altered_files_are_refused_at_every_byte(tmp_path):
    model = attached(num_slots=4, memory_layers=(1,))
    model.memorize(random_ids(1, 3)).save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    broken = tmp_path / "broken"
    for size in range(len(data)):
        broken.write_bytes(data[:size])
        with pytest.raises(ValueError, match="damaged|not a memory"):
            MemoryState.load(broken, model=model)
    for place in range(0, len(data), 3):
        broken.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(ValueError, match="damaged|not a memory|version"):
            MemoryState.load(broken, model=model)


def test_other_versions_models_and_files_are_refused(tmp_path):
    model = attached()
    memory = model.memorize(random_ids(1, 9))
    memory.save(tmp_path / "m")
    with pytest.raises(FileNotFoundError, match="no memory file"):
        MemoryState.load(tmp_path / "nothing", model=model)
    with pytest.raises(IncompatibleMemory, match="backbone is"):
        MemoryState.load(tmp_path / "m", model=attached(backbone={"seed": 1}))
    with pytest.raises(IncompatibleMemory, match="architecture is"):
        MemoryState.load(tmp_path / "m", model=attached(memory_layers=(0, 1)))
    trained = attached()
    with torch.no_grad():
        trained.memory_layers[0].age_slope.add_(1.0)
    with pytest.raises(IncompatibleMemory, match="memory path has other weights"):
        MemoryState.load(tmp_path / "m", model=trained)
    data = (tmp_path / "m").read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"]["memformer"] = header["__metadata__"]["memformer"].replace(
        '"version": 5', '"version": 9'
    )
    text = json.dumps(header).encode()
    (tmp_path / "v").write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])
    with pytest.raises(IncompatibleMemory, match="version 9"):
        MemoryState.load(tmp_path / "v", model=model)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda model, ids, memory: model(ids[:0]), "at least one row"),
        (lambda model, ids, memory: model(ids + 90), "out of range"),
        (lambda model, ids, memory: model.memorize(ids - 96), "out of range"),
        (lambda model, ids, memory: model(ids, memory=memory.select([0])), "1 rows"),
        (lambda model, ids, memory: model(ids, memory=memory.to(dtype=torch.bfloat16)), "bfloat16"),
        (lambda model, ids, memory: model(ids, memory="x"), "MemoryState"),
        (lambda model, ids, memory: model(ids, attention_mask=ids[:, :2]), "attention_mask"),
        (lambda model, ids, memory: model(ids, attention_mask=ids * 0), "no text"),
        (
            lambda model, ids, memory: model(ids.repeat(1, 4), attention_mask=0 * ids.repeat(1, 4)),
            "no text",
        ),
        (lambda model, ids, memory: model(), "input_ids"),
        (lambda model, ids, memory: model(ids, segments_per_chunk=0), "segments_per_chunk"),
        (lambda model, ids, memory: model.init_memory(0), "batch_size"),
        (lambda model, ids, memory: model.init_memory(1, num_slots=-4), "num_slots"),
        (lambda model, ids, memory: attached(memory_layers=(1, 9)), "between 0 and 3"),
        (lambda model, ids, memory: attached(memory_layers=(0,))(ids, memory=memory), "another"),
    ],
)
def test_bad_input_gets_a_sentence_and_changes_nothing(change, sentence):
    model = attached()
    ids = random_ids(2, 5).clamp(max=90)
    long = random_ids(2, 12).clamp(max=90)
    memory = model.memorize(long)
    before = memory.clone()
    with pytest.raises(ValueError, match=sentence):
        change(model, long if "segments" in sentence else ids, memory)
    for name, tensor in before.tensors.items():
        assert torch.equal(tensor, getattr(memory, name))


def test_bfloat16_models_keep_their_addressing_in_float32():
    model = MemformerForCausalLM.from_backbone(
        tiny_backbone().to(torch.bfloat16), MemoryConfig(segment_tokens=8, memory_layers="all")
    )
    memory = model.memorize(random_ids(1, 20))
    assert memory.dtype == torch.bfloat16 and memory.strength.dtype == torch.float32
    assert torch.isfinite(model(random_ids(1, 5), memory=memory).logits).all()
