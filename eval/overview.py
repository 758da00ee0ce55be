"""Where a memory wins and where it loses: several reports on one page.

    python -m eval.overview reports/babilong.json reports/locomo.json --out reports/overview

Every row and column of a report's tables is a line: the memory beside the best system without
one, which is chosen after the fact and so a little flattered. The difference is over the same
questions, with a 95 % interval by drawing documents anew, with all their questions (paired
bootstrap). A line is "ahead" or "behind" where that interval leaves out zero.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.extras import PAGE, PICTURE, require
from eval.harness.pages import grid, write_page
from eval.harness.roster import parse
from eval.harness.summary import bootstrap
from eval.report import OutOption, write_json

# systems that have a memory of ours; all others are what somebody would use instead
WITH_MEMORY = ("memformer", "ungated", "attached")
ALL = "all questions"
VERDICTS = {"ahead": "tab:green", "open": "tab:gray", "behind": "tab:red"}

Report = Mapping[str, Any]
Scores = dict[tuple[str, str], float]  # by document and question


class BadReport(ValueError):
    """A file that is no report of the harness; the message says which, and why."""


@dataclass(frozen=True)
class Line:
    """The questions of one report that have one value on one of its axes.

    Attributes:
        benchmark: title of the report.
        place: axis and value, or all questions.
        metric: headline of the report.
        questions: that both systems have answered.
        ours: score of the memory.
        other: name of the best system without one.
        best: its score.
        difference: of the two, ours first.
        low: end of its 95 % interval.
        high: the other end.
    """

    benchmark: str
    place: str
    metric: str
    questions: int
    ours: float
    other: str
    best: float
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """Whether the memory is ahead, behind, or that is open."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


def read(path: Path) -> Report:
    """A report of the harness.

    Raises:
        BadReport: it is something else.
    """
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        missing = {"title", "axes", "metrics", "questions", "predictions", "overall"} - set(report)
    except (OSError, ValueError, TypeError) as error:
        reason = getattr(error, "strerror", None) or "it is no JSON object"
        raise BadReport(f"{path} can't be read as a report: {reason}.") from None
    if missing:
        raise BadReport(
            f"{path} is no report that this version of the harness has written: it lacks "
            f"{', '.join(sorted(missing))}. Run its command again."
        )
    return report


def lines(report: Report, ours: str) -> Iterator[Line]:
    """A line for each value of every axis that has several, and one for all questions.

    Raises:
        BadReport: the report has no such system, or none without memory.
    """
    names = {spec.text: spec.name for spec in parse(",".join(report["settings"]["systems"]))}
    alike = (text for text, name in names.items() if name == ours)
    mine = ours if ours in names else next(alike, None)
    others = [text for text, name in names.items() if name not in WITH_MEMORY]
    if mine is None or not others:
        raise BadReport(
            f"the report {report['title']!r} compares {', '.join(names)}: there must be {ours!r} "
            "and a system without memory."
        )
    axes = {axis: values for axis, values in report["axes"].items() if len(values) > 1}
    places = [{axis: value} for axis, values in axes.items() for value in values]
    for place in [*places, dict[str, str]()]:
        scores = {text: _scores(report, text, place) for text in (mine, *others)}
        asked = scores[mine].keys()
        # not those that could not see it all
        whole = [text for text in others if scores[text].keys() == asked]
        if asked and whole:
            best = max(whole, key=lambda text: _mean(scores[text].values()))
            label = " ".join(f"{axis} {value}" for axis, value in place.items()) or ALL
            yield _line(report, label, scores[mine], best, scores[best])


def _scores(report: Report, system: str, place: Mapping[str, str]) -> Scores:
    metric = report["metrics"][0]
    there = {
        (one["document"], one["question"])
        for one in report["questions"]
        if place.items() <= one["at"].items()
    }
    return {
        key: one["scores"][metric]
        for one in report["predictions"]
        if one["system"] == system and (key := (one["document"], one["question"])) in there
    }


def _mean(values: Any) -> float:
    return sum(values) / len(values)


