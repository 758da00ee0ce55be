"""The command that builds training data: what it writes, what it says, what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training.data.build import app
from training.data.records import read

SQUALITY = {
    "doc_id": "s1",
    "document": "Ada dug for nine days.",
    "questions": [{"question": "Who dug?", "answers": ["Ada."]}],
}
PERSONA = {
    "persona_1": ["I drive a bmw."],
    "conversation": ["User 1: Hi!", "User 2: Hello, and how are you?"],
}
MILL = {"answers": ["Ben"], "title": "Mill", "question": "who built it"}


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def source(tmp_path):
    def saved(*rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    return saved


def test_sets_from_a_local_copy_are_built(tmp_path, source):
    out = tmp_path / "new" / "out.jsonl.gz"
    rows = [SQUALITY | {"doc_id": f"s{number}"} for number in range(4)]
    result = run("squality", out, "--source", source(*rows), "--documents", 3)
    assert result.exit_code == 0
    assert "3 documents with 3 questions in" in result.output
    assert [record.id for record in read(out)] == ["squality/s0", "squality/s1", "squality/s2"]


def test_drills_need_no_source_and_follow_the_seed(tmp_path):
    first, again, other = (tmp_path / name for name in ("1.jsonl", "2.jsonl", "3.jsonl"))
    for out, seed in ((first, 5), (again, 5), (other, 6)):
        assert run("updates", out, "--documents", 4, "--seed", seed).exit_code == 0
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert len(list(read(first))) == 4
    assert run("keys", first, "--documents", 2).exit_code == 0 and len(list(read(first))) == 2


def test_dialogues_and_passages_are_built(tmp_path, source):
    out = tmp_path / "out.jsonl"
    chats = source(*[PERSONA] * 8)
    assert run("dialogues", out, "--source", chats, "--documents", 2).exit_code == 0
    assert {one.answer for record in read(out) for one in record.questions} == {"a bmw"}
    mills = source(*(MILL | {"text": f"Ben built mill {number}."} for number in range(3)))
    options = ("--documents", 5, "--gold", 1, "--distractors", 1)
    result = run("nq", out, "--source", mills, *options)
    assert "5 documents with 5 questions" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("locomo", "out.jsonl", "--source", "somewhere"),
        ("hub", "snap-research/LoCoMo", "out.jsonl"),
        ("squality", "out.jsonl", "--source", "data/locomo10.json"),
        ("dialogues", "out.jsonl", "--source", "locomo/locomo7.json.gz"),
    ],
)
def test_locomo_is_refused_by_name(arguments):
    result = run(*arguments)
    assert result.exit_code == 2 and "LoCoMo is for evaluation only" in result.output


def test_other_names_are_not_taken_for_locomo(tmp_path):
    result = run("squality", tmp_path / "out.jsonl", "--source", tmp_path / "locomotives.jsonl")
    assert result.exit_code == 2 and "No such file" in result.output


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"doc_id": "s2"}, "rows.jsonl, line 2: there is no field questions; it has doc_id."),
        (SQUALITY | {"document": ""}, "rows.jsonl, line 2: the document is empty."),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(tmp_path, source, row, sentence):
    out = tmp_path / "out.jsonl"
    result = run("squality", out, "--source", source(SQUALITY, row))
    assert result.exit_code == 2
    assert result.output.count("\n") == 1 and sentence in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["rows.jsonl"]


def test_an_unknown_set_and_a_place_that_can_not_be_written_get_a_sentence(tmp_path, source):
    result = run("hub", "some/thing", tmp_path / "out.jsonl")
    assert result.exit_code == 2 and "There is no set some/thing here" in result.output
    result = run("keys", source(SQUALITY) / "out.jsonl")
    assert result.exit_code == 2 and "can't be written" in result.output


def test_building_needs_neither_torch_nor_the_library():
    code = (
        "import sys, training.data.build\n"
        "print(*sorted({'torch', 'memformer', 'datasets'} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert ended.stdout.strip() == ""


def test_passages_of_books_begin_with_a_paragraph(tmp_path):
    books = tmp_path / "books"
    books.mkdir()
    lines = [
        f"Paragraph {number} is told here in eleven plain words, no more." for number in range(30)
    ]
    (books / "one.txt").write_text("\n\n".join(lines))
    out = tmp_path / "out.jsonl"
    bounds = ["--least", 20, "--most", 40]
    assert run("plain", out, "--books", books, "--documents", 6, *bounds).exit_code == 0
    records = list(read(out))
    assert len(records) == 6 and len({record.document for record in records}) > 1
    for record in records:
        assert record.document.startswith("Paragraph") and record.questions == ()
        assert 20 <= len(record.document.split()) <= 40
    assert run("plain", out, "--books", tmp_path / "none").exit_code == 2
    assert run("plain", out, "--books", books, "--least", 50, "--most", 40).exit_code == 2
