"""Runs of a benchmark: the report, going on after an interruption, several processes, mistakes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from eval.harness import command, desk, prompts, runner, systems
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.metrics import wilson_interval
from eval.harness.runner import groups
from eval.harness.systems import Reading
from eval.reporting import opening
from tests.eval.toy import SYSTEMS, run, said, toy
from tests.tiny import save_tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _same_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["toy", "the same"])


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path_factory.mktemp("whole") / "reports" / "toy"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["toy", "the same"])
        assert run(folder, out).exit_code == 0
    return out


# ---- the report ----------------------------------------------------------------------------


def test_a_report_holds_every_cell_and_says_how_it_came_about(folder: Path, whole: Path) -> None:
    out = whole
    report = json.loads((out.parent / "toy.json").read_text())
    assert report["benchmark"] == "toy"
    assert report["model"] == str(folder)
    assert set(report["settings"]["fingerprints"]) == {str(folder), str(folder.parent / "base")}
    names = SYSTEMS.split(",")
    assert [(one["kind"], one["size"], one["system"]) for one in report["cells"]] == [
        (kind, size, system)
        for kind in ("even", "odd")
        for size in ("short", "middling")
        for system in names
    ]
    assert len(report["predictions"]) == 2 * 3 * 2 * len(names)
    places = {(one["document"], one["question"]): one["at"] for one in report["questions"]}
    assert len(places) == len(report["questions"]) == 2 * 3 * 2
    assert report["questions"][0] == {
        "document": "short/0", "question": "0", "at": {"size": "short", "kind": "odd"},
        "asked": "Where is lamp 0?", "answers": ["hall 0"],
    }  # fmt: skip
    for cell in report["cells"]:
        mine = [
            one["scores"]["evenness"]
            for one in report["predictions"]
            if one["system"] == cell["system"]
            and places[one["document"], one["question"]]
            == {"size": cell["size"], "kind": cell["kind"]}
        ]
        assert (cell["questions"], cell["documents"], cell["chance"]) == (3, 3, 0.25)
        assert cell["scores"]["evenness"] == sum(mine) / 3
        assert cell["intervals"]["evenness"] == pytest.approx(wilson_interval(int(sum(mine)), 3))
    assert report["cells"][0]["constant"].startswith("hall")
    assert {(one["size"], one["system"]) for one in report["means"]} == {
        (size, system) for size in ("short", "middling") for system in names
    }
    overall = {one["system"]: one for one in report["overall"]}
    assert overall["nothing"]["state_bytes"] == 0 < overall["attached"]["state_bytes"]
    assert overall["memformer/plain"]["read_tokens"] == sum(
        len("The 0th lamp is in the hall. ") * times * 3 for times in (1, 4)
    )
    page = (out.parent / "toy.md").read_text()
    for name in names:
        assert page.count(f"| `{name}` |") == 4  # mean, two kinds, all questions
    assert "| chance | 25.0 | 25.0 |" in page
    assert re.search(r"^\| `attached` \|.* [\d.]+ KiB \| [\d.]+ \|$", page, re.MULTILINE)
    shown = (out.parent / "toy.html").read_text()
    assert shown.count("<table>") == 4
    assert shown.count("data:image/png;base64,") == 3
    assert {path.name for path in out.parent.iterdir()} == {
        "toy.json", "toy.timing.json", "toy.md", "toy.html", "toy.cases.jsonl",
        "toy.png", "toy_heat.png", "toy_cost.png",
    }  # fmt: skip
    timing = json.loads((out.parent / "toy.timing.json").read_text())
    assert all(timing["seconds"][name] > 0 for name in names)


def test_the_same_command_gives_the_same_json(folder: Path, whole: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "two")
    assert result.exit_code == 0
    assert (tmp_path / "two.json").read_bytes() == whole.with_name("toy.json").read_bytes()
    assert result.stdout.strip() == (tmp_path / "two.md").read_text().strip()


@pytest.mark.parametrize("lines", [1, 20, 60])
def test_an_interrupted_run_goes_on_and_reports_the_same(
    folder: Path, whole: Path, tmp_path: Path, lines: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = whole.with_name("toy.cases.jsonl").read_text().splitlines(keepends=True)
    assert len(kept) == 1 + 12 * 6
    # killed in the middle of a line
    (tmp_path / "part.cases.jsonl").write_text("".join(kept[:lines]) + kept[lines][:9])
    asked: list[int] = []
    generate = desk.Desk.generate

    def counted(desk: Any, model: Any, ids: torch.Tensor, *rest: Any, **kwargs: Any) -> Any:
        asked.append(len(ids))
        return generate(desk, model, ids, *rest, **kwargs)

    monkeypatch.setattr(desk.Desk, "generate", counted)
    assert run(folder, tmp_path / "part").exit_code == 0
    assert (tmp_path / "part.json").read_bytes() == whole.with_name("toy.json").read_bytes()
    assert len((tmp_path / "part.cases.jsonl").read_text().splitlines()) == len(kept)
    # what was known is not asked again, but for questions that are asked together with others
    assert len(kept) - lines <= sum(asked) < len(kept) - lines + desk.BATCH_QUESTIONS


def test_a_killed_run_loses_and_repeats_nothing(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, left = desk.Desk.generate, 3

    def dies(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return generate(*args, **kwargs)

    monkeypatch.setattr(desk.Desk, "generate", dies)
    assert run(folder, tmp_path / "part").exit_code != 0
    assert not (tmp_path / "part.json").exists()
    monkeypatch.setattr(desk.Desk, "generate", generate)
    assert run(folder, tmp_path / "part").exit_code == 0
    assert (tmp_path / "part.json").read_bytes() == whole.with_name("toy.json").read_bytes()


def test_the_start_is_taken_before_anything_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noting(name: str, old: Any) -> Any:
        def noted(*args: Any, **kwargs: Any) -> Any:
            order.append(name)
            return old(*args, **kwargs)

        return noted

    monkeypatch.setattr(command, "head", noting("head", command.head))
    monkeypatch.setattr(desk.Desk, "generate", noting("generate", desk.Desk.generate))
    assert run(folder, tmp_path / "toy", "--cases", "1", systems="nothing").exit_code == 0
    assert order.index("head") < order.index("generate")


def test_other_settings_are_refused_unless_it_starts_over(folder: Path, tmp_path: Path) -> None:
    assert run(folder, tmp_path / "toy", "--cases", "1", systems="nothing").exit_code == 0
    result = run(folder, tmp_path / "toy", "--cases", "2", systems="nothing")
    assert result.exit_code == 2
    assert "other settings (cases); give --again to start over" in said(result)
    again = run(folder, tmp_path / "toy", "--cases", "2", "--again", systems="nothing")
    assert again.exit_code == 0
    assert len(json.loads((tmp_path / "toy.json").read_text())["predictions"]) == 8


def test_a_system_more_leaves_the_others_their_answers(
    folder: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = json.loads(whole.with_name("toy.json").read_text())["settings"]["systems"]
    generated: list[int] = []
    generate = desk.Desk.generate

    def counted(*args: Any, **kwargs: Any) -> Any:
        generated.append(len(args[2]))
        return generate(*args, **kwargs)

    monkeypatch.setattr(desk.Desk, "generate", counted)
    first = ",".join(names[:2])
    assert run(folder, tmp_path / "toy", systems=first).exit_code == 0
    report = (tmp_path / "toy.json").read_bytes()
    assert run(folder, tmp_path / "toy", systems=",".join(names)).exit_code == 0
    assert sum(generated) == 12 * len(names)
    assert (tmp_path / "toy.json").read_bytes() == whole.with_name("toy.json").read_bytes()
    # fewer again: nothing is asked, and nothing of the others is in the report
    assert run(folder, tmp_path / "toy", systems=first).exit_code == 0
    assert sum(generated) == 12 * len(names)
    assert (tmp_path / "toy.json").read_bytes() == report


def test_answers_to_other_words_are_not_taken_for_these(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--cases", "1")
    systems = "nothing,truncated:60/plain"
    assert run(folder, tmp_path / "toy", *options, systems=systems).exit_code == 0
    wording = json.loads((tmp_path / "toy.json").read_text())["settings"]["wording"]
    assert set(wording) == {"chat", "plain"}
    assert run(folder, tmp_path / "toy", *options, systems=systems).exit_code == 0
    monkeypatch.setattr(prompts, "BREAK", "\n")
    result = run(folder, tmp_path / "toy", *options, systems=systems)
    assert result.exit_code == 2
    assert "other settings (wording of nothing)" in said(result)
    # what is asked in plain text is told without breaks
    plain = "truncated:60/plain"
    assert run(folder, tmp_path / "toy", *options, systems=plain).exit_code == 0


def test_a_template_that_drops_what_is_said_is_one_sentence(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")
    (model / "chat_template.jinja").write_text("always the same")
    result = run(model, tmp_path / "toy", systems="full")
    assert result.exit_code == 2
    assert "drops what the user says. Ask in plain text, with --style plain." in said(result)
    assert run(model, tmp_path / "toy", "--cases", "1", systems="full/plain").exit_code == 0


def test_two_processes_report_what_one_does(folder: Path, tmp_path: Path) -> None:
    """The documents are shared out; nothing is asked twice."""
    example = tmp_path / "shelves.py"
    example.write_text(documented())
    options = ["--cases", "8", "--systems", "truncated:99,memformer", "--threads", "1"]
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    for name, launcher in (("one", []), ("two", torchrun)):
        (tmp_path / name).mkdir()
        done = subprocess.run(
            [sys.executable, "-m", *launcher, "shelves", str(folder), *options, "--out", "out"],
            cwd=tmp_path / name,
            env=os.environ
            | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    one, two = ((tmp_path / name / "out.json").read_bytes() for name in ("one", "two"))
    assert one == two
    logs = sorted((tmp_path / "two").glob("*.jsonl"))
    assert [path.name for path in logs] == ["out.cases.1.jsonl", "out.cases.jsonl"]
    shares = [len(path.read_text().splitlines()) - 1 for path in logs]
    assert sorted(shares) == [2 * 4, 2 * 20]


def test_processes_wait_for_the_slowest_as_long_as_it_takes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for the half hour after which torch gives up."""
    given: list[dict[str, Any]] = []
    real = command.PartialState
    monkeypatch.setattr(
        command, "PartialState", lambda **kwargs: given.append(kwargs) or real(cpu=True)
    )
    assert run(folder, tmp_path / "toy", "--cases", "1", systems="nothing").exit_code == 0
    assert given[0]["timeout"].days >= 30


