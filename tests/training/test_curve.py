"""`python -m training.curve`: logs of several runs as one picture."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from training.curve import app, lines_of, read_log

LOG = [
    {"step": 5, "tokens": 100.0, "answer_loss": 2.0},
    {"step": 10, "tokens": 200.0, "answer_loss": 1.0},
    {"step": 10, "data/valid.jsonl.gz exact": 0.5},
    # resumed at step 5
    {"step": 10, "tokens": 200.0, "answer_loss": 1.0},
    {"step": 15, "tokens": 100.0, "text_loss": 3.0},
]


def written(path, lines):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return path


def test_tokens_are_counted_over_runs_and_what_was_done_again_once(tmp_path):
    path = written(tmp_path / "run" / "log.jsonl", LOG)
    log = read_log(path, 50.0)
    assert [line["seen"] for line in log] == [550.0, 1550.0, 1550.0, 2050.0]
    (losses,) = lines_of([("run", log)], "answer_loss")
    assert losses.label == "run" and losses.y == (2.0, 1.0) and losses.x == (550e-6, 1550e-6)


def test_each_run_has_a_line_of_losses_and_each_file_one_of_matches(tmp_path):
    runs, seen = [], 0.0
    for name in ("first", "second"):
        log = read_log(written(tmp_path / name / "log.jsonl", LOG), seen)
        seen = log[-1]["seen"]
        runs.append((name, log))
    assert [line.label for line in lines_of(runs, "answer_loss")] == ["first", "second"]
    (matches,) = lines_of(runs, " exact")
    assert matches.label == "valid" and matches.y == (0.5, 0.5) and matches.x == (1500e-6, 3500e-6)


def test_a_picture_is_drawn_and_what_is_no_log_is_refused(tmp_path):
    logs = [written(tmp_path / name / "log.jsonl", LOG) for name in ("first", "second")]
    out = tmp_path / "curve.png"
    result = CliRunner().invoke(app, [str(out), *map(str, logs)])
    assert result.exit_code == 0, result.output
    assert out.read_bytes().startswith(b"\x89PNG")
    for bad in ('{"step"', "[1]", '{"loss": 1}'):
        logs[0].write_text(bad)
        with pytest.raises(typer.BadParameter, match="is no log of training.finetune"):
            read_log(logs[0])
    logs[0].write_text("")
    assert CliRunner().invoke(app, [str(out), str(logs[0])]).exit_code == 2
