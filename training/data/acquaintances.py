"""Drill: what users say about people and themselves, told, changed since, or never told.

Half of the questions ask for what a person was never said to have, though other things were said
about the person; for half of these the same was said of other people, so that the name and the kind
of fact are there, and for the others of nobody. Their answer is `drills.UNKNOWN`. A quarter of the
questions ask for what changed, where the newest counts. The user also tells new things, which are
no questions: the reply says that they are remembered, and neither answers nor refuses. Between the
facts the user talks about nothing in particular. An instruction asks for a few words; without one,
the answer is a sentence. No name, kind or sentence is one of the tests'.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from eval.corpora.people import Kind
from eval.corpora.training_facts import KINDS, NAMES
from training.data.drills import UNKNOWN
from training.data.passages import SAID
from training.data.records import Record, parse
from training.heads.kinds import MANY_KINDS, MORE_KINDS, MORE_NAMES

PEOPLE, FACTS_EACH, OWN = (3, 8), (1, 3), (1, 5)  # least and most in a conversation
RELATED = 0.5  # share of the people who are a relation of the user
RELATIONS = (
    "aunt boss brother colleague cousin daughter doctor father friend grandmother mother neighbour "
    "niece sister son teacher uncle"
).split()
# what users say of themselves: told, asked, answered, values
OWN_KINDS = (
    ("I work as a {}", "What is my job?", "You work as a {}", KINDS[1].values),
    ("I live in {}", "Where do I live?", "You live in {}", KINDS[0].values),
    ("My name is {}", "What is my name?", "Your name is {}", NAMES),
    ("My cat is called {}", "What is my cat called?", "Your cat is called {}", MORE_NAMES),
    ("My dog is called {}", "What is my dog called?", "Your dog is called {}", MORE_NAMES),
    (
        "My favourite food is {}",
        "What is my favourite food?",
        "Your favourite food is {}",
        KINDS[4].values,
    ),
    ("I play the {}", "What do I play?", "You play the {}", KINDS[5].values),
    ("I am afraid of {}", "What am I afraid of?", "You are afraid of {}", MORE_KINDS[4].values),
    ("I drive to work in a {} car", "What colour is my car?", "Your car is {}", KINDS[2].values),
    ("I am flying to {} in spring", "Where am I flying?", "You are flying to {}", KINDS[0].values),
)
CHANGED = 0.4  # share of the facts that change
QUESTIONS = 12  # about a conversation, a quarter of each sort
REMARKS = 2  # at the end of a conversation: so many of what changes, and so many of what is new
BARE = 0.5  # share of the questions without an instruction
NOW = ("", "Now ", "These days ", "Since last week, ", "As of today, ", "Lately, ")
# other words for a change, by those of the fact
CHANGES = {
    "lives in": "has moved to",
    "I live in": "I have moved to",
    "works as a": "has become a",
    "I work as a": "I have become a",
    "plays the": "has changed to the",
    "I play the": "I have changed to the",
}
# what stands behind a fact and is not asked for: after a job, and after anything
WORKPLACES = (" in the old town", " for the city", " at the station", " in a small firm", " abroad")
TAILS = (", as you may know", ", and I like that", " as far as I know", ", by the way", ", I think")
TAILED = 0.25  # share of the facts with such words
REMEMBERED = "I will remember that {}."
TALK = (
    "I forgot my umbrella again.",
    "The coffee here tastes of nothing.",
    "There is a new bakery at the corner.",
    "I could not find my keys this morning.",
    "They are repairing the road, and it is loud.",
    "My knee hurts a little.",
    "I read half a book on the train.",
    "The soup was too salty.",
    "We had to wait an hour for the plumber.",
    "Spring comes late this year.",
    "The phone rang all afternoon.",
    "I still have to write two letters.",
    "Our printer is out of paper.",
    "The pigeons woke me up.",
)


@dataclass(frozen=True)
class Said:
    """One thing that was said.

    Attributes:
        about: whom or what it is about; two about the same contradict each other.
        sentence: how it is told, without its end.
        question: the question for it.
        answer: the answer as a sentence, without its end.
        value: the answer in a word; "": it was never told.
    """

    about: str
    sentence: str
    question: str
    answer: str
    value: str


def acquaintances(documents: int, seed: int = 0) -> Iterator[Record]:
    """Conversations about people, with questions at the end.

    Args:
        documents: the number of conversations.
        seed: draws everything.
    """
    rng = random.Random(seed)
    kinds = [*KINDS, *MORE_KINDS, *MANY_KINDS]
    for number in range(documents):
        # few kinds, so that several people have the same
        some = rng.sample(kinds, rng.randint(3, 6))
        people = _people(rng)
        each = {who: rng.sample(some, rng.randint(*FACTS_EACH)) for who in people}
        own = rng.sample(OWN_KINDS, rng.randint(*OWN))
        told = [_of(who, kind, rng) for who, mine in each.items() for kind in mine]
        told += [_own(kind, rng) for kind in own]
        rng.shuffle(told)
        changing = [one for one in told if rng.random() < CHANGED]
        news = [_news(one, rng) for one in changing]
        never = [
            replace(_of(who, kind, rng), value="")
            for who, mine in each.items()
            for kind in some
            if kind not in mine
        ]
        never += [replace(_own(kind, rng), value="") for kind in OWN_KINDS if kind not in own]
        others = [kind for kind in kinds if kind not in some]
        nobody = [replace(_of(who, rng.choice(others), rng), value="") for who in people]
        lines = [f"{one.sentence}{_tail(one.sentence, rng)}." for one in told]
        lines += [f"{_changed(one.sentence, rng)}." for one in news]
        stayed = [one for one in told if one not in changing]
        newer = [_news(one, rng) for one in stayed[:REMARKS]]
        remarks = [_remark(one, _changed(one.sentence, rng)) for one in newer]
        remarks += [_remark(one, one.sentence) for one in rng.sample(never, REMARKS)]
        turns = [" ".join(_mixed(line, rng)) for line in lines]
        ends = list(itertools.accumulate(map(len, turns), initial=0))
        # where the newest of each stands, in characters of all turns
        spans = {
            one.about: list(span)
            for one, span in zip([*told, *news], itertools.pairwise(ends), strict=True)
        }
        name = f"acquaintances/{number}"
        yield parse(
            {
                "id": name,
                "document": [{"role": "user", "content": turn} for turn in turns],
                "questions": [*_questions(told, news, never, nobody, spans, rng), *remarks],
            },
            name,
        )


# a person as they are told and as they are asked about: "my sister Clara", "my sister"
Person = tuple[str, str]


def _people(rng: random.Random) -> list[Person]:
    """People of a conversation; no two have a relation to the user in common."""
    names = rng.sample([*NAMES, *MORE_NAMES], rng.randint(*PEOPLE))
    relations = rng.sample(RELATIONS, len(names))
    return [
        (f"my {relation} {name}", f"my {relation}") if rng.random() < RELATED else (name, name)
        for name, relation in zip(names, relations, strict=True)
    ]


def _of(who: Person, kind: Kind, rng: random.Random) -> Said:
    """Something about a person."""
    told, asked = who
    value = rng.choice(kind.values)
    sentence = f"{kind.statement.format(name=told)} {value}"
    answer = sentence.replace("my ", "your ", 1) if told != asked else sentence
    return Said(
        f"{asked}/{kind.statement}",
        sentence[0].upper() + sentence[1:],
        kind.question.format(name=asked),
        answer[0].upper() + answer[1:],
        value,
    )


def _own(kind: tuple[str, str, str, Sequence[str]], rng: random.Random) -> Said:
    """Something about the user."""
    told, asked, answer, values = kind
    value = rng.choice(values)
    return Said(told, told.format(value), asked, answer.format(value), value)


def _news(one: Said, rng: random.Random) -> Said:
    """The same with another value."""
    kinds = {kind.statement: kind.values for kind in (*KINDS, *MORE_KINDS, *MANY_KINDS)}
    own = {kind[0]: kind[3] for kind in OWN_KINDS}
    values = own.get(one.about) or kinds[one.about.partition("/")[2]]
    value = rng.choice([other for other in values if other != one.value])
    before, _, after = one.sentence.rpartition(one.value)
    return replace(
        one,
        sentence=before + value + after,
        answer=one.answer[: one.answer.rindex(one.value)] + value,
        value=value,
    )


def _now(sentence: str, rng: random.Random) -> str:
    """A sentence that says that it is new."""
    lead = rng.choice(NOW)
    return lead + (_small(sentence) if lead and not sentence.startswith("I ") else sentence)


def _changed(sentence: str, rng: random.Random) -> str:
    """A sentence that says what changed, in its own words or in those for a change."""
    for fact, change in CHANGES.items():
        if fact in sentence and rng.random() < 0.5:
            return sentence.replace(fact, change)
    return _now(sentence, rng)


def _tail(sentence: str, rng: random.Random) -> str:
    """Words behind a sentence that say nothing which is asked for, or none."""
    if rng.random() >= TAILED:
        return ""
    return rng.choice(WORKPLACES if "work as a" in sentence else TAILS)


def _remark(one: Said, sentence: str) -> dict[str, Any]:
    """Something that is told and asks for nothing."""
    answer = _small(one.answer)
    return {"question": f"{sentence}.", "answer": REMEMBERED.format(answer), "alone": True}


def _small(sentence: str) -> str:
    """A sentence inside another: a name keeps its capital."""
    first = sentence.split()[0]
    return sentence if first in (*NAMES, *MORE_NAMES) else sentence[0].lower() + sentence[1:]


def _mixed(line: str, rng: random.Random) -> list[str]:
    """A sentence among some that say nothing."""
    lines = rng.sample(TALK, rng.randint(0, 4))
    lines.insert(rng.randint(0, len(lines)), line)
    return lines


def _questions(
    told: list[Said],
    news: list[Said],
    never: list[Said],
    nobody: list[Said],
    spans: dict[str, list[int]],
    rng: random.Random,
) -> list[dict[str, Any]]:
    """Questions of each sort in random order."""
    changed = {one.about for one in news}
    stayed = [one for one in told if one.about not in changed]
    asked = [
        one
        for sort in (stayed, news, never, nobody)
        for one in rng.sample(sort, min(QUESTIONS // 4, len(sort)))
    ]
    rng.shuffle(asked)
    # drawn apart from whether there is an answer, and so no hint of it
    named = [how for how in SAID if how]
    weights = [BARE, *[(1 - BARE) / len(named)] * len(named)]
    instructions = rng.choices(["", *named], weights, k=len(asked))
    return [
        {
            "question": one.question,
            "answer": _answer(one, how),
            "instruction": how,
            "passage": spans[one.about] if one.value else None,
        }
        for one, how in zip(asked, instructions, strict=True)
    ]


def _answer(one: Said, instruction: str) -> str:
    if not one.value:
        return UNKNOWN
    return one.value if instruction else f"{one.answer}."
