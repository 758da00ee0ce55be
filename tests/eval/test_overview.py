"""Several reports on one page: who is ahead, over which questions, and what is no report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from eval import overview
from eval.overview import ALL, BadReport, lines, markdown, read
from tests.eval.toy import run as run_toy
from tests.eval.toy import said
from tests.tiny import save_tiny

DOCUMENTS = 30
Answer = Callable[[int, str], float | None]


def made(systems: Mapping[str, Answer], title: str = "Toy") -> dict[str, Any]:
    """A report as the harness writes it; a system that gives None can't see that text."""
    cases = [(size, number) for size in ("short", "long") for number in range(DOCUMENTS)]
    questions = [
        {"document": f"{size}/{number}", "question": "0", "at": {"task": "one", "size": size}}
        for size, number in cases
    ]
    predictions = [
        {"system": system, "document": f"{size}/{number}", "question": "0",
         "scores": {"right": score, "other": 0.5}}
        for system, answer in systems.items()
        for size, number in cases
        if (score := answer(number, size)) is not None
    ]  # fmt: skip
    overall = []
    for system in systems:
        mine = [one["scores"]["right"] for one in predictions if one["system"] == system]
        whole = len(mine) == 2 * DOCUMENTS
        overall.append(
            {"system": system, "scores": {"right": sum(mine) / len(mine)} if whole else None}
        )
    return {
        "title": title,
        "model": "m",
        "command": f"python -m eval.{title.lower()}",
        "axes": {"task": ["one"], "size": ["short", "long"]},
        "metrics": ["right", "other"],
        "settings": {"systems": list(systems)},
        "overall": overall,
        "questions": questions,
        "predictions": predictions,
    }


def right(number: int, size: str) -> float:
    return 1.0


def half(number: int, size: str) -> float:
    return float(number % 2)


def short_only(number: int, size: str) -> float | None:
    return 1.0 if size == "short" else None


def test_the_memory_is_beside_the_best_other_that_saw_the_same() -> None:
    report = made({"nothing": lambda *_: 0.0, "bm25:2": half, "full": short_only,
                   "attached": right, "memformer:9/plain": half})  # fmt: skip
    found = {one.place: one for one in lines(report, "memformer")}
    # one axis has a single value, and `attached` is a memory too
    assert list(found) == ["size short", "size long", ALL]
    assert [one.other for one in found.values()] == ["full", "bm25:2", "bm25:2"]
    assert [one.verdict for one in found.values()] == ["behind", "open", "open"]
    short = found["size short"]
    assert (short.ours, short.best, short.difference) == (0.5, 1.0, -0.5)
    assert -0.75 < short.low < -0.5 < short.high < -0.25
    assert found[ALL].questions == 2 * DOCUMENTS and found[ALL].low == found[ALL].high == 0.0


@pytest.mark.parametrize("memory", ["ungated", "session", "attached"])
def test_another_memory_is_no_system_without_one(memory: str) -> None:
    report = made({"memformer": half, memory: right, "bm25:2": lambda *_: 0.0})
    assert {one.other for one in lines(report, "memformer")} == {"bm25:2"}


def test_a_few_questions_more_are_not_yet_ahead() -> None:
    def mostly(share: int) -> Answer:
        return lambda number, size: float(number % 10 < share)

    few = made({"full": mostly(5), "memformer": lambda n, size: float(n % 10 < 5 or n == 9)})
    many = made({"full": mostly(2), "memformer": mostly(8)})
    assert {one.verdict for one in lines(few, "memformer")} == {"open"}
    assert {one.verdict for one in lines(many, "memformer")} == {"ahead"}


def test_beginnings_of_one_document_are_not_independent() -> None:
    report = made({"full": half, "memformer": right})
    (*_, apart) = lines(report, "memformer")
    for one in report["questions"]:
        one["source"] = "the same"
    (*_, together) = lines(report, "memformer")
    assert apart.difference == together.difference == 0.5
    assert apart.low < 0.5 and together.low == together.high == 0.5


def test_another_memory_can_be_the_one() -> None:
    report = made({"full": half, "memformer": half, "memformer:9": right})
    (*_, whole) = lines(report, "memformer:9")
    assert (whole.ours, whole.verdict) == (1.0, "ahead")


def test_the_reports_own_model_is_called_model() -> None:
    report = made({"full": half, "full@m": right, "bm25@n/m": half, "memformer": half})
    (*found, whole) = lines(report, "memformer")
    assert whole.other == "full@MODEL" and len(found) == 2
    text = markdown([whole], [report])
    (head,) = [line for line in text.splitlines() if line.startswith("| all questions")]
    assert (
        "| everything in the window | everything in the window, trained weights | "
        "BM25, 8 passages, m | memory |"
    ) in head
    assert "Open: the interval contains 0" in text


