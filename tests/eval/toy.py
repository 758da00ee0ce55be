"""A small benchmark, and how tests run it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from click.testing import Result
from typer import Typer
from typer.testing import CliRunner

from eval.harness import command
from eval.harness.benchmark import Benchmark, Document, Question

SYSTEMS = "nothing,truncated:60,full,bm25:1,attached,memformer/plain"


def length(question: Question, output: str) -> dict[str, float]:
    """A score that a random model's answers have."""
    return {"evenness": float(len(output) % 2), "brevity": 1 / (1 + len(output))}


def toy(tokenizer: Any, cases: int = 3, longest: str = "middling") -> Benchmark:
    sizes = {"short": 1, "middling": 4, "long": 30}
    chosen = dict(list(sizes.items())[: list(sizes).index(longest) + 1])
    documents = [
        Document.of(
            f"{size}/{case}",
            [f"The {case}th lamp is in the hall. " * times],
            [
                Question(str(n), f"Where is lamp {case}?", (f"hall {n}",),
                         {"size": size, "kind": kind}, chance=0.25)
                for n, kind in enumerate(("odd", "even"))
            ],
        )
        for size, times in chosen.items()
        for case in range(cases)
    ]  # fmt: skip
    return Benchmark(
        title="Toy",
        axes={"kind": ["even", "odd"], "size": list(sizes)},
        documents=documents,
        score=length,
        metrics=("evenness", "brevity"),
        instruction="Say it.",
        max_new_tokens=4,
        settings={"cases": cases, "longest": longest},
        averages={"both kinds": ["even", "odd"]},
        heat=True,
    )


def run(
    folder: Path,
    out: Path,
    *options: str,
    systems: str = SYSTEMS,
    app: Typer | None = None,
) -> Result:
    """Runs a benchmark, the toy if none is given, on the model in a folder."""
    arguments = [str(folder), "--systems", systems, "--threads", "1", "--out", str(out), *options]
    return CliRunner().invoke(app or command.command(toy), arguments, terminal_width=200)


def said(result: Result) -> str:
    """What a failed command says, without the frame that typer draws."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", result.stderr or result.output).split())
