"""What the commands show: text, tables and JSON on stdout, progress on stderr."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text


def one_line(text: str) -> str:
    """The same without line breaks."""
    return " ".join(text.split())


def show(what: Any) -> None:
    """Prints text as it is, or something of rich."""
    Console().print(Text(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))


def print_json(value: Any) -> None:
    """Prints one JSON object."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


@contextlib.contextmanager
def status(text: str, *, shown: bool) -> Iterator[None]:
    """A spinner on stderr, where that is a terminal."""
    console = Console(stderr=True)
    if shown and console.is_terminal:
        with console.status(Text(text)):
            yield
    else:
        yield


@contextlib.contextmanager
def reading(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; yields the function to call with (done, total)."""
    console = Console(stderr=True)
    columns = (
        TextColumn("reading"),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
    )
    start = time.monotonic()
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task("", total=None, counted="")

        def report(done: int, total: int) -> None:
            rate = done / max(time.monotonic() - start, 1e-9)
            counted = f"{done:,} of {total:,} tokens, {rate:,.0f} tokens/s"
            bar.update(task, completed=done, total=total, counted=counted)

        yield report
