"""Writes training data: documents with questions, one JSON object a line.

`eval.corpora.records` defines a record and reads files of records. Builders in this folder write
such files and `training.finetune` reads them; neither knows the other.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eval.corpora.records import Question, Record, parse, read

__all__ = ["Question", "Record", "parse", "read", "write"]


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
    questions = [
        {"question": one.question, "answer": one.answer, "after": one.after}
        for one in record.questions
    ]
    return {"id": record.id, "document": document, "questions": questions}
