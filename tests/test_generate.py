"""Generation: with and without cache, beams, padding, segment borders, what is remembered."""

from __future__ import annotations

import pytest
import torch
from backbones import FAMILIES, random_ids
from test_forms import SEGMENT, attached, in_order
from transformers import DynamicCache, TextStreamer

from memformer import MemoryCache, fingerprints
from memformer.memory import memory_pass, read

NEVER_ENDS = {"eos_token_id": None, "pad_token_id": 0}


def lively(borders: bool = False, **settings):
    """A model, with tokens that end sentences and paragraphs or without."""
    model = attached(**settings)
    if borders:
        ends = torch.arange(len(model.memory.borders))
        model.memory.borders[ends % 5 == 1] = 1
        model.memory.borders[ends % 31 == 2] = 2
    return model


borders = pytest.mark.parametrize("borders", [False, True])


def left_padded(lengths, seed=0):
    ids = random_ids(len(lengths), max(lengths), seed=seed)
    mask = torch.ones_like(ids)
    for row, length in enumerate(lengths):
        mask[row, : max(lengths) - length] = 0
    return ids.masked_fill(mask == 0, 0), mask


@borders
@pytest.mark.parametrize("family", FAMILIES)
def test_cached_logits_equal_uncached_beyond_a_segment(family, borders):
    model = lively(borders, model_type=family)
    memory = model.memorize(random_ids(2, 11, seed=4))
    ids = random_ids(2, 27)
    cache = MemoryCache(memory)
    with torch.no_grad():
        # where text goes on, its last segment may be cut elsewhere
        texts = [ids] if not borders else [ids[:, : i + 1] for i in range(4, 27)]
        full = [model(text, memory=memory).logits for text in texts]
        full = (
            full[0] if not borders else torch.cat([full[0], *(one[:, -1:] for one in full[1:])], 1)
        )
        steps = [model(ids[:, :5], past_key_values=cache).logits]
        steps += [model(ids[:, i : i + 1], past_key_values=cache).logits for i in range(5, 27)]
    assert (torch.cat(steps, 1) - full).abs().max() < 1e-4
    after, wanted = model.memory_after(cache), model.memorize(ids, memory=memory.closed())
    for row in range(2):
        for name in ("token", "segment"):
            assert torch.equal(in_order(after, name, row), in_order(wanted, name, row))
    assert len(wanted.segment[0].unique()) > (5 if borders else 4)


def test_a_memory_is_set_out_once_until_it_changes(monkeypatch):
    model = attached()
    memory = model.memorize(random_ids(2, 11, seed=4))
    ids = random_ids(2, 8)
    prepared = []

    def prepare_slots(*arguments):
        prepared.append(0)
        return read.prepare_slots(*arguments)

    monkeypatch.setattr(memory_pass, "prepare_slots", prepare_slots)
    cache = MemoryCache(memory)
    with torch.no_grad():
        for column in range(5):
            model(ids[:, column : column + 1], past_key_values=cache)
        assert len(prepared) == len(model.memory)
        # other rows are another memory: nothing of the old one may be read
        other = memory.select([1, 0])
        cache.memory = other
        changed = model(ids[:, 5:6], past_key_values=cache).logits
        fresh = MemoryCache(other)
        expected = model(ids[:, :6], past_key_values=fresh).logits[:, -1:]
    assert len(prepared) > len(model.memory)
    # what the local attention saw was said with the first memory
    assert (changed - expected).abs().max() > 0
    assert cache.slot_views.keys() == fresh.slot_views.keys()
    for layer, mine in cache.slot_views.items():
        for one, two in zip(mine[:4], fresh.slot_views[layer][:4], strict=True):
            assert torch.equal(one, two)


def test_steps_with_a_gradient_set_slots_out_themselves():
    """Slots prepared without a gradient would have none for the memory's parameters."""
    model = attached()
    ids = random_ids(1, 3)
    cache = MemoryCache(model.memorize(random_ids(1, 11, seed=4)))
    with torch.no_grad():
        model(ids[:, :1], past_key_values=cache)
    assert cache.slot_views
    model(ids[:, 1:2], past_key_values=cache).logits.square().mean().backward()
    assert all(layer.null_logit.grad.abs().max() > 0 for layer in model.memory.layers)


@borders
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}, {"num_beams": 2, "num_slots": 12}])
def test_generation_with_cache_equals_generation_without(borders, settings):
    settings = dict(settings)
    model = lively(borders, num_slots=settings.pop("num_slots", None))
    memory = model.memorize(random_ids(3, 11, seed=4))
    ids, mask = left_padded([21, 6, 13])
    common = {"attention_mask": mask, "memory": memory, "max_new_tokens": 20, **NEVER_ENDS}
    common |= {"do_sample": False, **settings}
    cached = model.generate(ids, **common)
    uncached = model.generate(ids, use_cache=False, **common)
    assert torch.equal(cached, uncached)


@borders
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3}])
def test_left_padding_and_neighbours_change_no_answer(borders, settings):
    model = lively(borders)
    memory = model.memorize(random_ids(3, 11, seed=4))
    lengths = [21, 6, 13]
    ids, mask = left_padded(lengths)
    common = {"max_new_tokens": 20, "do_sample": False, **NEVER_ENDS, **settings}
    together = model.generate(ids, attention_mask=mask, memory=memory, **common)
    for row, length in enumerate(lengths):
        alone = model.generate(ids[row : row + 1, -length:], memory=memory.select([row]), **common)
        assert torch.equal(alone[0, length:], together[row, max(lengths) :])


