"""Documents with questions, one JSON object a line: the form of training data and of your data.

    {"id": "squality/63855",
     "document": "Ada left for Porto. ...",
     "questions": [{"question": "Where is Ada?", "answer": "Porto", "after": 19}]}

`document` is a text, or a conversation: a list of `{"role": "user", "content": "..."}`.
`questions` may be empty, or left out: the document is then only read. `after` is the number of
characters of the document (of all contents, for a conversation) before the question; if it is left
out, the whole document comes before the question. `training.data` writes such files,
`training.finetune` and `eval.longqa` read them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval.corpora.jsonl import BadRecord, rows

ROLES = ("system", "user", "assistant")


@dataclass(frozen=True)
class Question:
    """One question about a document.

    Attributes:
        question: the text of the question.
        answer: the right answer.
        after: the number of characters of the document before the question.
    """

    question: str
    answer: str
    after: int


@dataclass(frozen=True)
class Record:
    """One document and its questions.

    Attributes:
        id: the name in messages and reports; may be empty.
        document: a text, or `(role, content)` of every message of a conversation.
        questions: in the order of their places in the document.
    """

    id: str
    document: str | tuple[tuple[str, str], ...]
    questions: tuple[Question, ...]

    @property
    def text(self) -> str:
        """The document without roles, as `Question.after` counts it."""
        if isinstance(self.document, str):
            return self.document
        return "".join(content for _, content in self.document)


def parse(value: Any, place: str) -> Record:
    """Checks one record.

    Args:
        value: decoded JSON, or a row of a `datasets` dataset.
        place: the origin of the record, for messages: "train.jsonl, line 7".

    Raises:
        BadRecord: a field is missing, is of another type, or is empty.
    """
    if not isinstance(value, Mapping):
        raise BadRecord(f"{place}: expected an object with document and questions; got {value!r}.")
    if "document" not in value:
        raise BadRecord(f"{place}: there is no field document; it has {', '.join(value)}.")
    name = value.get("id")
    document = _document(value["document"], place)
    record = Record("" if name is None else str(name), document, ())
    length = len(record.text)
    asked = value.get("questions")
    if asked is None:
        asked = []
    if not isinstance(asked, list):
        raise BadRecord(f"{place}: questions must be a list; got {type(asked).__name__}.")
    questions = [
        _question(one, f"{place}, question {number}", length) for number, one in enumerate(asked, 1)
    ]
    questions.sort(key=lambda one: one.after)
    return Record(record.id, document, tuple(questions))


def _document(value: Any, place: str) -> str | tuple[tuple[str, str], ...]:
    if isinstance(value, str):
        if not value.strip():
            raise BadRecord(f"{place}: the document is empty.")
        return value
    if not isinstance(value, list) or not value:
        raise BadRecord(f"{place}: document must be a text or a list of messages; got {value!r}.")
    messages = []
    for number, message in enumerate(value, 1):
        where = f"{place}, message {number}"
        role = message.get("role") if isinstance(message, Mapping) else None
        if role not in ROLES:
            raise BadRecord(f"{where}: role must be one of {', '.join(ROLES)}; got {message!r}.")
        messages.append((str(role), _text(message, "content", where)))
    return tuple(messages)


def _question(value: Any, place: str, length: int) -> Question:
    if not isinstance(value, Mapping):
        raise BadRecord(f"{place}: expected an object with question and answer; got {value!r}.")
    question, answer = (_text(value, field, place) for field in ("question", "answer"))
    if length < len(question):
        raise BadRecord(
            f"{place}: the document has {length} characters, fewer than the question; it was "
            "probably cut off."
        )
    after = value.get("after")
    if after is None:
        after = length
    if not isinstance(after, int) or isinstance(after, bool) or not 0 < after <= length:
        raise BadRecord(
            f"{place}: after must be a number of characters from 1 to {length}, the length of the "
            f"document; got {after!r}."
        )
    return Question(question, answer, after)


def _text(value: Mapping[str, Any], field: str, place: str) -> str:
    if field not in value:
        raise BadRecord(f"{place}: there is no field {field}; it has {', '.join(value)}.")
    text = value[field]
    if not isinstance(text, str) or not text.strip():
        raise BadRecord(f"{place}: {field} must be a text that is not empty; got {text!r}.")
    return text


def read(path: Path) -> Iterator[Record]:
    """The records of a JSONL file, gzipped where its name ends in `.gz`.

    Raises:
        BadRecord: the file can't be read or is empty, or a line is no record; the message has the
            number of the line.
    """
    for place, row in rows(path):
        yield parse(row, place)
