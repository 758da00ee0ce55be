"""The output of commands: text, tables and JSON on stdout, progress on stderr.

Text from documents, memories and replies can't control the terminal: control characters are
replaced by visible ones.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

# characters that control the terminal, turn text around or can't be encoded
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
PATH_CHARACTERS = 100


def visible(text: str) -> str:
    """The text with its control characters made visible: ESC as ␛, others by their numbers."""
    return CONTROL.sub(lambda match: _picture(match[0]), text)


def _picture(character: str) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"\\u{number:04x}"


def one_line(text: str) -> str:
    """The text without line breaks, and with its control characters made visible."""
    return visible(" ".join(text.split()))


def sentence(error: BaseException) -> str:
    """An error in one line; for an error of the system, without its number, with a short path."""
    if isinstance(error, KeyError) and error.args:
        return one_line(str(error.args[0]))
    if not isinstance(error, OSError) or error.strerror is None:
        return one_line(str(error))
    path = error.filename if isinstance(error.filename, str) else ""
    if len(path) > PATH_CHARACTERS:
        path = path[:PATH_CHARACTERS] + " ..."
    return one_line(
        f"{path or 'A file'} can't be read or written: {error.strerror}; check the path, its "
        "permissions and the disk."
    )


def show(what: Any) -> None:
    """Prints a text, or an object of rich such as a table."""
    is_text = isinstance(what, str)
    Console().print(Text(visible(what)) if is_text else what, soft_wrap=is_text)


def cell(text: str) -> Text:
    """A text as a cell of a table."""
    return Text(visible(text))


def say(text: str) -> None:
    """Prints a text to stdout with its control characters made visible."""
    typer.echo(visible(text))


def note(text: str) -> None:
    """Prints a line to stderr."""
    typer.echo(one_line(text), err=True)


def print_json(value: Any) -> None:
    """Prints one JSON object, always in UTF-8."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # JSON escapes the characters below the space; the others can stand only inside its strings
    escaped = re.sub("(?![\n])" + CONTROL.pattern, lambda found: f"\\u{ord(found[0]):04x}", text)
    typer.echo(escaped.encode())


@contextlib.contextmanager
def status(text: str, *, shown: bool) -> Iterator[None]:
    """Shows a spinner on stderr, if stderr is a terminal."""
    console = Console(stderr=True)
    if shown and console.is_terminal:
        with console.status(Text(text)):
            yield
    else:
        yield


@contextlib.contextmanager
def reading(name: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """Shows a bar on stderr, if it is a terminal; yields a function to call with (done, total)."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[counted]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    begun: list[tuple[float, int]] = []
    with Progress(*columns, console=console, disable=not (shown and console.is_terminal)) as bar:
        task = bar.add_task(f"reading {visible(name)}", total=None, counted="")

        def report(done: int, total: int) -> None:
            now = time.monotonic()
            if not begun:
                begun.append((now, done))
            rate = (done - begun[0][1]) / max(now - begun[0][0], 1e-9)
            speed = f", {rate:,.0f} tokens/s" if done > begun[0][1] else ""
            counted = f"{done:,} of about {total:,} tokens{speed}"
            bar.update(task, completed=done, total=total, counted=counted)

        yield report