# ---- windows that are too short ------------------------------------------------------------


def test_what_exceeds_a_window_is_na_and_the_rest_is_asked(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "toy", "--longest", "long", systems="full/plain,memformer")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "toy.json").read_text())
    for cell in report["cells"]:
        lacks = cell["system"] == "full/plain" and cell["size"] == "long"
        assert (cell["scores"] is None) is lacks
        if lacks:
            assert cell["reason"].startswith("exceeds window (")
    assert [one["scores"] is None for one in report["overall"]] == [True, False]
    assert "n/a" in (tmp_path / "toy.md").read_text()


def test_one_document_is_enough_to_know_that_a_cell_exceeds_the_window(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "BATCH_CASES", 1)
    read: list[str] = []
    full = systems.Full.read

    def counted(system: systems.Full, documents: Sequence[Document]) -> Reading:
        read.extend(one.id for one in documents)
        return full(system, documents)

    monkeypatch.setattr(systems.Full, "read", counted)
    assert run(folder, tmp_path / "toy", "--longest", "long", systems="full/plain").exit_code == 0
    assert [name for name in read if name.startswith("long")] == ["long/0"]
    before = (tmp_path / "toy.json").read_bytes()
    assert run(folder, tmp_path / "toy", "--longest", "long", systems="full/plain").exit_code == 0
    assert (tmp_path / "toy.json").read_bytes() == before


