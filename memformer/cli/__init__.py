"""The `memformer` command; `application.py` is where it starts."""

from memformer.cli import commands, memories, talk
from memformer.cli.application import app


def main() -> None:
    """Entry point of the `memformer` command."""
    app()


__all__ = ["app", "commands", "main", "memories", "talk"]
