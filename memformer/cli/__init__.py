"""The `memformer` command: the modules of its commands, and its entry point."""

import sys
from io import TextIOWrapper

from memformer.cli import commands, memories, talk
from memformer.cli.application import app


def main() -> None:
    """Entry point of the `memformer` command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # shows a character that the locale does not have by its number
            stream.reconfigure(errors="backslashreplace")
    app()


__all__ = ["app", "commands", "main", "memories", "talk"]
