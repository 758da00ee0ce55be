"""One line of `memformer chat`: something said, or a command such as `/memory`."""

from __future__ import annotations

import typer
from rich.table import Table
from rich.text import Text
from transformers import TextStreamer

from memformer.chat import ChatSession
from memformer.cli.output import one_line, show

PASSAGE_CHARACTERS = 400
CHAT_HELP = """\
/memory        what is remembered, by turn
/forget TURN   remove a turn from memory
/help          this list
/quit          leave (so do Ctrl-C and Ctrl-D)"""


def take_turn(session: ChatSession, line: str) -> None:
    """Does what a line says; an error is a sentence on stderr, and the conversation goes on."""
    command, _, argument = line.partition(" ")
    try:
        if command == "/help":
            typer.echo(CHAT_HELP)
        elif command == "/memory":
            show(_memory_table(session))
        elif command == "/forget":
            if not argument.strip().isdecimal():
                raise ValueError("Which turn? /memory shows their numbers; then: /forget TURN")
            count = session.forget(int(argument))
            typer.echo(f"{count:,} tokens forgotten" if count else "no such turn in memory")
        elif command.startswith("/"):
            raise ValueError(f"There is no command {command}; /help lists them.")
        else:
            streamer = TextStreamer(session.tokenizer, skip_prompt=True, skip_special_tokens=True)
            session.say(line, streamer=streamer)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {one_line(str(error))}", err=True)


def _memory_table(session: ChatSession) -> Table:
    table = Table(show_lines=True)
    for name in ("turn", "tokens", "reads"):
        table.add_column(name, justify="right")
    table.add_column("remembered")
    for turn in session.turns():
        text = turn["text"]
        if len(text) > PASSAGE_CHARACTERS:
            text = text[:PASSAGE_CHARACTERS].rstrip() + " ..."
        table.add_row(str(turn["turn"]), f"{turn['tokens']:,}", f"{turn['reads']:.1f}", Text(text))
    return table
