"""Recall over distance: its documents, what is right, and the command on a tiny model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from eval import recall
from eval.corpora.people import make_documents
from eval.harness.metrics import first_words
from tests.eval.toy import said
from tests.tiny import byte_tokenizer


def test_facts_come_first_then_pages_and_the_answer_is_begun() -> None:
    tokenizer = byte_tokenizer()
    benchmark = recall.recall(tokenizer, "2,6", "0,70", cases=8, seed=3)
    assert benchmark.axes == {"facts": ["2", "6"], "tokens later": ["0", "70"]}
    assert sum(len(one.questions) for one in benchmark.documents) == 4 * 8
    by_id = {one.id: one for one in benchmark.documents}
    near, far = by_id["6/0/1"], by_id["6/70/1"]
    (told,), (again, pages) = near.parts(), far.parts()
    assert told == again == make_documents(6, 8, seed=3)[1].told
    assert 60 < len(tokenizer(pages).input_ids) <= 70
    assert [one.text for one in near.questions] == [one.text for one in far.questions]
    for question in far.questions:
        assert f"{question.begun} {question.answers[0]}." in told
        value = question.answers[0]
        for output, score in ((f" the {value.upper()}. And", 1.0), (f"{value} or so", 0.0)):
            assert benchmark.score(question, output) == {"exact match": score}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris.", "paris"),
        (" the garden, where", "garden"),
        (" A kite\nUser", "kite"),
        (" Italy and France.", "italy and france"),
        (" theater!", "theater"),
        (". Paris", ""),
        ("", ""),
        (" May", "may"),
    ],
)
def test_an_answer_is_what_comes_before_the_first_punctuation(text: str, expected: str) -> None:
    assert first_words(text) == expected


# ---- the command ---------------------------------------------------------------------------


def run(folder: Path, out: Path, *options: str) -> Result:
    few = ["--cases", "4", "--facts", "2", "--distances", "0,600"]
    systems = ["--systems", "nothing,truncated:60,full,bm25:1,memformer,memformer:40"]
    arguments = [str(folder), *few, *systems, "--out", str(out), *options]
    return CliRunner().invoke(recall.app, arguments, terminal_width=300)


def test_every_system_is_asked_at_every_distance(folder: Path, tmp_path: Path) -> None:
    result = run(folder, tmp_path / "r")
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.json").read_text())
    found = {(one["system"], one["tokens later"]): one for one in report["cells"]}
    assert len(found) == 6 * 2
    assert found["full", "600"]["reason"].startswith("exceeds window")
    assert found["memformer", "600"]["questions"] == 4
    bytes_of = {name: found[name, "600"]["state_bytes"] for name in ("memformer", "memformer:40")}
    assert bytes_of["memformer:40"] < bytes_of["memformer"]
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


def test_numbers_of_facts_at_one_distance_are_one_table(folder: Path, tmp_path: Path) -> None:
    options = ("--facts", "2,3", "--distances", "0", "--systems", "nothing")
    assert run(folder, tmp_path / "r", *options).exit_code == 0
    assert "| facts | 2 | 3 |" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--distances", "0,far"], "--distances takes different whole numbers from 0 up"),
        (["--facts", "0"], "--facts takes different whole numbers from 1 up"),
        (["--facts", "500"], "--facts goes up to 82; got 500"),
        (["--book", "none.txt"], "There is no book file"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    folder: Path, tmp_path: Path, options: list[str], sentence: str
) -> None:
    result = run(folder, tmp_path / "r", *options)
    assert result.exit_code == 2 and sentence in said(result)
    assert not list(tmp_path.iterdir())
