"""BABILong's metric: every rule and quirk of it, and answers that others have stored."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import babilong_score
from eval.babilong import command as babilong
from eval.babilong.command import averages
from eval.babilong.metric import HEADLINE, LABELS, score
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.summary import summarize
from tests.eval.toy import said


def floor(task: str, asked: Sequence[tuple[str, str]]) -> tuple[str, float]:
    """The best constant answer to pairs of target and question, and its share."""
    questions = [
        Question(str(n), text, (target,), {"task": task, "length": "0k"})
        for n, (target, text) in enumerate(asked)
    ]
    document = Document.of("a", ["x"], questions)
    axes = {"task": [task], "length": ["0k"]}
    benchmark = Benchmark(
        "B", axes, [document], babilong.official, ("accuracy",), "", 5, {}, averages={}
    )
    (cell,) = summarize(benchmark, ["s"], {})["cells"]
    return cell["constant"], cell["constant_score"]


WHERE = "Where is Otto?"


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("kitchen", True),
        ("Otto is in the KITCHEN.", True),
        ("In the kitchen. Before, in the garden.", True),  # cut at the first full stop
        ("In the garden. No, in the kitchen.", False),
        ("The kitchen <context> The garden", True),
        ("The kitchen <example> The garden", True),
        ("kitchen or garden", False),  # several labels
        ("kitchen\nQuestion: Where is the garden?", False),  # the cut at "Question" does nothing
        ("kitchen\nanswer: kitchen", True),
        ("kitchens", True),  # substrings count
        ("attic", False),
        ("", False),
        (". kitchen", False),
    ],
)
def test_the_first_sentence_must_name_the_target_and_no_other_label(
    output: str, right: bool
) -> None:
    assert score("qa1", output, "kitchen", WHERE) is right


def test_labels_of_the_question_do_not_count() -> None:
    asked = "What is north of the Garden?"
    assert score("qa4", "North of the garden is the office", "office", asked)
    assert not score("qa4", "garden", "garden", asked)
    assert score("qa5", "Fred gave Bill the milk", "milk", "What did Fred give to Bill?")
    assert score("qa5", "It was jeff", "Jeff", "Who gave the apple to Fred?")


@pytest.mark.parametrize(
    ("output", "target", "right"),
    [
        ("the milk and the apple", "apple,milk", True),  # in any order
        ("apple,milk", "apple,milk", True),
        ("the milk", "apple,milk", False),
        ("apple, milk, football", "apple,milk", False),
        ("milk", "milk", True),
        ("milk and apple", "milk", False),
        ("nothing", "nothing", True),
    ],
)
def test_a_pair_of_qa8_needs_both_and_no_third(output: str, target: str, right: bool) -> None:
    assert score("qa8", output, target, "What is Ada carrying?") is right


def test_two_directions_are_one_label() -> None:
    assert len(LABELS["qa19"]) == 12
    asked = "How do you go from the office to the park?"
    assert score("qa19", "s,e", "s,e", asked)
    assert not score("qa19", "e,s", "s,e", asked)
    # three directions hold two labels
    assert not score("qa19", "s,e,n", "s,e", asked)


def test_no_is_inside_know_and_nothing() -> None:
    assert score("qa6", "I do not know", "no", "Is Ada in the park?")


def test_no_answer_to_qa7_is_right_where_none_is() -> None:
    asked = [("none", "How many?"), ("none", "How many?"), ("one", "How many?"), ("two", "How?")]
    assert [
        score("qa7", target, *case) for case, (target, _) in zip(asked, asked, strict=True)
    ] == [
        False,
        False,
        True,
        True,
    ]
    assert floor("qa7", asked) == ("one", 0.25)


def test_every_other_label_is_right_when_it_is_the_target() -> None:
    for task in LABELS.keys() - {"qa7"}:
        for label in LABELS[task]:
            assert score(task, label, label, "?")
    assert list(LABELS) == [f"qa{number}" for number in range(1, 21)]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task 'qa21'; the tasks are qa1 to qa20"):
        score("qa21", "yes", "yes", "?")


def test_the_floor_is_the_best_constant_answer() -> None:
    asked = [("kitchen", WHERE), ("garden", WHERE), ("kitchen", WHERE), ("office", WHERE)]
    assert floor("qa1", asked) == ("kitchen", 0.5)
    # a pair may be the best constant of lists
    asked = [("apple,milk", "?"), ("apple,milk", "?"), ("nothing", "?")]
    assert floor("qa8", asked) == ("apple,milk", pytest.approx(2 / 3))
    # and one that a question names earns nothing there
    asked = [("Fred", "What did Bill give?"), ("Bill", "Who was it, Fred?"), ("milk", "Fred?")]
    assert floor("qa5", asked)[1] == pytest.approx(1 / 3)


def test_the_leaderboard_averages_five_tasks_and_qa7_is_in_no_average() -> None:
    assert averages([*HEADLINE]) == {"mean of qa1-qa5": list(HEADLINE)}
    assert averages(["qa1", "qa7", "qa2"]) == {"mean of qa1, qa2": ["qa1", "qa2"]}
    assert averages(["qa7", "qa1"]) == {}
    assert list(averages([*HEADLINE, "qa6", "qa7"]).values()) == [
        list(HEADLINE), [*HEADLINE, "qa6"],
    ]  # fmt: skip


def stored(folder: Path, name: str, *rows: tuple[str, str, str]) -> Path:
    lines = [("", "target", "output", "question"), *((str(n), *row) for n, row in enumerate(rows))]
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / name


def test_stored_answers_are_scored_to_two_decimals(tmp_path: Path) -> None:
    rows = [
        ("kitchen", "In the kitchen. Or in the garden.", WHERE),
        ("kitchen", "kitchen or\ngarden", WHERE),
        ("garden", "", WHERE),
    ]
    for number in range(1, 6):
        stored(tmp_path, f"qa{number}_0k_instruction_yes.csv", *rows[: 1 + number % 3])
    stored(tmp_path, "qa1_16k.csv", rows[0])
    stored(tmp_path, "qa6_0k_examples_no.csv", ("no", "I do not know", "Is Ada here?"))
    stored(tmp_path, "notes_0k.csv", rows[1])
    found = babilong_score.scored(tmp_path)
    assert {key: round(value, 2) for key, value in found.items()} == {
        ("qa1", "0k"): 50.0, ("qa2", "0k"): 33.33, ("qa3", "0k"): 100.0, ("qa4", "0k"): 50.0,
        ("qa5", "0k"): 0.0, ("qa1", "16k"): 100.0, ("qa6", "0k"): 100.0,
    }  # fmt: skip
    result = CliRunner().invoke(babilong_score.app, [str(tmp_path)], terminal_width=200)
    assert result.exit_code == 0
    for shown in ("33.33", "46.67", "mean of qa1, qa2, qa3, qa4, qa5"):
        assert shown in result.output


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("none", "none", "How many?")], ["--mean", "qa1,qa7"], "qa7 can't be averaged: the met"),
        ([], [], "holds no answers"),
        (None, [], "holds no file such as qa1_0k_*.csv"),
    ],
)
def test_stored_answers_that_cant_be_scored_are_one_sentence(
    tmp_path: Path, rows: list[tuple[str, str, str]] | None, options: list[str], message: str
) -> None:
    if rows is not None:
        stored(tmp_path, "qa7_0k_x.csv", *rows)
    arguments = [str(tmp_path), *options]
    result = CliRunner().invoke(babilong_score.app, arguments, terminal_width=300)
    assert result.exit_code == 2
    assert message in said(result)
    (tmp_path / "qa2_1k_x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(babilong_score.BadPredictions, match="has no column target; it has a, b"):
        babilong_score.accuracy(tmp_path / "qa2_1k_x.csv", "qa2")
