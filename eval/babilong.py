"""BABILong: bAbI's questions about facts strewn in book text, scored by the official metric.

    python -m eval.babilong MODEL --babi FOLDER --books FOLDER --tasks qa1,qa2 --lengths 0k,1k

`--babi` takes a folder with bAbI's test files, `--books` one with prose; without them the published
samples, RMT-team/babilong, are read from the hub. Every case has a document of its own. The rows:

- `memformer`: the document was memorized, the question is asked in a new segment
- `truncated`: the plain model with the last 512 tokens of document and question
- `full`: the plain model with everything in its window; n/a where the window is too short
- `nothing`: the question alone

Answers are greedy, of at most 20 tokens. With `--style plain` the question is written as
"Question: ..." and "Answer:", without special tokens, as for models trained on such questions;
`--style chat` asks in chat turns. Lengths are those of BABILong, counted by the model's own
tokenizer where samples are made here. Each case is kept in OUT.cases.jsonl as it is done: the same
command goes on where it was interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import Progress

from eval.asking import progress_bar
from eval.babilong_metric import HEADLINE, LABELS, LEFT_OUT, average, floor, score
from eval.babilong_rows import BATCH_TOKENS, MAX_NEW_TOKENS, ROWS, STYLES, WINDOW, Bench
from eval.babilong_samples import (
    HUB_NAME,
    LENGTHS,
    PROMPT_TOKENS,
    FromHub,
    FromStories,
    NoSamples,
    Source,
)
from eval.cases import CaseLog, OtherRun
from eval.recall import WindowExceeded, wilson_interval
from eval.report import (
    DtypeOption,
    Line,
    ModelArgument,
    OutOption,
    Panel,
    ThreadsOption,
    draw,
    head,
    model_name,
    open_model,
    write_json,
)
from eval.stories import Background, Count, story_file

# cases whose documents are made at once, if they are short
BATCH_CASES = 20

# ---- asking --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """What a run asks, in order."""

    tasks: Sequence[str]
    lengths: Sequence[str]
    rows: Sequence[str]

    def cost(self, row: str, length: str) -> int:
        """Tokens that a case reads, roughly."""
        everything = LENGTHS[length] + 200
        return {"nothing": 20, "truncated": min(WINDOW, everything)}.get(row, everything)

    def cost_of_all(self, source: Source) -> int:
        """Tokens that all cases read."""
        return sum(
            self.cost(row, length) * source.count(task, length)
            for task in self.tasks
            for length in self.lengths
            for row in self.rows
        )


class Meter:
    """A progress bar in tokens."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.progress = progress
        self.bar = progress.add_task("", total=total)
        self.most = 0

    @contextmanager
    def step(self, description: str, cost: int) -> Iterator[None]:
        """A part of the work that is planned to read so many tokens."""
        self.most += cost
        self.progress.update(self.bar, description=description)
        yield
        self.progress.update(self.bar, completed=self.most)

    def advance(self, tokens: int) -> None:
        """So many more tokens are read; never beyond the plan of this step."""
        now = self.progress.tasks[0].completed
        self.progress.update(self.bar, completed=min(self.most, now + tokens))


