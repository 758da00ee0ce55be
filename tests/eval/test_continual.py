"""Documents in a row and few-shot learning: what is told where, and which answers are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import continual, fewshot
from eval.fewshot import LABELS, MOST, SENTENCES
from tests.eval.toy import run, said
from tests.tiny import byte_tokenizer


def test_one_document_is_asked_about_in_every_column() -> None:
    benchmark = continual.continual(byte_tokenizer(), documents=10, page=60, rows=3)
    assert benchmark.axes == {"documents since": ["0", "1", "3", "7"]}
    for row in benchmark.documents:
        pages = list(row.parts())
        assert len(pages) == 10
        for question in row.questions:
            sentence = f"{question.begun} {question.answers[0]}."
            page = pages[-1 - int(question.at["documents since"])]
            assert page.index(sentence) == pytest.approx(31, abs=45)
            assert sum(sentence in one for one in pages) == 1
            assert benchmark.score(question, f"{question.answers[0]}!") == {"found": 1.0}
            assert benchmark.score(question, "?") == {"found": 0.0}
    first, second = (one.parts() for one in benchmark.documents[:2])
    assert first != second


def test_book_text_goes_on_from_page_to_page() -> None:
    tokenizer = byte_tokenizer()
    (row,) = continual.continual(tokenizer, documents=4, page=40, rows=1, seed=5).documents
    from eval.corpora.haystack import Haystack

    text = tokenizer.decode(Haystack(tokenizer).tokens(160, "5/0"))
    for number, page in enumerate(row.parts()):
        assert page.startswith(text[40 * number : 40 * number + 20].strip()[:15])
        assert page.endswith(text[40 * number + 20 : 40 * number + 40].strip()[-15:])


def test_examples_come_before_the_book_and_the_question_is_a_new_one() -> None:
    benchmark = fewshot.fewshot(byte_tokenizer(), "1,3", "0,50", cases=4)
    assert len(benchmark.documents) == 2 * 2 * 4
    for document in benchmark.documents:
        (question,), parts = document.questions, list(document.parts())
        count = int(question.at["examples a label"])
        assert len(parts) == (1 if question.at["distance"] == "0" else 2)
        assert parts[0].count(" is a ") == 4 * count
        asked = question.begun.removesuffix(" is a")
        assert asked not in parts[0]
        subject = next(name for name, lines in SENTENCES.items() if asked.strip('"') in lines)
        mine = [line for line in SENTENCES[subject] if line in parts[0]]
        assert len(mine) == count
        for line in mine:
            assert f'"{line}" is a {question.answers[0]}.' in parts[0]
        assert question.chance == 0.25
    questions = {one.id.rpartition("/")[2]: one.questions[0].text for one in benchmark.documents}
    assert all(one.questions[0].text == questions[one.id.rpartition("/")[2]]
               for one in benchmark.documents)  # fmt: skip


def test_the_first_label_counts() -> None:
    (document, *_) = fewshot.fewshot(byte_tokenizer(), "1", "0", cases=1).documents
    (question,) = document.questions
    right = question.answers[0]
    wrong = next(one for one in LABELS if one != right)
    assert fewshot.score(question, f"a {right.upper()}, no {wrong}")["accuracy"] == 1
    assert fewshot.score(question, f"a {wrong}, no {right}")["accuracy"] == 0
    assert fewshot.score(question, "")["accuracy"] == 0


def test_both_run_on_a_model(folder: Path, tmp_path: Path) -> None:
    for module, options in (
        (continual, ["--documents", "3", "--page", "30", "--rows", "1"]),
        (fewshot, ["--shots", "1", "--distances", "0,40", "--cases", "1"]),
    ):
        out = tmp_path / module.__name__
        result = run(folder, out, *options, systems="bm25:1,memformer", app=module.app)
        assert result.exit_code == 0, result.output
        report = json.loads(out.with_name(f"{out.name}.json").read_text())
        assert all(cell["scores"] is not None for cell in report["cells"])


def test_more_examples_than_there_are_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    arguments = [str(folder), "--shots", str(MOST + 1), "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(fewshot.app, arguments, terminal_width=200)
    assert result.exit_code == 2
    assert f"--shots takes numbers up to {MOST}; got {MOST + 1}." in said(result)
