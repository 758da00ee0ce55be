"""Each mechanism off and on: what is told and asked, what is switched, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from eval import ablation
from eval.ablation import PARTS, Question, Scene, capacity, cells_of, has, latest, only, order
from eval.corpora.haystack import Haystack
from eval.corpora.people import KINDS, Fact
from eval.harness.interview import Interview
from memformer import MemformerForCausalLM
from tests.tiny import byte_tokenizer, save_tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with every mechanism, none of them neutral."""
    path = save_tiny(tmp_path_factory.mktemp("model"))
    model = MemformerForCausalLM.from_pretrained(path).eval().with_memory(erase=True, links=True)
    torch.manual_seed(0)
    with torch.no_grad():
        model.memory.table.write_gate_weight.normal_()
        model.memory.table.write_gate_bias.fill_(0.0)
        model.memory.table.release.head("erase").gate_bias.fill_(0.0)
        for layer in model.memory_layers:
            layer.read_modes.normal_()
    model.save_pretrained(path.parent / "all")
    byte_tokenizer().save_pretrained(path.parent / "all")
    return path.parent / "all"


@pytest.fixture(scope="module")
def bench(folder: Path) -> Interview:
    tokenizer = byte_tokenizer()
    model = MemformerForCausalLM.from_pretrained(folder).eval()
    return Interview(model, tokenizer, Haystack(tokenizer))


def test_latest_asks_for_values_that_changed_and_for_some_that_did_not(bench: Interview) -> None:
    first, *_ = latest(bench, 12, 50)
    told, news = (bench.tokenizer.decode(first.turns[turn]) for turn in (0, 2))
    changed = [one for one in first.asked if one.group == "changed"]
    assert len(changed) == 3 and len(first.asked) == 6
    for one in first.asked:
        assert (f"{one.fact.sentence[1:]}" in news) == (one.group == "changed")
        if one.rival is not None:
            assert one.rival != one.fact.value and f" {one.rival}." in told
        else:
            assert one.fact.sentence in told
    assert "These days " in news


def test_order_asks_for_the_next_place_of_a_walk(bench: Interview) -> None:
    scene, *_ = order(bench, 6, 40)
    told = bench.tokenizer.decode(scene.turns[0])
    for one in scene.asked:
        before = one.fact.question.rpartition("the ")[2].rstrip("?")
        assert f"the {before}, then to the {one.fact.value}" in told


@pytest.mark.parametrize("times", [2, 10])
def test_capacity_tells_so_many_times_as_much_as_there_are_slots(
    bench: Interview, times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bytes for tokens: as many to a fact as there are tokens to some
    monkeypatch.setattr(ablation, "SLOTS", 4096)
    monkeypatch.setattr(ablation, "BLOCK", 2048)
    scene, *_ = capacity(bench, 8, times)
    assert abs(sum(map(len, scene.turns)) - times * 4096) < 100
    assert scene.num_slots == 4096
    groups = [one.group for one in scene.asked]
    assert groups == sorted(groups, key=lambda group: "omn".index(group.split()[1][0]))
    assert len(set(groups)) == 3


@pytest.mark.parametrize("mechanism", [None, "gate", "erase", "links", "usage"])
def test_only_one_mechanism_is_on_and_the_model_stays_as_it_is(
    bench: Interview, mechanism: str | None
) -> None:
    model = bench.model
    before = {name: weight.clone() for name, weight in model.memory.state_dict().items()}
    ids = torch.randint(3, 200, (1, 150))
    with torch.no_grad():
        view = only(model, mechanism)
        memory = view.memorize(ids).closed()
        assert (memory.occupied.sum() < 150) == (mechanism == "gate")
        kept = memory.strength[memory.occupied]
        assert (kept.min() < 0.9 * kept.max()) == (mechanism in ("gate", "erase"))
        assert view.memory_layers[0].links == (mechanism == "links")
        assert (memory.reads.sum() > 0) == (mechanism == "usage")
    after = model.memory.state_dict()
    assert all(torch.equal(after[name], weight) for name, weight in before.items())
    assert model.memory_config.erase and model.memory_config.links


def test_an_outdated_answer_is_counted_apart() -> None:
    fact = Fact("Ada", KINDS[0], "May")
    asked = [Question(fact, "changed", "June")] * 4
    said = ["May.", "June", "a May day", "may"]
    (cell,) = cells_of("latest", "erase", True, [Scene([], asked)], said, 7.0)
    assert cell["accuracy"] == 0.5 and cell["outdated"] == 0.25 and cell["cases"] == 4


def test_the_command_reports_all_parts(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        ablation,
        "PARTS",
        {name: (one, [(made, 2) for made, _ in rest]) for name, (one, rest) in PARTS.items()},
    )
    arguments = [str(folder), "--cases", "2", "--out", str(tmp_path / "ablation")]
    result = CliRunner().invoke(ablation.app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "ablation.json").read_text())
    assert {cell["part"] for cell in report["cells"]} == set(PARTS)
    assert {cell["on"] for cell in report["cells"]} == {False, True}
    assert (tmp_path / "ablation.png").stat().st_size > 5000


def test_a_model_that_lacks_a_mechanism_gets_a_sentence(folder: Path) -> None:
    plain = MemformerForCausalLM.from_pretrained(folder.parent / "memory")
    assert [has(plain, one) for one in ("erase", "links", "usage", "gate")] == [
        False, False, True, False,
    ]  # fmt: skip
    result = CliRunner().invoke(ablation.app, [str(folder.parent / "memory"), "--parts", "latest"])
    assert result.exit_code == 2 and "needs a model with a trained erase" in result.output
    result = CliRunner().invoke(ablation.app, [str(folder), "--parts", "later"])
    assert result.exit_code == 2 and "--parts knows latest" in result.output
