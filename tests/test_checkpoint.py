"""Opening models: nothing foreign is run or unpickled, and what is missing is named."""

from __future__ import annotations

import builtins
import json

import pytest
import torch
from backbones import tiny_backbone
from tiny import byte_tokenizer, save_tiny
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from memformer import MemformerForCausalLM, MemoryConfig
from memformer.checkpoint.decoders import check_place, load_tokenizer
from memformer.pretrained import DEFAULT_MODEL, HUB_REVISION

EVIL = """
from pathlib import Path
Path(__file__).with_name("executed").touch()
class Config: pass
class Model: pass
"""


@pytest.fixture
def silent(monkeypatch):
    """A question on the terminal is a failure."""

    def ask(*_):
        raise AssertionError("the terminal was asked")

    monkeypatch.setattr(builtins, "input", ask)


@pytest.mark.parametrize("kind", ["llama", "unknown"])
@pytest.mark.parametrize("where", ["decoder", "backbone of a checkpoint"])
def test_code_that_comes_with_a_model_is_neither_run_nor_asked_about(tmp_path, silent, kind, where):
    folder = save_tiny(tmp_path)
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    config["model_type"] = kind
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}
    (tmp_path / "base" / "config.json").write_text(json.dumps(config))
    (tmp_path / "base" / "evil.py").write_text(EVIL)
    name = tmp_path / "base" if where == "decoder" else folder
    if kind == "llama":
        MemformerForCausalLM.from_pretrained(name)
    else:
        with pytest.raises(ValueError, match="trust_remote_code"):
            MemformerForCausalLM.from_pretrained(name)
    assert not list(tmp_path.rglob("executed"))


def test_pickled_weights_are_not_opened(tmp_path):
    backbone = tiny_backbone()
    backbone.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(backbone.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="safetensors"):
        MemformerForCausalLM.from_pretrained(tmp_path)


def test_a_pickled_adapter_is_not_opened(tmp_path):
    from peft import LoraConfig, get_peft_model
    from safetensors.torch import load_file

    wrapped = get_peft_model(tiny_backbone(), LoraConfig(target_modules=["q_proj"]))
    model = MemformerForCausalLM.from_backbone(wrapped, MemoryConfig(memory_layers=(1,)))
    model.save_pretrained(tmp_path)
    weights = tmp_path / "adapter" / "adapter_model.safetensors"
    torch.save(load_file(weights), tmp_path / "adapter" / "adapter_model.bin")
    weights.unlink()
    with pytest.raises(ValueError, match="adapter_model.safetensors can't be read"):
        MemformerForCausalLM.from_pretrained(tmp_path)


def test_a_folder_that_is_not_there_is_said_at_once(tmp_path, monkeypatch):
    def ask(*_, **__):
        raise AssertionError("the hub was asked")

    monkeypatch.setattr(AutoConfig, "from_pretrained", ask)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for name in (tmp_path / "nothing", "./nothing", "~/nothing", "a/b/c", "runs/nothing"):
        with pytest.raises(FileNotFoundError, match="There is no model folder"):
            MemformerForCausalLM.from_pretrained(name)
    check_place("HuggingFaceTB/SmolLM2-135M-Instruct")
    check_place("gpt2")
    check_place(str(tmp_path / "runs"))


def test_the_default_model_comes_from_one_commit_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "none"))
    asked = []

    class Enough(Exception):
        pass

    def note(place, **options):
        asked.append((str(place), options.get("revision")))
        raise Enough

    for loader in (AutoConfig, AutoModelForCausalLM, AutoTokenizer):
        monkeypatch.setattr(loader, "from_pretrained", note)
    with pytest.raises(Enough):
        MemformerForCausalLM.from_pretrained(DEFAULT_MODEL)
    with pytest.raises(Enough):
        MemformerForCausalLM.from_pretrained(DEFAULT_MODEL, revision="mine")
    with pytest.raises(Enough):
        load_tokenizer(DEFAULT_MODEL, MemformerForCausalLM.from_backbone(tiny_backbone()))
    assert asked == [
        (DEFAULT_MODEL, HUB_REVISION),
        (DEFAULT_MODEL, "mine"),
        (DEFAULT_MODEL, HUB_REVISION),
    ]


def test_a_checkpoint_of_the_default_model_names_its_commit(tmp_path, monkeypatch):
    from memformer.pretrained import TRAINED

    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "none"))
    asked = []

    def note(place, **options):
        asked.append((str(place), options.get("revision")))
        raise OSError("no network")

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", note)
    with pytest.raises(OSError, match="--backbone on the command line"):
        MemformerForCausalLM.from_pretrained(TRAINED)
    assert asked == [(DEFAULT_MODEL, HUB_REVISION)]


def test_a_wrong_name_of_a_setting_gets_the_nearest():
    with pytest.raises(ValueError, match="no key 'slots'; the nearest valid key is 'num_slots'"):
        MemoryConfig(slots=3)


def test_a_checkpoint_keeps_what_ends_a_sentence_and_opens_without(tmp_path):
    from safetensors.torch import load_file, save_file

    from memformer.attach.backbone import Backbone
    from memformer.attach.borders import border_table

    folder = save_tiny(tmp_path)
    wanted = border_table(Backbone.of(tiny_backbone(vocab_size=258)), byte_tokenizer())
    assert wanted.unique().tolist() == [0, 1, 2]
    model = MemformerForCausalLM.from_pretrained(folder)
    assert torch.equal(model.memory.borders, wanted)
    # in another type of numbers it stays what it is
    model.save_pretrained(tmp_path / "small", dtype=torch.bfloat16)
    weights = load_file(tmp_path / "small" / "model.safetensors")
    assert weights["memory.borders"].dtype == torch.uint8
    small = MemformerForCausalLM.from_pretrained(tmp_path / "small")
    assert torch.equal(small.memory.borders, wanted)
    # a checkpoint of a version without borders is cut as it was, and fits its memories
    del weights["memory.borders"]
    save_file(weights, tmp_path / "small" / "model.safetensors", metadata={"format": "pt"})
    earlier = MemformerForCausalLM.from_pretrained(tmp_path / "small")
    assert not earlier.memory.borders.any()
    assert earlier.fingerprint == small.fingerprint
    ids = torch.randint(2, 258, (1, 150))
    memory = earlier.memorize(ids)
    assert torch.unique(memory.segment, return_counts=True)[1].tolist() == [64, 64, 22]
