"""Paragraphs of a set strewn into texts of any length, and where each one asked about stands.

Between them stand other paragraphs of the set and, where it runs out, of books. This file knows no
model, only its tokens.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from memformer.template import text_ids

from eval.corpora.book import read_book
from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import LongDocument

BREAK = "\n\n"
BOOKS = (".txt", ".txt.gz")


@dataclass(frozen=True)
class Asked:
    """A paragraph, and the question about it that is asked."""

    paragraph: LongDocument
    question: str


@dataclass(frozen=True)
class Case:
    """A question, and the place of the first token of its paragraph and of the one after it."""

    id: str
    question: str
    begin: int
    end: int


@dataclass(frozen=True)
class Text:
    """Paragraphs strewn together, and the questions about some of them."""

    ids: list[int]
    cases: list[Case]


def told(one: LongDocument) -> str:
    """A paragraph under its heading, if it has one."""
    return f"{one.title}\n{one.text}".strip()


def draw_questions(found: Sequence[LongDocument], most: int, seed: int) -> list[Asked]:
    """Paragraphs to ask about, each with one question that it answers.

    Raises:
        BadRecord: no paragraph answers a question.
    """
    rng = random.Random(f"{seed}/questions")
    pairs: list[Asked] = []
    for one in rng.sample(found, len(found)):
        answered = [asked.question for asked in one.asked if not asked.impossible]
        if answered and len(pairs) < most:
            pairs.append(Asked(one, rng.choice(answered)))
    if not pairs:
        raise BadRecord("no paragraph answers a question.")
    return pairs


def book_paragraphs(folder: Path | None, seed: str) -> Iterator[str]:
    """Paragraphs of books in a drawn order, without an end; None: of the excerpt in `eval/data`."""
    paths: list[Path | None] = [None]
    if folder is not None:
        paths = [one for one in sorted(folder.iterdir()) if one.name.endswith(BOOKS)]
    if not paths:
        raise BadRecord(f"{folder} holds no book, .txt or .txt.gz.")
    rng = random.Random(f"{seed}/books")
    while True:
        for path in rng.sample(paths, len(paths)):
            parts = [" ".join(part.split()) for part in read_book(path).split(BREAK)]
            parts = [part for part in parts if part]
            start = rng.randrange(len(parts))
            yield from parts[start:] + parts[:start]


def make_texts(
    tokenizer: Any,
    found: Sequence[LongDocument],
    asked: Sequence[Asked],
    length: int,
    seed: int,
    books: Path | None = None,
) -> Iterator[Text]:
    """Texts of about `length` tokens in which all the questions are asked.

    Args:
        tokenizer: the model's.
        found: all paragraphs of the set.
        asked: the questions; as many as fit share a text, at least one.
        length: the most tokens, unless one paragraph alone has more.
        seed: draws what stands between the paragraphs, and the order.
        books: the folder of the books that go on where the set ends.
    """
    rest = [(one, _piece(tokenizer, told(one.paragraph))) for one in asked]
    number = 0
    while rest:
        draw_text = f"{seed}/{length}/{number}"
        mine = [rest.pop(0)]
        total = len(mine[0][1])
        while rest and total + len(rest[0][1]) <= length:
            mine.append(rest.pop(0))
            total += len(mine[-1][1])
        pieces: list[tuple[Asked | None, list[int]]] = list(mine)
        rng = random.Random(draw_text)
        texts = {told(one.paragraph) for one, _ in mine}
        others = (told(one) for one in rng.sample(found, len(found)))
        fill = chain(
            (text for text in others if text not in texts), book_paragraphs(books, draw_text)
        )
        for ids in (_piece(tokenizer, text) for text in fill):
            if total + len(ids) > length:
                break
            pieces.append((None, ids))
            total += len(ids)
        rng.shuffle(pieces)
        yield _joined(pieces)
        number += 1


def _piece(tokenizer: Any, text: str) -> list[int]:
    return text_ids(tokenizer, f"{BREAK}{text}", after=".")


def _joined(pieces: Iterable[tuple[Asked | None, list[int]]]) -> Text:
    ids: list[int] = []
    cases = []
    for one, more in pieces:
        if one is not None:
            end = len(ids) + len(more)
            cases.append(Case(one.paragraph.id, one.question, len(ids), end))
        ids += more
    return Text(ids, cases)
