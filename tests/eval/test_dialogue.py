"""Conversations and needles: what is told where, and which answers are right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from eval import dialogue, needle
from eval.corpora.people import KINDS, NAMES
from eval.dialogue import AGO, KINDS_OF_QUESTION, SINCE, score
from eval.harness.benchmark import Question
from eval.needle import DEPTHS
from tests.eval.toy import run
from tests.tiny import byte_tokenizer


def asked(sort: str, *answers: str) -> Question:
    return Question("0", "Where does Ada keep the key?", answers, {"kind": sort})


@pytest.mark.parametrize(
    ("sort", "output", "right"),
    [
        ("told", "In the attic.", True),
        ("told", "Ada keeps it in the ATTIC, I think", True),
        ("told", "In the attic or the cellar", False),  # not both
        ("told", "In the cellar", False),
        ("told", "I don't know", False),
        ("updated", "attic", True),
        ("never", "I don't know.", True),
        ("never", "You have not told me", True),
        ("never", "I do not know; perhaps in the attic", False),
        ("never", "In her pocket", False),
        ("never", "In the boathouse", False),  # made up, though no value of ours
        ("never", "", False),
    ],
)
def test_an_answer_names_the_right_value_and_no_other(sort: str, output: str, right: bool) -> None:
    question = asked(sort, "You have not told me." if sort == "never" else "attic")
    found = score(question, output)
    assert found["right"] == float(right)
    refused = "know" in output and "perhaps" not in output or "not told" in output
    assert found["refused"] == float(refused)


def test_facts_are_told_changed_and_left_out_where_the_columns_say() -> None:
    benchmark = dialogue.dialogue(None, conversations=5, sessions=24, seed=3)
    for document in benchmark.documents:
        sessions = list(document.parts())
        assert len(sessions) == 24
        cells = {(one.at["kind"], one.at["sessions ago"]) for one in document.questions}
        assert cells == {(sort, str(ago)) for sort in KINDS_OF_QUESTION for ago in AGO}
        names = [next(n for n in NAMES if f" {n} " in f" {one.text[:-1]} ")
                 for one in document.questions]  # fmt: skip
        assert len(set(names)) == 9
        for name, question in zip(names, document.questions, strict=True):
            kind = next(k for k in KINDS if k.question.format(name=name) == question.text)
            told = {
                place: [one for one in kind.values if f" {one}." in part]
                for place, text in enumerate(sessions)
                for part in text.split("  ")
                if kind.statement.format(name=name).lower() in part.lower()
            }
            here = 24 - int(question.at["sessions ago"])
            if question.at["kind"] == "never":
                assert not told
                assert name in sessions[here]
            else:
                updated = question.at["kind"] == "updated"
                assert sorted(told) == ([here - SINCE, here] if updated else [here])
                assert question.answers[0] in told[here]


def test_the_same_seed_gives_the_same_conversations() -> None:
    one, same, other = (dialogue.dialogue(None, 2, seed=seed).documents for seed in (1, 1, 2))
    assert [doc.parts() for doc in one] == [doc.parts() for doc in same]
    assert [doc.parts() for doc in one] != [doc.parts() for doc in other]


def test_every_score_can_be_had() -> None:
    for document in dialogue.dialogue(None, 3).documents:
        for question in document.questions:
            assert score(question, question.answers[0])["right"] == 1.0
            assert score(question, "xyzzy") == {"right": 0.0, "refused": 0.0}


@pytest.mark.parametrize("hide", ["fact", "passkey"])
def test_a_needle_lies_at_its_depth(hide: str) -> None:
    tokenizer = byte_tokenizer()
    benchmark = needle.needle(tokenizer, "400,800", hide, cases=2)
    assert len(benchmark.documents) == 2 * len(DEPTHS) * 2
    texts = {}
    for document in benchmark.documents:
        (text,), (question,) = document.parts(), document.questions
        sentence = f"{question.begun} {question.answers[0]}."
        size = int(question.at["length"])
        depth = int(question.at["depth"].removesuffix(" %"))
        assert text.count(sentence) == 1
        assert size <= len(text) <= size + len(sentence) + 2
        assert text.index(sentence) == pytest.approx(size * depth / 100, abs=2)
        assert benchmark.score(question, f" {question.answers[0]}. And") == {"found": 1.0}
        assert benchmark.score(question, "nothing") == {"found": 0.0}
        texts[document.id] = question.text
    # the same needles in every cell
    assert len({text for name, text in texts.items() if name.endswith("/0")}) == 1


def test_both_run_on_a_model(folder: Path, tmp_path: Path) -> None:
    for module, options in (
        (needle, ["--lengths", "90,200", "--cases", "1"]),
        (dialogue, ["--conversations", "1"]),
    ):
        out = tmp_path / module.__name__
        result = run(folder, out, *options, systems="truncated:64,memformer", app=module.app)
        assert result.exit_code == 0, result.output
        report = json.loads(out.with_name(f"{out.name}.json").read_text())
        assert all(cell["scores"] is not None for cell in report["cells"])
    assert (tmp_path / "eval.needle_heat.png").exists()
