"""Time and space against the length of the text: a memory with a fixed number of slots, and the
plain model's prefill beside it.

    python -m eval.scaling MODEL --lengths 2048,4096,8192,16384 --out reports/scaling

Each cell is a process of its own, so that no cell inherits the memory of another: it loads the
model, reads 512 tokens to warm up, then reads the text and is timed, again and again until
`--min-seconds` are over: short texts would otherwise be at the mercy of what else the machine does.
Peak memory is the highest resident size while reading, less what was resident after loading. Where
the kernel lets a process reset its peak (Linux does) neither loading nor warming up counts;
elsewhere they do.

The plain model stops at `--plain-max` tokens: its window, or what the machine can hold.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

from eval.haystack import Haystack
from eval.report import (
    BookOption,
    Line,
    ModelArgument,
    OutOption,
    Panel,
    ThreadsOption,
    draw,
    head,
    model_name,
    numbers,
    open_model,
    write_json,
)
from eval.resident import in_fresh_process, peak, release, reset_peak, resident

MEMORIZE, PREFILL = "memorize", "prefill"
WARM_UP_TOKENS = 512
MIB = 2**20


@dataclass(frozen=True)
class Cell:
    """One measurement: which way of reading, and how many tokens."""

    what: str
    model: str | None
    length: int
    num_slots: int
    min_seconds: float
    book: Path | None = None
    threads: int | None = None


def measure(cell: Cell) -> dict[str, Any]:
    """Runs one cell in this process; called in a fresh one."""
    if cell.threads:
        torch.set_num_threads(cell.threads)
    model, tokenizer = open_model(cell.model)
    haystack = Haystack(tokenizer, cell.book)
    text = haystack.tokens(cell.length)
    return asdict(read(model, text, cell.what, cell.num_slots, cell.min_seconds))


@dataclass(frozen=True)
class Reading:
    """What a pass over a text took; the state is the memory, or the cache of keys and values."""

    length: int
    passes: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    state_bytes: int
    peak_was_reset: bool


def read(
    model: Any, ids: Sequence[int], what: str, num_slots: int, min_seconds: float = 0.0
) -> Reading:
    """Reads a text after a warm-up, once or until so many seconds are over, and measures it."""
    text = torch.tensor([list(ids)])
    with torch.inference_mode():
        release()
        loaded = resident()
        _pass(model, text[:, :WARM_UP_TOKENS], what, num_slots)
        release()
        was_reset = reset_peak()
        passes, elapsed = 0, 0.0
        started = time.perf_counter()
        while passes == 0 or elapsed < min_seconds:
            state_bytes = _pass(model, text, what, num_slots)
            passes += 1
            elapsed = time.perf_counter() - started
        seconds = elapsed / passes
    return Reading(
        length=len(ids),
        passes=passes,
        seconds=seconds,
        tokens_per_second=len(ids) / seconds,
        peak_bytes=max(0, peak() - loaded),
        state_bytes=state_bytes,
        peak_was_reset=was_reset,
    )


def _pass(model: Any, text: torch.Tensor, what: str, num_slots: int) -> int:
    if what == MEMORIZE:
        memory = model.memorize(text, memory=model.init_memory(num_slots=num_slots))
        return int(memory.nbytes)
    out = model.backbone(input_ids=text, use_cache=True, logits_to_keep=1)
    tensors = [part for layer in out.past_key_values.layers for part in (layer.keys, layer.values)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


# ---- the report ----------------------------------------------------------------------------


def slowdown(cells: Sequence[dict[str, Any]], what: str) -> float | None:
    """Speed at the greatest length over speed at the least: 1 where cost is linear in length."""
    mine = sorted((c for c in cells if c["what"] == what), key=lambda cell: cell["length"])
    if len(mine) < 2:
        return None
    return float(mine[-1]["tokens_per_second"] / mine[0]["tokens_per_second"])


def table(cells: Sequence[dict[str, Any]], lengths: Sequence[int]) -> Table:
    """Both ways of reading side by side, a length a line."""
    found = Table(title="Reading a text of so many tokens")
    found.add_column("tokens", justify="right")
    for what in (MEMORIZE, PREFILL):
        for unit in ("tokens/s", "peak MiB", "state MiB"):
            found.add_column(f"{what}\n{unit}", justify="right")
    for length in lengths:
        line = [f"{length:,}"]
        for what in (MEMORIZE, PREFILL):
            here = [cell for cell in cells if (cell["what"], cell["length"]) == (what, length)]
            line += _figures(here[0]) if here else ["not run", "", ""]
        found.add_row(*line)
    ratios = []
    for what in (MEMORIZE, PREFILL):
        ratio = slowdown(cells, what)
        ratios += ["" if ratio is None else f"x {ratio:.2f}", "", ""]
    found.add_section()
    found.add_row("last/first", *ratios)
    return found


def _figures(cell: dict[str, Any]) -> list[str]:
    return [
        f"{cell['tokens_per_second']:,.0f}",
        f"{cell['peak_bytes'] / MIB:,.0f}",
        f"{cell['state_bytes'] / MIB:,.1f}",
    ]


def plot(path: Path, model: str, num_slots: int, cells: Sequence[dict[str, Any]]) -> None:
    """Speed against length, and peak memory against length."""
    labels = {MEMORIZE: f"memorize, {num_slots:,} slots", PREFILL: "plain model's prefill"}
    panels = []
    for key, y_label, unit in (
        ("tokens_per_second", "tokens per second", 1),
        ("peak_bytes", "peak memory beyond the model, MiB", MIB),
    ):
        lines = []
        for what, label in labels.items():
            mine = sorted((c for c in cells if c["what"] == what), key=lambda c: c["length"])
            if mine:
                x, y = [cell["length"] for cell in mine], [cell[key] / unit for cell in mine]
                lines.append(Line(label, x, y))
        panels.append(Panel("tokens of text", y_label, lines, log_x=True))
    draw(path, f"Reading long texts: {model}", panels)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    model: ModelArgument = None,
    lengths: Annotated[
        str, typer.Option(help="Tokens of text; a list.")
    ] = "2048,4096,8192,16384,32768,65536",
    num_slots: Annotated[int, typer.Option(min=1, help="Capacity of the memory.")] = 1024,
    plain_max: Annotated[
        int, typer.Option(min=0, help="Longest text for the plain model; 0 leaves it out.")
    ] = 8192,
    min_seconds: Annotated[
        float, typer.Option(min=0, help="Read a text again until so many seconds are over.")
    ] = 10.0,
    book: BookOption = None,
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/scaling"),
) -> None:
    all_lengths = sorted(numbers(lengths, 1, "--lengths"))
    if threads:
        torch.set_num_threads(threads)
    started = time.perf_counter()
    console = Console()
    settings = {
        "lengths": all_lengths,
        "num_slots": num_slots,
        "plain_max": plain_max,
        "min_seconds": min_seconds,
        "book": book.name if book else "eval/data/thursday.txt",
        "warm_up_tokens": WARM_UP_TOKENS,
    }
    report = head("eval.scaling", settings) | model_name(model)
    cells: list[dict[str, Any]] = []
    report |= {"finished": False, "wall_seconds": 0.0, "last_to_first": {}, "cells": cells}
    path = out.with_name(out.name + ".json")
    for length in all_lengths:
        for what in (MEMORIZE, PREFILL):
            if what == PREFILL and length > plain_max:
                continue
            with console.status(f"{what}, {length:,} tokens"):
                cell = Cell(what, model, length, num_slots, min_seconds, book, threads)
                measured = in_fresh_process(measure, cell)
            cells.append({"what": what, **measured})
            report["last_to_first"] = {
                way: ratio for way in (MEMORIZE, PREFILL) if (ratio := slowdown(cells, way))
            }
            report["wall_seconds"] = round(time.perf_counter() - started, 1)
            write_json(path, report)
    report["finished"] = True
    write_json(path, report)
    plot(out.with_name(out.name + ".png"), report["model"], num_slots, cells)
    console.print(table(cells, all_lengths))
    console.print(f"{path} and {out.name}.png, {report['wall_seconds']:.0f} s")


if __name__ == "__main__":
    app()