def _line(report: Report, place: str, mine: Scores, other: str, theirs: Scores) -> Line:
    differences = [mine[key] - theirs[key] for key in mine]
    # beginnings of one document are not independent
    sources = {one["document"]: one.get("source", one["document"]) for one in report["questions"]}
    low, high = bootstrap(differences, [sources[document] for document, _ in mine])
    return Line(
        report["title"], place, report["metrics"][0], len(mine), _mean(mine.values()),
        _short(other, report),
        _mean(theirs.values()), _mean(differences), low, high,
    )  # fmt: skip


def _short(system: str, report: Report) -> str:
    """A system's name, with MODEL for the one that the report is about."""
    own = f"@{report['model']}"
    return f"{system.removesuffix(own)}@MODEL" if system.endswith(own) else system


def markdown(found: Sequence[Line], reports: Sequence[Report]) -> str:
    """Two tables: the memory against the best other system, and every system on everything."""
    heads = ["benchmark", "where", "metric", "questions", "memory", "best without", "which"]
    table = [[*heads, "difference (95 %)", ""]]
    for one in found:
        table.append([
            one.benchmark, one.place, one.metric, str(one.questions), _percent(one.ours),
            _percent(one.best), f"`{one.other}`",
            f"{100 * one.difference:+.1f} ({100 * one.low:+.0f} to {100 * one.high:+.0f})",
            one.verdict,
        ])  # fmt: skip
    systems = dict.fromkeys(
        _short(text, one) for one in reports for text in one["settings"]["systems"]
    )
    whole = [["all questions", *(f"`{text}`" for text in systems)]]
    for report in reports:
        scores = {_short(one["system"], report): one["scores"] for one in report["overall"]}
        metric = report["metrics"][0]
        cells = [
            "" if text not in scores else
            "n/a" if scores[text] is None else _percent(scores[text][metric])
            for text in systems
        ]  # fmt: skip
        whole.append([f"{report['title']}, {metric}", *cells])
    models = ", ".join(dict.fromkeys(report["model"] for report in reports))
    commands = "\n".join(report["command"] for report in reports)
    return "\n\n".join([
        f"# With a memory and without: {models}",
        "In %. The best system without a memory is chosen after the fact for every line; the "
        "difference is over the same questions, with a 95 % interval over documents.",
        grid(table),
        "MODEL: the one above, its memory off. n/a: a text is longer than the window.",
        grid(whole),
        f"```sh\n{commands}\n```",
    ]) + "\n"  # fmt: skip


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def draw(path: Path, found: Sequence[Line]) -> None:
    """The differences, one below the other, with their intervals."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 0.32 * len(found)), layout="constrained")
    axes = figure.subplots()
    for verdict, color in VERDICTS.items():
        at = [(place, one) for place, one in enumerate(found) if one.verdict == verdict]
        middle = [100 * one.difference for _, one in at]
        ends = [[100 * max(0.0, one.difference - one.low) for _, one in at],
                [100 * max(0.0, one.high - one.difference) for _, one in at]]  # fmt: skip
        axes.errorbar(middle, [place for place, _ in at], xerr=ends, fmt="o", color=color,
                      capsize=3, label=verdict)  # fmt: skip
    names = [f"{one.benchmark}, {one.place} (against {one.other})" for one in found]
    axes.set_yticks(range(len(found)), names, fontsize=8)
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlabel("memory less the best system without one, points (95 % interval)")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    reports: Annotated[list[Path], typer.Argument(help="OUT.json of benchmarks.")],
    ours: Annotated[str, typer.Option(help="Which system is the memory.")] = "memformer",
    out: OutOption = Path("reports/overview"),
) -> None:
    require("the report", PAGE, PICTURE)
    try:
        opened = [read(path) for path in reports]
        found = [line for report in opened for line in lines(report, ours)]
    except BadReport as error:
        raise typer.BadParameter(str(error)) from None
    if not found:
        raise typer.BadParameter(
            "there is nothing to compare: no column has answers of the memory and of another."
        )
    text = markdown(found, opened)
    entries = [asdict(line) | {"verdict": line.verdict} for line in found]
    summary = {"reports": [report["command"] for report in opened], "lines": entries}
    write_json(out.with_name(f"{out.name}.json"), summary, levels=2)
    picture = out.with_name(f"{out.name}.png")
    draw(picture, found)
    write_page(out, "With a memory and without", text, [picture])
    typer.echo(text)


if __name__ == "__main__":
    app()
