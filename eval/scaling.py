"""Time and space against the length of the text: a memory with a fixed number of slots, and the
plain model's prefill beside it.

    python -m eval.scaling MODEL --lengths 2048,4096,8192,16384 --out reports/scaling

A run that was interrupted goes on where it was, on the same machine with the same settings.

Each cell is a process of its own, so that no cell inherits the memory of another: it loads the
model, reads 512 tokens to warm up, then reads the text and is timed, again and again until
`--min-seconds` are over: short texts would otherwise be at the mercy of what else the machine does.
Peak memory is the highest resident size while reading, less what was resident after loading. Where
the kernel lets a process reset its peak (Linux does) neither loading nor warming up counts;
elsewhere they do.

The plain model stops at `--plain-max` tokens: its window, or what the machine can hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from eval.corpora.book import book_name
from eval.corpora.haystack import Haystack
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, PICTURE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import (
    BookOption,
    ModelArgument,
    OutOption,
    ThreadsOption,
    numbers,
    use_threads,
)
from eval.reporting.page import Page, publish
from eval.reporting.plots import Panel, cell_lines, draw
from eval.reporting.report import head, write_json
from eval.reporting.resident import in_fresh_process, peak, release, reset_peak, resident

MEMORIZE, PREFILL = "memorize", "prefill"
WARM_UP_TOKENS = 512
MIB = 2**20

Entry = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One measurement: a way of reading, and a number of tokens."""

    what: str
    model: str | None
    length: int
    num_slots: int
    min_seconds: float
    book: Path | None = None
    threads: int | None = None


def measure(cell: Cell) -> Entry:
    """Runs one cell in this process, which must be fresh."""
    use_threads(cell.threads)
    model, tokenizer = open_model(cell.model)
    haystack = Haystack(tokenizer, cell.book)
    text = haystack.tokens(cell.length)
    return asdict(read(model, text, cell.what, cell.num_slots, cell.min_seconds))


@dataclass(frozen=True)
class Reading:
    """The costs of a pass over a text; the state is the memory, or the cache of keys and values."""

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
    """Measures reading a text after a warm-up, once or until `min_seconds` are over."""
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


def last_to_first(cells: Sequence[Entry]) -> dict[str, float]:
    """Speed at the greatest length over speed at the least: 1 if cost is linear in the length."""
    found = {}
    for what in (MEMORIZE, PREFILL):
        mine = sorted((c for c in cells if c["what"] == what), key=lambda cell: cell["length"])
        if len(mine) > 1:
            found[what] = float(mine[-1]["tokens_per_second"] / mine[0]["tokens_per_second"])
    return found


def interrupted(path: Path, report: Entry) -> list[Entry]:
    """The cells of an interrupted run with the same settings on the same machine."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
        same = all(
            before[name] == report[name] for name in ("model", "settings", "versions", "machine")
        )
        return [] if before["finished"] or not same else before["cells"]
    except (OSError, ValueError, TypeError, KeyError):  # no file, or a file of another form
        return []


def page(report: Entry) -> Page:
    """The page of a report: both ways of reading side by side, a row for each length."""
    settings, cells = report["settings"], report["cells"]
    units = ("tokens/s", "peak MiB", "state MiB")
    lines = [["tokens", *(f"{what}, {unit}" for what in (MEMORIZE, PREFILL) for unit in units)]]
    for length in settings["lengths"]:
        line = [f"{length:,}"]
        for what in (MEMORIZE, PREFILL):
            here = [cell for cell in cells if (cell["what"], cell["length"]) == (what, length)]
            line += _figures(here[0]) if here else ["–"] * len(units)
        lines.append(line)
    last = ["last / first"]
    for what in (MEMORIZE, PREFILL):
        ratio = report["last_to_first"].get(what)
        last += ["" if ratio is None else f"× {ratio:.2f}", "", ""]
    return Page(
        _title(report),
        f"{MEMORIZE}: into a memory of {settings['num_slots']:,} slots. {PREFILL}: the plain "
        f"model, up to {settings['plain_max']:,} tokens. Peak: resident while reading, beyond the "
        "loaded model. State: what is kept, the memory or the keys and values.",
        [*lines, last],
    )


def _title(report: Entry) -> str:
    return f"Reading long texts: {report['model']}"


def _figures(cell: Entry) -> list[str]:
    return [
        f"{cell['tokens_per_second']:,.0f}",
        f"{cell['peak_bytes'] / MIB:,.0f}",
        f"{cell['state_bytes'] / MIB:,.1f}",
    ]


def plot(path: Path, report: Entry) -> None:
    """Speed against length, and peak memory against length."""
    slots, cells = report["settings"]["num_slots"], report["cells"]
    labels = {MEMORIZE: f"memorize, {slots:,} slots", PREFILL: "plain model's prefill"}
    panels = []
    for key, y_label, unit in (
        ("tokens_per_second", "tokens per second", 1),
        ("peak_bytes", "peak memory beyond the model, MiB", MIB),
    ):
        lines = cell_lines(cells, "what", labels, "length", key, unit)
        panels.append(Panel("tokens of text", y_label, lines, log_x=True))
    draw(path, _title(report), panels)


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
    require("the report", PAGE, PICTURE)
    all_lengths = sorted(numbers(lengths, 1, "--lengths"))
    use_threads(threads)
    console = Console(stderr=True)
    settings = {
        "lengths": all_lengths,
        "num_slots": num_slots,
        "plain_max": plain_max,
        "min_seconds": min_seconds,
        "book": book_name(book),
        "warm_up_tokens": WARM_UP_TOKENS,
    }
    report = head("eval.scaling", settings) | model_name(model)
    path = out.with_name(out.name + ".json")
    cells = interrupted(path, report)
    report |= {"finished": False, "last_to_first": {}, "cells": cells}
    known = {(cell["what"], cell["length"]) for cell in cells}
    for length in all_lengths:
        for what in (MEMORIZE, PREFILL):
            if (what == PREFILL and length > plain_max) or (what, length) in known:
                continue
            with console.status(f"{what}, {length:,} tokens"):
                cell = Cell(what, model, length, num_slots, min_seconds, book, threads)
                measured = in_fresh_process(measure, cell)
            cells.append({"what": what, **measured})
            report["last_to_first"] = last_to_first(cells)
            write_json(path, report)
    report |= {"finished": True, "last_to_first": last_to_first(cells)}
    write_json(path, report)
    picture = out.with_name(out.name + ".png")
    plot(picture, report)
    publish(out, page(report), report, [picture])


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
