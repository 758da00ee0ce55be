"""`python -m training.classic`: configs, the curriculum, and a machine that learns."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from frames import unframed
from typer.testing import CliRunner

from training import classic
from training.machines.build import build
from training.machines.classic import TEST, VALIDATION, Mistakes, Sizes
from training.machines.settings import ClassicConfig, TaskSection
from training.machines.tasks import Copy
from training.setup.config import BadConfig, read_config

FOLDER = Path(__file__).parents[2] / "configs" / "classic"
# bAbI has a command, and a test, of its own
CONFIGS = sorted(set(FOLDER.glob("*.yaml")) - set(FOLDER.glob("babi_*")))
TINY = """
task: {name: copy, options: {width: 2}, largest: 3, test_sizes: [2, 3]}
machine: {name: dnc, options: {slots: 5, width: 4, hidden: 8}, test_slots: 6}
optim: {batches: 3}
out: OUT
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.replace("OUT", str(tmp_path / "report" / "tiny")), encoding="utf-8")
    return path


def run(path, *overrides):
    return CliRunner().invoke(classic.app, [str(path), *overrides])


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_can_be_read_and_says_how_to_run_it(path):
    config = read_config(ClassicConfig, path)
    task, machine = build(config)
    outputs, _ = machine(task.batch(2, config.task.largest, torch.Generator()).inputs)
    assert outputs.shape[-1] == task.output_size
    assert config.out == f"reports/classic/{path.stem}"
    assert f"python -m training.classic configs/classic/{path.name}" in path.read_text()


def test_a_run_leaves_its_report_and_pictures_and_comes_out_the_same_again(tiny, tmp_path):
    result = run(tiny)
    assert result.exit_code == 0, result.output
    folder = tmp_path / "report"
    names = ["tiny.json", "tiny.png", "tiny_weights.png"]
    assert sorted(path.name for path in folder.iterdir()) == names
    report = json.loads((folder / "tiny.json").read_text())
    assert set(report["bit_error"]) == set(report["wrong_answers"]) == {"2", "3"}
    assert [len(report["wrong_by_number"][size]) for size in ("2", "3")] == [2, 3]
    assert report["settings"]["optim"]["batches"] == 3
    assert report["curve"]["batches"] == [3]
    assert run(tiny).exit_code == 0
    again = json.loads((folder / "tiny.json").read_text())
    assert again["curve"] == report["curve"]
    assert again["bit_error"] == report["bit_error"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("optim.bathces=3", "there is no key optim.bathces. Did you mean optim.batches?"),
        ("optim.batches=many", "(optim.batches): Value 'many' of type 'str'"),
        ("optim=3", "optim=3"),
        ("batches", "an override is KEY=VALUE, as in seed=1; got 'batches'."),
        ("task.name=sort", "task.name is 'sort'; it must be one of after,"),
        ("machine.options.slot=3", "machine.options: dnc has no option 'slot'; it has"),
        ("machine.options.slots=0", "slots must be at least 1; got 0."),
    ],
)
def test_a_bad_config_is_one_sentence_and_status_2(tiny, tmp_path, override, sentence):
    result = run(tiny, override)
    assert result.exit_code == 2
    assert sentence in result.output
    assert "Traceback" not in result.output
    assert len(result.output.strip().splitlines()) == 1
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "can't be read: No such file or directory."),
        (b"task: [", "is not YAML"),
        (b"\xff\xfe\xfa", "is not YAML"),
        (b"- a\n- b", "must hold keys with values"),
        (b"task: {name: copy}", "lacks machine.name, optim.batches, out, task.largest"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, content, sentence):
    path = tmp_path / "bad.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BadConfig, match=sentence):
        read_config(ClassicConfig, path)


def test_the_curriculum_waits_until_the_machine_is_ready():
    sizes = Sizes(TaskSection("copy", {}, 2, 4, [4], True), torch.Generator().manual_seed(0))
    assert {sizes.draw() for _ in range(100)} == {2, 3}
    for _ in range(Sizes.WINDOW):
        sizes.learn(0.5)
    assert sizes.limit == 3
    for _ in range(2 * Sizes.WINDOW):
        sizes.learn(0.0)
    assert sizes.limit == 4
    for _ in range(5 * Sizes.WINDOW):
        sizes.learn(0.0)
    assert {sizes.draw() for _ in range(100)} == {2, 3, 4}


def test_what_stops_the_training_is_neither_trained_on_nor_reported(tiny, monkeypatch):
    made, batch = [], Copy.batch

    def noted(task, count, size, generator):
        made.append((generator.initial_seed(), count))
        return batch(task, count, size, generator)

    monkeypatch.setattr(Copy, "batch", noted)
    assert run(tiny, "seed=7").exit_code == 0
    trained, validated, reported = [7] * 3, [7 + VALIDATION] * 2, [7 + TEST] * 2
    assert [seed for seed, count in made if count > 1] == trained + validated + reported


def test_the_learning_rate_goes_down_to_its_end(tiny, monkeypatch):
    rates = []

    class Adam(torch.optim.Adam):
        def step(self, *arguments, **options):
            rates.append(self.param_groups[0]["lr"])
            return super().step(*arguments, **options)

    monkeypatch.setattr(torch.optim, "Adam", Adam)
    assert run(tiny, "optim.lr=0.01").exit_code == 0
    assert rates == [0.01] * 3
    assert run(tiny, "optim.lr=0.01", "optim.lr_end=0.1", "optim.batches=20").exit_code == 0
    assert rates[3] == 0.01
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.001, rel=0.1)


def test_mistakes_are_summed_up_by_the_number_of_the_answer():
    wrong = torch.tensor([[[0, 0], [1, 0]], [[1, 1], [1, 0]]]).bool()
    assert Mistakes.of(wrong, None) == Mistakes(0.5, 0.75, [0.5, 1.0])
    assert Mistakes.of(wrong, torch.tensor([[0, 1], [1, 1]])).by_number == [0.0, 1.0]
    # two tokens of a segment, one answer
    assert Mistakes.of(wrong[:, None], None) == Mistakes(0.5, 0.75, [0.75])


@pytest.mark.slow
@pytest.mark.parametrize("machine", ["ntm", "dnc", "sam"])
def test_machines_learn_to_copy(tmp_path, machine):
    """Three bits, up to four vectors, in about a minute; chance is 0.5."""
    path = tmp_path / "copy.yaml"
    text = TINY.replace("OUT", str(tmp_path / "copy")).replace("width: 2", "width: 3")
    path.write_text(text, encoding="utf-8")
    options = ["machine.name=" + machine, "machine.options={slots: 8, width: 8, hidden: 64}"]
    result = run(path, *options, "optim.batches=3000", "task.test_sizes=[4]", "task.largest=4")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "copy.json").read_text())["bit_error"]["4"] < 0.02


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("task.test_sizes=[]", "task.test_sizes names no size"),
        ("out=configs/README.md/x", "can't be written, as"),
        (
            "machine={name: sam, options: {search: faiss}}",
            "machine.options of sam: searching with faiss needs it installed: pip install",
        ),
    ],
)
def test_what_can_not_be_done_is_told_before_anything_is_learned(
    tiny, change, sentence, monkeypatch
):
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(classic, "train", None)
    result = run(tiny, change)
    assert result.exit_code == 2 and sentence in unframed(result.output)
