"""Perplexity of a checkpoint beside that of its backbone as released."""

from __future__ import annotations

import json

import pytest
import torch
from frames import unframed
from tiny import save_tiny
from typer.testing import CliRunner

from eval.forgetting import EMPTY, RELEASED, REMEMBERED, app
from memformer import MemformerForCausalLM


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments])


def report(folder, name: str, *arguments: object) -> dict:
    out = folder / name
    result = run(folder / name, "--tokens", 200, "--window", 64, "--out", out, *arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(out.with_suffix(".json").read_text())
    text = out.with_suffix(".md").read_text()
    assert text.strip() == result.stdout.strip()
    for way, value in found["perplexity"].items():
        assert f"| {way} | {value:.3f} |" in text
    assert "<table>" in out.with_suffix(".html").read_text()
    return found


def test_a_memory_path_leaves_the_backbone_as_it_is_and_an_adapter_does_not(tmp_path):
    peft = pytest.importorskip("peft")
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path))
    found = report(tmp_path, "memory")
    assert found["logits_bit_equal"] and found["tokens_scored"] == 200 - 4
    perplexity = found["perplexity"]
    assert perplexity[RELEASED] == perplexity[EMPTY] != perplexity[REMEMBERED]

    torch.manual_seed(0)
    settings = peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    model.backbone = peft.get_peft_model(model.backbone, settings)
    model.save_pretrained(tmp_path / "adapted")
    adapted = report(tmp_path, "adapted", "--book", _book(tmp_path))
    assert not adapted["logits_bit_equal"]
    assert adapted["perplexity"][EMPTY] != adapted["perplexity"][RELEASED]
    plain = report(tmp_path, "memory", "--book", _book(tmp_path))
    assert adapted["perplexity"][RELEASED] == plain["perplexity"][RELEASED]


def _book(folder):
    path = folder / "book.txt"
    path.write_text("It was a long and quiet evening by the harbour. " * 20)
    return path


def test_a_window_over_a_segment_gets_a_sentence(tmp_path):
    result = run(save_tiny(tmp_path), "--window", 65, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "at most 64" in unframed(result.output)
