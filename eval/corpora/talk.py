"""Conversations with questions, in the shared form of `prose.py`; one turn a line.

In place of `context` a row may have `turns: [{speaker, text}]` or `sessions: [{turns, date_time}]`.
A question with `sessions_visible`, or with `session` and `turn`, is asked where it stands: the
conversation is read up to there, once for each such place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from eval.corpora.jsonl import Row, field, items, rows
from eval.corpora.long_documents import Asked, LongDocument
from eval.corpora.prose import question

# a place in a conversation: so many whole sessions, and so many turns of the next one
Place = tuple[int, int]


def talk(
    path: Path, documents: int | None = None, questions: int | None = None
) -> Iterator[LongDocument]:
    """The conversations of a set, each up to every place where a question stands.

    Args:
        path: the local copy.
        documents: the number of conversations, from the first; None: all.
        questions: the most questions about a conversation, from the first; None: all.

    Raises:
        BadRecord: a row has another form.
    """
    seen: Counter[str] = Counter()
    for place, row in islice(rows(path), documents):
        name = field(row, "doc_id", str, place)
        number, seen[name] = seen[name], seen[name] + 1
        sessions = _sessions(row, place)
        whole = (len(sessions), 0)
        asked: dict[Place, list[Asked]] = {}
        for where, one in islice(items(row, "questions", dict, place), questions):
            if (found := question(one, where)) is not None:
                asked.setdefault(_stands(one, where, whole), []).append(found)
        for (before, turns), mine in sorted(asked.items()):
            here = f"{name}/{number}"
            here = here if (before, turns) == whole else f"{here}@{before}.{turns}"
            text = _text(sessions, (before, turns))
            yield LongDocument(here, text, tuple(mine), place, source=name)


def _stands(one: Row, where: str, whole: Place) -> Place:
    """The place at which a question is asked."""
    if "sessions_visible" in one:
        return max(number for _, number in items(one, "sessions_visible", int, where)), 0
    if "session" in one:
        return field(one, "session", int, where) - 1, field(one, "turn", int, where)
    return whole


def _sessions(row: Row, place: str) -> list[tuple[str, list[str]]]:
    """The heading and the turns of each session."""
    if "sessions" in row:
        return [
            (str(one.get("date_time", "")), _turns(one, where))
            for where, one in items(row, "sessions", dict, place)
        ]
    if "turns" in row:
        return [("", _turns(row, place))]
    lines = field(row, "context", str, place).splitlines()
    return [("", [" ".join(line.split()) for line in lines if line.strip()])]


def _turns(session: Row, place: str) -> list[str]:
    lines = []
    for where, turn in items(session, "turns", dict, place):
        speaker, said = str(turn.get("speaker", "")), field(turn, "text", str, where).strip()
        # a note of the scene is said by nobody
        lines.append(f"{speaker}: {said}" if speaker and not speaker.startswith("#") else said)
    return lines


def _text(sessions: list[tuple[str, list[str]]], place: Place) -> str:
    whole, turns = place
    shown = [*sessions[:whole], *((title, lines[:turns]) for title, lines in sessions[whole:][:1])]
    texts = ("\n".join([title, *lines] if title else lines) for title, lines in shown if lines)
    return "\n\n".join(texts)
