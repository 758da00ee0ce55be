"""Questions after the words that a memory would read again; nothing else of the document is read.

A memory of a large document finds a few passages for a question and puts their words before it
(`memformer.rereading`). Here they are chosen as finding by words would choose them, and the one
that holds the answer is always among them: the one that is named; else one in whose words the
answer stands; else, for an answer of a sentence or more, the one with most words in common with
question and answer. A question without an answer has those that look most like it, any, or none. A
request that needs nothing of the document has any, or none, as in a chat that has just begun. So a
row costs a few hundred tokens, however long the document is.
"""

from __future__ import annotations

import importlib
import random
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.corpora.stories import SENTENCE_END
from memformer.rereading import word_ids
from memformer.template import frame
from training.data.drills import UNKNOWN
from training.data.records import Question, Record, Span
from training.finetuning.documents import PARAGRAPH_END, Document, Places, aside_of

# words of a passage at most; longer paragraphs are cut at the ends of lines and sentences
PASSAGE_WORDS = 160
# how often a question without an answer has any passages, and not those that look most like it:
# finding may find nothing near; and how often it has none, as where nothing was told
UNLIKE, NOTHING = 0.3, 0.15
# how often a request that needs nothing that was told has no passages
ALONE = 0.6
# words of an answer that has to be put together, and stands nowhere as it is
TOLD_ANEW = 8
# how many passages are found for a question, each number as often as it stands here
FOUND = (1, 1, 1, 2, 2, 3)
_LINE_END = re.compile(r"\n\s*")
_WORD = re.compile(r"\w+")


def asked_again(
    record: Record, tokenizer: PreTrainedTokenizerBase, style: str, tokens: int
) -> list[Document]:
    """The questions of a record, each as a document that holds nothing but its aside.

    A question is left out if its answer, of a few words, stands nowhere, or if its passage is
    longer than `tokens`.

    Args:
        record: a document with questions.
        tokenizer: the tokenizer of the model.
        style: one of `training.finetuning.documents.STYLES`.
        tokens: most tokens of the words before a question.
    """
    rng = random.Random(record.id)
    place = len(frame(tokenizer).begin) if style == "chat" else 0
    found = []
    cut = _passages(record)
    texts = tuple(record.text[begin:end].strip() for begin, end in cut)
    # the marks of a template are text here, which changes no count by much
    sizes = [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False).input_ids]
    for number, question in enumerate(record.questions):
        words = _found(texts, cut, sizes, question, tokens, rng)
        if words is None:
            continue
        alone = replace(question, passage=None, sentence=None)
        aside = aside_of(alone, 0, Places(), tokenizer, style)
        if words:
            aside = aside.after_words(word_ids(tokenizer, words), place)
        name = f"{record.id}/{number}"
        found.append(Document(name, (), frozenset(), (), (aside,)))
    return found


def _passages(record: Record) -> list[Span]:
    """The passages of a document, in characters of it: paragraphs, or parts of long ones."""
    contents = record.document
    texts = [contents] if isinstance(contents, str) else [content for _, content in contents]
    found, begin = [], 0
    for text in texts:
        for first, last in _cut(text, PARAGRAPH_END):
            found += [(begin + a, begin + b) for a, b in _short(text, first, last)]
        begin += len(text)
    return found


def _short(text: str, begin: int, end: int) -> list[Span]:
    """A paragraph in parts of a few words, which end with a line or a sentence."""
    parts: list[Span] = []
    pieces = [
        (begin + a + c, begin + a + d)
        for a, b in _cut(text[begin:end], _LINE_END)
        for c, d in _cut(text[begin + a : begin + b], SENTENCE_END)
    ]
    for first, last in pieces:
        if parts and len(text[parts[-1][0] : last].split()) <= PASSAGE_WORDS:
            parts[-1] = (parts[-1][0], last)
        else:
            parts.append((first, last))
    return parts


def _cut(text: str, ends: re.Pattern[str]) -> list[Span]:
    """The parts of a text between the places where something ends."""
    places = [0, *(match.end() for match in ends.finditer(text)), len(text)]
    pairs = zip(places, places[1:], strict=False)
    return [(begin, end) for begin, end in pairs if text[begin:end].strip()]


def _found(
    texts: tuple[str, ...],
    cut: Sequence[Span],
    sizes: Sequence[int],
    question: Question,
    tokens: int,
    rng: random.Random,
) -> list[str] | None:
    """The words of the passages found for a question, in order; None if it can't be answered."""
    needless = question.alone or question.answer == UNKNOWN
    if needless and rng.random() < (ALONE if question.alone else NOTHING):
        return []
    told = max(1, sum(span[1] <= question.after for span in cut))
    cut, texts = cut[:told], texts[:told]
    order = _by_words(question.question, texts)
    right: list[int] = []
    if not needless:
        right = _holding(cut, texts, question, order)
        if not right:
            return None
    elif rng.random() < UNLIKE:
        rng.shuffle(order)
    count = max(rng.choice(FOUND), len(right))
    taken: list[int] = []
    for number in [*right, *(one for one in order if one not in right)][:count]:
        if sizes[number] <= tokens:
            taken.append(number)
            tokens -= sizes[number]
    if not taken or not set(right) <= set(taken):
        return None
    return [texts[number] for number in sorted(taken)]


def _holding(
    cut: Sequence[Span], texts: tuple[str, ...], question: Question, order: Sequence[int]
) -> list[int]:
    """The passages that hold an answer: those named, else one with its words or most of them."""
    span = question.sentence or question.passage
    if span is not None:
        named = [n for n, (begin, end) in enumerate(cut) if begin < span[1] and span[0] < end]
        if len(named) <= max(FOUND):
            return named
    holding = [number for number in order if question.answer.strip(" .") in texts[number]][:1]
    if not holding and len(question.answer.split()) >= TOLD_ANEW:
        return _by_words(f"{question.question} {question.answer}", texts)[:1]
    return holding


def _by_words(question: str, texts: tuple[str, ...]) -> list[int]:
    """The numbers of texts, those first whose words are most like those of a question."""
    asked, index = _WORD.findall(question.lower()), _index(texts)
    if not asked or index is None:
        return list(range(len(texts)))
    scores = index.get_scores(asked).tolist()
    return sorted(range(len(texts)), key=lambda number: -scores[number])


@lru_cache(maxsize=8)
def _index(texts: tuple[str, ...]) -> Any:
    """A search by words; None where there are none. Most questions of a record share it."""
    engine: Any = importlib.import_module("bm25s")
    known = [_WORD.findall(text.lower()) for text in texts]
    if not any(known):
        return None
    index = engine.BM25()
    index.index(known, show_progress=False)
    return index
