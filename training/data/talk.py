"""Conversations with questions about what was said: scenes of several people, and one user's days.

`scenes` reads FriendsQA and Molweni, whose scenes `training.data.prose.strewn` puts together as it
does paragraphs. `days` makes conversations of one RealMem user, whose next turn needs what was said
sessions ago. Its label is silver: RealMem names the session that is needed, and the exchange is the
one of that session which has most words in common with what is needed.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from eval.corpora.jsonl import Row
from eval.corpora.jsonl import field as value_of
from eval.corpora.long_documents import tidy
from training.data.local import places, questions, short, untokenised
from training.data.passages import Asked, Passage, Words
from training.data.prose import strewn
from training.data.records import Record, parse

SCENES = (4, 12)  # in a document
NEAR = 60  # words around an answer that count as its passage, in a long scene
SESSIONS = (3, 7)  # of a document of `days`
TURN_WORDS = 60  # told of a turn, up to the end of a sentence
REPLY_WORDS = 40  # longest reply that is learned


def talk(found: Mapping[str, list[tuple[str, Row]]], passes: int, seed: int) -> Iterator[Record]:
    """Documents of several sets of talk.

    Args:
        found: the rows of each set.
        passes: how often each scene is told, among others each time.
        seed: draws everything.

    Raises:
        BadRecord: a row has another form, or a set has too few scenes.
    """
    for name, rows in found.items():
        if name == "realmem":
            yield from days(rows, seed)
            continue
        told = scenes(name, rows)
        for number in range(passes):
            yield from strewn(told, f"{name}/{number}", None, seed + number, SCENES)


def scenes(name: str, found: Iterable[tuple[str, Row]]) -> list[Passage]:
    """Conversations of several people, a line for each turn.

    FriendsQA names the turn that holds the answer, Molweni a place in the text. Of a long scene,
    the turns around the answer count as its passage.

    Raises:
        BadRecord: a row has another form.
    """
    passages = []
    known = set()
    for place, row in found:
        article = value_of(row, "doc_id", str, place)
        if article in known:  # chats of one name share lines
            continue
        known.add(article)
        turns = row["turns"] if "turns" in row else row["sessions"][0]["turns"]
        lines = [_line(str(turn["speaker"]), str(turn["text"])) for turn in turns]
        asked = [_heard(one, lines, turns) for _, one in questions(row, place)]
        # scenes of one episode are hard to tell apart
        article = f"{name}/{article.rpartition('_')[0] or article}"
        passages.append(Passage(article, "\n".join(lines), tuple(one for one in asked if one)))
    return passages


def _line(speaker: str, text: str) -> str:
    said = " ".join(untokenised(text.replace("EMOJI", "")).split())
    return said if speaker.startswith("#") else f"{speaker}: {said}"


def _heard(one: Mapping[str, Any], lines: list[str], turns: list[Any]) -> Asked | None:
    """A question about a scene; None if the answer is too long or stands in no line."""
    question = f"{untokenised(str(one['question'])).rstrip('?？. ')}?"
    question = question[:1].upper() + question[1:]
    if one.get("impossible"):
        return Asked(question, "")
    found = []  # answers with the number of their line
    for number, answer in enumerate(one["answers"]):
        text = untokenised(str(answer)).strip(" .,!?")
        if line := _turn(one, number, text, lines, turns):
            found.append((text, line - 1))
    answer = short([text for text, _ in found])
    if not answer:
        return None
    line = dict(reversed(found))[answer]
    begins = [sum(len(each) + 1 for each in lines[:number]) for number in range(len(lines) + 1)]
    first, last = _around(lines, line)
    return Asked(
        question,
        answer,
        (begins[line], begins[line + 1] - 1),
        (begins[first], begins[last] - 1),
    )


def _turn(
    one: Mapping[str, Any], number: int, answer: str, lines: list[str], turns: list[Any]
) -> int:
    """The number of the line that holds an answer, from 1; 0 if none does."""
    if spans := one.get("spans"):
        wanted = spans[number]["uid"] if number < len(spans) else None
        near = [place for place, turn in enumerate(turns, 1) if turn.get("uid") == wanted]
    else:
        start = (one.get("answer_starts") or [0])[number]
        length, near = 0, []
        for place, turn in enumerate(turns, 1):
            length += len(f"{turn['speaker']}: {turn['text']} ")
            if start < length:
                near = [place]
                break
    return next((place for place in near if places(lines[place - 1], answer)), 0)


def _around(lines: list[str], line: int) -> tuple[int, int]:
    """The first line of the passage around a line, and the line after its last."""
    first, last = line, line + 1
    while sum(len(each.split()) for each in lines[first:last]) < NEAR:
        if first == 0 and last == len(lines):
            break
        first, last = max(0, first - 1), min(len(lines), last + 1)
    return first, last


def days(found: Sequence[tuple[str, Row]], seed: int = 0) -> Iterator[Record]:
    """RealMem: sessions of one user, then the user's first turn of the next session.

    Long turns are told up to a sentence's end, without the marks of Markdown. Turns whose reply
    needs no earlier session, or whose reply has a long first paragraph, are left out.

    Args:
        found: the rows of the set, each with `sessions` and with `questions` that name the session
            and the turn in it, and in `memory_used` the sessions that are needed.
        seed: draws how many sessions are told.

    Raises:
        BadRecord: a row has another form.
    """
    rng = random.Random(seed)
    for place, row in found:
        numbers = {one["session"]: number for number, one in enumerate(row["sessions"])}
        for asked in row["questions"]:
            reply = plain(str(asked["answers"][0]).split("\n\n")[0])
            needed = [one for one in asked["memory_used"] if one["session"] in numbers]
            here = numbers.get(asked["session"], 0)
            if asked["turn"] or not needed or len(reply.split()) > REPLY_WORDS or not reply:
                continue
            last = max(needed, key=lambda one: numbers[one["session"]])
            away = here - numbers[last["session"]]
            if not 0 < away < SESSIONS[1]:
                continue
            first = max(0, here - rng.randint(max(SESSIONS[0], away), SESSIONS[1]))
            sessions = row["sessions"][first:here]
            needle = numbers[last["session"]] - first
            name = f"realmem/{asked['id']}"
            yield parse(_day(name, sessions, needle, last, asked, reply), place)


def _day(
    name: str,
    sessions: Sequence[Mapping[str, Any]],
    needle: int,
    needed: Mapping[str, Any],
    asked: Mapping[str, Any],
    reply: str,
) -> dict[str, Any]:
    """One record as JSON: sessions, and a turn that needs one of them."""
    messages: list[dict[str, str]] = []
    exchanges: list[tuple[str, int, int]] = []  # text and characters of those in the session
    length = 0
    for number, session in enumerate(sessions):
        for turn in session["turns"]:
            content = shortened(plain(str(turn["text"])))
            role = "user" if turn["speaker"].lower() == "user" else "assistant"
            if not content:
                continue
            if number == needle:
                if role == "user" or not exchanges:
                    exchanges.append((content, length, length + len(content)))
                else:
                    text, begin, _ = exchanges[-1]
                    exchanges[-1] = (f"{text} {content}", begin, length + len(content))
            messages.append({"role": role, "content": content})
            length += len(content)
    question: dict[str, Any] = {"question": tidy(str(asked["question"])), "answer": reply}
    if exchanges:
        words = Words(Passage("", text) for text, _, _ in exchanges)
        said = f"{needed['content']} {asked['question']}"
        _, begin, end = max(exchanges, key=lambda one: words.overlap(said, one[0]))
        question |= {"passage": [begin, end], "silver": True}
    return {"id": name, "document": messages, "questions": [question]}


def plain(text: str) -> str:
    """A text without the marks of Markdown, in one paragraph."""
    text = re.sub(r"^\s*(?:#+|[-*]|\d+\.)\s+", "", text, flags=re.MULTILINE)
    return " ".join(re.sub(r"\*\*|`|(?<!\w)[*_]|[*_](?!\w)", "", text).split())


def shortened(text: str) -> str:
    """The first sentences of a text, at least one."""
    taken: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s+", text):
        if taken and sum(len(one.split()) for one in [*taken, sentence]) > TURN_WORDS:
            break
        taken.append(sentence)
    return " ".join(taken)
