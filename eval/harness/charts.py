"""Pictures of a report: scores along the columns of its tables, heat maps, score against cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from eval.harness.benchmark import Benchmark
from eval.harness.looks import looks, words
from eval.harness.pages import tokens_each
from eval.reporting.plots import Line, Panel, draw

Entry = Mapping[str, Any]


def draw_all(out: Path, benchmark: Benchmark, report: Entry) -> list[Path]:
    """Draws all pictures that the figures allow, and returns their files."""
    drawn = []
    if panels := _panels(benchmark, report):
        drawn.append(out.with_name(f"{out.name}.png"))
        draw(drawn[-1], f"{benchmark.title}: {report['model']}", panels)
    if benchmark.heat and (maps := _maps(benchmark, report)):
        drawn.append(out.with_name(f"{out.name}_heat.png"))
        _draw_heat(drawn[-1], benchmark, maps)
    if sum(entry["scores"] is not None for entry in report["overall"]) > 1:
        drawn.append(out.with_name(f"{out.name}_cost.png"))
        _draw_cost(drawn[-1], benchmark, report)
    return drawn


def _panels(benchmark: Benchmark, report: Entry) -> list[Panel]:
    """One panel for each mean over cells, or for each table where there is no mean."""
    *tabled, columns = benchmark.axes
    groups: dict[str, list[Entry]] = {}
    if tabled and report["means"]:
        for mean in report["means"]:
            groups.setdefault(mean["title"], []).append(mean)
    elif not benchmark.heat:
        for cell in report["cells"]:
            groups.setdefault(", ".join(f"{axis} {cell[axis]}" for axis in tabled), []).append(cell)
    scored = {
        title: [entry for entry in entries if entry["scores"] is not None]
        for title, entries in groups.items()
    }
    return [
        _panel(benchmark, title, entries, columns, report)
        for title, entries in scored.items()
        if entries
    ]


def _panel(
    benchmark: Benchmark, title: str, entries: Sequence[Entry], columns: str, report: Entry
) -> Panel:
    systems, model = report["settings"]["systems"], report["model"]
    metric = benchmark.metrics[0]
    ticks = [one for one in benchmark.axes[columns] if any(e[columns] == one for e in entries)]
    lines = []
    drawn = looks(systems)
    for place, system in enumerate(systems):
        mine = [entry for entry in entries if entry["system"] == system]
        # equal values are drawn beside one another
        shift = 0.03 * (place - (len(systems) - 1) / 2)
        lines.append(
            Line(
                words(system, model),
                [ticks.index(entry[columns]) + shift for entry in mine],
                [entry["scores"][metric] for entry in mine],
                [entry["intervals"][metric][0] for entry in mine],
                [entry["intervals"][metric][1] for entry in mine],
                color=drawn[system].color,
                marker=drawn[system].marker,
                style=drawn[system].line,
            )
        )
    if benchmark.constants:
        floors = {ticks.index(entry[columns]): entry["constant_score"] for entry in entries}
        at = sorted(floors)
        heights = [floors[place] for place in at]
        lines.append(Line("a constant answer", at, heights, color="black", marker="", style=":"))
    label = f"{metric} ({title})" if title else metric
    return Panel(columns, label, lines, ticks=ticks, top=1.02)


def _maps(benchmark: Benchmark, report: Entry) -> dict[str, list[list[float]]]:
    """The headline scores of each system: a row for each value of the first axis."""
    down, across = list(benchmark.axes)
    metric = benchmark.metrics[0]
    at = {(cell["system"], cell[down], cell[across]): cell for cell in report["cells"]}
    found = {}
    for system in report["settings"]["systems"]:
        rows = []
        for value in benchmark.axes[down]:
            cells = [at.get((system, value, other)) for other in benchmark.axes[across]]
            rows.append([_score(cell, metric) for cell in cells])
        if any(score == score for row in rows for score in row):
            found[words(system, report["model"])] = rows
    return found


def _score(cell: Entry | None, metric: str) -> float:
    return float("nan") if cell is None or cell["scores"] is None else cell["scores"][metric]


def _draw_heat(path: Path, benchmark: Benchmark, maps: Mapping[str, list[list[float]]]) -> None:
    from matplotlib.figure import Figure

    (down, rows), (across, columns) = benchmark.axes.items()
    figure = Figure(figsize=(1.6 + 3.4 * len(maps), 3.8), layout="constrained")
    figure.suptitle(f"{benchmark.title}: {benchmark.metrics[0]}", fontsize=11)
    places = figure.subplots(1, len(maps), squeeze=False, sharey=True)[0]
    for axes, (system, scores) in zip(places, maps.items(), strict=True):
        image = axes.imshow(scores, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
        axes.set_title(system, fontsize=10)
        axes.set_xticks(range(len(columns)), columns, rotation=45)
        axes.set_yticks(range(len(rows)), rows)
        axes.set_xlabel(across)
        axes.set_facecolor("lightgrey")  # cells without a score
        for y, line in enumerate(scores):
            for x, score in enumerate(line):
                said = "n/a" if score != score else f"{100 * score:.0f}"
                axes.text(x, y, said, ha="center", va="center", fontsize=8)
    places[0].set_ylabel(down)
    figure.colorbar(image, ax=list(places))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def _draw_cost(path: Path, benchmark: Benchmark, report: Entry) -> None:
    """Draws the headline score of all questions against the tokens that the model reads for one."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    metric = benchmark.metrics[0]
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    drawn = looks(report["settings"]["systems"])
    for entry in report["overall"]:
        if entry["scores"] is None:
            continue
        score, (low, high) = entry["scores"][metric], entry["intervals"][metric]
        bars = [[max(0.0, score - low)], [max(0.0, high - score)]]
        look = drawn[entry["system"]]
        axes.errorbar([tokens_each(entry)], [score], yerr=bars, marker=look.marker, capsize=3,
                      color=look.color, linestyle="",
                      label=words(entry["system"], report["model"]))  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_ylim(bottom=0)
    axes.set_xlabel("tokens that the model is given for a question")
    axes.set_ylabel(f"{metric}, all questions")
    axes.set_title(f"{benchmark.title}: quality against cost", fontsize=11)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
