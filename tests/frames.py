"""What a command says, without the frame and the line breaks that depend on how long paths are."""

from __future__ import annotations


def unframed(output: str) -> str:
    """The words of an output, with one space between them."""
    return " ".join(output.replace("│", " ").split())
