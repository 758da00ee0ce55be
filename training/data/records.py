"""Training data: documents with questions, one JSON object a line.

`eval.corpora.records` defines what every file has. A file of training data may also say of a
question where its answer stands and which words go before it:

    {"question": "Where is Ada?", "answer": "Porto", "after": 60,
     "instruction": "Answer in a few words.", "passage": [0, 42], "sentence": [0, 19],
     "silver": true, "alone": false}

`training/data/README.md` explains the fields. Builders in this folder write such files and
`training.finetune` reads them; neither knows the other. `eval.longqa` reads them too, and leaves
these fields out.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.corpora import records
from eval.corpora.jsonl import BadRecord, rows

__all__ = ["Question", "Record", "Span", "parse", "read", "write"]

# begin and end in characters of the document, or of all contents of a conversation
Span = tuple[int, int]


@dataclass(frozen=True)
class Question(records.Question):
    """One question about a document.

    Attributes:
        instruction: words before the question in a chat, such as "Answer in a few words."; plain
            text has none.
        passage: the paragraph that holds the answer; None: no paragraph does, or none is named.
        sentence: the sentence of the paragraph that holds the answer.
        silver: whether the passage was guessed from words in common, and not named by people.
        alone: whether the answer needs nothing that was told, as the reply to "Hello!" does not.
    """

    instruction: str = ""
    passage: Span | None = None
    sentence: Span | None = None
    silver: bool = False
    alone: bool = False


@dataclass(frozen=True)
class Record(records.Record):
    """One document and its questions.

    Attributes:
        questions: in the order of their places in the document.
    """

    questions: tuple[Question, ...]


def parse(value: Any, place: str) -> Record:
    """Checks one record.

    Args:
        value: decoded JSON, or a row of a `datasets` dataset.
        place: the origin of the record, for messages: "train.jsonl, line 7".

    Raises:
        BadRecord: a field is missing, is of another type, or is empty.
    """
    found = records.parse(value, place)
    length = len(found.text)
    asked = [
        _question(one, more, f"{place}, question {number}")
        for number, (one, more) in enumerate(_beside(found, value, length), 1)
    ]
    return Record(found.id, found.document, tuple(asked))


def _beside(
    found: records.Record, value: Mapping[str, Any], length: int
) -> Iterator[tuple[records.Question, Mapping[str, Any]]]:
    """Each question with its JSON object, in the order of the places in the document."""
    objects = list(value.get("questions") or ())

    def place(one: Mapping[str, Any]) -> int:
        after = one.get("after")
        return length if after is None else int(after)

    return zip(found.questions, sorted(objects, key=place), strict=True)


def _question(one: records.Question, more: Mapping[str, Any], place: str) -> Question:
    instruction = more.get("instruction")
    if instruction is not None and not isinstance(instruction, str):
        raise BadRecord(f"{place}: instruction must be a text; got {instruction!r}.")
    silver, alone = (_flag(more, name, place) for name in ("silver", "alone"))
    passage, sentence = (_span(more, name, one.after, place) for name in ("passage", "sentence"))
    if sentence is not None and (
        passage is None or not passage[0] <= sentence[0] < sentence[1] <= passage[1]
    ):
        raise BadRecord(f"{place}: sentence must lie in passage; got {sentence} and {passage}.")
    return Question(
        one.question,
        one.answer,
        one.after,
        instruction=instruction or "",
        passage=passage,
        sentence=sentence,
        silver=silver,
        alone=alone,
    )


def _flag(more: Mapping[str, Any], name: str, place: str) -> bool:
    value = more.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadRecord(f"{place}: {name} must be true or false; got {value!r}.")
    return bool(value)


def _span(more: Mapping[str, Any], name: str, after: int, place: str) -> Span | None:
    value = more.get(name)
    if value is None:
        return None
    whole = isinstance(value, list | tuple) and [type(one) for one in value] == [int, int]
    if not whole or not 0 <= value[0] < value[1] <= after:
        raise BadRecord(
            f"{place}: {name} must be begin and end in characters of the document before the "
            f"question, of which there are {after}; got {value!r}."
        )
    return value[0], value[1]


def read(path: Path) -> Iterator[Record]:
    """The records of a JSONL file, gzipped where its name ends in `.gz`.

    Raises:
        BadRecord: the file can't be read or is empty, or a line is no record; the message has the
            number of the line.
    """
    for place, row in rows(path):
        yield parse(row, place)


def write(path: Path, records: Iterable[Record]) -> int:
    """Writes a whole JSONL file or none; gzipped if its name ends in `.gz`.

    Returns:
        The number of records in the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    try:
        with beside.open("wb") as plain, ExitStack() as opened:
            # without time and name in the header, the same records give the same bytes
            file = (
                opened.enter_context(gzip.GzipFile("", "wb", fileobj=plain, mtime=0))
                if path.suffix == ".gz"
                else plain
            )
            for count, record in enumerate(records, 1):  # noqa: B007 - what is returned
                file.write((json.dumps(_plain(record), ensure_ascii=False) + "\n").encode())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return count


def _plain(record: Record) -> dict[str, Any]:
    """The record as JSON."""
    document: Any = record.document
    if not isinstance(document, str):
        document = [{"role": role, "content": content} for role, content in document]
    questions = [_asked(one) for one in record.questions]
    return {"id": record.id, "document": document, "questions": questions}


def _asked(one: Question) -> dict[str, Any]:
    found: dict[str, Any] = {"question": one.question, "answer": one.answer, "after": one.after}
    for name in ("instruction", "passage", "sentence", "silver", "alone"):
        if value := getattr(one, name):
            found[name] = value
    return found
