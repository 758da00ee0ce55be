"""The text of a book file, by default the excerpt in `eval/data`.

This file needs no model and no torch, so that training data can be built without either.
"""

from __future__ import annotations

import gzip
from pathlib import Path

BOOK = Path(__file__).parents[1] / "data" / "thursday.txt"


def book_name(path: Path | None = None) -> str:
    """The name of a book in the settings of a report, without the folders of a machine."""
    return path.name if path else "eval/data/thursday.txt"


def read_book(path: Path | None = None) -> str:
    """The text of a book file, UTF-8, gzipped where the name ends in `.gz`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file holds no text.
    """
    path = path or BOOK
    if not path.is_file():
        raise FileNotFoundError(f"There is no book file {path}; --book takes a text file.")
    opened = (
        gzip.open(path, "rt", encoding="utf-8")
        if path.suffix == ".gz"
        else path.open(encoding="utf-8")
    )
    with opened as file:
        text = file.read()
    if not text.strip():
        raise ValueError(f"The book file {path} holds no text; --book takes a text file.")
    return text
