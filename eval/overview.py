"""Where a memory wins and where it loses: several reports on one page.

    python -m eval.overview reports/babilong.json reports/locomo.json --out reports/overview

Every row and column of a report's tables is a line: the memory beside the best system without
one, which is chosen after the fact and so a little flattered. The difference is over the same
questions, with a 95 % interval by drawing documents anew, with all their questions (paired
bootstrap). A line is "ahead" or "behind" where that interval leaves out zero, and "open" where it
contains it: these questions do not decide which of the two is better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.harness.looks import looks, words
from eval.harness.metrics import BY_LENGTH, LIKELIHOOD
from eval.harness.specs import WITH_MEMORY, parse
from eval.harness.summary import bootstrap
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, PICTURE, require
from eval.reporting.options import OutOption
from eval.reporting.page import grid, write_page
from eval.reporting.report import write_json

ALL = "all questions"
# the name for the model of each report where several reports stand together
OWN = "MODEL"
OPEN = "open: the interval contains 0"
# the most rows of a picture with one column
ONE_COLUMN = 26

Report = Mapping[str, Any]
Scores = dict[tuple[str, str], float]  # keys: document and question


class BadReport(ValueError):
    """A file that is no report of the harness; the message names the file and the reason."""


@dataclass(frozen=True)
class Line:
    """The questions of one report that have one value on one of its axes.

    Attributes:
        benchmark: the title of the report.
        place: axis and value, or all questions.
        metric: the headline of the report.
        questions: the number of questions, which both systems have answered.
        ours: the score of the memory.
        other: the name of the best system without a memory.
        best: the score of that system.
        difference: the score of the memory less the score of that system.
        low: the lower end of the difference's 95 % interval.
        high: the upper end.
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
        """`ahead`, `behind`, or `open` if the interval contains 0."""
        return "ahead" if self.low > 0 else "behind" if self.high < 0 else "open"


def read(path: Path) -> Report:
    """A report of the harness.

    Raises:
        BadReport: the file is no report of the harness.
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
    """A line for each value of every axis with several values, and a line for all questions.

    Raises:
        BadReport: the report lacks the system `ours`, or a system without memory.
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
        # systems that could not see all documents are left out
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
    # documents of one source are not independent
    sources = {one["document"]: one.get("source", one["document"]) for one in report["questions"]}
    low, high = bootstrap(differences, [sources[document] for document, _ in mine])
    return Line(
        report["title"], place, report["metrics"][0], len(mine), _mean(mine.values()),
        _short(other, report),
        _mean(theirs.values()), _mean(differences), low, high,
    )  # fmt: skip


def _short(system: str, report: Report) -> str:
    """The name of a system, with MODEL for the model of the report."""
    own = f"@{report['model']}"
    return f"{system.removesuffix(own)}@{OWN}" if system.endswith(own) else system


def markdown(found: Sequence[Line], reports: Sequence[Report]) -> str:
    """Two tables: the memory against the best other system, and all systems on all questions."""
    heads = ["benchmark", "where", "metric", "questions", "memory", "best without", "which"]
    table = [[*heads, "difference (95 %)", ""]]
    for one in found:
        table.append([
            one.benchmark, one.place, one.metric, str(one.questions), _percent(one.ours),
            _percent(one.best), words(one.other, OWN),
            f"{100 * one.difference:+.1f} ({100 * one.low:+.0f} to {100 * one.high:+.0f})",
            one.verdict,
        ])  # fmt: skip
    systems = dict.fromkeys(
        _short(text, one) for one in reports for text in one["settings"]["systems"]
    )
    whole = [["all questions", *(words(text, OWN) for text in systems)]]
    for report in reports:
        scores = {_short(one["system"], report): one["scores"] for one in report["overall"]}
        for metric in _shown(report):
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
        "difference is over the same questions, with a 95 % interval over documents. Ahead and "
        "behind: all of the interval lies on one side of 0. Open: the interval contains 0, so "
        "these questions do not decide which of the two is better.",
        grid(table),
        "Trained weights: those of the model above, its memory off; without them, a system runs "
        "on the model as released. n/a: a text is longer than the window.",
        grid(whole),
        f"```sh\n{commands}\n```",
    ]) + "\n"  # fmt: skip


def _shown(report: Report) -> list[str]:
    """The headline; where options are ranked, the score of free answers too."""
    headline, *others = report["metrics"]
    ranked = (BY_LENGTH, LIKELIHOOD)
    return [headline, *(one for one in others if headline in ranked and one not in ranked)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def draw(path: Path, found: Sequence[Line]) -> None:
    """Draws the differences with their intervals, in the colour of the other system.

    Benchmarks stand one below the other, in two columns where there are many lines.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    columns = _columns(_benchmarks(found))
    rows = max(map(_height, columns))
    figure = Figure(figsize=(1.5 + 5.5 * len(columns), 1.6 + 0.21 * rows), layout="constrained")
    figure.suptitle("The memory less the best system without one", fontsize=11)
    drawn = looks(list(dict.fromkeys(one.other for one in found)))
    ends = [100 * end for one in found for end in (one.low, one.high, 0.0)]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    for axes, column in zip(figure.subplots(1, len(columns), squeeze=False)[0], columns,
                            strict=True):  # fmt: skip
        labels: list[str] = []
        headings: list[int] = []
        for lines in column:
            headings.append(len(labels))
            labels.append(f"{lines[0].benchmark}, {lines[0].metric}")
            for one in lines:
                look = drawn[one.other]
                bars = [[100 * max(0.0, one.difference - one.low)],
                        [100 * max(0.0, one.high - one.difference)]]  # fmt: skip
                filled = "white" if one.verdict == "open" else look.color
                axes.errorbar([100 * one.difference], [len(labels)], xerr=bars, fmt=look.marker,
                              color=look.color, markerfacecolor=filled, markersize=5,
                              capsize=2)  # fmt: skip
                labels.append(one.place)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        for heading in headings:
            axes.get_yticklabels()[heading].set_fontweight("bold")
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xlim(min(ends) - margin, max(ends) + margin)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_xlabel(
            "← memory behind    points, with 95 % interval    memory ahead →", fontsize=9
        )
        axes.grid(axis="x", alpha=0.3)
        axes.tick_params(axis="y", length=0)
    against = [
        Line2D([], [], color=look.color, marker=look.marker, label=f"against {words(name, OWN)}")
        for name, look in drawn.items()
    ]
    hollow = Line2D([], [], color="black", marker="o", markerfacecolor="white", label=OPEN)
    figure.legend(
        handles=[*against, hollow], loc="outside lower center", fontsize=8, ncols=1 + len(columns)
    )
    figure.savefig(path, dpi=130)


def _benchmarks(found: Sequence[Line]) -> list[list[Line]]:
    """The lines of each report; its last line covers all questions."""
    groups: list[list[Line]] = [[]]
    for one in found:
        groups[-1].append(one)
        if one.place == ALL:
            groups.append([])
    return [lines for lines in groups if lines]


def _columns(benchmarks: list[list[Line]]) -> list[list[list[Line]]]:
    """One column, or two columns of about the same height."""
    if _height(benchmarks) <= ONE_COLUMN or len(benchmarks) == 1:
        return [benchmarks]
    splits = ([benchmarks[:at], benchmarks[at:]] for at in range(1, len(benchmarks)))
    return min(splits, key=lambda columns: max(map(_height, columns)))


def _height(benchmarks: Sequence[Sequence[Line]]) -> int:
    """The rows of a column: a heading for each benchmark, and its lines."""
    return sum(1 + len(lines) for lines in benchmarks)


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


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
