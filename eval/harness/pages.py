"""The page of a benchmark's report: its tables in Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from eval.harness.benchmark import Benchmark
from eval.reporting.page import grid, origin

Entry = Mapping[str, Any]


def markdown(benchmark: Benchmark, report: Entry, timing: Entry) -> str:
    """The whole page: the tables, headline first, and the origin of the report."""
    metric = benchmark.metrics[0]
    parts = [f"# {benchmark.title}: {report['model']}", _explained(benchmark, report)]
    parts += [*benchmark.notes]
    *tabled, columns = benchmark.axes
    for title in benchmark.averages:
        mine = [mean for mean in report["means"] if mean["title"] == title]
        if len(benchmark.axes) > 1 and mine:
            parts.append(_table(title, metric, mine, columns, benchmark, report))
    for place in product(*(benchmark.axes[axis] for axis in tabled)):
        here = dict(zip(tabled, place, strict=True))
        mine = [cell for cell in report["cells"] if here.items() <= cell.items()]
        if mine:
            title = ", ".join(f"{axis} {value}" for axis, value in here.items())
            parts.append(_table(title or metric, metric, mine, columns, benchmark, report))
    parts += [_whole(benchmark, report, timing), origin(report["command"], timing)]
    return "\n\n".join(parts) + "\n"


def _explained(benchmark: Benchmark, report: Entry) -> str:
    settings = report["settings"]
    floors = "best constant answer below, " if benchmark.constants else ""
    return (
        f"{benchmark.metrics[0]} in % (95 % interval), {floors}answers greedy and of at most "
        f"{benchmark.max_new_tokens} tokens; style {settings['style']} where a system names no "
        f"other; {settings['dtype']}."
    )


def _table(
    title: str,
    metric: str,
    entries: Sequence[Entry],
    columns: str,
    benchmark: Benchmark,
    report: Entry,
) -> str:
    values = [value for value in benchmark.axes[columns]
              if any(entry.get(columns) == value for entry in entries)]  # fmt: skip
    at = {(entry["system"], entry.get(columns)): entry for entry in entries}
    lines = [[columns, *values]]
    for system in report["settings"]["systems"]:
        lines.append([f"`{system}`", *(_share(at.get((system, one)), metric) for one in values)])
    first = {value: next(e for e in entries if e.get(columns) == value) for value in values}
    if benchmark.constants:
        lines.append(["constant answer", *(_floor(first[value]) for value in values)])
    if any(entry["chance"] for entry in first.values()):
        lines.append(["chance", *(f"{100 * first[value]['chance']:.1f}" for value in values)])
    if "questions" in entries[0]:
        lines.append(["questions", *(str(first[value]["questions"]) for value in values)])
    return f"## {title}\n\n{grid(lines)}"


def _share(entry: Entry | None, metric: str) -> str:
    if entry is None:
        return ""
    if entry["scores"] is None:
        return "n/a" if entry["reason"].startswith("exceeds") else "–"
    low, high = entry["intervals"][metric]
    return f"{100 * entry['scores'][metric]:.1f} ({100 * low:.0f}–{100 * high:.0f})"


def _floor(entry: Entry) -> str:
    if "constant_score" not in entry:
        return ""
    if "constant" not in entry:
        return f"{100 * entry['constant_score']:.1f}"
    # a line break or a bar would end the cell of the table
    said = " ".join(entry["constant"].replace("|", " ").split())
    return f"{100 * entry['constant_score']:.1f} ({said[:24]})"


def _whole(benchmark: Benchmark, report: Entry, timing: Entry) -> str:
    """A table with every metric over all questions, and with the costs of each system."""
    costs = ("tokens a question", "kept of a document", "s a question")
    heads = ["system", *benchmark.metrics, *costs]
    lines = [heads]
    for entry in report["overall"]:
        name = entry["system"]
        if entry["scores"] is None:
            reason = "n/a" if entry["reason"].startswith("exceeds") else "–"
            lines.append([f"`{name}`", *[reason] * (len(heads) - 1)])
            continue
        seconds = timing["seconds"].get(name)
        lines.append(
            [
                f"`{name}`",
                *(_share(entry, metric) for metric in benchmark.metrics),
                f"{tokens_each(entry):,.0f}",
                _size(entry["state_bytes"]),
                "" if seconds is None else f"{seconds / entry['questions']:.2f}",
            ]
        )
    return (
        "## All questions\n\n"
        f"{grid(lines)}\n\n"
        "Tokens a question: what the model is given, with each document's reading shared among its "
        "questions. Kept: memory, or keys and values, from reading to the last question."
    )


def tokens_each(entry: Entry) -> float:
    """Tokens that the model reads for a question, its share of the document included."""
    each: float = (entry["read_tokens"] + entry["prompt_tokens"]) / entry["questions"]
    return each


def _size(count: int) -> str:
    if not count:
        return "–"
    # sizes range from a few vectors to a full memory
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 / 10 else f"{count / 2**10:,.1f} KiB"
