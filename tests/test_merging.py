"""An opened adapter: merged where the model only computes, as peft has it everywhere else."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from backbones import random_ids, tiny_backbone
from peft import LoraConfig, get_peft_model

from memformer import MemformerForCausalLM, MemoryConfig, MemoryState

IDS = random_ids(1, 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with an adapter, and a memory that its model wrote."""
    place = tmp_path_factory.mktemp("checkpoints")
    tiny_backbone().save_pretrained(place / "base")
    config = MemoryConfig(num_slots=40, segment_tokens=16, memory_layers=(1, 2, 3))
    model = MemformerForCausalLM.from_pretrained(place / "base", memory_config=config)
    lora = LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    model.backbone = get_peft_model(model.backbone, lora)
    model.eval().save_pretrained(place / "adapted")
    model.memorize(IDS).save(place / "memory.safetensors")
    return place


@pytest.fixture
def model(folder: Path) -> MemformerForCausalLM:
    return MemformerForCausalLM.from_pretrained(folder / "adapted")


def sums(model: MemformerForCausalLM) -> int:
    return sum(getattr(module, "_sum", None) is not None for module in model.modules())


@torch.no_grad()
def logits(model: MemformerForCausalLM) -> torch.Tensor:
    return model(IDS[:, :12]).logits


def as_peft(model: MemformerForCausalLM) -> torch.Tensor:
    """The logits by peft's own forward, which takes over where a weight is trainable."""
    adapter = [one for name, one in model.named_parameters() if "lora_" in name]
    for weight in adapter:
        weight.requires_grad_(True)
    found = logits(model)
    for weight in adapter:
        weight.requires_grad_(False)
    return found


def test_a_merged_layer_computes_what_peft_computes(model):
    merged = logits(model)
    # four layers, two projections each
    assert sums(model) == 8
    expected = as_peft(model)
    assert (merged - expected).abs().max() < 1e-5
    # it is another computation, of other low bits
    assert not torch.equal(merged, expected)


def test_weights_fingerprints_and_files_know_nothing_of_the_sums(model, folder, tmp_path):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fingerprint = model.fingerprint
    logits(model)
    assert sums(model) == 8
    assert model.fingerprint == fingerprint
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.save_pretrained(tmp_path / "again")
    files = {one.relative_to(tmp_path / "again") for one in (tmp_path / "again").rglob("*.*")}
    opened = folder / "adapted"
    assert files == {one.relative_to(opened) for one in opened.rglob("*.*")}
    for name in (name for name in files if name.suffix in (".json", ".safetensors")):
        saved = (tmp_path / "again" / name).read_bytes()
        assert saved == (opened / name).read_bytes(), name


def test_a_memory_from_before_is_opened(model, folder):
    logits(model)
    memory = MemoryState.load(folder / "memory.safetensors", model=model)
    assert torch.isfinite(model(IDS[:, :3], memory=memory).logits).all()


def test_the_backbone_without_its_adapter_is_bit_for_bit_the_released_one(model, folder):
    released = MemformerForCausalLM.from_pretrained(folder / "base").eval()
    merged = logits(model)
    with model.backbone.disable_adapter():
        assert torch.equal(logits(model), logits(released))
    # peft leaves the adapter trainable after the block
    assert (logits(model) - merged).abs().max() < 1e-5
    for weight in model.backbone.parameters():
        weight.requires_grad_(False)
    assert torch.equal(logits(model), merged)


def test_an_adapter_that_is_unfrozen_gets_its_gradient_in_evaluation_mode_too(model):
    logits(model)
    adapter = [one for name, one in model.named_parameters() if "lora_" in name]
    for weight in adapter:
        weight.requires_grad_(True)
    model(IDS, labels=IDS).loss.backward()
    assert all(weight.grad is not None for weight in adapter)


def test_training_sees_the_adapter_alone(model):
    logits(model)
    model.train()
    assert sums(model) == 0
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" in name)
    model(IDS, labels=IDS).loss.backward()
    adapter = [one for name, one in model.named_parameters() if "lora_" in name]
    assert all(weight.grad is not None for weight in adapter)
    # a score in the middle of training is that of peft's own forward
    model.eval()
    logits(model)
    assert sums(model) == 0


@pytest.mark.parametrize("part", ["lora_A", "lora_B", "base_layer"])
def test_a_weight_that_changes_is_merged_anew(model, part):
    before = logits(model)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if part in name:
                weight.mul_(1.5)
    after = logits(model)
    assert (after - before).abs().max() > 1e-3
    assert (after - as_peft(model)).abs().max() < 1e-5


def test_weights_that_are_loaded_moved_or_cast_are_merged_anew(model):
    before = logits(model)
    others = {name: value * 1.5 for name, value in model.state_dict().items() if "lora_" in name}
    model.load_state_dict(others, strict=False, assign=True)
    for name, weight in model.named_parameters():
        weight.requires_grad_("lora_" not in name and weight.requires_grad)
    assert (logits(model) - before).abs().max() > 1e-3
    model.to(torch.bfloat16)
    assert sums(model) == 0
    assert logits(model).dtype == torch.bfloat16


def test_a_copy_and_a_pickled_model_merge_for_themselves(model):
    merged = logits(model)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sums(other) == 0
        assert torch.equal(logits(other), merged)


def test_a_sum_that_inference_mode_made_lets_a_gradient_through_later(model):
    with torch.inference_mode():
        model(IDS[:, :12])
    assert sums(model) == 8
    model(IDS, labels=IDS).loss.backward()
    assert all(layer.null_logit.grad is not None for layer in model.memory_layers)
