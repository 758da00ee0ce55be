"""The `memformer` command; `commands.py` has its subcommands."""

from memformer.cli.commands import app, main

__all__ = ["app", "main"]