def test_where_options_are_ranked_free_answers_stand_in_the_table_too() -> None:
    report = made({"full": half, "memformer[focus=0]": right, "bm25:tokens=9": half})
    text = json.dumps(report).replace('"right"', '"likelihood, by length"')
    report = json.loads(text.replace('"other"', '"accuracy"'))
    report["metrics"].insert(1, "likelihood")
    for one in report["overall"]:
        one["scores"]["accuracy"] = 0.25
    found = list(lines(report, "memformer"))
    assert {one.metric for one in found} == {"likelihood, by length"}
    page = markdown(found, [report])
    assert "| Toy, likelihood, by length | 50.0 | 100.0 | 50.0 |" in page
    assert "| Toy, accuracy | 25.0 | 25.0 | 25.0 |" in page
    assert "| Toy, likelihood |" not in page


@pytest.mark.parametrize(("reports", "columns"), [(1, 1), (9, 2)])
def test_a_picture_is_not_taller_than_wide_however_many_benchmarks(
    tmp_path: Path, reports: int, columns: int
) -> None:
    report = made({"full": half, "bm25": short_only, "memformer": right})
    found = [line for _ in range(reports) for line in lines(report, "memformer")]
    assert len(overview._columns(overview._benchmarks(found))) == columns
    overview.draw(tmp_path / "page.png", found)
    width, height = (int.from_bytes((tmp_path / "page.png").read_bytes()[at : at + 4])
                     for at in (16, 20))  # fmt: skip
    assert height < width


def test_the_memory_that_is_written_so_goes_before_others_of_its_name() -> None:
    report = made({"full": half, "memformer@elsewhere": half, "memformer": right})
    (*_, whole) = lines(report, "memformer")
    assert whole.ours == 1.0


def invoke(out: Path, *paths: Path) -> Result:
    arguments = [*map(str, paths), "--out", str(out)]
    return CliRunner().invoke(overview.app, arguments, terminal_width=300)


def test_reports_of_the_harness_are_brought_together(tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    systems = "nothing,full,memformer/plain"
    assert run_toy(folder, tmp_path / "toy", "--cases", "2", systems=systems).exit_code == 0
    other = tmp_path / "other.json"
    other.write_text(json.dumps(made({"bm25": half, "full": short_only, "memformer": right})))
    paths = (tmp_path / "toy.json", other)
    results = [invoke(tmp_path / name / "page", *paths) for name in ("a", "b")]
    assert [result.exit_code for result in results] == [0, 0], results[0].output
    for ending in ("json", "md", "html"):
        first, second = ((tmp_path / name / f"page.{ending}").read_bytes() for name in ("a", "b"))
        assert first == second
    text = (tmp_path / "a" / "page.md").read_text()
    assert text.strip() == results[0].output.strip()
    assert "| Toy | kind even |" in text and "| Toy | size long | right | 30 | 100.0 |" in text
    assert "| Toy, right |  | n/a |  | 50.0 | 100.0 |" in text
    assert "python -m eval.toy" in text
    assert "data:image/png;base64," in (tmp_path / "a" / "page.html").read_text()
    found = json.loads((tmp_path / "a" / "page.json").read_text())["lines"]
    assert {one["verdict"] for one in found} >= {"ahead"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "can't be read as a report: No such file"),
        ("{", "it is no JSON object"),
        ("3", "it is no JSON object"),
        ('{"cells": []}', "it lacks axes, metrics, overall, predictions, questions, title"),
        (json.dumps(made({"full": half})), "there must be 'memformer' and a system without"),
        (json.dumps(made({"memformer": half, "attached": half})), "a system without memory"),
    ],
)
def test_what_is_no_report_is_one_sentence(tmp_path: Path, text: str | None, sentence: str) -> None:
    path = tmp_path / "in.json"
    if text is not None:
        path.write_text(text)
    result = invoke(tmp_path / "out", path)
    assert result.exit_code == 2 and sentence in said(result)
    assert not list(tmp_path.glob("out*"))


def test_a_report_without_answers_has_nothing_to_compare(tmp_path: Path) -> None:
    path = tmp_path / "in.json"
    path.write_text(json.dumps(made({"full": half, "memformer": half}) | {"predictions": []}))
    assert "there is nothing to compare" in said(invoke(tmp_path / "out", path))
    with pytest.raises(BadReport, match="can't be read"):
        read(tmp_path)
