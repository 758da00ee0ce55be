"""Long documents: how each set is asked and scored, and mistakes."""

from __future__ import annotations

import json
import sys
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from eval import longqa
from eval.corpora.jsonl import BadRecord
from eval.harness.benchmark import Question
from eval.harness.metrics import contains, exact, f1, likelihood, normal, option, overlap, rouge
from eval.sets import KINDS
from tests.eval.toy import said
from tests.tiny import save_tiny

STORY = "Ada dug for nine days.\n\nThen there was water in the well."
QUALITY = {
    "doc_id": "q1",
    "document": STORY,
    "questions": [
        {"question": "What came?\n (A) Oil \n (B) Water (at last) \n (C) Mud\n (D) Gold ",
         "answer": "(B) Water (at last)"},
        {"question": "Who dug? (A) Ada (B) Otto (C) Eve (D) Ben", "answer": "(A) Ada"},
    ],
}  # fmt: skip
SQUALITY = {
    "doc_id": "s1",
    "document": STORY,
    "questions": [
        {"question": "What is the plot?", "answers": ["Ada digs a well.", "A well is dug."]},
        {"question": "Who dug?", "answers": ["It was Ada."]},
    ],
}
QMSUM = {
    "doc_id": "m1",
    "meeting_transcripts": [{"speaker": "Chair", "content": "The bridge , {pause} again ."}],
    "general_query_list": [{"query": "Summarize it.", "answer": "The bridge ."}],
    "specific_query_list": [{"query": "What was said?", "answer": "Again ."}],
}
PASSAGES = [
    {"question": f"who built mill {n}", "answers": [f"Builder {n}", f"Mister {n}"],
     "title": f"Mill {n}", "text": f"Mill {n} was built by Builder {n}."}
    for n in range(20)
]  # fmt: skip


SQUAD: dict[str, Any] = {
    "doc_id": "Wells",
    "paragraphs": [
        {"context": "Ada  dug.", "qas": [{"question": "Who dug?", "answers": [{"text": "Ada"}]}]},
        {"context": "Mud came.", "qas": [{"question": "What came?",
                                          "answers": [{"text": "Mud"}, {"text": "some mud"}]}]},
    ],
}  # fmt: skip


def saved(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- scores --------------------------------------------------------------------------------


def test_words_are_compared_without_case_punctuation_and_articles() -> None:
    assert normal("The  Well, a DEEP one!") == "well deep one"
    assert exact("the Well.", ["a pond", "well"]) == 1.0
    assert exact("the deep well", ["well"]) == 0.0
    assert f1("the deep well", ["well", "pond"]) == pytest.approx(2 / 3)
    assert f1("", ["well"]) == 0.0
    assert contains("It was in the well, I think.", ["the Well"]) == 1.0
    assert contains("It was in the wells.", ["well"]) == 0.0
    assert overlap(["a", "a", "b"], ["a", "c"]) == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("output", "taken"),
    [
        ("(B)", "Water (at last)"),
        ("B", "Water (at last)"),
        ("B. Water", "Water (at last)"),
        ("The answer is (C), not (A).", "Mud"),
        ("Because it is gold", "Gold"),  # B is no word of its own
        ("There was mud in it", "Mud"),
        ("nothing of it", None),
        ("", None),
    ],
)
def test_an_option_is_taken_by_its_letter_or_its_words(output: str, taken: str | None) -> None:
    assert option(output, ["Oil", "Water (at last)", "Mud", "Gold"]) == taken


def test_options_are_compared_as_a_whole_and_for_their_length() -> None:
    options = ("Ada", "a long rope", "Otto")
    assert likelihood([-6.0, -11.0, -20.0], options, "Ada") == {
        "likelihood, by length": 0.0,
        "likelihood": 1.0,
    }
    assert likelihood([-6.0, -11.0, -20.0], options, "a long rope") == {
        "likelihood, by length": 1.0,
        "likelihood": 0.0,
    }


def test_rouge_takes_the_best_reference() -> None:
    scores = rouge()("Ada digs a deep well.", ["Nothing at all.", "Ada dug a well."])
    # ada, a, well of five and four words; "dug" and "digs" have other stems
    assert scores["ROUGE-1"] == pytest.approx(2 * 3 / 9)
    assert scores["ROUGE-L"] == pytest.approx(2 * 3 / 9)
    assert scores["ROUGE-2"] == 0.0
    assert rouge()("", ["x"]) == {"ROUGE-1": 0.0, "ROUGE-2": 0.0, "ROUGE-L": 0.0}


