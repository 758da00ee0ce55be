"""The systems that are compared: ways in which one model reads a document before it is asked.

All systems see the same documents and the same questions in the same words. Each reads documents
and then answers any number of questions about them; each decides what to keep in between.

- `nothing`: the question alone
- `truncated`: the last tokens of the document and the question, in one window
- `sliding`: the whole document; each token sees the last tokens before it and the first four
- `full`: the whole document in the window; n/a where the window is too short
- `bm25`, `dense`: the passages that look most like the question, found by words or by an encoder

Systems with a memory are in `memories.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from eval.harness.benchmark import Document, Question
from eval.harness.desk import Answer, CachedText, Desk
from eval.harness.prompts import BREAK
from eval.harness.retrieval import Finder, Search, passages

# the first tokens of a text that a sliding window keeps: without them a model that was trained on
# whole windows breaks down (Xiao et al. 2024, arXiv:2309.17453)
SINKS = 4


@dataclass(frozen=True)
class Reading:
    """The state of a system after it has read some documents.

    Attributes:
        kept: all that the system needs to answer.
        tokens: the tokens of each document that the model read.
        nbytes: the bytes that are kept of each document; 0 if only the text is kept.
    """

    kept: Any
    tokens: Sequence[int]
    nbytes: Sequence[int]


class System(Protocol):
    """A way to answer questions about documents; peers and users' own classes implement it."""

    def read(self, documents: Sequence[Document]) -> Reading:
        """Reads documents.

        Raises:
            WindowExceeded: a document is too long for the system.
        """

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers questions, each about the document whose place is given with it.

        Raises:
            WindowExceeded: a prompt is too long for the window.
        """

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """The log-likelihoods of the options of questions, which are asked without their options.

        Benchmarks whose questions have no options never call it.

        Raises:
            WindowExceeded: a prompt is too long for the window.
        """


@dataclass
class Nothing:
    """The question alone."""

    desk: Desk

    def read(self, documents: Sequence[Document]) -> Reading:
        """Keeps nothing."""
        nothing = [0] * len(documents)
        return Reading(None, nothing, nothing)

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers from the weights of the model alone."""
        return self.desk.plain([self.desk.prompts.asked(one, alone=True) for _, one in asked])

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options after the question alone."""
        return [self.desk.ranked([], question, alone=True) for _, question in asked]


@dataclass
class Truncated:
    """The last tokens of the document and the question, in a window of `tokens` tokens."""

    desk: Desk
    tokens: int = 512

    def read(self, documents: Sequence[Document]) -> Reading:
        """Keeps the ids of each document."""
        texts = [self.desk.prompts.text(one.parts()) for one in documents]
        nothing = [0] * len(texts)
        return Reading(texts, nothing, nothing)

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers with the end of the document that fits before the question."""
        prompts = []
        for place, question in asked:
            after = self.desk.prompts.asked(question, alone=False)
            prompts.append(self._before(reading.kept[place], question, len(after)) + after)
        return self.desk.plain(prompts)

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options after the end of the document, which leaves room for the longest one."""
        found = []
        for place, question in asked:
            after = self.desk.ranking_tokens(question)
            before = self._before(reading.kept[place], question, after)
            found.append(self.desk.ranked(before, question))
        return found

    def _before(self, text: list[int], question: Question, after: int) -> list[int]:
        """The ids before a question that takes `after` tokens."""
        head = self.desk.prompts.head(question)
        room = max(0, self.tokens - len(head) - after)
        return head + text[max(0, len(text) - room) :]


@dataclass
class Full:
    """Everything in the window. A document with several questions is read once."""

    desk: Desk

    def read(self, documents: Sequence[Document]) -> Reading:
        """Keeps the ids of each document or, if it has several questions, keys and values."""
        kept: list[list[int] | CachedText] = []
        for document in documents:
            told = self.desk.told(document.parts(), document.questions[0])
            asked = [self.desk.prompts.asked(one, alone=False) for one in document.questions]
            self.desk.fits(len(told) + max(map(len, asked)))
            if len(asked) > 1:
                kept.append(self.desk.cached(told))
                self.desk.advance(len(told))
            else:
                kept.append(told)
        read = [one.tokens if isinstance(one, CachedText) else 0 for one in kept]
        sizes = [one.nbytes if isinstance(one, CachedText) else 0 for one in kept]
        return Reading(kept, read, sizes)

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers with the whole document before each question."""
        kept = dict(enumerate(reading.kept))
        texts = {place: one for place, one in kept.items() if isinstance(one, CachedText)}
        found = self.desk.continued(texts, asked)
        alone = [number for number in range(len(asked)) if number not in found]
        prompts = [
            kept[place] + self.desk.prompts.asked(question, alone=False)
            for place, question in (asked[number] for number in alone)
        ]
        found |= zip(alone, self.desk.plain(prompts), strict=True)
        return [found[number] for number in range(len(asked))]

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options after the whole document."""
        return [self.desk.ranked(reading.kept[place], question) for place, question in asked]


@dataclass
class Sliding:
    """The whole document; each token sees `tokens` tokens before it, and the first four.

    The window moves in steps of half its width. The first tokens stand right before it: a model
    that was trained on the distances of one window breaks down at their true distance.
    """

    desk: Desk
    tokens: int = 512

    def read(self, documents: Sequence[Document]) -> Reading:
        """Keeps keys and values of the last tokens of each document."""
        kept = [self._slide(self.desk.told(one.parts(), one.questions[0])) for one in documents]
        return Reading(kept, [one.tokens for one in kept], [one.nbytes for one in kept])

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers from the keys and values of the last tokens."""
        found = self.desk.continued(dict(enumerate(reading.kept)), asked)
        return [found[number] for number in range(len(asked))]

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options after the last tokens."""
        return [self.desk.ranked(reading.kept[place], question) for place, question in asked]

    def _slide(self, told: list[int]) -> CachedText:
        """Keys and values of the end of a text."""
        ids = torch.tensor([told], device=self.desk.model.device)
        backbone = self.desk.model.backbone
        cache = DynamicCache()
        step = max(1, self.tokens // 2)
        for begin in range(0, len(told), step):
            if (first := begin - self.tokens) > SINKS:
                self._shift(cache, ids[:, :SINKS], first)
            some = ids[:, begin : begin + step]
            places = torch.arange(begin, begin + some.shape[1], device=ids.device)[None]
            backbone(
                input_ids=some,
                position_ids=places,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self.desk.advance(some.shape[1])
        if (first := len(told) - self.tokens) > SINKS:
            self._shift(cache, ids[:, :SINKS], first)
        return CachedText(cache, len(told))

    def _shift(self, cache: DynamicCache, sinks: Tensor, first: int) -> None:
        """Drops all tokens before the position `first` but the sinks, which move up to it."""
        places = torch.arange(first - SINKS, first, device=sinks.device)[None]
        moved = self.desk.model.backbone(
            input_ids=sinks, position_ids=places, use_cache=True, logits_to_keep=1
        ).past_key_values
        layer: Any
        for layer, sink in zip(cache.layers, moved.layers, strict=True):
            layer.keys = torch.cat([sink.keys, layer.keys[:, :, -self.tokens :]], 2)
            layer.values = torch.cat([sink.values, layer.values[:, :, -self.tokens :]], 2)


@dataclass
class Retrieval:
    """The passages that look most like the question, in the order of the document.

    Attributes:
        desk: the model.
        finder: makes passages searchable.
        count: the number of passages.
        tokens: the most tokens of the window, question and all, in place of a number of passages.
            At least one passage is told.
    """

    desk: Desk
    finder: Finder
    count: int = 8
    tokens: int | None = None

    def read(self, documents: Sequence[Document]) -> Reading:
        """Cuts each document into passages and makes them searchable."""
        found: list[tuple[list[str], Search]] = []
        for document in documents:
            cut = passages(document.parts(), self.desk.count)
            found.append((cut, self.finder(cut)))
        nothing = [0] * len(found)
        return Reading(found, nothing, nothing)

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers from the passages found for each question."""
        prompts = []
        for place, question in asked:
            after = self.desk.prompts.asked(question, alone=False)
            told = self._told(reading.kept[place], question, question.text, len(after))
            prompts.append(told + after)
        return self.desk.plain(prompts)

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options after the passages found for the question without its options."""
        found = []
        for place, question in asked:
            after = self.desk.ranking_tokens(question)
            told = self._told(reading.kept[place], question, question.bare, after)
            found.append(self.desk.ranked(told, question))
        return found

    def _told(
        self, kept: tuple[list[str], Search], question: Question, words: str, after: int
    ) -> list[int]:
        """The ids before a question that takes `after` tokens: passages found by some words."""
        cut, search = kept
        if self.tokens is None:
            best = search(words, min(self.count, len(cut)))
        else:
            room = self.tokens - len(self.desk.prompts.head(question)) - after
            best = self._within(room, cut, search(words, len(cut)))
        return self.desk.told([cut[number] for number in sorted(best)], question)

    def _within(self, room: int, cut: Sequence[str], order: Sequence[int]) -> list[int]:
        """The best passages that fit into some tokens: the best one, and each next that fits."""
        best: list[int] = []
        for number in order:
            # a passage and the break before it
            size = self.desk.count(f"{BREAK}{cut[number]}")
            if not best or size <= room:
                best.append(number)
                room -= size
            if room <= 0:
                break
        return best
