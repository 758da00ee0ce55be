"""The mean of two checkpoints: what is averaged, and what is refused."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import save_tiny
from typer.testing import CliRunner

from memformer import MemformerForCausalLM
from training import average


def test_weights_are_averaged_and_whole_numbers_kept():
    one = {"a": torch.tensor([1.0, 3.0]), "n": torch.tensor([4, 5])}
    other = {"a": torch.tensor([3.0, 3.0]), "n": torch.tensor([0, 0])}
    found = average.mean(one, other)
    assert found["a"].tolist() == [2.0, 3.0] and found["n"].tolist() == [4, 5]


@pytest.mark.parametrize("other", [{}, {"a": torch.zeros(3)}, {"a": torch.zeros(2).half()}])
def test_weights_of_another_form_are_refused(other):
    with pytest.raises(ValueError, match="the weight a is not the same"):
        average.mean({"a": torch.zeros(2)}, other)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Two checkpoints with an adapter; the second has other weights."""
    from peft import LoraConfig, get_peft_model

    place = tmp_path_factory.mktemp("average")
    save_tiny(place)
    model = MemformerForCausalLM.from_pretrained(place / "memory")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    model.backbone = get_peft_model(model.backbone, config)
    model.save_pretrained(place / "one")
    shutil.copytree(place / "one", place / "two")
    path = place / "two" / average.ADAPTER
    save_file({name: weight + 2 for name, weight in load_file(path).items()}, path)
    return place


def test_the_mean_opens_as_a_model(two):
    result = CliRunner().invoke(average.app, [str(two / name) for name in ("one", "two", "mean")])
    assert result.exit_code == 0, result.output
    first, found = (load_file(two / name / average.ADAPTER) for name in ("one", "mean"))
    assert all(torch.allclose(found[name], weight + 1) for name, weight in first.items())
    model = MemformerForCausalLM.from_pretrained(two / "mean")
    assert torch.isfinite(model(torch.arange(6)[None]).logits).all()
    kept = load_file(two / "mean" / average.MEMORY)
    assert kept and not any("lora_" in name for name in kept)


def test_mistakes_are_one_sentence(two):
    result = CliRunner().invoke(average.app, [str(two / "one"), str(two / "none"), str(two / "x")])
    assert result.exit_code == 2 and "no mean can be made" in result.output
    assert not (two / "x").exists()
