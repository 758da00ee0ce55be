"""What the commands show: text, tables and JSON on stdout, progress on stderr.

What documents, memories and replies hold is shown, not executed: control characters are replaced
by pictures of themselves before they reach the terminal.
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

# what moves the cursor, writes to the clipboard, turns text around or can't be encoded
CONTROL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
PATH_CHARACTERS = 100


def visible(text: str) -> str:
    """The same text with its control characters shown: ESC as ␛, others by their numbers."""
    return CONTROL.sub(lambda match: _picture(match[0]), text)


def _picture(character: str) -> str:
    number = ord(character)
    if number < 0x20:
        return chr(0x2400 + number)
    return "␡" if number == 0x7F else f"\\u{number:04x}"


def one_line(text: str) -> str:
    """The same without line breaks, and with control characters shown."""
    return visible(" ".join(text.split()))


def sentence(error: BaseException) -> str:
    """An error in one line; an error of the system without its number and with a shortened path."""
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
    """Prints text as it is, or something of rich."""
    is_text = isinstance(what, str)
    Console().print(Text(visible(what)) if is_text else what, soft_wrap=is_text)


def cell(text: str) -> Text:
    """What a table shows of a text."""
    return Text(visible(text))


def say(text: str) -> None:
    """Prints text to stdout as it is, but for its control characters."""
    typer.echo(visible(text))


def note(text: str) -> None:
    """Prints a line to stderr."""
    typer.echo(one_line(text), err=True)


def print_json(value: Any) -> None:
    """Prints one JSON object, in UTF-8 whatever the locale is."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    # JSON itself escapes what is below a space; the others may stand in its texts only
    escaped = re.sub("(?![\n])" + CONTROL.pattern, lambda found: f"\\u{ord(found[0]):04x}", text)
    typer.echo(escaped.encode())


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
def reading(name: str, *, shown: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on stderr, where that is a terminal; yields the function to call with (done, total)."""
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