# ---- sets ----------------------------------------------------------------------------------


def test_quality_is_a_choice_between_four(tmp_path: Path) -> None:
    benchmark = longqa.longqa(None, "quality", saved(tmp_path / "q.jsonl", QUALITY))
    (document,) = benchmark.documents
    assert list(document.parts()) == [STORY]
    first, second = document.questions
    assert first.text == "What came?\n(A) Oil\n(B) Water (at last)\n(C) Mud\n(D) Gold"
    assert first.chance == 0.25
    assert (first.bare, first.options) == ("What came?", ("Oil", "Water (at last)", "Mud", "Gold"))
    assert benchmark.metrics == ("likelihood, by length", "likelihood", "accuracy")
    assert "Accuracy: the option that a free answer" in benchmark.notes[0]
    assert benchmark.ranks and benchmark.ranking == "Answer from what I told you before."
    assert benchmark.score(first, "(B)") == {"accuracy": 1.0}
    assert benchmark.score(first, "(A)") == {"accuracy": 0.0}
    assert benchmark.score(second, "Ada did") == {"accuracy": 1.0}


def test_squality_and_qmsum_tell_summaries_from_the_rest(tmp_path: Path) -> None:
    for name, row in (("squality", SQUALITY), ("qmsum", QMSUM)):
        benchmark = longqa.longqa(None, name, saved(tmp_path / "s.jsonl", row))
        (document,) = benchmark.documents
        assert [one.at["question"] for one in document.questions] == ["summary", "specific"]
        assert benchmark.metrics[0] == "ROUGE-L" and not benchmark.constants
        first = document.questions[0]
        for answer in first.answers:
            assert set(benchmark.score(first, answer).values()) == {1.0}


def test_nq_hides_passages_among_others(tmp_path: Path) -> None:
    source = saved(tmp_path / "nq.jsonl", *PASSAGES)
    benchmark = longqa.longqa(None, "nq", source, documents=3, questions=2)
    assert [len(one.questions) for one in benchmark.documents] == [2, 2, 2]
    for document in benchmark.documents:
        (text,) = document.parts()
        assert text.count("was built by") == 16
        for question in document.questions:
            assert question.answers[0] in text
            assert benchmark.score(question, f"{question.answers[1]}\nor so") == {
                "F1": 1.0, "exact match": 1.0, "contained": 1.0,
            }  # fmt: skip
    assert benchmark.score(Question("0", "?", ("Ada",), {}), "It was Ada") == {
        "F1": 0.5, "exact match": 0.0, "contained": 1.0,
    }  # fmt: skip


def test_a_paragraph_of_squad_is_a_document(tmp_path: Path) -> None:
    source = saved(tmp_path / "squad.jsonl", SQUAD)
    benchmark = longqa.longqa(None, "squad", source)
    first, second = benchmark.documents
    assert (first.id, first.parts()) == ("squad/Wells/0", ["Ada dug."])
    assert not benchmark.ranks and benchmark.ranking == ""
    assert second.questions[0].answers == ("Mud", "some mud")
    assert benchmark.score(second.questions[0], "Some mud.\nQuestion: Who?")["exact match"] == 1.0
    unanswered = deepcopy(SQUAD)
    unanswered["paragraphs"][1]["qas"][0]["answers"] = []
    with pytest.raises(BadRecord, match="line 1, paragraphs 2, qas 1: there is no answer"):
        longqa.longqa(None, "squad", saved(source, unanswered))


