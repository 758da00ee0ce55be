"""LoCoMo: every rule of its published scores, how its file is read, and mistakes in it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval import locomo
from eval.harness.benchmark import Question
from eval.locomo import NOTHING_SAID, BadConversation, Metric, read, sessions
from tests.eval.toy import said
from tests.tiny import save_tiny

CONVERSATION = {
    "sample_id": "conv-1",
    "conversation": {
        "speaker_a": "Ada",
        "speaker_b": "Otto",
        "session_10_date_time": "9 am on 3 June, 2021",
        "session_10": [{"speaker": "Otto", "dia_id": "D10:1", "text": "I sold it."}],
        "session_2_date_time": "1 pm on 2 May, 2021",
        "session_2": [
            {"speaker": "Ada", "dia_id": "D2:1", "text": "Look!", "blip_caption": "a red boat"},
            {"speaker": "Otto", "dia_id": "D2:2", "text": "Mine is green."},
        ],
    },
    "qa": [
        {"question": "Whose boat is green?", "answer": "Otto's", "evidence": [], "category": 4},
        {"question": "When did he sell it?", "answer": 2021, "evidence": [], "category": 2},
        {"question": "Colours?", "answer": "red, green", "evidence": [], "category": 1},
        {"question": "Does he row?", "answer": "Likely no; sold", "evidence": [], "category": 3},
        {"question": "Who sank?", "adversarial_answer": "Ada", "evidence": [], "category": 5},
    ],
}


def score(category: str, output: str, answer: str) -> float:
    question = Question("0", "?", (answer,), {"category": category})
    return Metric()(question, output)["F1"]


@pytest.mark.parametrize(
    ("output", "answer", "share"),
    [
        ("Otto's boat", "ottos boat", 1.0),  # case and punctuation
        ("the boat and a boat", "boat boat", 1.0),  # articles, and "and"
        ("sailing boats", "sailed boat", 1.0),  # stems
        ("a green boat", "boat", 2 / 3),
        ("boat boat boat", "boat", 0.5),  # each word counts once
        ("a ship", "boat", 0.0),
        ("", "boat", 0.0),
        ("\n\nboat\nship", "boat", 1.0),  # the first line that says anything
        ("(b) boat", "boat", 1.0),
        ("Answer: boat", "boat", 1.0),
        ("7 May, 2023", "7 May 2023", 1.0),
    ],
)
def test_an_answer_is_compared_word_by_word(output: str, answer: str, share: float) -> None:
    assert score("single-hop", output, answer) == pytest.approx(share)
    assert score("temporal", output, answer) == pytest.approx(share)


def test_multi_hop_answers_are_taken_apart() -> None:
    assert score("multi-hop", "green, red", "red, green") == 1.0
    assert score("multi-hop", "red", "red, green") == 0.5
    # elsewhere they are not
    assert score("single-hop", "red", "red, green") == pytest.approx(2 / 3)


def test_open_domain_answers_end_at_the_semicolon() -> None:
    assert score("open-domain", "likely no", "Likely no; sold") == 1.0
    assert score("single-hop", "likely no", "Likely no; sold") == pytest.approx(0.8)


def test_an_adversarial_answer_is_one_of_two_options() -> None:
    assert score("adversarial", "(a) Ada", "(a)") == 1.0
    assert score("adversarial", "(A)", "(a)") == 1.0
    assert score("adversarial", "It is (a) or (b)", "(b)") == 0.0
    # whatever does not say (a) counts as (b)
    assert score("adversarial", "nobody", "(b)") == 1.0


def test_sessions_are_in_their_order_with_date_and_pictures() -> None:
    assert sessions(CONVERSATION["conversation"]) == [
        "1 pm on 2 May, 2021\nAda: Look! [shares a red boat]\nOtto: Mine is green.",
        "9 am on 3 June, 2021\nOtto: I sold it.",
    ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "locomo.json.gz"
    path.write_bytes(gzip.compress(json.dumps([CONVERSATION] * 2).encode()))
    return path


def test_a_conversation_is_one_document_with_all_its_questions(data: Path) -> None:
    benchmark = locomo.locomo(None, data, conversations=1)
    (document,) = benchmark.documents
    assert [one.at["category"] for one in document.questions] == [
        "single-hop", "temporal", "multi-hop", "open-domain", "adversarial",
    ]  # fmt: skip
    assert document.questions[1].text == f"When did he sell it? {locomo.WHEN}"
    assert document.questions[1].answers == ("2021",)
    last = document.questions[-1]
    right = last.text.index(NOTHING_SAID) < last.text.index("Ada")
    assert last.answers == ("(a)" if right else "(b)",)
    assert last.chance == 0.5
    only = locomo.locomo(None, data, categories="temporal,multi-hop").documents[0]
    assert [one.id for one in only.questions] == ["1", "2"]
    # the right option is not always the same
    sides = {
        next(locomo.questions([CONVERSATION["qa"][-1]], f"conv-{n}", {5: "adversarial"})).answers
        for n in range(20)
    }
    assert sides == {("(a)",), ("(b)",)}


def test_a_sample_has_as_many_of_each_category(tmp_path: Path) -> None:
    many = [one | {"question": f"{number} {one['question']}"}
            for number in range(9) for one in CONVERSATION["qa"]]  # fmt: skip
    other = CONVERSATION | {"sample_id": "conv-2", "qa": many}
    path = tmp_path / "data.json"
    path.write_text(json.dumps([CONVERSATION | {"qa": many}, other, CONVERSATION]))
    first, second, few = locomo.locomo(None, path, sample=3).documents
    for document, number in ((first, 3), (second, 3), (few, 1)):
        categories = [one.at["category"] for one in document.questions]
        assert {name: categories.count(name) for name in categories} == dict.fromkeys(
            locomo.CATEGORIES.values(), number
        )
    numbers = [int(one.id) for one in first.questions]
    assert numbers == sorted(numbers) != [int(one.id) for one in second.questions]
    assert first.questions == locomo.locomo(None, path, sample=3).documents[0].questions


def test_it_runs_on_a_model(data: Path, tmp_path: Path) -> None:
    folder = save_tiny(tmp_path / "model")
    options = ["--systems", "truncated:64,bm25:1,memformer", "--threads", "1"]
    arguments = [str(folder), "--data", str(data), "--conversations", "1", *options]
    result = CliRunner().invoke(
        locomo.app, [*arguments, "--out", str(tmp_path / "out")], terminal_width=200
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert [one["category"] for one in report["cells"]][::3] == list(locomo.CATEGORIES.values())
    assert report["settings"]["sha256"]


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (None, [], "There is no file"),
        ("[", [], "can't be read"),
        ("{}", [], "must hold a list of conversations"),
        (json.dumps([CONVERSATION, {"qa": []}]), [], "conversation 2: expected sample_id"),
        (json.dumps([CONVERSATION]), ["--categories", "x"], "--categories knows single-hop"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, content: str | None, options: list[str], message: str
) -> None:
    path = tmp_path / "data.json"
    if content is not None:
        path.write_text(content)
    folder = save_tiny(tmp_path / "model")
    arguments: list[Any] = [str(folder), "--data", str(path), *options]
    result = CliRunner().invoke(
        locomo.app, [*arguments, "--out", str(tmp_path / "out")], terminal_width=300
    )
    assert result.exit_code == 2
    assert message in said(result)
    with pytest.raises(BadConversation):
        read(path) if not options else locomo.locomo(None, path, categories="x")
