"""A command line of one command."""

from __future__ import annotations

from collections.abc import Callable

import typer


def make_app(main: Callable[..., None], description: str | None) -> typer.Typer:
    """A command line whose arguments and options are the parameters of a function.

    Args:
        main: the command.
        description: the help of the command, such as the docstring of its module.
    """
    app = typer.Typer(add_completion=False)
    app.command(help=description)(main)
    return app
