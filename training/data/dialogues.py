"""Conversations of several sessions in which a user tells about themselves, and is asked later.

The source is Synthetic-Persona-Chat (Jandaghi et al. 2023, CC BY 4.0): dialogues of two speakers,
and for each speaker a persona of a few sentences such as "I have two dogs.". The first speaker
becomes the user, the second the assistant. Several dialogues in a row are the sessions of one
conversation. In each session the user says those sentences of their persona that a pattern turns
into a question, and the question stands at the end of a later session. Sessions have different
personas, so a question is left out if the user said anything else that might answer it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.corpora.jsonl import BadRecord, items, rows
from training.data.records import Record, parse

SESSIONS = (3, 8)
MOST_WORDS = 6  # longest answer
# words before a sentence of the persona
LEADS = ("", "", "", "By the way, ", "Just so you know, ", "Did I mention it? ", "Oh, and ")

_TURN = re.compile(r"\W*User ([12])\W*: *(.*)")
_BLANK = re.compile(r"\[|[({][^)}]*\b(?:name|user)", re.IGNORECASE)
_JOBS = (
    "teacher nurse doctor engineer plumber electrician librarian manager wrestler player singer "
    "musician coach farmer worker guide streamer chef cook lawyer dentist salesman custodian "
    "accountant mechanic pilot writer artist designer programmer cashier waitress waiter driver "
    "firefighter officer soldier painter baker veterinarian receptionist secretary banker therapist"
).replace(" ", "|")
_NUMBERS = r"\d+|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve"
_FAMILY = "father|mother|dad|mom|husband|wife|sister|brother|son|daughter|grandfather|grandmother"
_ACTIONS = "watch|eat|play|cook|bake|drink|ride|sing|read|listen to|work on|write|paint|grow|visit"
_DOING = "watching|eating|playing|cooking|baking|drinking|riding|singing|reading|listening to"
_WHAT = r"(?P<answer>(?!with\b|out\b|in\b|on\b).+)"
# a sentence, with the answer in a group; the question, and an expression for other sentences that
# might answer it, both with the other groups filled in
_PATTERNS = tuple(
    (re.compile(rf"(?:{sentence})\.?", re.IGNORECASE), question, topic)
    for sentence, question, topic in (
        (
            r"My favou?rite (?P<what>[\w ]+?) (?P<be>is|are) (?P<answer>.+)",
            "What {be} my favorite {what}?",
            r"favou?rite {what}",
        ),
        (
            r"(?P<answer>[\w ]+) (?:is|are) my favou?rite (?P<what>[\w ]+)",
            "What is my favorite {what}?",
            r"favou?rite {what}",
        ),
        (
            rf"I am (?P<answer>{_NUMBERS})(?: years old)?",
            "How old am I?",
            rf"years? old|\bI(?:'?m| am) (?:{_NUMBERS})\b|my age",
        ),
        (
            rf"I (?:have|own) (?P<answer>{_NUMBERS}) (?P<what>(?:\w+ )?\w+)(?P<s>s|ren)",
            "How many {what}{s} do I have?",
            r"\b{what}",
        ),
        (r"I have an? pet (?P<answer>\w+)", "What kind of pet do I have?", r"\bpets?\b"),
        (
            r"I have an? (?P<what>[\w ]+) named (?P<answer>\w+)",
            "What is the name of my {what}?",
            r"\b{what}",
        ),
        (
            rf"My (?P<who>{_FAMILY}) (?P<be>is|was) (?P<answer>an? [\w ]*(?:{_JOBS}))",
            "What {be} the job of my {who}?",
            r"\b{who}",
        ),
        (
            rf"I (?:also )?(?:am|work as) (?P<answer>an? (?!retired)[\w ]*(?:{_JOBS}))",
            "What is my job?",
            rf"\bjob\b|\bwork|for a living|\ban? (?:\w+ ){{{{0,3}}}}(?:{_JOBS})",
        ),
        (r"I work (?P<answer>(?:at|in|on) .+)", "Where do I work?", r"\bwork|\bjob\b"),
        (
            r"(?:Now )?I (?:now )?live (?P<answer>(?:in|on|at|with) .+)",
            "Where do I live?",
            r"\bliv(?:e|ing) |\bmoved\b|\bI(?:'m| am) from\b",
        ),
        (
            r"I was born (?P<answer>in (?!the\b).+)",
            "Where was I born?",
            r"\bborn\b|\bI(?:'m| am) from\b",
        ),
        (
            r"I (?P<grew>grew up|was raised) (?P<answer>(?:in|on) .+)",
            "Where did I grow up?",
            r"\bgrew up\b|\braised\b|\bchildhood\b|\bI(?:'m| am) from\b",
        ),
        (
            r"I am from (?P<answer>.+)",
            "Where am I from?",
            r"\bfrom\b|\bborn\b|\bgrew up\b",
        ),
        (r"I drive (?P<answer>an? .+)", "What do I drive?", r"\bdriv|\bmy car\b"),
        (
            r"I volunteer (?P<answer>(?:at|in|for) .+)",
            "Where do I volunteer?",
            r"\bvolunteer",
        ),
        (
            rf"I (?:also |really )?(?P<like>like|love|enjoy) to (?P<do>{_ACTIONS}) {_WHAT}",
            "What do I {like} to {do}?",
            r"\b{do}",
        ),
        (
            rf"I (?:also |really )?(?P<like>like|love|enjoy) (?P<doing>{_DOING}) {_WHAT}",
            "What do I {like} {doing}?",
            r"\b{doing}|\b(?:like|love|enjoy) to\b",
        ),
        (
            r"I am (?:\w+ly )?(?:afraid|scared|terrified) of (?P<answer>.+)",
            "What am I afraid of?",
            r"\bafraid\b|\bscar|\bterrif|\bfear",
        ),
        (
            r"(?:Hey |Hello |Hi )?My name is (?P<answer>\w+)",
            "What is my name?",
            r"\bmy name\b|\bcall me\b",
        ),
        (
            r"(?:When I grow up )?I want to be (?P<answer>an? .+)",
            "What do I want to be?",
            r"\bwant to be|\bgrow up\b|\bdream",
        ),
        (
            r"I have (?P<answer>(?:\w+ ){1,3}hair)",
            "What does my hair look like?",
            r"\bhair",
        ),
        (r"I hate (?P<answer>.+)", "What do I hate?", r"\bhate"),
        (
            r"I have a weakness for (?P<answer>.+)",
            "What do I have a weakness for?",
            r"\bweakness",
        ),
        (
            r"I (?:have an allergy|am allergic) to (?P<answer>.+)",
            "What am I allergic to?",
            r"\ballerg",
        ),
        (
            r"I play (?P<answer>the \w+(?: and (?:the )?\w+)?)",
            "Which instrument do I play?",
            r"\bplay(?:ing)? (?:the|an?)\b|\binstrument",
        ),
        (
            r"I (?:only |also )?speak (?P<answer>\w+)",
            "Which language do I speak?",
            r"\bspeak|\blanguage|\bfluent",
        ),
        (
            r"I (?:only |also )?listen to (?P<answer>.+)",
            "What do I listen to?",
            r"\blisten|\bmusic\b",
        ),
        (
            r"I am married to (?P<answer>.+)",
            "Who am I married to?",
            r"\bmarried\b|\bhusband|\bwife",
        ),
    )
)
# words that begin another clause, so that the answer would be too long
_GOES_ON = re.compile(r"\b(?:i|but|who|which|that|because|when|while|as)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Dialogue:
    """One dialogue.

    Attributes:
        persona: sentences that are true for the user.
        turns: turns of user and assistant, beginning with the user, at least one of each.
    """

    persona: tuple[str, ...]
    turns: tuple[str, ...]


@dataclass(frozen=True)
class Fact:
    """A sentence of the user, with a question about it.

    Attributes:
        sentence: the sentence.
        question: the question about the sentence.
        answer: a part of the sentence.
        topic: matches other sentences that might answer the question.
    """

    sentence: str
    question: str
    answer: str
    topic: re.Pattern[str]


def fact(sentence: str) -> Fact | None:
    """The fact in a sentence of a persona; None if the sentence fits no pattern."""
    sentence = re.sub(r"\bi\b", "I", " ".join(sentence.split()))
    for pattern, question, topic in _PATTERNS:
        found = pattern.fullmatch(sentence)
        if found is None:
            continue
        groups = found.groupdict()
        answer = groups.pop("answer").removesuffix(".")
        if len(answer.split()) > MOST_WORDS or _GOES_ON.search(answer):
            return None
        about = re.compile(topic.format(**groups), re.IGNORECASE)
        return Fact(sentence, question.format(**groups), answer, about)
    return None


def dialogue(persona: Iterable[str], lines: Iterable[str]) -> Dialogue | None:
    """A dialogue from lines such as "User 1: Hi!".

    The dialogue begins with the first speaker, the user, and ends with the second; turns before and
    after are left out, as are lines without a speaker. Several lines of one speaker are joined.

    Returns:
        None if no turn is left, or if a turn has a blank, as in "My name is [name]."
    """
    turns: list[str] = []
    for line in lines:
        found = _TURN.fullmatch(line.strip())
        if found is None or not found[2].strip("* "):
            continue
        said, by_user = found[2].strip("* "), found[1] == "1"
        if by_user == (len(turns) % 2 == 0):
            turns.append(said)
        elif turns:
            turns[-1] += f" {said}"
    turns = turns[: len(turns) // 2 * 2]
    if not turns or any(_BLANK.search(turn) for turn in turns):
        return None
    return Dialogue(tuple(persona), tuple(turns))


def read_dialogues(path: Path) -> Iterator[Dialogue]:
    """The dialogues of a local copy: rows of `{persona_1, conversation}`, both lists of texts.

    Raises:
        BadRecord: a row is of another form.
    """
    for place, row in rows(path):
        persona = [sentence for _, sentence in items(row, "persona_1", str, place)]
        lines = [line for _, line in items(row, "conversation", str, place)]
        found = dialogue(persona, lines)
        if found is not None:
            yield found


def conversations(
    dialogues: Iterable[Dialogue],
    documents: int,
    seed: int = 0,
    sessions: tuple[int, int] = SESSIONS,
) -> Iterator[Record]:
    """Conversations of several dialogues each, with questions about facts of earlier ones.

    Args:
        dialogues: the dialogues to choose from.
        documents: the number of conversations.
        seed: draws the dialogues, the places of facts, and the places of questions.
        sessions: least and most dialogues of one conversation.

    Raises:
        BadRecord: there are too few dialogues with facts in their persona.
    """
    pool = [(one, facts) for one in dialogues if (facts := _facts(one.persona))]
    if len(pool) < sessions[1]:
        raise BadRecord(
            f"A conversation takes up to {sessions[1]} dialogues with a persona that can be asked "
            f"about; there are {len(pool)}."
        )
    rng = random.Random(seed)
    made = 0
    while made < documents:
        messages: list[tuple[str, str]] = []
        told: list[tuple[int, int, Fact]] = []  # session, message, and the fact that is told there
        ends = []  # number of messages up to the end of each session
        for session, (one, facts) in enumerate(rng.sample(pool, rng.randint(*sessions))):
            turns = list(one.turns)
            for known in facts:
                turn = rng.randrange(0, len(turns), 2)
                turns[turn] = f"{turns[turn]} {_said(known.sentence, rng)}"
                told.append((session, len(messages) + turn, known))
            messages += zip(("user", "assistant") * (len(turns) // 2), turns, strict=True)
            ends.append(len(messages))
        questions = []
        for session, place, known in told:
            if session + 1 < len(ends):
                end = ends[rng.randrange(session + 1, len(ends))]
                if _clear(known, place, messages[:end]):
                    after = sum(len(content) for _, content in messages[:end])
                    asked = {"question": known.question, "answer": known.answer, "after": after}
                    questions.append(asked)
        if questions:  # a conversation whose facts all clash is not worth reading
            document = [{"role": role, "content": content} for role, content in messages]
            name = f"dialogues/{made}"
            yield parse({"id": name, "document": document, "questions": questions}, name)
            made += 1


def _facts(persona: Sequence[str]) -> list[Fact]:
    return [found for sentence in persona if (found := fact(sentence)) is not None]


def _said(sentence: str, rng: random.Random) -> str:
    lead = rng.choice(LEADS)
    if lead.endswith((", ", "and ")) and not sentence.startswith("I "):
        sentence = sentence[:1].lower() + sentence[1:]
    return lead + sentence


def _clear(known: Fact, place: int, messages: Sequence[tuple[str, str]]) -> bool:
    """Whether the user says nothing else that might answer the question."""
    return not any(
        role == "user"
        and number != place
        and known.topic.search(content)
        and known.answer.lower() not in content.lower()
        for number, (role, content) in enumerate(messages)
    )
