"""`with_memory`: views of one model with mechanisms switched, and what they share."""

from __future__ import annotations

import copy

import pytest
import torch
from backbones import random_ids
from test_forms import attached

from memformer import IncompatibleMemory, MemformerForCausalLM


def lively() -> MemformerForCausalLM:
    return attached(num_slots=20, selective=True, dnc=True)


def logits(model):
    with torch.no_grad():
        memory = model.memorize(random_ids(2, 40))
        return model(random_ids(2, 6, seed=9), memory=memory).logits


def usage(model):
    with torch.no_grad():
        return model.memorize(random_ids(2, 40)).usage


@pytest.mark.parametrize(
    "switches",
    [
        {"focus": 0.0},
        {"links": False},
        {"erase": False},
        {"free": False},
        {"gate": False},
        {"usage_by_reads": False},
    ],
    ids=str,
)
def test_each_switch_changes_answers_and_leaves_the_model_as_it_is(switches):
    # short passages, so that there is something to focus on
    model = attached(num_slots=20, selective=True, dnc=True, passage_tokens=3, least_age=2)
    changes = usage if "usage_by_reads" in switches else logits
    before = changes(model)
    view = model.with_memory(**switches)
    assert not torch.equal(changes(view), before)
    assert torch.equal(changes(model), before)


@pytest.mark.parametrize("switch", ["gate", "usage_by_reads"])
def test_a_switch_can_be_turned_back(switch):
    model = lively()
    view = model.with_memory(**{switch: False}).with_memory(focus=3.0)
    again = view.with_memory(**{switch: True}, focus=model.memory_config.focus)
    assert torch.equal(usage(again), usage(model)) and torch.equal(logits(again), logits(model))


def test_a_view_shares_all_weights_that_both_have():
    model = lively()
    view = model.with_memory(links=False)
    mine, its = dict(model.named_parameters()), dict(view.named_parameters())
    assert its.keys() < mine.keys()
    assert all("read_modes" in name for name in mine.keys() - its.keys())
    assert all(weight is mine[name] for name, weight in its.items())
    assert view.backbone is model.backbone


def test_a_part_that_is_new_starts_neutral_and_is_the_views_own():
    model = attached()
    view = model.with_memory(erase=True, links=True)
    assert model.memory.table.release is None
    assert set(view.memory.table.release.heads) == {"erase"}
    assert view.memory_config.erase and not model.memory_config.erase
    assert view.config.memory_config["links"] and not model.config.memory_config["links"]
    torch.testing.assert_close(logits(view), logits(model), rtol=0, atol=0.05)
    assert all(weight.requires_grad for weight in view.memory.parameters())


def test_a_view_is_saved_as_what_it_is(tmp_path):
    view = lively().with_memory(erase=False, focus=3.0)
    view.save_pretrained(tmp_path)
    again = MemformerForCausalLM.from_pretrained(tmp_path)
    assert again.memory_config == view.memory_config
    assert torch.equal(logits(again), logits(view))


def test_a_view_reads_the_memories_of_its_model_if_they_have_one_shape():
    model = lively()
    memory = model.memorize(random_ids(1, 20))
    assert model.with_memory(focus=0.0)(random_ids(1, 4), memory=memory).logits.isfinite().all()
    with pytest.raises(IncompatibleMemory, match="addresses of width 32"):
        model.with_memory(erase=False, free=False)(random_ids(1, 4), memory=memory)


def test_what_can_not_be_switched_is_refused_with_a_sentence():
    model = attached()
    with pytest.raises(ValueError, match="can't change memory_layers; use from_backbone"):
        model.with_memory(memory_layers=(1,))
    with pytest.raises(ValueError, match="no key 'link'; the nearest valid key is 'links'"):
        model.with_memory(link=True)
    with pytest.raises(ValueError, match="focus must be a number >= 0"):
        model.with_memory(focus=-1.0)


def test_a_view_trains_copies_and_unloads_with_its_model():
    model = lively()
    view = model.with_memory(gate=False).train()
    assert view.training and model.backbone.training
    apart = copy.deepcopy(view)
    ids = random_ids(1, 24)
    view(ids, labels=ids).loss.backward()
    assert model.memory_layers[0].null_logit.grad is not None
    assert apart.memory_layers[0].null_logit.grad is None
    apart.eval()
    model.unload_memory()
    with pytest.raises(ValueError, match="memory was unloaded"):
        view(ids)
    assert logits(apart).isfinite().all()


def test_hooks_of_a_view_are_its_own():
    model = attached()
    view = model.with_memory(focus=0.0)
    calls = []
    view.register_forward_hook(lambda *_: calls.append("view"))
    with torch.no_grad():
        model(random_ids(1, 4))
        assert not calls
        view(random_ids(1, 4))
    assert calls == ["view"]


def test_a_model_whose_forward_was_replaced_makes_no_views():
    model = attached()
    model.forward = torch.compile(model.forward)
    with pytest.raises(ValueError, match="Make views before accelerate or torch.compile"):
        model.with_memory(focus=0.0)
