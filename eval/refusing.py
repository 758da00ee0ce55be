"""Knowing that nothing was told: the replies, by how much evidence is asked for before one counts.

    python -m eval.refusing MODEL --conversations 12

The conversations and questions of `eval.dialogue`, told as a chat tells them. Beside each reply
stands the evidence that anything told is about the question (`model.recall(...).evidence`). A
reply below the least evidence counts as a refusal. The curve says, for each such threshold, how
often what was told is answered right, answered wrong and refused, and how often what was never told
is answered and refused. At the lowest threshold nothing is refused but what the model refuses by
itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer.template import text_ids
from rich.console import Console

from eval import dialogue
from eval.harness.asking import progress_bar
from eval.harness.benchmark import Document
from eval.harness.desk import Desk
from eval.harness.memories import Session
from eval.harness.metrics import wilson_interval
from eval.harness.prompts import STYLES
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, PICTURE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import DtypeOption, ModelArgument, OutOption, ThreadsOption, use_threads
from eval.reporting.page import Page, publish
from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json

NEVER = "never"
# steps from the lowest threshold to the highest
POINTS = 20
# the outcomes of a question, with their labels
OUTCOMES = {
    "right": "told, answered right",
    "wrong": "told, answered wrong",
    "refused": "told, refused",
    "never_answered": "never told, answered",
    "never_refused": "never told, refused",
}

Case = Mapping[str, Any]


def outcome(case: Case, least: float) -> str:
    """The outcome of a question, a key of `OUTCOMES`; a reply with less evidence is a refusal."""
    refused = case["refused"] or case["evidence"] < least
    if case["kind"] == NEVER:
        return "never_refused" if refused else "never_answered"
    if refused:
        return "refused"
    return "right" if case["right"] else "wrong"


def curve(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """The share of each outcome by the least evidence, among questions of its kind.

    The thresholds are values of the evidence. Each refuses about as many questions more as the one
    before it, and the lowest refuses none.
    """
    known = sorted(case["evidence"] for case in cases)
    steps = {round(step * (len(known) - 1) / POINTS) for step in range(POINTS + 1)}
    never = sum(case["kind"] == NEVER for case in cases)
    points = []
    for least in (known[step] for step in sorted(steps)):
        found = [outcome(case, least) for case in cases]
        row: dict[str, Any] = {"least": least}
        for name in OUTCOMES:
            of = never if name.startswith(NEVER) else len(cases) - never
            row[name] = found.count(name) / max(of, 1)
            row[f"{name}_interval"] = wilson_interval(found.count(name), of)
        points.append(row)
    return points


@torch.inference_mode()
def measure(system: Session, document: Document) -> list[dict[str, Any]]:
    """Tells one conversation, and asks its questions."""
    desk = system.desk
    reading = system.read([document])
    answers = system.answer(reading, [(0, one) for one in document.questions])
    cases = []
    for question, answer in zip(document.questions, answers, strict=True):
        ids = torch.tensor([text_ids(desk.tokenizer, question.text)], device=desk.model.device)
        (recalled,) = desk.model.recall(ids, reading.kept, top_k=1)
        scores = dialogue.score(question, answer.text)
        cases.append({
            "id": f"{document.id}/{question.id}",
            "kind": question.at["kind"],
            "reply": answer.text,
            "evidence": recalled.evidence,
            "margin": recalled.margin,
            "right": bool(scores["right"]),
            "refused": bool(scores["refused"]),
        })  # fmt: skip
    return cases


def page(report: Mapping[str, Any]) -> Page:
    """The page of a report: a row for each threshold."""
    lines = [["least evidence", *OUTCOMES.values()]]
    for row in report["curve"]:
        shares = []
        for name in OUTCOMES:
            low, high = row[f"{name}_interval"]
            shares.append(f"{100 * row[name]:.0f} ({100 * low:.0f}–{100 * high:.0f})")
        lines.append([f"{row['least']:.3f}", *shares])
    return Page(
        f"Refusing: {report['settings']['model']}",
        "Replies about what was told and what was never told, in % of the questions of each kind, "
        "where a reply with less evidence than the first column says counts as a refusal (95 % "
        "interval over questions, Wilson's). In the first row the model decides alone.",
        lines,
    )


def plot(path: Path, points: Sequence[Mapping[str, Any]]) -> None:
    """Draws the shares against the least evidence: what was told, and what never was."""
    panels = []
    for never in (False, True):
        lines = [
            Line(label, [row["least"] for row in points], [row[name] for row in points])
            for name, label in OUTCOMES.items()
            if name.startswith(NEVER) == never
        ]
        panels.append(Panel("least evidence", "share of the questions", lines, top=1.05))
    draw(path, "Replies, and refusals for want of evidence", panels)


def main(
    model: ModelArgument = None,
    conversations: Annotated[int, typer.Option(min=1, help="Nine questions each.")] = 12,
    seed: Annotated[int, typer.Option(help="Draws the conversations.")] = 0,
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/refusing"),
) -> None:
    require("the report", PAGE, PICTURE)
    use_threads(threads)
    settings = {"conversations": conversations, "seed": seed, "dtype": dtype}
    report: dict[str, Any] = head("eval.refusing", model_name(model) | settings)
    opened, tokenizer = open_model(model, dtype=dtype)
    benchmark = dialogue.dialogue(tokenizer, conversations, seed=seed)
    try:
        prompts = STYLES["chat"](tokenizer, benchmark.instruction, benchmark.marks, "")
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    system = Session(Desk(opened, tokenizer, prompts, benchmark.max_new_tokens, lambda _: None))
    cases: list[dict[str, Any]] = []
    with progress_bar(Console(stderr=True)) as bar:
        for document in bar.track(benchmark.documents, description="refusing"):
            cases += measure(system, document)
            report |= {"curve": curve(cases), "cases": cases}
            write_json(out.with_name(f"{out.name}.json"), report)
    picture = out.with_name(f"{out.name}.png")
    plot(picture, report["curve"])
    publish(out, page(report), report, [picture])


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
