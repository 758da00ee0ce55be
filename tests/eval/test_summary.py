"""Cells, means, intervals and floors of a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval.harness.benchmark import COUNTED, Benchmark, Document, Question
from eval.harness.metrics import wilson_interval
from eval.harness.pages import _floor
from eval.harness.summary import interval, summarize
from eval.reporting.page import html
from eval.reporting.plots import colors
from tests.eval.toy import toy


def test_an_interval_of_shares_is_wilsons_and_others_are_drawn_by_document() -> None:
    names = [str(number) for number in range(10)]
    assert interval([1.0] * 7 + [0.0] * 3, names) == wilson_interval(7, 10)
    # ten questions of one document are no more than one draw
    assert interval([1.0] * 7 + [0.0] * 3, ["a"] * 10) == pytest.approx((0.7, 0.7))
    # where all are the same, as many cases as documents
    assert interval([0.0] * 12, list("aaabbbcccddd")) == wilson_interval(0, 4)
    assert interval([1.0] * 4, list("aabb")) == wilson_interval(2, 2)
    low, high = interval([0.1, 0.4, 0.2, 0.3, 0.9, 0.6], list("aabbcc"))
    assert 0.1 < low < 0.42 < high < 0.8
    assert interval([0.1, 0.4, 0.2, 0.3, 0.9, 0.6], list("aabbcc")) == (low, high)


@given(
    scores=st.lists(st.floats(0, 1), min_size=1, max_size=20),
    documents=st.integers(1, 5),
)
def test_an_interval_lies_in_the_range_of_the_scores(scores: list[float], documents: int) -> None:
    low, high = interval(scores, [str(n % documents) for n in range(len(scores))])
    if not set(scores) <= {0.0, 1.0}:
        assert min(scores) - 1e-9 <= low <= high <= max(scores) + 1e-9
    assert 0 <= low <= high <= 1


def answered(benchmark: Benchmark, skip: Sequence[str] = ()) -> dict[Any, dict[str, Any]]:
    return {
        ("s", document.id, question.id): {
            "scores": {"evenness": float(question.id == "1"), "brevity": 0.5},
            "prompt_tokens": 10,
            "read_tokens": 100,
            "state_bytes": 7,
        }
        for document in benchmark.documents
        for question in document.questions
        if document.id not in skip
    }


def test_means_join_their_cells_and_a_document_is_read_once() -> None:
    benchmark = toy(None)
    found = summarize(benchmark, ["s"], answered(benchmark))
    by_kind = {one["kind"]: one for one in found["cells"] if one["size"] == "short"}
    assert by_kind["even"]["scores"] == {"evenness": 1.0, "brevity": 0.5}
    assert by_kind["odd"]["scores"]["evenness"] == 0
    (mean, _) = found["means"]
    low, high = wilson_interval(3, 3)[0], wilson_interval(0, 3)[1]
    half = ((1 - low) ** 2) ** 0.5 / 2
    assert mean["scores"]["evenness"] == 0.5
    assert mean["intervals"]["evenness"] == pytest.approx((0.5 - half, 0.5 + high / 2))
    (overall,) = found["overall"]
    assert (overall["read_tokens"], overall["prompt_tokens"]) == (600, 120)


def test_documents_of_one_source_are_one_draw_of_an_interval() -> None:
    benchmark = toy(None)
    found = summarize(benchmark, ["s"], answered(benchmark))
    joined = replace(
        benchmark, documents=[replace(one, source="all") for one in benchmark.documents]
    )
    one = summarize(joined, ["s"], answered(benchmark))
    assert one["overall"][0]["scores"] == found["overall"][0]["scores"]
    assert (found["overall"][0]["documents"], one["overall"][0]["documents"]) == (6, 1)
    # every document has both scores: together they can be drawn in one way only
    assert one["cells"][0]["intervals"]["evenness"] == wilson_interval(1, 1)
    assert found["cells"][0]["intervals"]["evenness"] == wilson_interval(3, 3)


def test_a_cell_that_lacks_answers_has_no_score_and_no_mean() -> None:
    benchmark = toy(None)
    found = summarize(benchmark, ["s"], answered(benchmark, skip=["short/1"]))
    lacking = [one for one in found["cells"] if one["size"] == "short"]
    assert [one["reason"] for one in lacking] == ["2 of 3 are answered"] * 2
    assert [one["size"] for one in found["means"]] == ["middling"]
    assert found["overall"][0]["scores"] is None


def test_the_best_constant_answer_is_the_floor() -> None:
    def exact(question: Question, output: str) -> dict[str, float]:
        return {"exact": float(output in question.answers)}

    answers = ["hall", "hall", "attic", "cellar"]
    asked = [
        Question(str(n), "Where?", (answer,), {"room": "any"}) for n, answer in enumerate(answers)
    ]
    benchmark = replace(
        toy(None), axes={"room": ["any"]}, documents=[Document.of("a", ["x"], asked)],
        score=exact, metrics=("exact",), averages={},
    )  # fmt: skip
    (cell,) = summarize(benchmark, ["s"], {})["cells"]
    assert (cell["constant"], cell["constant_score"]) == ("hall", 0.5)
    without = summarize(replace(benchmark, constants=False), ["s"], {})["cells"]
    assert "constant" not in without[0]


@pytest.mark.parametrize("axis", COUNTED)
def test_an_axis_is_not_called_as_what_a_cell_holds(axis: str) -> None:
    with pytest.raises(ValueError, match=f"an axis can't be called '{axis}'"):
        replace(toy(None), axes={axis: ["x"]})


def test_all_that_a_cell_holds_is_a_name_that_no_axis_has() -> None:
    benchmark = toy(None)
    (cell, *_) = summarize(benchmark, ["s"], answered(benchmark))["cells"]
    refused = summarize(benchmark, ["s"], {})["cells"][0]
    assert (set(cell) | set(refused)) - set(benchmark.axes) == set(COUNTED)


def test_a_constant_answer_stays_in_its_cell() -> None:
    entry = {"constant": "one |\ntwo", "constant_score": 0.5}
    assert _floor(entry) == "50.0 (one two)"
    assert _floor({"constant_score": 0.25}) == "25.0"


def test_a_page_escapes_what_it_quotes() -> None:
    assert "&lt;b&gt;" in html("| a |\n| --- |\n| <b> |".replace("<b>", "`<b>`"), "t", [])
    assert "<title>a &amp; b</title>" in html("", "a & b", [])


@pytest.mark.parametrize(
    ("correct", "cases", "low", "high"),
    # computed by hand from Wilson (1927), z = 1.96
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(correct: int, cases: int, low: float, high: float) -> None:
    assert wilson_interval(correct, cases) == pytest.approx((low, high), abs=5e-5)


def test_lines_have_colours_of_their_own() -> None:
    assert len(set(colors(10))) == 10
    assert len(set(colors(11))) == 11
    assert len(colors(25)) == 25