def test_narrativeqa_is_read_from_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def row(name: str, number: int) -> dict[str, Any]:
        return {
            "document": {"id": name, "text": f"The book  {name}."},
            "question": {"text": f"Who {number}?"},
            "answers": [{"text": f"Ada {number}"}, {"text": "She"}],
        }

    def load(name: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((name, options))
        return [row("a", 0), row("a", 1), row("b", 2)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    benchmark = longqa.longqa(None, "narrativeqa")
    assert asked == [("deepmind/narrativeqa", {"split": "test", "streaming": True})]
    assert [len(one.questions) for one in benchmark.documents] == [2, 1]
    assert list(benchmark.documents[1].parts()) == ["The book b."]
    assert benchmark.documents[0].questions[1].answers == ("Ada 1", "She")

    def unreachable(*_: Any, **__: Any) -> None:
        raise ConnectionError("No route\nto the hub.")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=unreachable))
    with pytest.raises(BadRecord, match="can't be had from the hub: No route to the hub"):
        longqa.longqa(None, "narrativeqa")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadRecord, match="package datasets, which is not installed"):
        longqa.longqa(None, "narrativeqa")


def run(tmp_path: Path, name: str, source: Path) -> dict[str, Any]:
    """The report of a set, by two systems on a random model."""
    folder = save_tiny(tmp_path / "model")
    options = ["--set", name, "--source", str(source)]
    few = ["--systems", "truncated:64,memformer", "--threads", "1"]
    result = CliRunner().invoke(longqa.app, [str(folder), *options, *few], terminal_width=200)
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "reports" / f"{name}.json").read_text())
    return report


def test_it_runs_on_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, "squality", replace(KINDS["squality"], max_new_tokens=5))
    report = run(tmp_path, "squality", saved(tmp_path / "s.jsonl", SQUALITY))
    assert [one["question"] for one in report["cells"]] == ["summary"] * 2 + ["specific"] * 2
    assert set(report["overall"][0]["scores"]) == {"ROUGE-1", "ROUGE-2", "ROUGE-L"}
    assert all(one["asked"] and one["answers"] for one in report["questions"])
    assert "constant" not in (tmp_path / "reports" / "squality.md").read_text()


def test_a_set_of_one_kind_of_question_has_a_table_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = run(tmp_path, "quality", saved(tmp_path / "q.jsonl", QUALITY))
    assert [one["kind"] for one in report["cells"]] == ["all"] * 2
    heads = "| system | likelihood, by length | likelihood | accuracy | tokens a question |"
    assert heads in (tmp_path / "reports" / "quality.md").read_text()
    for one in report["predictions"]:
        sums = one["log_likelihoods"]
        assert len(sums) == 4 and max(sums) < 0.0
        assert set(one["scores"]) == {"likelihood, by length", "likelihood", "accuracy"}
    assert report["cells"][0]["questions"] == report["overall"][0]["questions"] > 1
    # its licence is not known, so nothing of it is passed on
    assert {name for one in report["questions"] for name in one} == {"document", "question", "at"}
    assert "| kind | all |" in (tmp_path / "reports" / "quality.md").read_text()
    assert (tmp_path / "reports" / "quality.png").is_file()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--set", "nq"], "nq is read from a local copy; give it with --source."),
        (["--set", "nq", "--source", "no.jsonl"], "no.jsonl can't be read: No such file"),
        (["--set", "narrativeqa", "--source", "no.jsonl"], "is read from the hub"),
        (["--set", "poems"], "Invalid value for '--set'"),
        ([], "own is read from a local copy; give it with --source."),
        (["--set", "quality", "--paragraphs", "3"], "the documents of quality are no paragraphs"),
    ],
)
def test_a_mistake_is_one_sentence(tmp_path: Path, options: list[str], message: str) -> None:
    folder = save_tiny(tmp_path / "model")
    result = CliRunner().invoke(
        longqa.app, [str(folder), *options, "--out", str(tmp_path / "out")], terminal_width=300
    )
    assert result.exit_code == 2
    assert message in said(result)


# ---- your own documents --------------------------------------------------------------------

OWN: dict[str, Any] = {
    "id": "letters",
    "document": "Ada left for Porto. Otto left for Rome.",
    "questions": [
        {"question": "Where is Otto?", "answer": "Rome"},
        {"question": "Where is Ada?", "answer": "Porto", "after": 19},
        {"question": "Where did Ada go?", "answer": "to Porto", "after": 19},
    ],
}
CONVERSATION: dict[str, Any] = {
    "document": [
        {"role": "user", "content": "Ada dug."},
        {"role": "assistant", "content": "I see."},
        {"role": "user", "content": "Mud came."},
    ],
    "questions": [
        {"question": "Who dug?", "answer": "Ada", "after": 10},
        {"question": "What came?", "answer": "Mud"},
    ],
}
SILENT = {"document": "Nobody asks about this."}


