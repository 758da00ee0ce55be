"""The scaling measurement on a tiny random model; speeds are never asserted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from eval import scaling
from eval.reporting.options import numbers
from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import write_json
from eval.scaling import MEMORIZE, PREFILL, last_to_first, read
from memformer import MemformerForCausalLM


def test_a_full_memory_has_the_same_size_at_every_length(folder: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(folder).eval()
    # whole segments: the rest of a text stays open, beside the slots
    short, long = (read(model, [5] * length, MEMORIZE, num_slots=100) for length in (640, 1280))
    # beside the slots, the record grows by three numbers and the small keys of each token
    a_token = 3 * 4 + len(model.memory.finders.keys) * model.init_memory().keys.shape[-1]
    assert long.state_bytes - short.state_bytes == 640 * a_token


def test_the_cache_of_the_plain_model_grows_with_length(folder: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(folder).eval()
    short, long = (read(model, [5] * length, PREFILL, num_slots=100) for length in (200, 400))
    assert long.state_bytes == 2 * short.state_bytes > 0


def test_a_reading_is_consistent(folder: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(folder).eval()
    found = read(model, [5] * 300, MEMORIZE, num_slots=100)
    assert found.length == 300 and found.passes == 1 and found.peak_bytes >= 0
    assert found.tokens_per_second == pytest.approx(300 / found.seconds)


def test_a_short_text_is_read_until_enough_seconds_are_over(folder: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(folder).eval()
    found = read(model, [5] * 30, MEMORIZE, num_slots=100, min_seconds=0.2)
    assert found.passes * found.seconds >= 0.2
    assert found.seconds == pytest.approx(30 / found.tokens_per_second)


def _cell(what: str, length: int, speed: float) -> dict[str, Any]:
    return {
        "what": what,
        "length": length,
        "tokens_per_second": speed,
        "peak_bytes": 10 * length,
        "state_bytes": 3 * length,
    }


def test_the_last_speed_is_compared_with_the_first_where_there_are_two() -> None:
    cells = [_cell(MEMORIZE, 400, 30.0), _cell(MEMORIZE, 100, 40.0), _cell(PREFILL, 100, 9.0)]
    assert last_to_first(cells) == {MEMORIZE: pytest.approx(0.75)}


def test_a_plot_is_a_png(tmp_path: Path) -> None:
    cells = [_cell(MEMORIZE, 128, 30.0), _cell(MEMORIZE, 256, 29.0), _cell(PREFILL, 128, 20.0)]
    report = {"model": "tiny", "settings": {"num_slots": 100}, "cells": cells}
    scaling.plot(tmp_path / "new" / "plot.png", report)
    assert (tmp_path / "new" / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_error_bars_may_touch_their_value(tmp_path: Path) -> None:
    line = Line("a", [0, 1], [0.0, 1.0], [1e-17, 0.7], [0.3, 1.0 - 1e-16])
    draw(tmp_path / "plot.png", "ends", [Panel("x", "y", [line], ticks=["0", "512"])])
    assert (tmp_path / "plot.png").stat().st_size > 0


def test_a_report_that_cannot_be_written_leaves_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    report = {"cells": [{"a": [{"b": 1}, {"b": 2}]}], "empty": [], "text": "x"}
    write_json(path, report)
    assert json.loads(path.read_text()) == report
    with pytest.raises(TypeError):
        write_json(path, {"cells": object()})
    assert json.loads(path.read_text()) == report
    assert [one.name for one in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.parametrize("text", ["", "a", "1,,2", "3,3", "-1,4", "1.5"])
def test_a_list_of_numbers_is_checked(text: str) -> None:
    with pytest.raises(Exception, match="--lengths takes different whole numbers from 0 up"):
        numbers(text, 0, "--lengths")


def test_the_command_measures_each_cell_in_its_own_process(folder: Path, tmp_path: Path) -> None:
    arguments = [str(folder), "--lengths", "700,600", "--plain-max", "600", "--min-seconds", "0"]
    arguments += ["--num-slots", "100", "--threads", "1", "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(scaling.app, arguments)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "s.json").read_text())
    measured = [(cell["what"], cell["length"]) for cell in report["cells"]]
    assert measured == [(MEMORIZE, 600), (PREFILL, 600), (MEMORIZE, 700)]
    assert report["finished"] and set(report["last_to_first"]) == {MEMORIZE}
    assert all(cell["peak_bytes"] >= 0 and cell["state_bytes"] > 0 for cell in report["cells"])
    text = (tmp_path / "s.md").read_text()
    assert text.strip() == result.output.strip()
    rows = {line[0]: line[1:] for line in table(text)}
    assert rows["700"][3:] == ["–"] * 3 and "–" not in rows["600"]
    assert rows["last / first"][0].startswith("× ") and rows["last / first"][3] == ""
    page = (tmp_path / "s.html").read_text()
    assert "<td" in page and "data:image/png;base64," in page


def test_an_interrupted_run_goes_on_and_a_finished_one_is_measured_anew(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def measured(function: Any, cell: scaling.Cell) -> dict[str, Any]:
        if len(asked) == stop:
            raise KeyboardInterrupt
        asked.append((cell.what, cell.length))
        return _cell(cell.what, cell.length, 1.0 + len(asked))

    def run(slots: int) -> int:
        arguments = [str(folder), "--lengths", "600,700", "--num-slots", str(slots)]
        return CliRunner().invoke(scaling.app, [*arguments, "--out", str(tmp_path / "s")]).exit_code

    monkeypatch.setattr(scaling, "in_fresh_process", measured)
    every = [(what, length) for length in (600, 700) for what in (MEMORIZE, PREFILL)]
    stop = 3
    assert run(100) and asked == every[:3]
    stop = 99
    assert run(100) == 0 and asked == every  # nothing twice
    report = json.loads((tmp_path / "s.json").read_text())
    assert [cell["tokens_per_second"] for cell in report["cells"]] == [2.0, 3.0, 4.0, 5.0]
    assert run(100) == 0 and asked == every * 2
    stop = len(asked) + 1
    assert run(100)
    stop = 99
    assert run(200) == 0 and len(asked) == 3 * len(every) + 1  # other settings: from the start


def table(text: str) -> list[list[str]]:
    lines = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line] for line in lines]
