"""Systems by name, and what each of them opens."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from eval.harness import command, desk
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.desk import Answer
from eval.harness.looks import looks, words
from eval.harness.roster import Roster, released
from eval.harness.specs import BadSystem, cost, parse
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
        ("truncated:tokens=512", "only bm25 and dense take tokens=NUMBER"),
        ("full[focus=0]", "only memformer, ungated, session, attached have fields to switch"),
        ("memformer[focus]", "a switch is written FIELD=VALUE, such as focus=0"),
        ("memformer[focsu=0]", "MemoryConfig has no key 'focsu'; the nearest valid key is 'focus'"),
        ("memformer[focus=-1]", "focus must be a number >= 0; got -1"),
        ("memformer[links=2]", "links must be true or false; got 2"),
        ("memformer[focus=0", "a system is written NAME"),
    ],
)
def test_a_system_that_is_not_is_one_sentence(text: str, message: str) -> None:
    with pytest.raises(BadSystem, match=re.escape(message)):
        parse(text)


def test_a_search_is_given_passages_or_a_window_in_tokens() -> None:
    passages, window = parse("bm25:4,dense:tokens=512/plain@m")
    assert (passages.number, passages.in_tokens) == (4, False)
    assert (window.name, window.number, window.in_tokens) == ("dense", 512, True)
    assert (window.style, window.model) == ("plain", "m")
    assert words("bm25:tokens=1000", "m") == "BM25, 1,000 tokens"
    documents = [Document("0", list, (Question("0", "?", ("x",), {}),), 900)]
    few, many = parse("bm25:tokens=100,bm25")
    assert cost(few, documents) < cost(many, documents)


def test_fields_of_the_memory_are_switched_in_brackets() -> None:
    one, other, plain = parse(
        "memformer[focus=0, links=true]:9/plain@m, session[num_slots=null],full"
    )
    assert one.switches == {"focus": 0, "links": True} and (one.name, one.number) == (
        "memformer",
        9,
    )
    assert (one.style, one.model) == ("plain", "m")
    assert other.switches == {"num_slots": None} and plain.switches == {}
    assert parse("memformer[key_positions=none]")[0].switches == {"key_positions": "none"}
    assert words("memformer[focus=0.5,links=true]", "m") == "memory, focus 0.5, links true"
    assert len({look.marker for look in looks(["memformer", "memformer[focus=0]"]).values()}) == 2


def test_a_switched_system_is_a_view_of_the_same_model(folder: Path) -> None:
    roster, benchmark = Roster(str(folder), "plain"), toy(None)
    made: list[Any] = [
        roster.system(spec, benchmark, lambda tokens: None)
        for spec in parse("memformer,memformer[focus=0],session[focus=0],ungated[focus=0]:7")
    ]
    models = [one.desk.model for one in made]
    assert [model.memory_config.focus for model in models] == [8.0, 0, 0, 0]
    assert all(model.backbone is models[0].backbone for model in models)
    assert made[3].slots == 7 and not made[3].gated
    # before anything is asked
    specs = parse("memformer,memformer[memory_layers=all]")
    with pytest.raises(BadSystem, match=re.escape("'memformer[memory_layers=all]' can't be had")):
        roster.fingerprints(specs)


def test_a_view_is_a_system_of_its_own_in_a_report(folder: Path, tmp_path: Path) -> None:
    names = "memformer,memformer[focus=0,null_offset=0]"
    assert "with_memory can't change null_offset" in said(
        run(folder, tmp_path / "toy", systems=names)
    )
    names = "bm25:tokens=90,memformer,memformer[focus=0,read_distance=3]"
    assert run(folder, tmp_path / "toy", "--cases", "1", systems=names).exit_code == 0
    report = json.loads((tmp_path / "toy.json").read_text())
    assert report["settings"]["systems"] == [spec.text for spec in parse(names)]
    assert {one["system"] for one in report["predictions"]} == {spec.text for spec in parse(names)}


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


def choosing(tokenizer: Any) -> Benchmark:
    """The toy with options."""
    made = toy(tokenizer, cases=1)
    options = {"options": ("hall 0", "hall 1"), "bare": "Where is the lamp?"}
    documents = [
        replace(one, questions=tuple(replace(q, answers=("hall 0",), **options)
                                     for q in one.questions))
        for one in made.documents
    ]  # fmt: skip
    return replace(made, documents=documents, ranking="Tell me.")


def test_a_class_of_ones_own_ranks_options_too_or_is_refused(folder: Path, tmp_path: Path) -> None:
    app = command.command(choosing)
    name = f"{__name__}:Parrot"
    refused = said(run(folder, tmp_path / "toy", systems=name, app=app))
    assert "has no method rank, and there are options" in refused


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
