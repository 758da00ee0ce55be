"""The `memformer` command itself: the options that all commands share, and the form of errors.

This file and the modules of the commands import torch and transformers inside functions only: that
takes seconds, and `--help` or a mistake in the arguments needs neither. Exit status: 0, 1 for an
error (one line on stderr), 2 for usage.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from memformer.cli.output import one_line, sentence
from memformer.pretrained import FetchError
from memformer.version import __version__

# errors that a user can cause
EXPECTED = (ValueError, OSError, KeyError, FetchError)


class _Commands(TyperGroup):
    """Turns errors that a user can cause into one line, except with `--debug`."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except Exception as error:
            if ctx.params.get("debug") or not isinstance(error, EXPECTED):
                raise
            typer.echo(f"error: {sentence(error)}", err=True)
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
BackboneOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Where the decoder of a checkpoint is, if it is not where it was.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
TokensOption = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
DocumentsOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--document",
        metavar="FILE",
        help="UTF-8 text of any length to read into memory first; may be given several times. "
        "`-` is standard input.",
    ),
]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memformer {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show warnings, and the traceback of an error.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    if not debug:
        warnings.simplefilter("ignore")
        # the user sees the warnings of this package, each as one line
        warnings.filterwarnings("default", category=UserWarning, module=r"memformer(\.|$)")
        warnings.showwarning = _show_warning
        os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    typer.echo(f"warning: {one_line(str(message))}", err=True)
