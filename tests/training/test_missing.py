"""Commands in an environment that lacks a package: one sentence, and status 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from training import babi, curve, missing
from training.data import build
from training.finetuning import sources
from training.setup.config import BadConfig

ROOT = Path(__file__).parents[2]
EXTRA = "which is not installed; the extra train brings it: python -m pip install -e '.[train]'."


@pytest.mark.parametrize(
    ("command", "package"),
    [
        ("training.finetune", "omegaconf"),
        ("training.classic", "matplotlib"),
        ("training.data.build", "typer"),
    ],
)
def test_a_command_that_can_not_be_imported_says_how_to_get_the_package(command, package, tmp_path):
    # found before the real one
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name={package!r})")
    ended = subprocess.run(
        [sys.executable, "-m", command, "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 2 and ended.stdout == ""
    assert ended.stderr.strip() == f"error: This needs the package {package}, {EXTRA}"


def test_other_errors_are_shown_as_ever(tmp_path):
    (tmp_path / "typer.py").write_text("import training.nothing")
    ended = subprocess.run(
        [sys.executable, "-m", "training.data.build", "--help"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1 and "Traceback" in ended.stderr
    assert "No module named 'training.nothing'" in ended.stderr


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (babi.app, ["configs/classic/babi_dnc.yaml", "data=nowhere"]),
        (curve.app, ["curve.png", "log.jsonl"]),
    ],
)
def test_what_is_drawn_at_the_end_needs_matplotlib_at_the_beginning(app, arguments, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = CliRunner().invoke(app, arguments, terminal_width=300)
    assert result.exit_code == 2 and "needs the package matplotlib" in result.output


def test_datasets_of_the_hub_need_their_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadConfig, match="dataset: some/thing: This needs the package datasets"):
        sources.check(sources.Source(dataset="some/thing"))
    arguments = ["hub", "rajpurkar/squad", str(tmp_path / "out.jsonl")]
    result = CliRunner().invoke(build.app, arguments)
    assert result.exit_code == 2 and "needs the package datasets" in result.output
    assert missing("torch") is None
