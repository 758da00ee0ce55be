"""Memory files: what is forged, damaged, moved or not finite is refused, and nothing is lost."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
import torch
from backbones import random_ids, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from test_forms import attached

from memformer import IncompatibleMemory, MemformerForCausalLM, MemoryConfig, MemoryState
from memformer.memory.check import all_finite, flaw
from memformer.memory.file import (
    FORMAT,
    VERSION,
    _digest,
    read_header,
    remove_leftovers,
)


@pytest.fixture(scope="module")
def model():
    return attached(num_slots=20, dnc=True)


@pytest.fixture(scope="module")
def memory(model):
    """Full, with a closed segment and an open one, two turns, and empty slots."""
    memory = model.memorize(random_ids(1, 26)).closed()
    memory = model.memorize(random_ids(1, 11, seed=2), memory=memory)
    memory.forget(lambda slot: slot["slot"] == 3)
    return memory


def forge(path, tensors, **header):
    """A file whose checksum is right, whatever is in it."""
    header = {"format": FORMAT, "version": VERSION, "num_slots": 20, "record_tokens": None} | header
    header = {name: value for name, value in header.items() if value is not ...}
    header["sha256"] = _digest(header, tensors)
    save_file(tensors, path, {"memformer": json.dumps(header)})


def read_as(**changes):
    """A document in a header."""
    return {"checksum": "c", "name": "n", "turn": 1, "tokens": 37, "whole": True} | changes


def put(name, value, slot=0):
    """Changes one number of a column."""

    def change(tensors):
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[slot] = value

    return change


def remade(name, make):
    def change(tensors):
        tensors[name] = make(tensors[name]).contiguous()

    return change


def all_of(*changes):
    def change(tensors):
        for one in changes:
            one(tensors)

    return change


def widened(tensors):
    """One place more than there are tokens, with a token in it."""
    for name in ("told", "told_turn", "told_segment"):
        tensors[name] = torch.nn.functional.pad(tensors[name], (0, 1), value=1)
    tensors["finder_keys"] = torch.nn.functional.pad(tensors["finder_keys"], (0, 0, 0, 0, 0, 1))


def with_finder(bits):
    """A key of one finder at every place of the record."""

    def change(tensors):
        shape = (*tensors["told"].shape, 1, tensors["keys"].shape[-1])
        tensors["finder_keys"] = torch.full(shape, bits, dtype=torch.uint8)

    return change


FORGED = {
    "a NaN key": (put("keys", float("nan")), "keys that are not finite"),
    "an infinite value": (put("values", float("inf")), "values that are not finite"),
    "a NaN address": (put("addresses", float("nan")), "addresses that are not finite"),
    "a NaN strength": (put("strength", float("nan")), "strength that are not finite"),
    "an infinite usage": (put("usage", float("inf")), "usage that are not finite"),
    "a strength above one": (put("strength", 1.5), "strength out of range"),
    "a strength below zero": (put("strength", -0.5), "strength out of range"),
    "a settled above one": (put("settled", 7.0), "settled out of range"),
    "a usage above one": (put("usage", 2.0), "usage out of range"),
    "reads below zero": (put("reads", -1.0), "reads out of range"),
    "open reads below zero": (put("open_reads", -1.0), "open_reads out of range"),
    "a token below zero": (put("token", -7), "token out of range|in slots that are empty"),
    "a token of another vocabulary": (
        all_of(put("token", 97), lambda t: put("told", 97, int(t["seen_at"][0, 0]))(t)),
        "holds token id 97, and the model has 97",
    ),
    "a token beyond all": (put("token", 2**62 + 1), "token out of range"),
    "a token from the future": (put("seen_at", 37), "seen_at out of range"),
    "a token written twice": (put("seen_at", 36), "two slots with one seen_at"),
    "a write from the future": (put("written_at", 38), "written_at out of range"),
    "a segment from the future": (put("segment", 99), "segment out of range"),
    "a turn from the future": (put("turn", 2), "turn out of range"),
    "an empty slot with a strength": (put("strength", 0.5, 3), "strength in slots that are empty"),
    "an empty slot with a turn": (put("turn", 0, 3), "turn in slots that are empty"),
    "a clock below zero": (put("num_seen", -1), "num_seen \\[-1\\]"),
    "a clock near its end": (put("num_seen", 2**63 - 1), "has num_seen"),
    "a clock with no room for a turn": (put("num_seen", 2**62), "has num_seen"),
    "turns with no room for one more": (put("num_turns", 2**62), "has num_turns"),
    "a strength above the settled one": (put("settled", 0.0), "above the settled strength"),
    "more writes than tokens": (
        put("num_written", 38),
        "has num_written \\[38\\] with num_seen \\[37\\]",
    ),
    "segments below zero": (put("num_segments", -3), "has num_segments"),
    "turns below zero": (put("num_turns", -3), "has num_turns"),
    "keys of four axes": (remade("keys", lambda t: t[0]), "keys of shape"),
    "keys of fewer slots": (remade("keys", lambda t: t[:, :, 1:]), "keys of shape"),
    "keys of no width": (remade("keys", lambda t: t[..., :0]), "keys of shape"),
    "values of another width": (remade("values", lambda t: t[..., 1:]), "values of shape"),
    "fewer layers": (
        lambda t: t.update(keys=t["keys"][:1].clone(), values=t["values"][:1].clone()),
        "damaged: it has layers, key heads, width",
    ),
    "addresses of another width": (
        remade("addresses", lambda t: t[..., :5]),
        "damaged: it has layers, key heads, width and address width",
    ),
    "addresses of two axes": (remade("addresses", lambda t: t[..., 0]), "addresses of shape"),
    "a clock of two rows": (remade("num_seen", lambda t: t.repeat(2)), "num_seen of shape"),
    "a column of fewer slots": (remade("turn", lambda t: t[:, 1:]), "turn of shape"),
    "tokens of one axis": (remade("token", lambda t: t[0]), "tokens of shape"),
    "no rows": (remade("token", lambda t: t[:0]), "tokens of shape"),
    "keys that are whole numbers": (remade("keys", lambda t: t.long()), "keys of type"),
    "values of another type": (remade("values", lambda t: t.half()), "values of type"),
    "tokens that are fractions": (remade("token", lambda t: t.float()), "token of type"),
    "strengths in half precision": (remade("strength", lambda t: t.half()), "strength of type"),
    "a record with a token below zero": (put("told", -7), "has told out of range"),
    "a record of another vocabulary": (put("told", 97), "holds token id 97, and the model has 97"),
    "a record with a turn from the future": (put("told_turn", 2), "told_turn out of range"),
    "a record with a segment below zero": (put("told_segment", -2), "told_segment out of range"),
    "a record with a turn and no token": (put("told", -1), "told_turn at places where no token"),
    "a record with a token and no turn": (put("told_turn", -1), "told_turn out of range"),
    "a record with another token than its slot": (
        lambda t: put("told", 96 - int(t["told"][0, 36]), 36)(t),
        "a slot with another token than its record",
    ),
    "a record with a token from the future": (widened, "tokens told from the future"),
    "a record of fewer places": (remade("told", lambda t: t[:, 1:]), "has told of shape"),
    "a record of two rows": (remade("told", lambda t: t.repeat(2, 1)), "has told of shape"),
    "a record of one axis": (remade("told", lambda t: t[0]), "has told of shape"),
    "turns of fewer places": (remade("told_turn", lambda t: t[:, 1:]), "told_turn of shape"),
    "a record of another type": (remade("told", lambda t: t.long()), "told of type torch.int64"),
    "finder keys of fewer places": (
        remade("finder_keys", lambda t: t[:, 1:]),
        "finder_keys of shape",
    ),
    "finder keys of another width": (
        remade("finder_keys", lambda t: t[..., 1:]),
        "finder_keys of shape",
    ),
    "finder keys of another type": (
        remade("finder_keys", lambda t: t.int()),
        "finder_keys of type torch.int32",
    ),
    "finder keys of forgotten tokens": (with_finder(1), "finder_keys at places where no token"),
    "finder keys that are NaN": (
        all_of(
            with_finder(255), lambda t: t["finder_keys"].mul_((t["told"] != -1)[..., None, None])
        ),
        "finder_keys that are not finite",
    ),
    "a missing record": (lambda t: t.pop("told"), "does not match its checksum"),
    "a missing column": (lambda t: t.pop("usage"), "does not match its checksum"),
    "one column more": (lambda t: t.update(more=torch.zeros(1)), "does not match its checksum"),
}


@pytest.mark.parametrize("case", FORGED)
def test_forged_contents_are_refused_with_a_sentence(case, model, memory, tmp_path):
    change, sentence = FORGED[case]
    tensors = {name: value.clone() for name, value in memory.tensors.items()}
    forge(tmp_path / "m", tensors, fingerprint=model.stamp)
    assert MemoryState.load(tmp_path / "m", model=model).num_slots == 20
    change(tensors)
    forge(tmp_path / "m", tensors, fingerprint=model.stamp)
    with pytest.raises(ValueError, match=sentence) as caught:
        MemoryState.load(tmp_path / "m", model=model)
    assert str(tmp_path / "m") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "sentence"),
    [
        ({"num_slots": -5}, "num_slots -5, which is no whole number from 1 to 4611686018427387904"),
        ({"num_slots": 2**62 + 1}, "num_slots 4611686018427387905, which is no whole number"),
        ({"num_slots": 10**30}, "num_slots 1000000000000000000000000000000, which is no whole"),
        ({"num_slots": 0}, "num_slots 0"),
        ({"num_slots": 1e99}, "num_slots 1e"),
        ({"num_slots": "many"}, "num_slots 'many'"),
        ({"num_slots": True}, "num_slots True"),
        ({"num_slots": 7}, "slots in use and room for 7"),
        ({"num_slots": ...}, "does not say what it is"),
        ({"record_tokens": -5}, "record_tokens -5, which is no whole number from 1 to"),
        ({"record_tokens": True}, "record_tokens True"),
        ({"record_tokens": "many"}, "record_tokens 'many'"),
        ({"record_tokens": 35}, "36 tokens recorded and room for 35"),
        ({"record_tokens": ...}, "does not say what it is"),
        ({"version": ...}, "does not say what it is"),
        ({"version": "5"}, "does not say what it is"),
        ({"version": None}, "does not say what it is"),
        ({"version": 5.0}, "does not say what it is"),
        ({"user": 5}, "does not say what it is"),
        ({"version": 9}, "memory format version 9; this memformer reads versions 4 and 5"),
        ({"format": "other"}, "not a memory saved by memformer"),
        ({"fingerprint": ...}, "does not say what it is"),
        ({"fingerprint": "llama"}, "does not say what it is"),
        ({"fingerprint": []}, "does not say what it is"),
        ({"fingerprint": None}, "does not say what it is"),
        ({"fingerprint": {"architecture": 3}}, "a fingerprint that is not text"),
        ({"fingerprint": {}}, "was written by another model: architecture is 'unknown' there"),
        ({"documents": 5}, "documents that are none"),
        ({"documents": [read_as(turn="1")]}, "a document that can't be one"),
        ({"documents": [read_as(turn=True)]}, "a document that can't be one"),
        ({"documents": [read_as(turn=2)]}, "a document of a turn or a length that can't be"),
        ({"documents": [read_as(turn=10**30)]}, "a document of a turn or a length that can't be"),
        ({"documents": [read_as(turn=-1)]}, "a document of a turn or a length that can't be"),
        ({"documents": [read_as(tokens=38)]}, "a document of a turn or a length that can't be"),
        ({"documents": [read_as(tokens=10**30)]}, "a document of a turn or a length that can't"),
    ],
)
def test_forged_headers_are_refused_with_a_sentence(header, sentence, model, memory, tmp_path):
    header = {"fingerprint": model.stamp} | header
    forge(tmp_path / "m", memory.tensors, **header)
    with pytest.raises(ValueError, match=sentence):
        MemoryState.load(tmp_path / "m", model=model)


@pytest.mark.parametrize("text", ["", "[]", "7", "{", '"x"', "null", "[" * 100_000])
def test_headers_that_are_no_table_are_refused(text, memory, tmp_path):
    save_file(memory.tensors, tmp_path / "m", {"memformer": text})
    with pytest.raises(ValueError, match="damaged or not a memory: it has .*header|not a memory"):
        MemoryState.load(tmp_path / "m")
    save_file(memory.tensors, tmp_path / "m", {"other": text})
    with pytest.raises(ValueError, match="damaged or not a memory: it has no header"):
        MemoryState.load(tmp_path / "m")


@pytest.mark.parametrize("size", [0, 1, 2**30, 2**62, 2**64 - 1])
def test_a_length_that_lies_is_refused_at_once(size, tmp_path):
    (tmp_path / "m").write_bytes(size.to_bytes(8, "little") + b"{}")
    with pytest.raises(ValueError, match="damaged or not a memory: it has no header"):
        MemoryState.load(tmp_path / "m")


@pytest.mark.parametrize("bits", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_any_bit_that_differs_is_noticed(bits, model, memory, tmp_path):
    memory.save(tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    draw = random.Random(0)
    for _ in range(bits):
        place = draw.randrange(len(data))
        changed = bytes([data[place] ^ (1 << draw.randrange(8))])
        (tmp_path / "changed").write_bytes(data[:place] + changed + data[place + 1 :])
        with pytest.raises(ValueError):
            MemoryState.load(tmp_path / "changed", model=model)


def test_what_happens_to_the_file_later_changes_nothing(model, memory, tmp_path):
    memory.save(tmp_path / "m")
    loaded = MemoryState.load(tmp_path / "m", model=model)
    data = bytearray((tmp_path / "m").read_bytes())
    for fate in (lambda file: file.write(b"\xff" * len(data)), lambda file: file.truncate(10)):
        with (tmp_path / "m").open("rb+") as file:
            fate(file)
        assert float(loaded.keys.sum()) == float(memory.keys.sum())
        for name, tensor in memory.tensors.items():
            assert torch.equal(tensor, getattr(loaded, name))


def test_a_file_that_may_not_be_read_says_so(model, memory, tmp_path, monkeypatch):
    memory.save(tmp_path / "m")

    def refuse(_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(PermissionError, match="m can't be read: you have no permission"):
        MemoryState.load(tmp_path / "m", model=model)


def test_a_flawed_memory_is_not_saved_and_the_old_file_stays(model, memory, tmp_path):
    memory.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    spoilt = memory.clone()
    spoilt.values[0, 0, 0, 0, 0] = float("inf")
    with pytest.raises(ValueError, match="not saved, because it has values that are not finite"):
        spoilt.save(tmp_path / "m")
    assert (tmp_path / "m").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file size are a POSIX matter")
def test_a_full_disk_is_an_os_error_and_the_old_file_stays(memory, tmp_path):
    memory.save(tmp_path / "m")
    before = (tmp_path / "m").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "m")], capture_output=True, text=True
    )
    assert "m can't be written (" in done.stdout and "make room on the disk" in done.stdout, done
    assert (tmp_path / "m").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


# a file can't grow beyond half of the memory's, which fails as a full disk does
FULL_DISK = """
import os, resource, signal, sys
from memformer import MemoryState
memory = MemoryState.load(sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
half = os.path.getsize(sys.argv[1]) // 2
resource.setrlimit(resource.RLIMIT_FSIZE, (half, half))
try:
    memory.save(sys.argv[1])
except OSError as error:
    os.write(1, str(error).encode())
"""


@pytest.mark.parametrize("kind", ["file", "folder", "link", "broken link"])
def test_what_has_the_place_of_a_save_is_removed_and_a_link_is_not_followed(kind, memory, tmp_path):
    outside = tmp_path / "outside"
    (outside / "inside").mkdir(parents=True)
    (outside / "precious").write_text("kept")
    (tmp_path / "folder").mkdir()
    beside = tmp_path / "folder" / ".m.writing"
    if kind == "file":
        beside.write_text("a file")
    elif kind == "folder":
        (beside / "folder" / "folder").mkdir(parents=True)
        (beside / "link").symlink_to(outside)
    else:
        beside.symlink_to(outside if kind == "link" else tmp_path / "nowhere")
    remove_leftovers(tmp_path / "folder" / "m")
    assert not any((tmp_path / "folder").iterdir())
    if kind == "link":
        beside.symlink_to(outside)
    memory.save(tmp_path / "folder" / "m")
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["m"]
    assert sorted(path.name for path in outside.iterdir()) == ["inside", "precious"]


def test_a_folder_is_no_memory_file(tmp_path):
    for read in (MemoryState.load, read_header):
        with pytest.raises(ValueError, match="damaged or not a memory: it is no regular file"):
            read(tmp_path)
        with pytest.raises(FileNotFoundError, match="There is no memory file at"):
            read(tmp_path / "m")


def test_a_killed_save_leaves_nothing_once_the_next_is_done(model, memory, tmp_path):
    beside = tmp_path / ".m.writing"
    beside.mkdir()
    (beside / ".tmp123").write_bytes(b"a memory")
    (beside / "m").write_bytes(b"a memory")
    memory.save(tmp_path / "m")
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
@pytest.mark.parametrize("call", ["forward", "long", "memorize", "generate", "laid out"])
def test_a_turn_that_is_not_finite_fails_and_changes_nothing(call, poison):
    model = attached(num_slots=20)
    memory = model.memorize(random_ids(1, 21))
    before = memory.clone()
    value = next(
        module for name, module in model.backbone.named_modules() if name.endswith("2.mlp.up_proj")
    )

    def spoil(module, args, output):
        output = output.clone()
        output[0, -1, 0] = poison
        return output

    handle = value.register_forward_hook(spoil)
    ids, long = random_ids(1, 7, seed=4), random_ids(1, 19, seed=4)
    calls = {
        "forward": lambda: model(ids, memory=memory),
        "long": lambda: model(long, memory=memory),
        "memorize": lambda: model.memorize(ids, memory=memory),
        "generate": lambda: model.generate(
            ids, memory=memory, return_memory=True, do_sample=False, max_new_tokens=2
        ),
        "laid out": lambda: model(ids, memory=memory, segment_ids=ids * 0, labels=ids),
    }
    with torch.no_grad():
        with pytest.raises(ValueError, match="can't be remembered: .* not finite"):
            calls[call]()
        handle.remove()
        calls[call]()
    for name, tensor in before.tensors.items():
        assert torch.equal(tensor, getattr(memory, name))


def test_a_memory_is_converted_to_the_models_dtype(tmp_path):
    model = attached()
    model.save_pretrained(tmp_path / "model")
    memory = model.memorize(random_ids(1, 21))
    memory.save(tmp_path / "m")
    half = MemformerForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16)
    loaded = MemoryState.load(tmp_path / "m", model=half)
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.keys, memory.keys.bfloat16())
    large = memory.clone()
    large.keys[0, 0, 0, 0, 0] = 3.4e38
    large.save(tmp_path / "m")
    with pytest.raises(IncompatibleMemory, match="numbers that torch.bfloat16 can't hold"):
        MemoryState.load(tmp_path / "m", model=half)


ACTIONS = ("memorize", "continue", "forward", "forget", "close", "generate", "select", "ungated")


@given(
    actions=st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(1, 20)), max_size=6),
    selective=st.booleans(),
)
@settings(deadline=None, max_examples=30)
def test_no_memory_that_memformer_makes_has_a_flaw(actions, selective):
    model = _shared(selective)
    memory = model.init_memory(2)
    for number, (action, size) in enumerate(actions):
        ids = random_ids(2, size, seed=number)
        mask = torch.ones_like(ids)
        mask[0, : size // 3] = 0
        with torch.no_grad():
            if action == "memorize":
                memory = model.memorize(ids, attention_mask=mask, memory=memory)
            elif action == "continue":
                memory = model.memorize(ids, memory=memory, segments_per_chunk=2)
            elif action == "ungated":
                memory = model.memorize(ids, memory=memory, gated=False)
            elif action == "forward":
                memory = model(ids, memory=memory).memory
            elif action == "forget":
                memory = memory.clone()
                memory.forget(size % 3)
            elif action == "close":
                memory = memory.closed()
            elif action == "select":
                memory = memory.select([1, 0])
            else:
                options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0}
                _, memory = model.generate(ids, memory=memory, return_memory=True, **options)
        assert flaw(memory) is None


_MODELS: dict[bool, MemformerForCausalLM] = {}


def _shared(selective):
    if selective not in _MODELS:
        model = _MODELS[selective] = attached(
            num_slots=12, segment_tokens=7, memory_layers=(1, 3), selective=selective, dnc=True
        )
        # heads that let go of slots, so that strengths fall while a segment is open
        generator = torch.Generator().manual_seed(0)
        for name, weight in model.named_parameters():
            if ".release.heads." in name:
                torch.nn.init.normal_(weight, std=1.5, generator=generator)
    return _MODELS[selective]


def test_a_checkpoint_with_wrong_weights_is_refused_with_a_sentence(tmp_path):
    from safetensors.torch import load_file

    model = attached()
    model.save_pretrained(tmp_path)
    place = tmp_path / "model.safetensors"
    weights = load_file(place)
    name = "memory.layers.0.null_logit"
    for wrong, sentence in (
        (weights | {name: torch.full((4,), float("nan"))}, "null_logit holds NaN or infinity"),
        (weights | {name: torch.zeros(5)}, r"null_logit is of shape \(5,\) and not \(4,\)"),
        (
            weights | {"memory.layers.9.x": torch.zeros(5)},
            "1 names differ, memory.layers.9.x among them",
        ),
    ):
        save_file(wrong, place)
        with pytest.raises(ValueError, match=f"{sentence}; the checkpoint is damaged"):
            MemformerForCausalLM.from_pretrained(tmp_path)
    save_file(weights, place)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"backbone": "x"}))
    with pytest.raises(ValueError, match="backbone must be a table with name.*got 'x'"):
        MemformerForCausalLM.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    place = tmp_path / "backbone" / "model.safetensors"
    weights = load_file(place)
    name = "model.layers.0.self_attn.q_proj.weight"
    for wrong, sentence in (
        (
            torch.full_like(weights[name], float("nan")),
            "The backbone's weights .*holds NaN|fingerp",
        ),
        (weights[name][:, 1:].contiguous(), "can't be loaded .*; its files are damaged"),
    ):
        save_file(weights | {name: wrong}, place, {"format": "pt"})
        with pytest.raises(ValueError, match=sentence):
            MemformerForCausalLM.from_pretrained(tmp_path)


def test_a_backbone_that_computes_nan_gets_no_memory():
    backbone = tiny_backbone()
    with torch.no_grad():
        backbone.model.embed_tokens.weight[5] = float("nan")
        backbone.model.layers[1].self_attn.v_proj.weight.fill_(float("nan"))
    with pytest.raises(ValueError, match="not finite"):
        MemformerForCausalLM.from_backbone(backbone, MemoryConfig())


def test_only_its_user_opens_a_file_that_says_whose_it_is(memory, tmp_path):
    memory.save(tmp_path / "m", user="alice")
    assert MemoryState.load(tmp_path / "m").num_slots == 20
    assert MemoryState.load(tmp_path / "m", user="alice").num_slots == 20
    with pytest.raises(ValueError, match="not the memory of user 'bob'"):
        MemoryState.load(tmp_path / "m", user="bob")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_numbers_are_finite_though_their_sum_is_not(dtype):
    large = torch.full((4,), torch.finfo(dtype).max, dtype=dtype)
    assert all_finite(large, torch.zeros(2, dtype=dtype), torch.arange(3))
    for wrong in (float("nan"), float("inf"), -float("inf")):
        large[1] = wrong
        assert not all_finite(torch.zeros(2, dtype=dtype), large)
    assert not all_finite(torch.tensor([float("inf"), -float("inf")], dtype=dtype))
