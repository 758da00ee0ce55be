"""The record: every token that a memory was told, until it is forgotten."""

from __future__ import annotations

import pytest
import torch
import unchanged
from backbones import random_ids
from safetensors.torch import load_file
from test_file import forge
from test_forms import SEGMENT
from test_forms import attached as attached_with_finders

from memformer import MemformerForCausalLM, MemoryConfig, MemoryState
from memformer.memory.check import flaw
from memformer.memory.chunk import Chunk
from memformer.memory.columns import RECORD
from memformer.memory.memory_pass import MemoryPass
from memformer.memory.parts import ReadDocument
from memformer.memory.record import from_bits, to_bits


def attached(*family, **settings):
    """A tiny model without finders of its own; `WithFinders` hands over keys."""
    return attached_with_finders(*family, **{"finders": 0} | settings)


WORDS = {"do_sample": False, "max_new_tokens": 11, "pad_token_id": 0}


def told(memory, row=0):
    """The tokens that a row records, in order, and nothing of its empty places."""
    return memory.told[row][memory.is_told[row]].tolist()


def same(one, other):
    return all(torch.equal(one.record[name], other.record[name]) for name in RECORD)


def is_sound(memory):
    assert flaw(memory._parts()) is None
    return True


class WithFinders:
    """A model whose memories have finders, which layers do not fill yet."""

    def __init__(self, model, finders=2):
        self.model, self.finders = model, finders

    def read(self, ids, memory=None, mask=None, **options):
        """Reads segment by segment; the key of finder i is made from the token's embedding."""
        engine = self.model.engine()
        memory = self.empty(len(ids)) if memory is None else memory
        call, table = engine.call, self.model.get_input_embeddings().weight

        def hand_over(memory_pass, **arguments):
            output = call(memory_pass, **arguments)
            width = memory_pass.state.finder_keys.shape[-1]
            keys = table[arguments["input_ids"], :width] * 100
            for index in range(self.finders):
                memory_pass.find_keys(index, keys * (index + 1))
            return output

        object.__setattr__(engine, "call", hand_over)  # an engine is frozen
        real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
        return engine.ingest(ids, real, memory, **options)

    def empty(self, rows=1):
        made = self.model.init_memory(rows)
        return MemoryState.empty(
            rows,
            *(made.keys.shape[0], *made.keys.shape[3:]),
            num_slots=made.num_slots,
            address_width=made.addresses.shape[-1],
            finders=self.finders,
            fingerprint=made.fingerprint,
        )

    def keys(self, ids, index=0):
        width = self.model.init_memory().keys.shape[-1]
        return self.model.get_input_embeddings().weight[ids, :width] * 100 * (index + 1)


@pytest.fixture(scope="module")
def model():
    return attached(num_slots=12, selective=True, dnc=True)


def test_a_fresh_memory_records_nothing(model):
    memory = model.init_memory(3)
    assert memory.told.shape == (3, 0) and memory.told.dtype == torch.int32
    assert memory.finder_keys.shape == (3, 0, 0, memory.keys.shape[-1])
    assert memory.finder_keys.dtype == torch.uint8
    assert memory.record_tokens == 4_000_000 and memory.is_empty and is_sound(memory)
    assert MemoryState.empty(1, 1, 1, 4, finders=3).finder_keys.shape == (1, 0, 3, 4)
    assert MemoryState.empty(1, 1, 1, 4).record_tokens is None
    with pytest.raises(ValueError, match="record_tokens must be at least 1, or None; got 0"):
        MemoryState.empty(1, 1, 1, 4, record_tokens=0)
    with pytest.raises(ValueError, match="record_tokens must be a whole number >= 1 or None"):
        MemoryConfig(record_tokens=0)
    assert attached(record_tokens=None).init_memory().record_tokens is None


