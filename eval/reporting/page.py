"""A report as a page: Markdown with tables, and the same as HTML with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import typer

Entry = Mapping[str, Any]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem;
       color: #222 }
table { border-collapse: collapse; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .7rem; text-align: right }
th:first-child, td:first-child { text-align: left }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto }
img { max-width: 100% }
"""


@dataclass(frozen=True)
class Page:
    """A report with one table.

    Attributes:
        title: heading of the page.
        explained: paragraph above the table, which says what the figures are.
        table: the lines of the table; the first line is its head.
    """

    title: str
    explained: str
    table: Sequence[Sequence[str]]

    def markdown(self, report: Entry) -> str:
        """The page as text; it ends with the origin of the report's figures."""
        parts = [f"# {self.title}", self.explained, grid(self.table)]
        return "\n\n".join([*parts, origin(report["command"], report)]) + "\n"


def publish(out: Path, page: Page, report: Entry, pictures: Sequence[Path] = ()) -> None:
    """Writes the page of a report as OUT.md and OUT.html, and prints it."""
    text = page.markdown(report)
    write_page(out, page.title, text, pictures)
    typer.echo(text)


def grid(lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first line is its head."""
    head, *rest = lines
    lines = [head, ["---"] * len(head), *rest]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def origin(command: str, run: Entry) -> str:
    """The origin of a report: its command, its `machine`, and the time when it was `started`."""
    machine = run["machine"]
    gpu = f", {machine['gpu']}" if "gpu" in machine else ""
    return (
        f"```sh\n{command}\n```\n\n"
        f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads of torch"
        f"{gpu}; started {run['started']}."
    )


def write_page(out: Path, title: str, text: str, pictures: Sequence[Path]) -> None:
    """Writes Markdown as OUT.md and, with the pictures inside, as OUT.html."""
    out.with_name(f"{out.name}.md").write_text(text, encoding="utf-8")
    page = html(text, title, pictures)
    out.with_name(f"{out.name}.html").write_text(page, encoding="utf-8")


def html(text: str, title: str, pictures: Sequence[Path]) -> str:
    """A page in HTML that needs no other file: pictures and style are inside."""
    from markdown_it import MarkdownIt

    body = MarkdownIt("commonmark").enable("table").render(text)
    shown = "".join(
        f'<p><img alt="{escape(path.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></p>'
        for path in pictures
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}{shown}</body></html>\n"
    )
