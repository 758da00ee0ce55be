"""A decoding step: it does nothing that it needs not, and reads what a whole pass reads."""

from __future__ import annotations

import pytest
import torch
from backbones import FAMILIES, random_ids
from test_forms import attached

from memformer import MemoryCache
from memformer.attach.layers import Correction
from memformer.memory import read


def step(model, memory):
    with torch.no_grad():
        return model(random_ids(2, 1, seed=3), past_key_values=MemoryCache(memory)).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_alone_are_those_of_all_three_projections(family):
    model = attached(family)
    backbone, layer = model._family[0], model.memory_layers[0]
    attention = backbone.attention(layer.layer)
    x = torch.randn(2, 3, backbone.hidden)
    with torch.no_grad():
        corrections = [torch.randn_like(part).flatten(2) for part in backbone.project(attention, x)]
        expected = backbone.project(attention, x, tuple(corrections))[0]
        assert torch.equal(backbone.project_queries(attention, x, corrections[0]), expected)


def test_with_nothing_to_read_a_step_projects_nothing_for_the_memory(monkeypatch):
    model = attached()

    def never(*_):
        raise AssertionError("projected")

    for name in ("project", "project_queries"):
        monkeypatch.setattr(type(model._family[0]), name, never)
    with torch.no_grad():
        bare = model.backbone(random_ids(2, 1, seed=3)).logits
    assert torch.equal(step(model, model.init_memory(2)), bare)


def test_a_step_that_reads_projects_no_keys_and_values(monkeypatch):
    model = attached()
    memory = model.memorize(random_ids(2, 11, seed=4))
    expected = step(model, memory)
    called = []
    for layer in model.memory_layers:
        for name in ("key_correction", "value_correction"):
            getattr(layer, name).register_forward_hook(lambda *_: called.append(0))
    assert torch.equal(step(model, memory), expected)
    assert not called


def test_the_same_numbers_are_made_once_a_turn_and_anew_for_another_memory():
    model = attached()
    cache = MemoryCache(model.memorize(random_ids(2, 11, seed=4)))
    ids = random_ids(2, 3)
    with torch.no_grad():
        model(ids[:, :1], past_key_values=cache)
        made = dict(cache.notes)
        model(ids[:, 1:2], past_key_values=cache)
    assert made and all(cache.notes[name] is value for name, value in made.items())
    cache.memory = cache.memory.select([1, 0])
    assert not cache.notes
    # with a gradient, nothing is kept for a later step
    model(ids[:, 2:], past_key_values=cache)
    assert not cache.notes


@pytest.mark.parametrize("focus", [0.0, 8.0])
def test_the_read_of_one_token_is_that_of_many(focus):
    batch, slots, heads, kv_heads, width = 2, 150, 6, 3, 5
    torch.manual_seed(0)
    view = read.prepare_slots(
        torch.randn(batch, slots, kv_heads, width),
        torch.randn(batch, slots, kv_heads, width),
        torch.rand(batch, slots),
        torch.arange(slots, 0, -1).expand(batch, -1).float(),
        torch.rand(heads),
        torch.randn(heads),
    )
    queries = torch.randn(batch, 2, heads, width)
    passage = (torch.arange(slots) // 16).expand(batch, -1)
    with torch.no_grad():
        words, evidence, _ = read.content_read(queries, view, None, passage, focus)
        for token in (0, 1):
            one = queries[:, token : token + 1]
            for count in (None, 10):
                found = read.content_read(one, view, None, passage, focus, None, count)
                torch.testing.assert_close(found[0], words[:, token : token + 1])
                torch.testing.assert_close(found[1], evidence[:, token : token + 1])


@pytest.mark.parametrize("rank", [None, 3])
def test_a_correction_of_few_tokens_is_rounded_once(rank):
    correction = Correction(8, 6, rank, seed=1)
    torch.nn.init.normal_(correction.full if rank is None else correction.up)
    x = torch.randn(1, 2, 8)
    with torch.no_grad():
        assert torch.equal(correction.of_few(x), correction(x))
        half = correction.of_few(x.bfloat16())
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), correction(x), atol=0.1, rtol=0.05)
