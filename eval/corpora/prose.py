"""Texts with questions in one shared form, and documents strewn together of many paragraphs.

A row is `{doc_id, title, context, questions: [{question, answers}]}`; in place of `context` there
may be `paragraphs: [{title, text}]`. A question that the text does not answer has `impossible`, and
one with options has `options: ["A. ...", "B. ..."]` and a letter among its answers. `talk.py` reads
conversations of the same form.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.corpora.jsonl import BadRecord, Row, field, items, rows
from eval.corpora.long_documents import Asked, LongDocument, tidy

# the answer to a question that a text does not answer
UNKNOWN = "I don't know."
# a line with an option: (a) or A.
_OPTION = re.compile(r"^\s*(?:\(([a-h])\)|([A-H])\.)\s*(\S.*)$", re.MULTILINE)


def prose(path: Path, options: Sequence[str] = ()) -> Iterator[LongDocument]:
    """The texts of a set in the shared form; rows of one `doc_id` have one source.

    Args:
        path: the local copy.
        options: the options of every question of the set, where its rows name none.

    Raises:
        BadRecord: a row has another form.
    """
    seen: Counter[str] = Counter()
    for place, row in rows(path):
        name = field(row, "doc_id", str, place)
        asked = questions(row, place, options)
        number, seen[name] = seen[name], seen[name] + 1
        if asked:
            title = tidy(str(row.get("title") or ""))
            text = _text(row, place)
            yield LongDocument(f"{name}/{number}", text, asked, place, source=name, title=title)


def _text(row: Row, place: str) -> str:
    if "paragraphs" not in row:
        return tidy(field(row, "context", str, place))
    return "\n\n".join(
        f"{tidy(field(one, 'title', str, where))}\n{tidy(field(one, 'text', str, where))}"
        for where, one in items(row, "paragraphs", dict, place)
    )


def questions(row: Row, place: str, options: Sequence[str] = ()) -> tuple[Asked, ...]:
    """The questions of a row. Those whose options have lost their letters are left out.

    Args:
        row: a row in the shared form.
        place: the place of the row, for messages.
        options: the options of every question of the set, where its rows name none.

    Raises:
        BadRecord: a question has another form.
    """
    found = (question(one, where, options) for where, one in items(row, "questions", dict, place))
    return tuple(one for one in found if one is not None)


def question(one: Row, where: str, options: Sequence[str] = ()) -> Asked | None:
    """One question of a row; None if its options have lost their letters.

    Raises:
        BadRecord: the question has another form.
    """
    text = field(one, "question", str, where)
    if one.get("impossible"):
        return Asked(tidy(text), (UNKNOWN,), impossible=True)
    answers = tuple(tidy(answer) for _, answer in items(one, "answers", str, where))
    if not answers:
        raise BadRecord(f"{where}: there is no answer.")
    if "options" in one:
        lines = "\n".join(line for _, line in items(one, "options", str, where))
        return _choice(tidy(text), lines, answers)
    if len(_lettered(text)) > 1:
        return _choice(tidy(text[: next(_OPTION.finditer(text)).start()]), text, answers)
    if options and answers[0] not in options:
        raise BadRecord(f"{where}: the answer must be one of {', '.join(options)}.")
    return Asked(tidy(text), answers, tuple(options))


def _choice(text: str, lines: str, answers: Sequence[str]) -> Asked | None:
    """A question with the options in some lines, and the letter of the right one in its answers."""
    options = _lettered(lines)
    right = next((one.lower() for one in answers if one.lower() in options), None)
    whole = len(options) > 1 and "".join(options) == "abcdefgh"[: len(options)]
    if right is None or not whole:
        return None
    return Asked(text, (options[right],), tuple(options.values()))


def _lettered(text: str) -> dict[str, str]:
    """The first line of each letter."""
    found: dict[str, str] = {}
    for small, large, option in _OPTION.findall(text):
        found.setdefault((small or large).lower(), tidy(option))
    return found


def strewn(
    found: Sequence[LongDocument], paragraphs: int, seed: int, most: int | None = None
) -> Iterator[LongDocument]:
    """Documents of so many paragraphs each, of any articles, in random order, with their questions.

    Headings stand before paragraphs that have one. Paragraphs that are left over at the end make no
    document.

    Args:
        found: the paragraphs.
        paragraphs: the number of paragraphs in a document.
        seed: draws the paragraphs and the order of the questions.
        most: the most questions about a document; None: all.

    Raises:
        BadRecord: there are fewer paragraphs than one document takes.
    """
    if len(found) < paragraphs:
        raise BadRecord(f"there are {len(found)} paragraphs, and a document takes {paragraphs}.")
    rng = random.Random(seed)
    order = rng.sample(found, len(found))
    for number, begin in enumerate(range(0, len(found) - paragraphs + 1, paragraphs)):
        mine = order[begin : begin + paragraphs]
        text = "\n\n".join(f"{one.title}\n{one.text}".strip() for one in mine)
        asked = [question for one in mine for question in one.asked]
        rng.shuffle(asked)
        yield LongDocument(str(number), text, tuple(asked[:most]), f"document {number}")
