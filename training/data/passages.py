"""Passages with questions, and documents made of many passages strewn together.

Questions of public sets were written for one passage. In a memory of many passages a question such
as "When was it founded?" has many answers or none. `Words.asks_for` therefore keeps a question only
if words of its own passage single that passage out.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from eval.corpora.long_documents import choice
from eval.corpora.stories import SENTENCE_END
from training.data.drills import UNKNOWN
from training.data.records import Record, Span, parse

# the words before a question in eval.longqa, and in benchmarks where an answer may be missing
SHORT = "Answer from what I told you before, in as few words as you can."
PARAGRAPH = "Answer from what I told you before, in one paragraph."
LETTER = "Answer from what I told you before. Which option is right? Write its letter."
PERHAPS = "Answer in a few words. If I have not told you, say that you don't know."
# how often each way to ask for a short answer is said; drawn apart from whether there is an answer,
# and so no hint of it
SAID = {SHORT: 0.5, PERHAPS: 0.35, "": 0.15}
ABSENT = 0.2  # share of the questions whose answer is not in the document
CHOICES = 0.15  # share of the others that list options, if there are enough other answers
OPTIONS = 4
AT_END = 0.5  # share of the questions at the end of the document; others follow some passage
QUESTIONS = 16  # about one document, at most
BREAK = "\n\n"
# information that the words shared by a question and its passage must carry, where 1 is the
# information of a word that stands in one passage only
SPECIFIC = 0.6
STEM = 5  # letters of a word that are compared
_WORD = re.compile(r"\w+")
_KIND = re.compile(
    r"\bhow (?:many|much|long|old)\b|\b(?:what|which) (?!is|was|are|were|do|did|does|has|had)\w+|"
    r"\b(?:who|when|where|why|which|what|how)\b"
)
_COMMON = frozenset(
    "a an the and or but if of in on at to from by for with as is are was were be been being do "
    "does did done has have had having it its he she they them his her their this that these those "
    "i you we my your our me us what who whom whose which when where why how many much there here "
    "not no nor so than then too very can could will would shall should may might must about into "
    "after before during between over under out up down off s t m re ve ll d".split()
)


@dataclass(frozen=True)
class Asked:
    """A question about a passage.

    Attributes:
        question: the text of the question.
        answer: the answer; "": the passage does not hold it.
        sentence: the characters of the passage's text that hold the answer.
        part: the characters that count as the passage, where the whole is long; None: the whole.
        silver: whether the place was guessed from words in common.
    """

    question: str
    answer: str
    sentence: Span | None = None
    part: Span | None = None
    silver: bool = False


@dataclass(frozen=True)
class Passage:
    """One paragraph, post or scene.

    Attributes:
        article: the name of what it is a part of, such as an article; parts of one article are
            hard to tell apart.
        text: the text, with its title as first line where it has one.
        asked: questions about it.
    """

    article: str
    text: str
    asked: tuple[Asked, ...] = ()


def content(text: str) -> frozenset[str]:
    """The beginnings of the words of a text that carry meaning."""
    found = (word for word in _WORD.findall(text.lower()) if word not in _COMMON)
    return frozenset(word[:STEM] for word in found)


class Words:
    """How much each word says about the passage it stands in.

    Args:
        passages: all passages of a source.
    """

    def __init__(self, passages: Iterable[Passage]) -> None:
        texts = [content(passage.text) for passage in passages]
        self.count = len(texts)
        self.holding = Counter(word for text in texts for word in text)
        self._known: dict[str, frozenset[str]] = {}

    def of(self, text: str) -> frozenset[str]:
        """The result of `content`, kept."""
        if text not in self._known:
            self._known[text] = content(text)
        return self._known[text]

    def weight(self, words: Iterable[str]) -> float:
        """The information of words, in nats: rare words have more."""
        return sum(math.log((self.count + 1) / (self.holding[word] or 1)) for word in words)

    def overlap(self, said: str, text: str) -> float:
        """The information of the words that two texts share."""
        return self.weight(self.of(said) & self.of(text))

    def asks_for(self, asked: Asked, own: str, others: Iterable[str]) -> bool:
        """Whether a question can only be about its own passage.

        The words that it shares with its passage must be rare enough, and no other passage may have
        all of them, or the answer and half of them.

        Args:
            asked: the question.
            own: the text of the passage that it was written for.
            others: the texts of the other passages in memory.
        """
        shared = self.of(asked.question) & self.of(own)
        if self.weight(shared) < SPECIFIC * math.log(self.count + 1):
            return False
        for other in others:
            there = shared & self.of(other)
            if there == shared:
                return False
            if asked.answer and 2 * len(there) >= len(shared) and asked.answer in other:
                return False
        return True


def sentence_at(text: str, begin: int, end: int) -> Span:
    """The sentence, or the sentences, of a text around some characters of it."""
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(text)), len(text)]
    first = max(place for place in ends if place <= begin)
    last = min(place for place in ends if place >= end)
    return first, first + len(text[first:last].rstrip())


@dataclass
class Told:
    """Passages in the order in which they are told, as one text.

    Attributes:
        passages: the passages.
        begins: the place of each passage in the text.
        text: the text.
    """

    passages: Sequence[Passage]
    begins: list[int] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        for passage in self.passages:
            self.text += BREAK if self.text else ""
            self.begins.append(len(self.text))
            self.text += passage.text

    def end(self, number: int) -> int:
        """The place where a passage ends."""
        return self.begins[number] + len(self.passages[number].text)


# a question, with the number of its passage; None: its passage is not told
Chosen = tuple[Asked, int | None]


def document(
    name: str,
    told: Told,
    answered: Sequence[Chosen],
    absent: Sequence[Asked],
    others: Sequence[Asked],
    rng: random.Random,
) -> Record | None:
    """A document with questions, a fifth of them without an answer.

    Args:
        name: the id of the record.
        told: the passages of the document.
        answered: questions whose answer is told, from which some are drawn.
        absent: questions whose answer is not told.
        others: more questions about the same articles, whose answers can be wrong options.
        rng: draws the questions, their forms and their places.

    Returns:
        None if no question can be asked.
    """
    most = min(QUESTIONS, round(len(answered) / (1 - ABSENT)))
    missing = min(len(absent), sum(rng.random() < ABSENT for _ in range(most)))
    drawn = rng.sample(list(answered), min(len(answered), most - missing))
    chosen: list[Chosen] = [*drawn, *((one, None) for one in rng.sample(list(absent), missing))]
    pool = [one for one, _ in answered] + list(others)
    questions = [_written(one, number, told, pool, rng) for one, number in chosen]
    if not questions:
        return None
    return parse({"id": name, "document": told.text, "questions": questions}, name)


def _written(
    asked: Asked, number: int | None, told: Told, pool: Sequence[Asked], rng: random.Random
) -> dict[str, Any]:
    """A question as JSON, in a form and at a place that are drawn."""
    instruction = rng.choices(list(SAID), list(SAID.values()))[0]
    is_known = bool(asked.answer) and number is not None
    question, answer = asked.question, asked.answer if is_known else UNKNOWN
    options = _options(asked, pool, rng) if is_known and rng.random() < CHOICES else []
    if options:
        question = choice(question, options)
        instruction = rng.choice((LETTER, SHORT))
        if instruction == LETTER:
            answer = f"({'ABCDEFGH'[options.index(answer)]})"
    last = len(told.passages) - 1
    if rng.random() < AT_END:
        place = last
    elif number is None:
        place = rng.randint(last // 2, last)
    else:
        place = rng.randint(number, last)
    after = told.end(place)
    found: dict[str, Any] = {
        "question": question,
        "answer": answer,
        "after": after,
        "instruction": instruction,
    }
    if is_known and number is not None and asked.sentence is not None:
        begin = told.begins[number]
        part = asked.part or (0, len(told.passages[number].text))
        found["passage"] = [begin + part[0], begin + part[1]]
        found["sentence"] = [begin + asked.sentence[0], begin + asked.sentence[1]]
        found["silver"] = asked.silver
    return found


def kind(question: str) -> str:
    """What a question asks for: its question words, such as "who", "how many" or "what year"."""
    found = _KIND.search(question.lower())
    return found[0] if found else ""


def _shape(asked: Asked) -> tuple[str, bool, bool, bool]:
    """What an answer looks like: a wrong option of another shape would be too easy to tell."""
    answer = asked.answer
    has_digit = any(letter.isdigit() for letter in answer)
    return kind(asked.question), has_digit, answer[:1].isupper(), len(answer.split()) > 3


def _options(asked: Asked, pool: Sequence[Asked], rng: random.Random) -> list[str]:
    """The answer among other answers of its kind and shape; none if there are too few."""
    mine, wanted = asked.answer.lower(), _shape(asked)
    wrong: dict[str, str] = {}
    for one in rng.sample(list(pool), len(pool)):
        other = one.answer.lower()
        if other and _shape(one) == wanted and mine not in other and other not in mine:
            wrong.setdefault(other, one.answer)
        if len(wrong) == OPTIONS - 1:
            options = [asked.answer, *wrong.values()]
            rng.shuffle(options)
            return options
    return []
