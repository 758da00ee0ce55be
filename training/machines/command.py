"""What the commands that train a machine share: their options, and how they end with an error."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

ConfigArgument = Annotated[Path, typer.Argument(help="YAML file, as in configs/classic/.")]
OverridesArgument = Annotated[list[str] | None, typer.Argument(help="KEY=VALUE each.")]
ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads of torch.")]


def fail(error: Exception, console: Console) -> NoReturn:
    """Ends a command with one sentence and status 2."""
    console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2) from None
