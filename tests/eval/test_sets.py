"""Sets of the shared form, and documents strewn together of paragraphs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from eval import longqa
from eval.corpora.jsonl import BadRecord
from eval.corpora.prose import UNKNOWN
from eval.sets import KINDS, Name
from tests.eval.toy import run
from tests.tiny import save_tiny


def saved(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def asked(question: str, *answers: str, **more: Any) -> dict[str, Any]:
    return {"question": question, "answers": list(answers), **more}


def row(name: str, context: str, *questions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"doc_id": name, "title": name, "context": context, "questions": questions, **more}


WELL = row(
    "Well", "Ada dug\nfor nine days.\n\nWater came.", asked("Who dug?", "Ada", "she"),
    asked("Who paid?", impossible=True),
)  # fmt: skip
MILL = row("Mill", "Otto ground rye.", asked("What was ground?", "rye"))


def test_every_set_has_a_name_on_the_command_line() -> None:
    assert set(get_args(Name)) == set(KINDS)


def test_rows_of_one_document_have_one_source(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jsonl", WELL, MILL, WELL)
    benchmark = longqa.longqa(None, "squadshifts", source)
    assert [(one.id, one.source) for one in benchmark.documents] == [
        ("squadshifts/Well/0", "squadshifts/Well"),
        ("squadshifts/Mill/0", "squadshifts/Mill"),
        ("squadshifts/Well/1", "squadshifts/Well"),
    ]
    assert benchmark.documents[0].parts() == ["Ada dug for nine days.\n\nWater came."]


@pytest.mark.parametrize(("name", "share"), [("squad_train_part", 1.0), ("clapnq_dev", 1.0)])
def test_where_nothing_answers_only_a_reply_that_says_so_is_right(
    tmp_path: Path, name: str, share: float
) -> None:
    benchmark = longqa.longqa(None, name, saved(tmp_path / "a.jsonl", WELL))
    known, unknown = benchmark.documents[0].questions
    assert (known.at, unknown.at) == ({"question": "answerable"}, {"question": "unanswerable"})
    assert "say that you don't know" in benchmark.instruction
    assert unknown.answers == (UNKNOWN,)
    assert set(benchmark.score(unknown, "I do not know that.").values()) == {share}
    assert set(benchmark.score(unknown, UNKNOWN).values()) == {share}
    assert set(benchmark.score(unknown, "It was Ada.").values()) == {0.0}
    assert benchmark.score(known, "Ada")[benchmark.metrics[0]] == 1.0
    assert benchmark.score(known, "Nothing")[benchmark.metrics[0]] == 0.0


def test_paragraphs_with_headings_are_one_document(tmp_path: Path) -> None:
    texts = [{"title": "Well", "text": "Ada dug."}, {"title": "Mill", "text": "Otto  ground."}]
    one = {"doc_id": "a", "paragraphs": texts, "questions": [asked("Who dug?", "Ada")]}
    benchmark = longqa.longqa(None, "twohop_train_sample", saved(tmp_path / "a.jsonl", one))
    assert benchmark.documents[0].parts() == ["Well\nAda dug.\n\nMill\nOtto ground."]


# ---- options -------------------------------------------------------------------------------


def test_options_are_read_by_their_letters(tmp_path: Path) -> None:
    source = saved(
        tmp_path / "a.jsonl",
        row("Well", "Ada dug.",
            asked("Who dug?", "B", options=["A. Otto", "B. Ada\nC. Eve", "Ada dug."]),
            asked("What came?", "A", options=["Water came."])),
        row("Mill", "Otto ground.", asked("What?", "A", options=["Rye", "B. Oats"])),
    )  # fmt: skip
    benchmark = longqa.longqa(None, "bamboo_paperqa", source)
    # where letters are lost, there is nothing to choose from
    (document,) = benchmark.documents
    (question,) = document.questions
    assert question.options == ("Otto", "Ada", "Eve") and question.answers == ("Ada",)
    assert question.text == "Who dug?\n(A) Otto\n(B) Ada\n(C) Eve" and question.bare == "Who dug?"
    assert question.chance == pytest.approx(1 / 3)


def test_options_may_stand_in_the_question(tmp_path: Path) -> None:
    text = "I want to dig.\n\n(a) Take a spade.\n(b) Do not (a) dig."
    sessions = [{"turns": [{"text": f"User: day {day}"}]} for day in range(3)]
    one = {
        "doc_id": "p",
        "sessions": sessions,
        "questions": [asked(text, "(b) Do not (a) dig.", "b", sessions_visible=[1, 2])],
    }
    benchmark = longqa.longqa(None, "personamem", saved(tmp_path / "a.jsonl", one))
    (document,) = benchmark.documents
    assert document.parts() == ["User: day 0\n\nUser: day 1"]
    (question,) = document.questions
    assert question.bare == "I want to dig."
    assert question.options == ("Take a spade.", "Do not (a) dig.")
    assert question.answers == ("Do not (a) dig.",) and not benchmark.quotable


def test_a_set_may_have_the_same_options_everywhere(tmp_path: Path) -> None:
    source = tmp_path / "a.jsonl"
    benchmark = longqa.longqa(
        None, "pubmedqa", saved(source, row("1", "It helps.", asked("Does it?", "yes")))
    )
    (question,) = benchmark.documents[0].questions
    assert question.options == ("yes", "no", "maybe")
    with pytest.raises(BadRecord, match="the answer must be one of yes, no, maybe"):
        longqa.longqa(
            None, "pubmedqa", saved(source, row("1", "It helps.", asked("Does it?", "Yes, it.")))
        )


# ---- conversations -------------------------------------------------------------------------


def test_a_turn_is_a_line_and_a_note_is_said_by_nobody(tmp_path: Path) -> None:
    turns = [{"speaker": "#NOTE#", "text": "[At the well]"}, {"speaker": "Ada", "text": "Dig! "}]
    one = {"doc_id": "s", "sessions": [{"turns": turns}], "questions": [asked("Who?", "Ada")]}
    other = row("t", "USER: Hi. \n ASSISTANT:  Well?\n", asked("Who?", "USER"))
    benchmark = longqa.longqa(None, "friendsqa", saved(tmp_path / "a.jsonl", one, other))
    assert [list(one.parts()) for one in benchmark.documents] == [
        ["[At the well]\nAda: Dig!"],
        ["USER: Hi.\nASSISTANT: Well?"],
    ]


def test_a_chat_is_read_up_to_every_question(tmp_path: Path) -> None:
    sessions = [
        {"date_time": "Monday", "turns": [{"speaker": "User", "text": "Dig."}]},
        {"date_time": "Tuesday", "turns": [{"speaker": "User", "text": text} for text in "xyz"]},
    ]
    questions = [
        asked("z", "Yes.", session=2, turn=2),
        asked("x", "No.", session=2, turn=0),
        asked("y", "Well.", session=2, turn=2),
    ]
    one = {"doc_id": "r", "sessions": sessions, "questions": questions}
    source = saved(tmp_path / "a.jsonl", one, one)
    found = longqa.longqa(None, "realmem", source, documents=1).documents
    assert [(each.id, list(each.parts()), len(each.questions)) for each in found] == [
        ("realmem/r/0@1.0", ["Monday\nUser: Dig."], 1),
        ("realmem/r/0@1.2", ["Monday\nUser: Dig.\n\nTuesday\nUser: x\nUser: y"], 2),
    ]
    assert {each.source for each in found} == {"realmem/r"}
    assert len(longqa.longqa(None, "realmem", source, documents=1, questions=1).documents) == 1


# ---- many paragraphs at once ---------------------------------------------------------------


def paragraphs(count: int) -> list[dict[str, Any]]:
    return [row(f"Mill_{n}", f"Mill {n} is old.", asked(f"How old is {n}?", "old"),
                asked(f"What is {n}?", "a mill")) for n in range(count)]  # fmt: skip


def test_paragraphs_are_strewn_together_with_their_questions(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jsonl", *paragraphs(10))
    benchmark = longqa.longqa(None, "qed", source, paragraphs=4)
    assert benchmark.title == "QED, 4 paragraphs" and benchmark.name == "qed-4"
    assert [len(one.questions) for one in benchmark.documents] == [8, 8]  # two are left over
    for document in benchmark.documents:
        (text,) = document.parts()
        told = text.split("\n\n")
        assert len(told) == 4 and all(one.startswith("Mill_") and "\nMill " in one for one in told)
        numbers = {one.split()[2] for one in told}
        assert {one.text.rstrip("?").split()[-1] for one in document.questions} == numbers
    again = longqa.longqa(None, "qed", source, paragraphs=4)
    other = longqa.longqa(None, "qed", source, paragraphs=4, seed=1)
    told = [[list(one.parts()) for one in each.documents] for each in (benchmark, again, other)]
    assert told[0] == told[1] != told[2]
    few = longqa.longqa(None, "qed", source, paragraphs=4, questions=3, documents=1)
    assert [len(one.questions) for one in few.documents] == [3]
    # the questions are about any of the paragraphs, and the document is the same
    assert list(few.documents[0].parts()) == told[0][0]
    with pytest.raises(BadRecord, match="there are 10 paragraphs, and a document takes 11"):
        longqa.longqa(None, "qed", source, paragraphs=11)


def test_paragraphs_of_squad_have_their_headings_when_they_are_strewn(tmp_path: Path) -> None:
    qas = [{"question": "Who dug?", "answers": [{"text": "Ada"}]}]
    one = {"doc_id": "w", "title": "Old_wells", "paragraphs": [{"context": "Ada dug.", "qas": qas}]}
    source = saved(tmp_path / "a.jsonl", one, one | {"doc_id": "v"})
    (document,) = longqa.longqa(None, "squad", source, paragraphs=2).documents
    assert document.parts() == ["Old wells\nAda dug.\n\nOld wells\nAda dug."]


def test_strewn_paragraphs_run_on_a_model(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.jsonl", *paragraphs(4))
    options = ["--set", "qamr", "--source", str(source), "--paragraphs", "2", "--questions", "1"]
    folder, systems = save_tiny(tmp_path / "model"), "bm25:tokens=150,memformer[focus=0]"
    result = run(folder, tmp_path / "out", *options, systems=systems, app=longqa.app)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out.json").read_text())
    assert report["overall"][1]["questions"] == 2
    assert report["overall"][0]["prompt_tokens"] <= 2 * 150