def test_tokens_that_the_gate_drops_or_eviction_takes_are_recorded(model):
    ids = random_ids(1, 75)
    memory = model.memorize(ids).closed()
    assert told(memory) == ids[0].tolist()
    assert memory.told_turn[0].tolist() == [0] * 75
    assert memory.told_segment[0].tolist() == [place // SEGMENT for place in range(75)]
    # the gate has dropped some, and others are evicted
    assert int(memory.occupied.sum()) == 12 < int(memory.num_written) < 75
    assert not memory.is_empty and is_sound(memory)
    rows, slots = memory.occupied.nonzero(as_tuple=True)
    assert torch.equal(
        memory.told[rows, memory.seen_at[rows, slots]].long(), memory.token[rows, slots]
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_is_not_recorded(model, side):
    ids, mask = random_ids(3, 30), torch.ones(3, 30, dtype=torch.long)
    for row, pad in enumerate((0, 4, 21)):
        if pad:
            mask[row, slice(0, pad) if side == "left" else slice(-pad, None)] = 0
    for memory in (
        model.memorize(ids, attention_mask=mask),
        model(ids, attention_mask=mask).memory,
        model.memorize(ids, attention_mask=mask, segments_per_chunk=1),
    ):
        assert memory.told.shape == (3, 30) and is_sound(memory)
        for row in range(3):
            words = ids[row][mask[row].bool()]
            assert torch.equal(memory.told[row, : len(words)].long(), words)
            assert (memory.told[row, len(words) :] == -1).all()
            alone = model.memorize(words[None])
            assert torch.equal(alone.told[0], memory.told[row, : len(words)])


def test_text_that_is_continued_is_recorded_as_in_one_pass(model):
    finding = WithFinders(model)
    ids, turn = random_ids(2, 61), torch.zeros(2, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :5] = 0
    whole = finding.read(ids, mask=mask)
    assert (whole.finder_keys[0, :56] != 0).any() and is_sound(whole)
    for index in range(2):
        keys = to_bits(finding.keys(ids[1], index))
        assert torch.equal(whole.finder_keys[1, :, index], keys)
    memory = finding.empty(2)
    for number, (begin, end) in enumerate([(0, 3), (3, 4), (4, 21), (21, 40), (40, 61)]):
        piece, part = ids[:, begin:end], mask[:, begin:end]
        memory = finding.read(piece, memory, part, turn=turn if number else None)
        assert is_sound(memory)
    assert same(memory, whole)


def test_an_open_segment_is_not_recorded_twice_when_some_of_it_is_forgotten():
    model = attached()
    ids, more = random_ids(1, 13), random_ids(1, 9, seed=2)
    memory = model.memorize(ids)
    assert memory.forget(lambda slot: slot["token"] == int(ids[0, 10])) >= 1
    words = told(memory)
    assert int(ids[0, 10]) not in words[8:]
    memory = model.memorize(more, memory=memory)
    assert told(memory) == words + more[0].tolist() and is_sound(memory)


@pytest.mark.parametrize("together", [True, False])
def test_tokens_with_limit_zero_are_never_recorded(model, together):
    finding = WithFinders(model)
    ids = random_ids(1, 50)
    limit = torch.ones(1, 50)
    limit[:, 7:20] = 0.0
    limit[:, 20:30] = 0.3
    count = None if together else 1
    memory = finding.read(ids, limit=limit, segments_per_chunk=count)
    kept = [*range(7), *range(20, 50)]
    for _ in range(2):
        assert told(memory) == ids[0, kept].tolist() + told(memory)[len(kept) :]
        assert (memory.told[0, 7:20] == -1).all() and (memory.told_turn[0, 7:20] == -1).all()
        assert not memory.finder_keys[0, 7:20].any() and memory.finder_keys[0, 20:30].any()
        assert is_sound(memory)
        memory = finding.read(random_ids(1, 5, seed=3), memory)


def test_a_system_message_that_is_only_read_is_not_recorded(model):
    ids, limit = random_ids(1, 29), torch.ones(1, 29)
    limit[:, :14] = 0.0
    said, memory = model.generate(
        ids, limit=limit, reply_limit=0.0, return_memory=True, memory=model.init_memory(), **WORDS
    )
    assert told(memory) == ids[0, 14:].tolist() and is_sound(memory)
    assert said.shape[1] > 29


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_return_sequences": 2}])
def test_prompt_and_reply_are_recorded(model, options):
    if "num_return_sequences" in options:
        options = options | {"num_beams": 2}
    before = model.memorize(random_ids(2, 11, seed=5))
    ids, mask = random_ids(2, 21), torch.ones(2, 21, dtype=torch.long)
    mask[0, :6] = 0
    said, memory = model.generate(
        ids,
        attention_mask=mask,
        memory=before,
        return_memory=True,
        eos_token_id=None,
        **(WORDS | options),
    )
    answers = len(said) // 2
    for row in range(len(said)):
        real = torch.cat([mask[row // answers].bool(), torch.ones(11, dtype=torch.bool)])
        assert told(memory, row) == told(before, row // answers) + said[row][real].tolist()
        assert set(memory.told_turn[row, 11 : int(memory.num_seen[row])].tolist()) == {1}
    assert is_sound(memory)


def test_a_cache_records_what_it_has_seen(model):
    ids = random_ids(1, 25)
    out = model(ids[:, :10], use_cache=True)
    for place in range(10, 25):
        out = model(ids[:, place : place + 1], past_key_values=out.past_key_values, use_cache=True)
    assert told(model.memory_after(out.past_key_values)) == ids[0].tolist()
    assert told(out.past_key_values.memory) == ids[0, :24].tolist()


def test_training_records_without_a_gradient():
    model = attached().train()
    ids = random_ids(2, 40)
    memory = model(ids, labels=ids).memory
    assert told(memory) == ids[0].tolist()
    finding = WithFinders(model)
    with torch.enable_grad():
        memory = finding.read(ids)
    assert memory.keys.requires_grad and memory.finder_keys.any()
    assert not any(memory.record[name].requires_grad for name in RECORD)


def test_an_aside_is_not_recorded():
    model = attached().train()
    ids = random_ids(1, 24)
    segments = torch.arange(24)[None] // 6
    remembered = segments != 2
    labels = ids.where(~remembered, -100)
    memory = model(ids, labels=labels, segment_ids=segments, remembered=remembered).memory
    assert told(memory) == ids[remembered].tolist()


def test_finders_that_a_memory_lacks_or_no_layer_hands_over(model):
    ids = random_ids(1, 9)
    fewer = WithFinders(model, 3).read(ids, WithFinders(model, 1).empty())
    assert fewer.finder_keys.shape[2] == 1 and fewer.finder_keys.any()
    more = WithFinders(model, 1).read(ids, WithFinders(model, 3).empty())
    assert more.finder_keys[:, :, 0].any() and not more.finder_keys[:, :, 1:].any()
    joined = more.select([0, 0]).put(torch.tensor([1]), fewer)
    assert torch.equal(joined.finder_keys[1, :, :1], fewer.finder_keys[0])
    joined = fewer.select([0, 0]).put(torch.tensor([1]), more)
    assert torch.equal(joined.finder_keys[1], more.finder_keys[0])


def test_small_floats_are_close_and_cut_off_where_they_end():
    keys = torch.randn(5, 7, requires_grad=True)
    assert to_bits(keys).dtype == torch.uint8 and not to_bits(keys).requires_grad
    torch.testing.assert_close(from_bits(to_bits(keys)), keys.detach(), rtol=0.07, atol=0.01)
    assert from_bits(to_bits(torch.tensor([1e6, -1e6, 0.0]))).tolist() == [448.0, -448.0, 0.0]


def test_finder_keys_that_are_nan_are_refused_before_anything_changes(model):
    memory = WithFinders(model).read(random_ids(1, 8))
    before, engine, ids = memory.clone(), model.engine(), torch.tensor([[1, 2, 3]])
    chunk = Chunk.after(memory, torch.ones(1, 1, 3, dtype=torch.bool))
    memory_pass = MemoryPass(memory, chunk, engine.rules)
    engine.call(memory_pass, input_ids=ids, use_cache=False)
    memory_pass.find_keys(1, torch.full((1, 3, memory.keys.shape[-1]), float("nan")))
    with pytest.raises(ValueError, match="can't be remembered: .* not finite"):
        memory_pass.commit(ids[:, None], ids[:, None], torch.tensor([[False]]))
    assert same(memory, before)


# ---- forgetting --------------------------------------------------------------------------


def has_bytes(path, ids):
    """Whether any three neighbours of the ids stand in a file, whatever their type."""
    data = path.read_bytes()
    runs = [ids[place : place + 3] for place in range(len(ids) - 2)]
    return any(
        torch.tensor(run, dtype=kind).numpy().tobytes() in data
        for run in runs
        for kind in (torch.int32, torch.int64)
    )


def test_nothing_is_left_of_a_forgotten_turn(model, tmp_path):
    finding = WithFinders(model)
    first, second = random_ids(1, 45, seed=1), random_ids(1, 30, seed=2)
    memory = finding.read(second, finding.read(first).closed())
    memory = memory.with_document(ReadDocument("c", "first", 0, 45, True))
    memory = memory.with_document(ReadDocument("d", "second", 1, 30, True))
    memory.save(tmp_path / "m")
    assert has_bytes(tmp_path / "m", first[0].tolist())
    kept = int(((memory.turn == 0) & memory.occupied).sum())
    assert kept < 45
    assert memory.forget(0) == 45  # with a slot and without, each once
    assert memory.forget(0) == 0
    memory.save(tmp_path / "m")
    assert not has_bytes(tmp_path / "m", first[0].tolist())
    assert has_bytes(tmp_path / "m", second[0].tolist())
    assert (memory.told[0, :45] == -1).all() and (memory.told_segment[0, :45] == -1).all()
    assert not memory.finder_keys[0, :45].any()
    assert told(memory) == second[0].tolist()
    assert [read.name for read in memory.documents] == ["second"]
    assert memory.document("c") is None and memory.document("d") is not None
    assert memory.forget(iter([1, 2])) == 30 and memory.is_empty and memory.documents == ()
    assert is_sound(memory)


def test_a_turn_without_a_slot_can_be_forgotten(model):
    memory = model.memorize(random_ids(1, 9, seed=1)).closed()
    memory = memory.with_document(ReadDocument("c", "first", 0, 9, True))
    memory = model.memorize(random_ids(1, 90, seed=2), memory=memory, gated=False)
    assert not (memory.turn == 0).any()
    assert memory.document("c") is not None  # it is recorded
    assert memory.forget(0) == 9
    assert memory.document("c") is None and memory.documents == ()


def test_a_predicate_takes_the_slots_that_it_sees_and_their_places(model):
    memory = model.memorize(random_ids(1, 50))
    before = memory.clone()
    gone = memory.forget(lambda slot: slot["slot"] % 2 == 0)
    assert gone == int(before.occupied.sum() - memory.occupied.sum()) > 0
    assert int(before.is_told.sum() - memory.is_told.sum()) == gone
    places = before.seen_at[before.occupied & ~memory.occupied]
    assert (memory.told[0, places] == -1).all() and is_sound(memory)
    assert same(before, model.memorize(random_ids(1, 50)))


def test_a_slot_that_the_record_does_not_hold_counts_too():
    memory = attached().memorize(random_ids(1, 9))
    nothing = memory.replaced(
        **{name: torch.full_like(value, -1) for name, value in memory.record.items()
           if name != "finder_keys"}
    )  # fmt: skip
    assert nothing.forget(0) == 9 and nothing.is_empty


def test_rows_are_emptied_selected_and_put(model):
    finding = WithFinders(model)
    ids, mask = random_ids(3, 30), torch.ones(3, 30, dtype=torch.long)
    mask[1:, 20:] = 0
    memory = finding.read(ids, mask=mask)
    some = memory.select([2, 0, 2])
    assert torch.equal(some.told, memory.told[[2, 0, 2]])
    assert torch.equal(some.finder_keys, memory.finder_keys[[2, 0, 2]])
    short = finding.read(random_ids(1, 4, seed=9))
    joined = memory.put(torch.tensor([1]), short)
    assert torch.equal(joined.told[1, :4], short.told[0]) and (joined.told[1, 4:] == -1).all()
    assert torch.equal(joined.finder_keys[1, :4], short.finder_keys[0])
    assert torch.equal(joined.told[[0, 2]], memory.told[[0, 2]])
    longer = short.put(torch.tensor([0]), memory.select([0]))
    assert same(longer, memory.select([0]))
    copy = memory.clone()
    memory.reset([0])
    assert not memory.is_told[0].any() and not memory.finder_keys[0].any()
    assert memory.told.shape == (3, 20) and torch.equal(memory.told[1:], copy.told[1:, :20])
    for one in (some, joined, longer, memory, memory.emptied(), copy.padded(70), copy.detach()):
        assert is_sound(one)
    assert memory.emptied().told.shape == (3, 0)
    half = copy.to(dtype=torch.bfloat16)
    assert same(half, copy) and half.nbytes < copy.nbytes
    assert copy.nbytes == sum(one.numel() * one.element_size() for one in copy.tensors.values())


# ---- the quota ---------------------------------------------------------------------------


@pytest.mark.parametrize("call", ["memorize", "forward", "long", "generate", "limit", "document"])
def test_a_full_record_refuses_more_in_one_sentence_and_nothing_changes(call):
    model = attached(record_tokens=30)
    memory = model.memorize(random_ids(2, 25)).closed()
    before = memory.clone()
    ids, long = random_ids(2, 6, seed=2), random_ids(2, 19, seed=2)
    options = {"return_memory": True, "memory": memory, **WORDS}
    calls = {
        "memorize": lambda: model.memorize(long, memory=memory),
        "forward": lambda: model(ids, memory=memory),
        "long": lambda: model(long, memory=memory),
        "generate": lambda: model.generate(ids, **options),
        "limit": lambda: model.memorize(ids, memory=memory, limit=torch.full((2, 6), 0.5)),
        "document": lambda: model(ids, memory=memory, segment_ids=ids * 0, labels=ids),
    }
    with pytest.raises(
        ValueError, match=r"25 tokens recorded, and \d+ more would exceed"
    ) as caught:
        calls[call]()
    sentence = str(caught.value)
    assert "quota of 30 (record_tokens); forget turns, or use a memory with a larger" in sentence
    assert "\n" not in sentence
    for name, tensor in before.tensors.items():
        assert torch.equal(tensor, getattr(memory, name))
    # room is given back, and tokens that are not recorded need none
    model.memorize(random_ids(2, 5, seed=2), memory=memory)
    model.memorize(long, memory=memory, limit=torch.zeros(2, 19))
    memory.forget(0)
    calls[call]() if call != "generate" else model.generate(ids, **options)
    wider = before.replaced(record_tokens=None)
    assert int(model.memorize(long, memory=wider).is_told.sum()) == 88


def test_a_full_record_can_be_asked():
    model = attached(record_tokens=30)
    memory = model.memorize(random_ids(1, 30)).closed()
    free = model.generate(
        random_ids(1, 19, seed=2), memory=memory.replaced(record_tokens=None), **WORDS
    )
    for cached in (True, False):
        said = model.generate(random_ids(1, 19, seed=2), memory=memory, use_cache=cached, **WORDS)
        assert torch.equal(said, free)
    part = model.memorize(random_ids(1, 10))
    options = {"memory": part, "return_memory": True, "reply_limit": 0.0, **WORDS}
    _, after = model.generate(random_ids(1, 19, seed=2), **options)
    assert len(told(after)) == 29 and after.record_tokens == 30


# ---- files -------------------------------------------------------------------------------


def test_a_record_is_saved_bit_for_bit(model, tmp_path):
    memory = WithFinders(model).read(random_ids(2, 50)).replaced(record_tokens=77)
    memory.save(tmp_path / "m")
    loaded = MemoryState.load(tmp_path / "m", model=model)
    assert same(loaded, memory) and loaded.record_tokens == 77
    assert {name: value.dtype for name, value in loaded.record.items()} == {
        "told": torch.int32,
        "told_turn": torch.int32,
        "told_segment": torch.int32,
        "finder_keys": torch.uint8,
    }
    crowded = memory.replaced(record_tokens=49)
    with pytest.raises(ValueError, match="not saved, because it has 50 tokens recorded and room"):
        crowded.save(tmp_path / "m")


def test_a_memory_of_format_4_records_the_tokens_of_its_slots(tmp_path):
    model = MemformerForCausalLM.from_pretrained(unchanged.ATTACHED)
    file = unchanged.ATTACHED / "memory_4.safetensors"
    assert MemoryState.load(file).record_tokens is None
    memory = MemoryState.load(file, model=model)
    assert memory.record_tokens == 4_000_000 and memory.finder_keys.shape[2] == 0
    assert memory.told.shape == (2, 75) and is_sound(memory)
    for row in range(2):
        slots = memory.occupied[row].nonzero().flatten()
        slots = slots[memory.seen_at[row, slots].argsort()]
        places = memory.seen_at[row, slots]
        assert told(memory, row) == memory.token[row, slots].tolist()
        assert memory.told_turn[row, places].tolist() == memory.turn[row, slots].tolist()
        assert memory.told_segment[row, places].tolist() == memory.segment[row, slots].tolist()
    # it goes on as a memory that had its record from the start
    after = model.memorize(random_ids(2, 9, seed=8), memory=memory)
    after.save(tmp_path / "m")
    assert same(MemoryState.load(tmp_path / "m", model=model), after)
    fresh = model.memorize(
        random_ids(2, 9, seed=8), memory=model.memorize(random_ids(2, 75, seed=1))
    )
    assert torch.equal(after.told[:, 64:], fresh.told[:, 64:])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_seen": 2**26 + 1}, "num_seen 67108865, and a record has room for 67108864"),
        ({"num_seen": 2**61}, "num_seen 2305843009213693952, and a record has room"),
        ({"num_seen": 2**62}, "has num_seen"),
        ({"seen_at": 75}, "seen_at out of range"),
        ({"seen_at": 2**61}, "seen_at out of range"),
        ({"token": 2**40}, "another token than its record"),
        ({"num_turns": 2**40}, "has num_turns"),
    ],
)
def test_a_forged_memory_of_format_4_is_refused(change, sentence, tmp_path):
    tensors = load_file(unchanged.ATTACHED / "memory_4.safetensors")
    ((name, value),) = change.items()
    tensors[name].view(-1)[0] = value
    forge(tmp_path / "m", tensors, version=4, record_tokens=..., num_slots=40, fingerprint={})
    with pytest.raises(ValueError, match=sentence):
        MemoryState.load(tmp_path / "m")


def test_a_memory_of_format_4_has_no_record_and_one_of_format_5_has(model, tmp_path):
    memory = model.memorize(random_ids(1, 9))
    forge(tmp_path / "m", memory.tensors, version=4, record_tokens=..., fingerprint={})
    with pytest.raises(ValueError, match="does not match its checksum"):
        MemoryState.load(tmp_path / "m")
    slots = {name: value for name, value in memory.tensors.items() if name not in RECORD}
    forge(tmp_path / "m", slots, fingerprint={})
    with pytest.raises(ValueError, match="does not match its checksum"):
        MemoryState.load(tmp_path / "m")
    forge(tmp_path / "m", slots, version=3, fingerprint={})
    with pytest.raises(ValueError, match="version 3; this memformer reads versions 4 and 5"):
        MemoryState.load(tmp_path / "m")
