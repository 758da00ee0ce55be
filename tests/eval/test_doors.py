"""Before a command of eval opens a model: packages, data and options are checked."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.reporting.extras import PACKAGES
from tests.eval.toy import said

ROOT = Path(__file__).parents[2]
# every command, with what it can't do without, and the package of which it speaks first
NEEDED = {
    "ablation": ([], "matplotlib"),
    "babilong.__main__": ([], "markdown-it-py"),
    "chats": ([], "markdown-it-py"),
    "continual": ([], "markdown-it-py"),
    "decoding": ([], "markdown-it-py"),
    "dialogue": ([], "markdown-it-py"),
    "fewshot": ([], "markdown-it-py"),
    "finding": (["--source", "squad.jsonl"], "markdown-it-py"),
    "footprint": ([], "markdown-it-py"),
    "forgetting": ([], "markdown-it-py"),
    "locomo": (["--data", "locomo.json"], "markdown-it-py"),
    "longqa": (["--set", "nq"], "markdown-it-py"),
    "needle": ([], "markdown-it-py"),
    "overview": (["report.json"], "markdown-it-py"),
    "recall": ([], "markdown-it-py"),
    "scaling": ([], "markdown-it-py"),
    "sparse": ([], "matplotlib"),
}
# runs commands where no extra is installed, and prints how each of them ends
WITHOUT_EXTRAS = """
import json, sys
from importlib import import_module

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in PACKAGES:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

PACKAGES, commands = json.loads(sys.argv[1])
sys.meta_path.insert(0, Absent())
from typer.testing import CliRunner
ends = {}
for name, options in commands.items():
    app = import_module(f"eval.{name}").app
    result = CliRunner().invoke(app, options, terminal_width=400)
    ends[name] = (result.exit_code, repr(result.exception), result.output)
# these need none
import eval.recipe, eval.babilong_score
try:
    import eval.lm_harness
except SystemExit as end:
    ends["lm_harness"] = end.code
print(json.dumps(ends))
"""


def test_every_command_says_which_package_and_which_extra_it_lacks() -> None:
    commands = {name: options for name, (options, _) in NEEDED.items()}
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_EXTRAS, json.dumps([list(PACKAGES), commands])],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, ended.stderr
    ends = json.loads(ended.stdout)
    for name, (_, package) in NEEDED.items():
        code, error, output = ends.pop(name)
        assert (code, error) == (2, "SystemExit(2)"), (name, output)
        assert output == (
            f"the report needs the package {package}, which is not installed; install it with "
            '`pip install -e ".[eval]"`.\n'
        )
    assert ends == {"lm_harness": 2}
    assert ended.stderr.strip() == (
        "eval.lm_harness needs the package lm-eval, which is not installed; install it with "
        '`pip install -e ".[lm-eval]"`.'
    )


@pytest.mark.parametrize(
    ("system", "module", "package"),
    [("bm25", "bm25s", "bm25s"), ("bm25:4", "nltk", "nltk"), ("dense", "faiss", "faiss-cpu")],
)
def test_what_a_system_searches_with_is_missed_before_a_model_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    arguments = ["no/such", "--systems", f"full,{system}", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(import_module("eval.dialogue").app, arguments, terminal_width=400)
    name = system.partition(":")[0]
    assert result.exit_code == 2
    assert (
        f"the system {name} needs the package {package}, which is not installed; install it with "
        f'`pip install -e ".[eval]"`, or leave {name} out of --systems.'
    ) in said(result)


@pytest.mark.parametrize(
    ("command", "options", "sentence"),
    [
        ("ablation", ["--parts", "soul"], "--parts knows latest,"),
        ("ablation", ["--book", "no.txt"], "There is no book file no.txt"),
        (
            "babilong.__main__",
            ["--babi", ".", "--lengths", "0k"],
            ". must hold one file qa1_*_test* of bAbI; it holds 0.",
        ),
        ("babilong.__main__", ["--tasks", "qa21"], "--tasks knows qa1,"),
        ("chats", ["--reply-limits", "some"], "'some' is no list of numbers"),
        ("chats", ["--reply-limits", "0,2"], "--reply-limits takes numbers from 0 to 1; got '0,2'"),
        ("chats", ["--penalties", "0"], "--penalties takes numbers above 0; got '0'"),
        ("continual", ["--documents", "0"], "greater than or equal to 1"),
        ("dialogue", ["--sessions", "1"], "greater than or equal to 19"),
        ("fewshot", ["--shots", "9"], "--shots takes numbers up to 5; got 9."),
        ("footprint", ["--book", "no.txt"], "There is no book file no.txt"),
        ("forgetting", ["--book", "no.txt"], "There is no book file no.txt"),
        ("locomo", ["--data", "no.json"], "There is no file no.json"),
        ("longqa", ["--set", "nq", "--source", "no.jsonl"], "no.jsonl can't be read: No such"),
        ("needle", ["--lengths", "0"], "--lengths takes different whole numbers from 1 up"),
        ("recall", ["--facts", "0"], "--facts takes different whole numbers from 1 up"),
        ("recall", ["--book", "no.txt"], "There is no book file no.txt"),
        ("recall", ["--device", "abacus"], "'abacus' can't be used on this machine"),
        ("recall", ["--systems", "no.such:Class"], "'no.such:Class' can't be imported"),
        ("scaling", ["--lengths", "0"], "--lengths takes different whole numbers from 1 up"),
    ],
)
def test_what_is_wrong_with_data_and_options_is_said_before_a_model_is_opened(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    options: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    app = import_module(f"eval.{command}").app
    result = CliRunner().invoke(app, ["no/such", *options], terminal_width=400)
    assert result.exit_code == 2, result.output
    assert sentence in said(result)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["focus"], "'focus' is not name=value."),
        (["--distances", "-1"], "--distances takes different whole numbers from 0 up"),
        (["--facts", "21"], "less than or equal to 20"),
    ],
)
def test_the_search_for_a_recipe_checks_its_settings_first(
    options: list[str], sentence: str
) -> None:
    app = import_module("eval.recipe").app
    result = CliRunner().invoke(app, [*options, "--model", "no/such"], terminal_width=400)
    assert result.exit_code == 2
    assert sentence in said(result)