def test_sampling_is_reproducible_and_chunked_prefill_changes_nothing():
    model = attached()
    ids = random_ids(2, 30)
    common = {"do_sample": True, "max_new_tokens": 15, **NEVER_ENDS}
    answers = []
    for extra in ({}, {}, {"prefill_chunk_size": 7}):
        torch.manual_seed(5)
        answers.append(model.generate(ids, **common, **extra))
    assert torch.equal(answers[0], answers[1])
    assert torch.equal(answers[0], answers[2])


@borders
@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2}])
@pytest.mark.parametrize("prompt", [5, 8, 21])
def test_returned_memory_is_the_memory_of_what_was_said(borders, settings, prompt):
    model = lively(borders)
    before = model.memorize(random_ids(2, 11, seed=4))
    ids = random_ids(2, prompt)
    kept = before.clone()
    said, memory = model.generate(
        ids, memory=before, max_new_tokens=17, return_memory=True, **NEVER_ENDS, **settings
    )
    rows = torch.arange(2).repeat_interleave(settings.get("num_return_sequences", 1))
    wanted = model.memorize(said, memory=before.closed().select(rows))
    for row in range(len(rows)):
        assert torch.equal(in_order(memory, "token", row), in_order(wanted, "token", row))
        for name in ("usage", "reads", "turn"):
            torch.testing.assert_close(in_order(memory, name, row), in_order(wanted, name, row))
    assert all(
        torch.equal(a, b)
        for a, b in zip(kept.tensors.values(), before.tensors.values(), strict=True)
    )


def test_finished_rows_write_their_end_token_and_no_padding():
    model = attached()
    ids = random_ids(2, 4)
    free = model.generate(ids, max_new_tokens=12, do_sample=False, **NEVER_ENDS)
    end = int(free[0, 6])  # row 0 ends after three new tokens at the latest
    said, memory = model.generate(
        ids,
        max_new_tokens=12,
        do_sample=False,
        eos_token_id=end,
        pad_token_id=0,
        return_memory=True,
    )
    for row in range(2):
        new = said[row, 4:].tolist()
        spoken = new[: new.index(end) + 1] if end in new else new
        assert in_order(memory, "token", row).int().tolist() == ids[row].tolist() + spoken


def test_structured_output_carries_the_memory_in_its_cache():
    model = attached()
    out, memory = model.generate(
        random_ids(1, 5),
        max_new_tokens=9,
        return_dict_in_generate=True,
        output_scores=True,
        return_memory=True,
        **NEVER_ENDS,
    )
    assert out.past_key_values.memory is memory
    assert memory.num_seen.tolist() == [14]
    assert len(out.scores) == 9


def test_streamer_sees_every_token(tmp_path):
    class Collect(TextStreamer):
        def __init__(self):
            self.seen = []

        def put(self, value):
            self.seen += value.flatten().tolist()

        def end(self):
            self.ended = True

    model, streamer = attached(), Collect()
    said = model.generate(
        random_ids(1, 20), max_new_tokens=12, do_sample=False, streamer=streamer, **NEVER_ENDS
    )
    assert streamer.seen == said[0].tolist() and streamer.ended


def test_a_memory_cache_is_not_cropped():
    model = attached()
    cache = MemoryCache(model.init_memory(1))
    model(random_ids(1, 5), past_key_values=cache)
    with pytest.raises(ValueError, match="can't be cropped"):
        cache.crop(2)
    assert not cache.is_croppable and not cache.is_compileable
    cache.reset()
    assert cache.get_seq_length() == 0 and cache.memory.is_empty


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"inputs": torch.zeros(1, 0, dtype=torch.long)}, "prompt is empty"),
        ({"inputs": None}, "prompt is empty"),
        (
            {
                "inputs": torch.ones(2, 3, dtype=torch.long),
                "attention_mask": torch.tensor([[1, 1, 1], [0, 0, 0]]),
            },
            "prompt in row 1 is empty",
        ),
        (
            {"inputs": torch.ones(1, 3, dtype=torch.long), "past_key_values": DynamicCache()},
            "memory=",
        ),
    ],
)
def test_bad_prompts_get_a_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        attached().generate(**arguments)


def test_segment_length_used_here_is_crossed():
    assert SEGMENT < 20


def test_no_step_of_a_generation_computes_a_fingerprint(monkeypatch):
    model = attached()
    memory = model.memorize(random_ids(1, 11, seed=4))
    calls = []
    digest = fingerprints.digest
    monkeypatch.setattr(fingerprints, "digest", lambda *parts: calls.append(0) or digest(*parts))
    counts = []
    for tokens in (3, 9):
        model.generate(random_ids(1, 5), memory=memory, max_new_tokens=tokens, return_memory=True)
        counts.append(len(calls))
        calls.clear()
    assert counts[0] == counts[1] <= 2


def test_no_cache_may_be_said_in_words():
    model = attached()
    ids = random_ids(1, 5)
    said = model.generate(ids, past_key_values=None, max_new_tokens=3, do_sample=False)
    assert torch.equal(said, model.generate(ids, max_new_tokens=3, do_sample=False))
