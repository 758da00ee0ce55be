"""The places that a command writes to, checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path


class BadPlace(ValueError):
    """A place that can't be written; the message gives the reason."""


def check_folder(out: Path, advice: str) -> None:
    """Refuses a folder that is not empty, or that can't be written.

    Args:
        out: the folder; need not exist.
        advice: how to go on where the folder is not empty.

    Raises:
        BadPlace: the folder can't be used.
    """
    if out.is_file():
        raise BadPlace(f"{out} is a file, and a folder is needed; name another.")
    if out.is_dir() and any(out.iterdir()):
        raise BadPlace(f"{out} is not empty; {advice}.")
    _check_writable(out, out)


def check_file(out: Path) -> None:
    """Refuses a file that can't be written; an old file will be overwritten.

    Raises:
        BadPlace: the file can't be used.
    """
    if out.is_dir():
        raise BadPlace(f"{out} is a folder, and a file is needed; name a file in it.")
    _check_writable(out, out.parent)


def _check_writable(out: Path, folder: Path) -> None:
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise BadPlace(f"{out} can't be written, as {there} is a file; name another place.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise BadPlace(f"{out} can't be written: {there} is read-only; name another place.")
