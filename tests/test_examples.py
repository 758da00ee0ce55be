"""Every script in `examples/` runs as a user would run it, and prints what it promises."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import save_tiny

from memformer import MemformerForCausalLM
from memformer.pretrained import DEFAULT_MODEL, local_path

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
needs_default_model = [
    pytest.mark.real,
    pytest.mark.skipif(
        local_path(DEFAULT_MODEL) is None, reason="the default model is not fetched"
    ),
]
real = pytest.mark.parametrize(
    "real", [pytest.param(True, marks=[*needs_default_model, pytest.mark.slow]), False]
)


def run(name: str, *arguments: str | Path) -> list[str]:
    """The lines that an example prints, from a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_short_and_says_what_it_shows_and_how_long_it_takes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < 60
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring and f"python examples/{path.name}" in docstring
    assert re.search(r"\b(seconds|minutes?)\b", docstring)


def test_every_example_is_tested_here() -> None:
    assert [path.name for path in EXAMPLES] == [
        "memory_over_processes.py",
        "recall_without_training.py",
        "train_the_write_gate.py",
    ]


@pytest.mark.real
@pytest.mark.skipif(local_path(DEFAULT_MODEL) is None, reason="the default model is not fetched")
def test_an_untrained_memory_recalls_every_fact_and_the_decoder_alone_none() -> None:
    printed = run("recall_without_training.py")
    told = ("Boston", "gardener", "rabbit", "harp", "pears", "Geneva")
    assert len(printed) == 3 * len(told)
    for number, word in enumerate(told):
        _, recalled, guessed = printed[3 * number : 3 * number + 3]
        assert recalled.partition("with memory:")[2].strip().startswith(word)
        assert word not in guessed.partition("without memory:")[2]


@real
def test_a_second_process_knows_what_the_first_was_told(real: bool, tmp_path: Path) -> None:
    options = [] if real else ["--model", save_tiny(tmp_path)]
    printed = run("memory_over_processes.py", *options)
    assert printed[:2] == [
        "told: My sister Ines plays the cello.",
        "told: My brother Tom lives in Oslo.",
    ]
    assert printed[-1] == ("remembered after forgetting turn 1: ['My brother Tom lives in Oslo.']")
    asked = "\n".join(printed[2:-1])
    assert "asked: What does my sister play?" in asked
    assert "asked: Where does my brother live?" in asked
    if real:
        assert "cello" in printed[2] and "Oslo" in printed[3]


@real
def test_the_gate_alone_is_trained_and_keeps_facts(real: bool, tmp_path: Path) -> None:
    options = []
    if not real:
        save_tiny(tmp_path)
        options = ["--model", tmp_path / "base"]
    printed = run("train_the_write_gate.py", tmp_path / "out", *options)
    shares = [
        (int(step), int(share) / 100, what)
        for step, share, what in re.findall(
            r"^step (\d+): (\d+)% of the (\w+) written$", "\n".join(printed), re.MULTILINE
        )
    ]
    assert [(step, what) for step, _, what in shares] == [
        (step, what) for step in (0, 25, 50) for what in ("facts", "book")
    ]
    assert [share for _, share, _ in shares[:2]] == [1.0, 1.0]
    assert printed[-1] == f"saved in {tmp_path / 'out'}"
    facts, book = (share for _, share, _ in shares[-2:])
    if real:
        assert facts > 0.9 and book < 0.6
    trained = MemformerForCausalLM.from_pretrained(tmp_path / "out")
    untrained = MemformerForCausalLM.from_pretrained(
        options[-1] if options else DEFAULT_MODEL, memory_config=trained.memory_config
    )
    before = dict(untrained.named_parameters())
    changed = {
        name for name, weight in trained.named_parameters() if not torch.equal(weight, before[name])
    }
    assert changed and all("write_gate" in name for name in changed)
