"""One turn of `memformer chat`: words for the model, or a command such as `/memory`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from typing import Any, TextIO

import typer
from rich.table import Table
from transformers import TextStreamer

from memformer.chat import ChatSession
from memformer.cli.documents import read_with_bar
from memformer.cli.output import cell, note, sentence, show, visible
from memformer.documents import Document
from memformer.recollection import Passage

PASSAGE_CHARACTERS = 400
# digits of a turn number; a longer number does not fit into a tensor
MOST_DIGITS = 18
CHAT_HELP = """\
/memory        what is remembered, by turn
/why           what the last reply was recalled from
/forget TURN   remove a turn from memory
/read FILE     read a text file into memory
/help          this list
/quit          leave (so do Ctrl-C and Ctrl-D)

Pasted text of several lines is one turn. A line that begins with a space is said, not obeyed:
so is one that begins with a slash then. Ctrl-C stops a reply."""


def lines(stdin: TextIO) -> Iterator[str]:
    """Reads the turns that the user types, until the input ends or Ctrl-C at the prompt."""
    if isinstance(stdin, TextIOWrapper):
        # a byte that is not UTF-8 makes its turn an error, not the whole input
        stdin.reconfigure(encoding="utf-8", errors="surrogateescape")
    ask: Callable[[str], str] = input
    if stdin.isatty():
        from prompt_toolkit import PromptSession

        ask = PromptSession[str]().prompt
    while True:
        try:
            yield ask("> ")
        except (EOFError, KeyboardInterrupt):
            typer.echo()
            return


def take_turn(session: ChatSession, line: str) -> None:
    """Says or obeys a line; an error is a sentence on stderr, and the conversation goes on."""
    is_said = line[0].isspace() or "\n" in line.strip() or not line.startswith("/")
    command, _, argument = line.strip().partition(" ")
    try:
        if is_said:
            session.say(line.strip(), streamer=VisibleStreamer(session.tokenizer))
        else:
            _obey(session, command, argument.strip())
    except KeyboardInterrupt:
        typer.echo()
        kept = "what was read is kept; /read it again to go on" if command == "/read" else None
        note(f"stopped; {kept or 'this turn is not remembered'}.")
    except (ValueError, OSError) as error:
        note(f"error: {sentence(error)}")


def _obey(session: ChatSession, command: str, argument: str) -> None:
    match command:
        case "/help":
            typer.echo(CHAT_HELP)
        case "/memory":
            show(memory_table(session.turns()))
        case "/why":
            show(passage_table(session.why()))
        case "/forget":
            if not (argument.isascii() and argument.isdecimal()):
                raise ValueError("Which turn? /memory shows their numbers; then: /forget TURN")
            count = session.forget(int(argument)) if len(argument) <= MOST_DIGITS else 0
            typer.echo(f"{count:,} tokens forgotten" if count else "no such turn in memory")
        case "/read":
            if not argument:
                raise ValueError("Which file? /read FILE")
            found = read_with_bar(session, Document.file(argument), again=False, shown=True)
            if found.tokens:
                typer.echo(f"{found.tokens:,} tokens read, {found.kept:,} kept")
        case _:
            raise ValueError(
                f"There is no command {command}; /help lists them. To say a line that begins with "
                "a slash, begin it with a space."
            )


class VisibleStreamer(TextStreamer):
    """Prints a reply while it is generated, with its control characters shown."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Prints the finished part of the reply."""
        typer.echo(visible(text), nl=stream_end)


def memory_table(turns: list[dict[str, Any]]) -> Table:
    """The turns of a memory as a table, one row each; see `ChatSession.turns`."""
    table = Table(show_lines=True)
    for name in ("turn", "tokens"):
        table.add_column(name, justify="right")
    table.add_column("remembered")
    for turn in turns:
        parts = [turn["text"]]
        if turn["document"] is not None:
            parts.insert(0, f"[{turn['document']}]")
        if turn["reply"]:
            parts.append(f"→ {turn['reply']}")
        shortened = "\n".join(_short(part) for part in parts if part)
        table.add_row(str(turn["turn"]), f"{turn['tokens']:,}", cell(shortened))
    return table


def passage_table(passages: Sequence[Passage], *, around: bool = False) -> Table:
    """Recalled passages as a table, best first.

    Args:
        passages: the passages.
        around: whether rows for the neighbours stand around each, dimmed.
    """
    table = Table(show_lines=True)
    for name in ("score", "turn"):
        table.add_column(name, justify="right")
    table.add_column("told")
    for passage in passages:
        if around and passage.before:
            # the end of what was told before is nearest
            text = _short(passage.before.text[::-1])[::-1]
            table.add_row("before", str(passage.before.turn), cell(text), style="dim")
        table.add_row(f"{passage.score:.2f}", str(passage.turn), cell(_short(passage.text)))
        if around and passage.after:
            text = _short(passage.after.text)
            table.add_row("after", str(passage.after.turn), cell(text), style="dim")
    return table


def _short(text: str) -> str:
    if len(text) <= PASSAGE_CHARACTERS:
        return text
    return text[:PASSAGE_CHARACTERS].rstrip() + " ..."
