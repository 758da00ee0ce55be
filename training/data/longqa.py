"""Questions about long documents, from local copies of four public sets.

Each function yields one record a document, with all questions at its end.
`eval.corpora.long_documents` reads the sets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from eval.corpora import long_documents
from eval.corpora.long_documents import Asked, LongDocument
from training.data.passages import PARAGRAPH
from training.data.records import Record, parse


def squality(path: Path) -> Iterator[Record]:
    """SQuALITY: stories, each with questions that take a paragraph to answer.

    The shortest reference answer is taken: all were accepted, and the longer ones tell more than
    was asked.

    Raises:
        BadRecord: a row is of another form.
    """
    for one in long_documents.squality(path):
        yield _record("squality", one, PARAGRAPH, lambda asked: min(asked.answers, key=len))


def quality(path: Path) -> Iterator[Record]:
    """QuALITY: stories with multiple choice; the question lists the options, one is the answer.

    Stories that are also in SQuALITY are left out, because SQuALITY may test with them.

    Raises:
        BadRecord: a row is of another form.
    """
    for one in long_documents.quality(path):
        if not one.also:
            yield _record("quality", one)


def qmsum(path: Path) -> Iterator[Record]:
    """QMSum: transcripts of meetings, a turn a line, with general and specific queries.

    Raises:
        BadRecord: a row is of another form.
    """
    for one in long_documents.qmsum(path):
        yield _record("qmsum", one, PARAGRAPH)


def nq(
    path: Path, documents: int, seed: int = 0, gold: int = 4, distractors: int = 12
) -> Iterator[Record]:
    """Natural Questions: passages of Wikipedia in random order; some are asked about.

    The first of several answers is taken. See `eval.corpora.long_documents.nq`.

    Raises:
        BadRecord: a row is of another form, or there are too few passages.
    """
    for one in long_documents.nq(path, documents, seed, gold, distractors):
        yield _record("nq", one)


def _record(
    name: str,
    one: LongDocument,
    instruction: str = "",
    answer: Callable[[Asked], str] = lambda asked: asked.answers[0],
) -> Record:
    questions = [
        {
            "question": long_documents.choice(asked.question, asked.options),
            "answer": answer(asked),
            "instruction": instruction,
        }
        for asked in one.asked
    ]
    record = {"id": f"{name}/{one.id}", "document": one.text, "questions": questions}
    return parse(record, one.place)
