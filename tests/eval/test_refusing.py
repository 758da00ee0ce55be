"""Replies by the least evidence that is asked for: what is counted, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import refusing
from tests.tiny import save_tiny


def case(kind: str, evidence: float, right: bool, refused: bool = False) -> dict[str, object]:
    return {"kind": kind, "evidence": evidence, "right": right, "refused": refused}


CASES = [
    case("told", 0.3, True),
    case("updated", 0.2, False),
    case("told", 0.1, False, refused=True),
    case("told", 0.05, True),
    case("never", 0.25, False),
    case("never", 0.02, False),
]


@pytest.mark.parametrize(
    ("least", "expected"),
    [
        (0.0, "right wrong refused right never_answered never_answered"),
        (0.05, "right wrong refused right never_answered never_refused"),
        (0.22, "right refused refused refused never_answered never_refused"),
        (0.31, "refused refused refused refused never_refused never_refused"),
    ],
)
def test_a_reply_with_too_little_evidence_is_a_refusal(least: float, expected: str) -> None:
    assert [refusing.outcome(one, least) for one in CASES] == expected.split()


def test_the_curve_begins_with_the_model_alone_and_refuses_more_and_more() -> None:
    points = refusing.curve(CASES)
    first = points[0]
    assert (first["right"], first["wrong"], first["refused"]) == (0.5, 0.25, 0.25)
    assert (first["never_answered"], first["never_refused"]) == (1.0, 0.0)
    for name in ("refused", "never_refused"):
        shares = [point[name] for point in points]
        assert shares == sorted(shares)
    assert [point["least"] for point in points] == [0.02, 0.05, 0.1, 0.2, 0.25, 0.3]
    for point in points:
        assert sum(point[name] for name in ("right", "wrong", "refused")) == pytest.approx(1)


def test_the_command_reports_every_question_and_draws_the_curve(tmp_path: Path) -> None:
    model, out = str(save_tiny(tmp_path / "tiny")), tmp_path / "refusing"
    result = CliRunner().invoke(refusing.app, [model, "--conversations", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert len(report["cases"]) == 9
    assert {one["kind"] for one in report["cases"]} == {"told", "updated", "never"}
    assert report["curve"][0]["least"] == min(one["evidence"] for one in report["cases"])
    assert "never told, refused" in out.with_suffix(".md").read_text()
    assert out.with_suffix(".png").stat().st_size > 0
