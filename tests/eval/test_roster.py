"""Systems by name, and what each of them opens."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.harness import desk
from eval.harness.benchmark import Document, Question
from eval.harness.desk import Answer
from eval.harness.roster import BadSystem, Roster, parse, released
from eval.harness.systems import Reading
from tests.eval.toy import run, said, toy


@pytest.fixture(autouse=True)
def _same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["toy", "the same"])


def test_a_system_is_a_name_a_number_a_style_and_a_model() -> None:
    (spec,) = parse("truncated:512/plain@runs/some:model")
    assert (spec.name, spec.number, spec.style) == ("truncated", 512, "plain")
    assert spec.model == "runs/some:model"
    (own,) = parse("my.module:Peer:4@runs/peer")
    assert (own.name, own.number, own.model) == ("my.module:Peer", 4, "runs/peer")
    assert [one.name for one in parse("nothing, full")] == ["nothing", "full"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a system is written NAME"),
        ("full,", "a system is written NAME"),
        ("rag", "there is no system 'rag'"),
        ("bm25:0", "at least 1"),
        ("full/poem", "a style is one of plain, chat; got 'poem'"),
        ("full,full", "'full' is named twice"),
    ],
)
def test_a_system_that_is_not_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(BadSystem, match=re.escape(message)):
        parse(text)


def test_a_checkpoint_is_compared_with_what_it_was_made_of(folder: Path) -> None:
    assert released(str(folder)) == str(folder.parent / "base")
    assert released(str(folder.parent / "base")) == str(folder.parent / "base")
    assert released("no/such") == "no/such"


def test_an_adapter_is_merged_and_belongs_to_the_checkpoint_alone(
    folder: Path, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    from memformer import MemformerForCausalLM

    model = MemformerForCausalLM.from_pretrained(folder).eval()
    chosen = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model.backbone = get_peft_model(model.backbone, chosen)
    model.save_pretrained(tmp_path / "tuned")
    roster = Roster(str(tmp_path / "tuned"), "plain")
    benchmark = toy(None)
    ids = torch.tensor([[5, 6, 7]])
    for name, adapted in (("memformer", True), ("full", False), ("attached", False)):
        system: Any = roster.system(parse(name)[0], benchmark, lambda tokens: None)
        backbone = system.desk.model.backbone
        assert hasattr(backbone, "peft_config") is adapted
        if adapted:
            modules = dict(backbone.named_modules())
            with torch.inference_mode():
                torch.testing.assert_close(backbone(ids).logits, model.backbone(ids).logits)
            assert [one for one in modules.values() if getattr(one, "_sum", None)]


class Parrot:
    """A system of one's own: says the document's first word, and what it was told to say."""

    def __init__(self, asked: desk.Desk, number: int | None, model: str | None) -> None:
        self.times, self.last = number or 1, model

    def read(self, documents: Sequence[Document]) -> Reading:
        return Reading(
            [one.parts()[0].split()[0] for one in documents],
            [0] * len(documents),
            [0] * len(documents),
        )

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        said = " ".join([self.last or ""] * self.times)
        return [Answer(f"{reading.kept[place]} {said}", 1) for place, _ in asked]


def test_a_class_of_ones_own_is_a_system(folder: Path, tmp_path: Path) -> None:
    name = f"{__name__}:Parrot:2@aye"
    assert run(folder, tmp_path / "toy", systems=name).exit_code == 0
    report = json.loads((tmp_path / "toy.json").read_text())
    assert {one["output"] for one in report["predictions"]} == {"The aye aye"}
    assert "can't be imported" in said(run(folder, tmp_path / "t", systems=f"{__name__}:No"))


def test_a_class_of_ones_own_with_other_weights_is_another_run(
    folder: Path, tmp_path: Path
) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "one.txt").write_text("1")
    name = f"{__name__}:Parrot@{weights}"
    assert run(folder, tmp_path / "toy", systems=name).exit_code == 0
    assert run(folder, tmp_path / "toy", systems=name).exit_code == 0
    (weights / "one.txt").write_text("2")
    refused = said(run(folder, tmp_path / "toy", systems=name))
    assert "other settings (fingerprints of " in refused and "; give --again" in refused
