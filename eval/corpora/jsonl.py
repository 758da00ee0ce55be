"""Data files with one JSON object a line; errors name the place of what they complain about.

`rows` reads them; the other functions take one checked value out of an object. `place` names
the object in messages: "train.jsonl, line 7".
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
Row = Mapping[str, Any]
NAMES = {str: "a text", list: "a list", dict: "an object", int: "a number"}


class BadRecord(ValueError):
    """A record that can't be used; the message names the place and the expected form."""


def rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Place and object of every line of a JSONL file, gzipped where its name ends in `.gz`.

    Raises:
        BadRecord: the file can't be read, is empty, or has a line that is no JSON object.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    empty = True
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    place = f"{path}, line {number}"
                    yield place, _decoded(line, place)
                    empty = False
    except (OSError, EOFError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise BadRecord(f"{path} can't be read: {reason}.") from None
    if empty:
        raise BadRecord(f"{path} is empty; it should hold JSON objects, one a line.")


def _decoded(line: str, place: str) -> Row:
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadRecord(f"{place}: this is not JSON ({error}).") from None
    if not isinstance(value, dict):
        raise BadRecord(f"{place}: expected a JSON object; got {line.strip()[:60]}.")
    return value


def field(row: Row, name: str, kind: type[T], place: str) -> T:
    """The value of one field.

    Raises:
        BadRecord: the field is missing, or its value is of another type.
    """
    if name not in row:
        raise BadRecord(f"{place}: there is no field {name}; it has {', '.join(row)}.")
    return _checked(row[name], name, kind, place)


def items(row: Row, name: str, kind: type[T], place: str) -> Iterator[tuple[str, T]]:
    """Place and value of each item of a field that is a list.

    Raises:
        BadRecord: the field is no list, or an item is of another type than `kind`.
    """
    for number, value in enumerate(field(row, name, list, place), 1):
        yield f"{place}, {name} {number}", _checked(value, f"{name} {number}", kind, place)


def _checked(value: Any, name: str, kind: type[T], place: str) -> T:
    if not isinstance(value, kind):
        raise BadRecord(f"{place}: {name} must be {NAMES[kind]}; got {str(value)[:60]!r}.")
    return value