def ask_all(
    bench: Bench,
    source: Source,
    plan: Plan,
    log: CaseLog,
    meter: Meter,
    done: Callable[[], None],
) -> None:
    """Asks what the log lacks. The batches are the same whether or not a run was interrupted.

    Args:
        done: called whenever the cells of a task and a length are complete.
    """
    answered = {(*_cell(one), one["case"]) for one in log.results}
    too_long = {_cell(one) for one in log.results if "reason" in one}
    for task, length in ((task, length) for task in plan.tasks for length in plan.lengths):
        at_once = max(1, min(BATCH_CASES, BATCH_TOKENS // max(1, LENGTHS[length])))
        cases = range(source.count(task, length))
        for begin in range(0, len(cases), at_once):
            some = cases[begin : begin + at_once]
            cells = [(task, length, row) for row in plan.rows]
            lacking = [
                cell
                for cell in cells
                if cell not in too_long and any((*cell, case) not in answered for case in some)
            ]
            samples = [source.sample(task, length, case) for case in some] if lacking else []
            tokens = [len(bench.style.document(sample)) for sample in samples]
            for cell in cells:
                row = cell[-1]
                with meter.step(f"{task}, {length}, {row}", plan.cost(row, length) * len(some)):
                    if cell not in lacking:
                        continue
                    where = {"task": task, "length": length, "row": row}
                    started = time.perf_counter()
                    try:
                        texts = bench.answers(row, samples)
                    except WindowExceeded as error:
                        too_long.add(cell)
                        log.add([where | {"case": begin, "reason": f"exceeds window ({error})"}])
                        continue
                    seconds = (time.perf_counter() - started) / len(some)
                    log.add(
                        [
                            where
                            | {
                                "case": case,
                                "source": sample.source,
                                "question": sample.question,
                                "target": sample.target,
                                "output": text,
                                "correct": score(task, text, sample.target, sample.question),
                                "tokens": length_in_tokens,
                                "seconds": round(seconds, 3),
                            }
                            for case, sample, text, length_in_tokens in zip(
                                some, samples, texts, tokens, strict=True
                            )
                            if (*cell, case) not in answered
                        ]
                    )
        done()


def _cell(result: dict[str, Any]) -> tuple[str, str, str]:
    return result["task"], result["length"], result["row"]


# ---- the report ----------------------------------------------------------------------------


def make_cells(plan: Plan, source: Source, log: CaseLog) -> list[dict[str, Any]]:
    """One task, length and row each, of those that are complete."""
    results: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for result in log.results:
        results.setdefault(_cell(result), []).append(result)
    cells = []
    for task, length, row in (
        (task, length, row) for task in plan.tasks for length in plan.lengths for row in plan.rows
    ):
        mine = results.get((task, length, row), [])
        cell: dict[str, Any] = {"task": task, "length": length, "row": row}
        if reasons := [one["reason"] for one in mine if "reason" in one]:
            cells.append(cell | {"accuracy": None, "reason": f"n/a: {reasons[0]}"})
        elif len(mine) == (cases := source.count(task, length)):
            correct = sum(one["correct"] for one in mine)
            constant, share = floor(task, [(one["target"], one["question"]) for one in mine])
            cells.append(
                cell
                | {
                    "cases": cases,
                    "correct": correct,
                    "accuracy": correct / cases,
                    "interval": wilson_interval(correct, cases),
                    "floor": share,
                    "constant": constant,
                    "tokens": round(sum(one["tokens"] for one in mine) / cases),
                    "seconds": round(sum(one["seconds"] for one in mine), 1),
                    "predictions": [
                        {
                            name: one[name]
                            for name in ("source", "question", "target", "output", "correct")
                        }
                        for one in mine
                    ],
                }
            )
    return cells


def make_means(plan: Plan, cells: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Means over the five tasks of the leaderboard, and over all tasks of the run.

    A mean is only there where all its tasks are.
    """
    everything = [task for task in plan.tasks if task not in LEFT_OUT]
    groups = [list(HEADLINE)] if set(HEADLINE) <= set(everything) else []
    if len(everything) > 1 and set(everything) != set(HEADLINE):
        groups.append(everything)
    means = []
    for tasks in groups:
        for length, row in ((length, row) for length in plan.lengths for row in plan.rows):
            mine = {
                cell["task"]: cell
                for cell in cells
                if (cell["length"], cell["row"]) == (length, row) and cell["task"] in tasks
            }
            scored = {task: one for task, one in mine.items() if one["accuracy"] is not None}
            if set(scored) == set(tasks):
                share, interval = average(
                    {task: (one["correct"], one["cases"]) for task, one in scored.items()}
                )
                means.append(
                    {
                        "tasks": tasks,
                        "length": length,
                        "row": row,
                        "accuracy": share,
                        "interval": interval,
                        "floor": sum(one["floor"] for one in scored.values()) / len(tasks),
                    }
                )
    return means


def markdown(report: dict[str, Any]) -> str:
    """The report's tables, means first, and how they came about."""
    settings, machine = report["settings"], report["machine"]
    groups: dict[str, list[dict[str, Any]]] = {}
    for mean in report["means"]:
        groups.setdefault(f"Mean of {_named(mean['tasks'])}", []).append(mean)
    for cell in report["cells"]:
        groups.setdefault(cell["task"], []).append(cell)
    parts = [
        f"# BABILong: {report['model']}",
        f"Accuracy in % by the official metric (95 % interval), best constant answer below. "
        f"Samples: {settings['samples']}. {settings['cases']} cases a cell, or as many as there "
        f"are; seed {settings['seed']}; style {settings['style']}; {settings['dtype']}; memory of "
        f"{settings['memory']['num_slots'] or 'unbounded'} slots; answers are greedy, of at most "
        f"{MAX_NEW_TOKENS} tokens.",
    ]
    for title, entries in groups.items():
        parts.append(f"## {title}\n\n" + _table(entries, settings["lengths"], settings["rows"]))
    for task, reason in LEFT_OUT.items():
        if task in settings["tasks"]:
            parts.append(f"{task} is in no mean: {reason}.")
    parts.append(f"```sh\n{report['command']}\n```")
    parts.append(
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads of torch"
        f"{', ' + machine['gpu'] if 'gpu' in machine else ''}; started {report['started']}."
    )
    return "\n\n".join(parts) + "\n"


def _named(tasks: Sequence[str]) -> str:
    return "qa1-qa5" if tuple(tasks) == HEADLINE else ", ".join(tasks)


def _table(entries: Sequence[dict[str, Any]], lengths: Sequence[str], rows: Sequence[str]) -> str:
    at = {(entry["row"], entry["length"]): entry for entry in entries}
    lines = [["", *lengths], ["---"] * (len(lengths) + 1)]
    for row in rows:
        lines.append([row, *(_share(at.get((row, length))) for length in lengths)])
    floors = {entry["length"]: entry for entry in entries if entry["accuracy"] is not None}
    lines.append(["constant answer", *(_floor(floors.get(length)) for length in lengths)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _share(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    if entry["accuracy"] is None:
        return "n/a"
    low, high = entry["interval"]
    return f"{100 * entry['accuracy']:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def _floor(entry: dict[str, Any] | None) -> str:
    if entry is None:
        return ""
    said = f" ({entry['constant']})" if "constant" in entry else ""
    return f"{100 * entry['floor']:.1f}{said}"


def plot(path: Path, report: dict[str, Any]) -> None:
    """Accuracy against length: of the leaderboard's mean if there is one, else of every task."""
    headline = [mean for mean in report["means"] if tuple(mean["tasks"]) == HEADLINE]
    groups = {"mean of qa1-qa5": headline} if headline else {}
    for cell in [] if headline else report["cells"]:
        if cell["accuracy"] is not None:
            groups.setdefault(cell["task"], []).append(cell)
    lengths, rows = report["settings"]["lengths"], report["settings"]["rows"]
    panels = [_panel(title, entries, lengths, rows) for title, entries in groups.items()]
    if panels:  # none where every cell exceeds a window
        draw(path, f"BABILong: {report['model']}", panels)


def _panel(
    title: str, entries: Sequence[dict[str, Any]], lengths: Sequence[str], rows: Sequence[str]
) -> Panel:
    lines = []
    for place, row in enumerate(rows):
        mine = [entry for entry in entries if entry["row"] == row]
        # beside one another, where values coincide
        shift = 0.03 * (place - (len(rows) - 1) / 2)
        lines.append(
            Line(
                row,
                [lengths.index(entry["length"]) + shift for entry in mine],
                [entry["accuracy"] for entry in mine],
                [entry["interval"][0] for entry in mine],
                [entry["interval"][1] for entry in mine],
            )
        )
    floors = {lengths.index(entry["length"]): entry["floor"] for entry in entries}
    lines.append(Line("constant answer", sorted(floors), [floors[at] for at in sorted(floors)]))
    return Panel("nominal tokens of the document", title, lines, ticks=lengths, top=1.02)


# ---- the command ---------------------------------------------------------------------------


def _listed(text: str, known: Sequence[str], option: str) -> list[str]:
    """Reads a list such as `qa1,qa2`.

    Raises:
        typer.BadParameter: something in it is unknown, or there twice.
    """
    found = text.split(",")
    if unknown := [one for one in found if one not in known]:
        raise typer.BadParameter(f"{option} knows {', '.join(known)}; got {unknown[0]!r}.")
    if len(set(found)) < len(found):
        raise typer.BadParameter(f"{option} names something twice: {text!r}.")
    return found


def open_source(
    babi: Path | None,
    books: Path | None,
    plan: Plan,
    cases: int,
    seed: int,
    count: Count,
) -> tuple[Source, dict[str, Any]]:
    """The samples, and what a report says about them.

    Raises:
        typer.BadParameter: they can't be had.
    """
    if babi is None:
        if books is not None:
            raise typer.BadParameter("--books needs --babi too: the hub's samples hold their own.")
        said = f"{HUB_NAME} on the hub; its lengths are counted by GPT-2's tokenizer"
        try:
            return FromHub(plan.tasks, plan.lengths, cases, seed), {"samples": said}
        except NoSamples as error:
            raise typer.BadParameter(str(error)) from None
    texts: list[Path] = []
    if set(plan.lengths) != {"0k"}:
        if books is None:
            raise typer.BadParameter("--babi needs --books too, for lengths beyond 0k.")
        texts = sorted([*books.glob("*.txt"), *books.glob("*.txt.gz")])
        if not texts:
            raise typer.BadParameter(f"--books takes a folder of .txt or .txt.gz; {books} has none")
    try:
        background = Background(texts, count) if texts else None
        source = FromStories(babi, plan.tasks, cases, seed, background, count)
        files = [*(story_file(babi, task, "test") for task in plan.tasks), *texts]
    except (OSError, EOFError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    for task, length in ((task, length) for task in plan.tasks for length in plan.lengths):
        if source.count(task, length) == 0:
            raise typer.BadParameter(f"{task} has no question whose statements fit into {length}.")
    return source, {
        "samples": f"made from bAbI's test files and {len(texts)} books; lengths are counted by "
        f"the model's own tokenizer (officially GPT-2's), {PROMPT_TOKENS} tokens of each are left "
        "to the prompt",
        "files": {path.name: sha256(path.read_bytes()).hexdigest()[:12] for path in files},
    }


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    model: ModelArgument = None,
    babi: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with bAbI's test files."),
    ] = None,
    books: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with books, .txt or .txt.gz."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="qa1 to qa20; a list.")] = ",".join(HEADLINE),
    lengths: Annotated[str, typer.Option(help="0k to 512k, 1M; a list.")] = "0k,1k,2k,4k",
    cases: Annotated[int, typer.Option(min=1, help="Of each task at each length.")] = 100,
    rows: Annotated[str, typer.Option(help="What to compare; a list.")] = ",".join(ROWS),
    style: Annotated[
        Literal["plain", "chat"], typer.Option(help="How documents and questions are written.")
    ] = "plain",
    slots: Annotated[
        int | None, typer.Option(min=1, help="Capacity of the memory; else the checkpoint's.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws cases, book text and places.")] = 0,
    again: Annotated[bool, typer.Option("--again", help="Start over.")] = False,
    threads: ThreadsOption = None,
    device: Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")] = "cpu",
    dtype: DtypeOption = "float32",
    out: OutOption = Path("reports/babilong"),
) -> None:
    plan = Plan(
        _listed(tasks, list(LABELS), "--tasks"),
        _listed(lengths, list(LENGTHS), "--lengths"),
        _listed(rows, ROWS, "--rows"),
    )
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    loaded, tokenizer = open_model(model, device, dtype)
    fingerprint = loaded.fingerprint
    backbone: Any = loaded.backbone
    if hasattr(backbone, "merge_adapter"):
        backbone.merge_adapter()  # one product where there were three
    memory = loaded.memory_config.to_dict()
    num_slots = slots or memory["num_slots"]
    bench = Bench(loaded, tokenizer, STYLES[style](tokenizer), num_slots)
    source, samples = open_source(babi, books, plan, cases, seed, bench.count)
    settings = {
        "tasks": plan.tasks,
        "lengths": plan.lengths,
        "cases": cases,
        "rows": plan.rows,
        "style": style,
        "seed": seed,
        "device": device,
        "dtype": dtype,
        "max_new_tokens": MAX_NEW_TOKENS,
        "window": WINDOW,
        "memory": memory | {"num_slots": num_slots},
        "fingerprint": fingerprint,
        **samples,
    }
    try:
        log = CaseLog(out.with_name(f"{out.name}.cases.jsonl"), settings, again)
    except OtherRun as error:
        raise typer.BadParameter(str(error)) from None
    report = head("eval.babilong", settings) | model_name(model) | {"finished": False}

    def write() -> None:
        cells = make_cells(plan, source, log)
        report.update(means=make_means(plan, cells), cells=cells)
        write_json(out.with_name(f"{out.name}.json"), report)
        out.with_name(f"{out.name}.md").write_text(markdown(report), encoding="utf-8")

    with progress_bar(console) as progress:
        meter = Meter(progress, plan.cost_of_all(source))
        bench.advance = meter.advance
        ask_all(bench, source, plan, log, meter, write)
    report["finished"] = True
    write()
    plot(out.with_name(f"{out.name}.png"), report)
    typer.echo(markdown(report))


if __name__ == "__main__":
    app()
