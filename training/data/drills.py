"""Drills: many small facts of the same form, and facts that change, where the newest counts.

`keys` makes lists of facts with questions at the end. `updates` makes conversations in which facts
get new values, with questions in between and at the end. Some questions are about facts that were
not told so far; their answer is `UNKNOWN`. No word is one of `eval.corpora.people`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from training.data.records import Record, parse
from training.heads.kinds import MORE_NAMES

UNKNOWN = "I don't know."
NEVER_TOLD = 0.15  # share of the questions
QUESTIONS = 8  # about one document, at most
_COLORS = "amber cobalt copper crimson emerald ivory jade ochre onyx pearl ruby sable teal umber"
_THINGS = "antenna barge beacon cabin crate furnace gate pump silo turbine valve vault windmill"
_ANIMALS = "badger crane falcon gecko heron ibis lynx marten otter raven stoat tern vole weasel"
_TOWNS = (
    "Aldermoor Brackwell Cinderford Dunmere Eastholm Farrowby Glenrock Hathersage Ironbridge "
    "Kestrelton Larkfield Millbrook Northcombe Oakhurst Pinegrove Ravenscar Stonehaven Thornbury"
)
_SHIPS = "Albatross Dauntless Endeavour Firefly Kingfisher Meteor Nimbus Polaris Sparrow Tempest"
_GOODS = "barley flax hemp iron jute linen mica oats pewter quartz resin salt tallow wheat zinc"
_SYLLABLES = "ba do fi gu ka lo mi nu pa re so ti vu wa xe yo zu".split()


@dataclass(frozen=True, eq=False)
class Drill:
    """A form of fact.

    Attributes:
        told: the sentence that tells the fact first, with {key} and {value}.
        again: the sentence that tells a new value.
        asked: the question, with {key}.
        keys: the subjects that facts of this form can have.
        value: draws a value.
    """

    told: str
    again: str
    asked: str
    keys: tuple[str, ...]
    value: Callable[[random.Random], str]


def _one_of(words: str) -> Callable[[random.Random], str]:
    return lambda rng: rng.choice(words.split())


def _digits(count: int) -> Callable[[random.Random], str]:
    return lambda rng: str(rng.randrange(10 ** (count - 1), 10**count))


def _password(rng: random.Random) -> str:
    return "".join(rng.choices(_SYLLABLES, k=3))


def _pairs(first: str, second: str) -> tuple[str, ...]:
    return tuple(f"{one} {other}" for one in first.split() for other in second.split())


DRILLS = (
    Drill(
        "The code of the {key} is {value}.",
        "The code of the {key} is now {value}.",
        "What is the code of the {key}?",
        _pairs(_COLORS, _THINGS),
        _digits(4),
    ),
    Drill(
        "The password of {key} is {value}.",
        "{key} has a new password, {value}.",
        "What is the password of {key}?",
        tuple(MORE_NAMES),
        _password,
    ),
    Drill(
        "{key} sleeps in room {value}.",
        "{key} moved to room {value}.",
        "In which room does {key} sleep?",
        tuple(MORE_NAMES),
        _digits(3),
    ),
    Drill(
        "The {key} team camps near {value}.",
        "The {key} team went on to {value} and camps there now.",
        "Where does the {key} team camp?",
        _pairs(_COLORS, _ANIMALS),
        _one_of(_TOWNS),
    ),
    Drill(
        "The captain of the {key} is {value}.",
        "{value} is now the captain of the {key}.",
        "Who is the captain of the {key}?",
        tuple(_SHIPS.split()),
        _one_of(" ".join(MORE_NAMES)),
    ),
    Drill(
        "A sack of {key} costs {value} crowns.",
        "The price of a sack of {key} is {value} crowns now.",
        "How many crowns does a sack of {key} cost?",
        tuple(_GOODS.split()),
        _digits(2),
    ),
    Drill(
        "The road from {key} leads to {value}.",
        "The road from {key} was rebuilt and leads to {value} now.",
        "Where does the road from {key} lead?",
        tuple(_TOWNS.split()),
        _one_of(_TOWNS),
    ),
)
REPLIES = ("Noted.", "All right.", "I will remember that.", "Thank you, I have it.", "Understood.")
# the subject of a fact: its form and its key
About = tuple[Drill, str]


def keys(documents: int, seed: int = 0, facts: tuple[int, int] = (4, 48)) -> Iterator[Record]:
    """Lists of facts, each told once, with questions at the end.

    Args:
        documents: the number of documents.
        seed: draws everything.
        facts: least and most facts of one document.
    """
    rng = random.Random(seed)
    for number in range(documents):
        told = {about: _value(about, None, rng) for about in _subjects(rng.randint(*facts), rng)}
        lines = [drill.told.format(key=key, value=told[drill, key]) for drill, key in told]
        questions = []
        for about in rng.sample(list(told), min(QUESTIONS, len(told))):
            if rng.random() < NEVER_TOLD:
                about = _unknown(about, told, rng)
            questions.append(_question(about, told))
        document = rng.choice((" ", "\n")).join(lines)
        name = f"keys/{number}"
        yield parse({"id": name, "document": document, "questions": questions}, name)


def updates(documents: int, seed: int = 0, facts: tuple[int, int] = (3, 24)) -> Iterator[Record]:
    """Conversations in which facts are told and told anew, with questions all along.

    Args:
        documents: the number of conversations.
        seed: draws everything.
        facts: least and most facts of one conversation; each is told up to four times.
    """
    rng = random.Random(seed)
    for number in range(documents):
        subjects = _subjects(rng.randint(*facts), rng)
        order = [about for about in subjects for _ in range(rng.randint(1, 4))]
        rng.shuffle(order)
        known: dict[About, str] = {}
        changed: set[About] = set()
        messages: list[dict[str, str]] = []
        questions = {}
        length = 0
        while order:
            said = []
            for about in [order.pop() for _ in range(min(rng.randint(1, 3), len(order)))]:
                drill, key = about
                if about in known:
                    changed.add(about)
                form = drill.again if about in known else drill.told
                known[about] = _value(about, known.get(about), rng)
                said.append(form.format(key=key, value=known[about]))
            messages.append({"role": "user", "content": " ".join(said)})
            messages.append({"role": "assistant", "content": rng.choice(REPLIES)})
            length += sum(len(message["content"]) for message in messages[-2:])
            # half of the questions stand at the end
            for _ in range(rng.randint(0, 1) if order else QUESTIONS // 2):
                pool = changed if changed and rng.random() < 0.5 else known
                about = rng.choice([one for one in known if one in pool])
                if rng.random() < NEVER_TOLD:
                    about = _unknown(about, known, rng)
                questions[length, about] = _question(about, known) | {"after": length}
        asked = rng.sample(list(questions.values()), min(QUESTIONS, len(questions)))
        name = f"updates/{number}"
        yield parse({"id": name, "document": messages, "questions": asked}, name)


def _subjects(count: int, rng: random.Random) -> list[About]:
    """Draws different subjects of some forms; half of the keys of a form are never used."""
    forms = rng.sample(DRILLS, rng.randint(1, len(DRILLS)))
    pools = [[(form, key) for key in rng.sample(form.keys, len(form.keys) // 2)] for form in forms]
    chosen: list[About] = []
    while len(chosen) < count and (left := [pool for pool in pools if pool]):
        chosen.append(rng.choice(left).pop())
    return chosen


def _value(about: About, before: str | None, rng: random.Random) -> str:
    """A value that differs from the one before it and from the key."""
    drill, key = about
    while (value := drill.value(rng)) in (before, key):
        pass
    return value


def _unknown(about: About, known: dict[About, str], rng: random.Random) -> About:
    """A subject of the same form that was not told so far."""
    drill, _ = about
    return drill, rng.choice([key for key in drill.keys if (drill, key) not in known])


def _question(about: About, known: dict[About, str]) -> dict[str, Any]:
    drill, key = about
    return {"question": drill.asked.format(key=key), "answer": known.get(about, UNKNOWN)}