def test_short_documents_with_few_questions_are_read_together() -> None:
    def sized(*tokens: int, asked: int = 1) -> list[list[int]]:
        questions = (Question("0", "?", ("x",), {}),) * asked
        documents = [Document(str(n), list, questions, size) for n, size in enumerate(tokens)]
        return [[one.tokens for one in group] for group in groups(documents)]

    assert sized(*[10] * 25) == [[10] * 20, [10] * 5]
    assert sized(*[10] * 5, asked=9) == [[10] * 2, [10] * 2, [10]]
    assert sized(10, 10, asked=200) == [[10], [10]]
    assert sized(10, 30_000, 30_000) == [[10], [30_000], [30_000]]
    assert sized(9_000, 8_000, 9_000, 9_000) == [[9_000, 8_000, 9_000], [9_000]]
    assert sized() == []


# ---- mistakes ------------------------------------------------------------------------------


def broken(tokenizer: Any, how: str = "empty") -> Benchmark:
    if how == "fine":
        return toy(tokenizer)
    if how == "empty":
        return replace(toy(tokenizer), documents=[])
    raise FileNotFoundError(f"There is no file {how}.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is nothing to ask"),
        (["--how", "stories.json"], "There is no file stories.json."),
        (["--systems", "rag"], "there is no system 'rag'"),
        (["--how", "fine", "--systems", "full@no/such"], "the model 'no/such' can't be opened"),
    ],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    folder: Path, tmp_path: Path, options: list[str], message: str
) -> None:
    arguments = [str(folder), "--out", str(tmp_path / "out" / "toy"), *options]
    result = CliRunner().invoke(command.command(broken), arguments, terminal_width=300)
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "out").exists()


def test_what_draws_the_report_is_missed_before_anything_is_asked(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(folder, tmp_path / "toy", systems="nothing")
    assert result.exit_code == 2
    assert "the package matplotlib, which is not installed; install it with `pip install" in said(
        result
    )
    assert not list(tmp_path.iterdir())


def test_an_encoder_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "toy", "--encoder", "no/such", systems="dense")
    assert result.exit_code == 2
    assert "the encoder 'no/such' can't be opened" in said(result)
    # a run that has no answers is in nobody's way
    assert run(folder, tmp_path / "toy", systems="nothing").exit_code == 0


def test_a_model_too_large_for_the_memory_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "available", lambda device: 2**15)
    result = run(folder, tmp_path / "toy", systems="nothing")
    assert result.exit_code == 2
    assert "takes 0.0 GiB as float32, and 0.0 GiB are free on cpu; take a smaller" in said(result)
    size = (folder.parent / "base" / "model.safetensors").stat().st_size
    # in half of the bytes it fits
    monkeypatch.setattr(opening, "available", lambda device: size * 2 // 3)
    assert run(folder, tmp_path / "toy", systems="nothing").exit_code == 2
    assert run(folder, tmp_path / "toy", "--dtype", "bfloat16", systems="nothing").exit_code == 0


# ---- the worked example --------------------------------------------------------------------


def documented() -> str:
    """The benchmark that docs/benchmarks.md adds."""
    text = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    return code


def test_the_documented_benchmark_has_less_than_60_lines() -> None:
    assert 30 < len(documented().splitlines()) < 60
