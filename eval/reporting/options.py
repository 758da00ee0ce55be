"""Options that several commands share, and the checks of their values.

Each check runs before a model is opened. This file knows no measurement and no model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from eval.corpora.book import read_book

ModelArgument = Annotated[
    str | None, typer.Argument(help="Hub id or folder; the default model if left out.")
]


def checked_book(path: Path | None) -> Path | None:
    """The path of a book that can be read.

    Raises:
        typer.BadParameter: the file can't be read, or holds no text.
    """
    try:
        read_book(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    return path


BookOption = Annotated[
    Path | None,
    typer.Option(
        help="Text file to read from; an excerpt of a novel if left out.", callback=checked_book
    ),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of weights and activations; memories are addressed in float32 in both."),
]


def checked_device(name: str) -> str:
    """The name of a device that this machine has.

    Raises:
        typer.BadParameter: the machine has no such device.
    """
    try:
        torch.empty(0, device=name)
    # a build of torch without the device raises one of the first two
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise typer.BadParameter(
            f"{name!r} can't be used on this machine ({reason}); take cpu, or a device that torch "
            "finds."
        ) from None
    return name


DeviceOption = Annotated[
    str, typer.Option(help="Where to run, such as cpu or cuda.", callback=checked_device)
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]


def use_threads(count: int | None) -> None:
    """Sets the CPU threads of torch; None leaves torch its own choice."""
    if count:
        torch.set_num_threads(count)


OutOption = Annotated[Path, typer.Option(help="Where to write, without .json and .png.")]


def numbers(text: str, least: int, option: str) -> list[int]:
    """Reads a list such as `0,512,2048`.

    Raises:
        typer.BadParameter: the text is no such list, has a number twice, or one below `least`.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least or len(set(found)) < len(found):
        raise typer.BadParameter(
            f"{option} takes different whole numbers from {least} up, with commas between them; "
            f"got {text!r}."
        )
    return found