def test_your_own_documents_are_read_as_far_as_each_question_says(tmp_path: Path) -> None:
    source = saved(tmp_path / "own.jsonl", OWN, SILENT, CONVERSATION)
    benchmark = longqa.longqa(None, "own", source)
    found = {
        one.id: (one.source, list(one.parts()), [q.text for q in one.questions])
        for one in benchmark.documents
    }
    letters, talk = "own/1/letters", "own/2"
    assert found == {
        f"{letters}@19": (letters, ["Ada left for Porto."], ["Where is Ada?", "Where did Ada go?"]),
        letters: (letters, [OWN["document"]], ["Where is Otto?"]),
        f"{talk}@10": (talk, ["User: Ada dug.\nAssistant: I "], ["Who dug?"]),
        talk: (talk, ["User: Ada dug.\nAssistant: I see.\nUser: Mud came."], ["What came?"]),
    }
    (otto,) = benchmark.documents[1].questions
    assert benchmark.score(otto, "Rome.") == {"F1": 1.0, "exact match": 1.0, "contained": 1.0}
    fewer = longqa.longqa(None, "own", source, documents=1, questions=1)
    assert [one.id for one in fewer.documents] == [f"{letters}@19"]
    (ada,) = fewer.documents[0].questions
    assert ada.text == "Where is Ada?"


def test_a_file_in_the_form_of_training_data_needs_no_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, "own", replace(KINDS["own"], max_new_tokens=3))
    source = saved(tmp_path / "mine.jsonl", OWN, SILENT)
    arguments = [str(save_tiny(tmp_path / "model")), "--source", str(source)]
    few = ["--systems", "nothing,memformer", "--threads", "1"]
    result = CliRunner().invoke(longqa.app, [*arguments, *few], terminal_width=200)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "reports" / "own.json").read_text())
    assert report["settings"]["set"] == "own" and report["overall"][0]["questions"] == 3


def test_answers_of_your_own_may_be_paragraphs(tmp_path: Path) -> None:
    benchmark = longqa.longqa(None, "own-paragraphs", saved(tmp_path / "own.jsonl", OWN))
    assert benchmark.metrics[0] == "ROUGE-L" and benchmark.max_new_tokens == 200
    (otto,) = benchmark.documents[1].questions
    assert set(benchmark.score(otto, "Rome").values()) == {1.0, 0.0}  # one word is no bigram


def test_your_own_documents_run_on_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(KINDS, "own", replace(KINDS["own"], max_new_tokens=5))
    report = run(tmp_path, "own", saved(tmp_path / "own.jsonl", OWN, CONVERSATION))
    (cell, _) = report["cells"]
    # two beginnings of a document are one document
    assert (cell["questions"], cell["documents"]) == (5, 2)
    assert {one["source"] for one in report["questions"]} == {"own/1/letters", "own/2"}
    assert "# Own questions" in (tmp_path / "reports" / "own.md").read_text()


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"questions": []}, "line 2: there is no field document; it has questions."),
        ({"document": " "}, "line 2: the document is empty."),
        (OWN | {"questions": [{"question": "Where?"}]}, "line 2, question 1: there is no field an"),
        (OWN | {"questions": [{"question": "Where?", "answer": "Rome", "after": 99}]},
         "line 2, question 1: after must be a number of characters from 1 to 39"),
    ],
)  # fmt: skip
def test_a_mistake_in_your_own_file_is_one_sentence_with_its_line(
    tmp_path: Path, row: dict[str, Any], sentence: str
) -> None:
    source = saved(tmp_path / "own.jsonl", OWN, row)
    arguments = ["no/such", "--set", "own", "--source", str(source)]
    result = CliRunner().invoke(longqa.app, arguments, terminal_width=400)
    assert result.exit_code == 2
    assert sentence in said(result)


def test_a_file_in_which_nothing_is_asked_is_one_sentence(tmp_path: Path) -> None:
    source = saved(tmp_path / "own.jsonl", SILENT)
    arguments = ["no/such", "--set", "own", "--source", str(source)]
    result = CliRunner().invoke(longqa.app, arguments, terminal_width=400)
    assert result.exit_code == 2
    assert "there is nothing to ask" in said(result)
