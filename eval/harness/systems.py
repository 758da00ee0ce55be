"""The systems that are compared: ways in which one model reads a document before it is asked.

All systems see the same documents and the same questions in the same words. Each reads documents
and then answers any number of questions about them; each decides what to keep in between.

- `nothing`: the question alone
- `truncated`: the last tokens of the document and the question, in one window
- `sliding`: the whole document; each token sees the last tokens before it and the first four
- `full`: the whole document in the window; n/a where the window is too short
- `bm25`, `dense`: the passages that look most like the question, found by words or by an encoder
- `memformer`: the document is memorized, the question stands in a segment of its own
- `ungated`: as `memformer`, with a trained write gate held open: every token is written
- `session`: as `memformer`, with documents told as a `ChatSession` tells them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from memformer import MemoryState
from memformer.reading import begun
from torch import Tensor
from transformers import DynamicCache

from eval.harness.benchmark import Document, Question
from eval.harness.desk import BATCH_QUESTIONS, Answer, CachedText, Desk, chunks
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
            head = self.desk.prompts.head(question)
            after = self.desk.prompts.asked(question, alone=False)
            room = max(0, self.tokens - len(head) - len(after))
            text = reading.kept[place]
            prompts.append(head + text[max(0, len(text) - room) :] + after)
        return self.desk.plain(prompts)


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
    """The passages that look most like the question, in the order of the document."""

    desk: Desk
    finder: Finder
    count: int = 8

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
            cut, search = reading.kept[place]
            best = sorted(search(question.text, min(self.count, len(cut))))
            told = self.desk.told([cut[number] for number in best], question)
            prompts.append(told + self.desk.prompts.asked(question, alone=False))
        return self.desk.plain(prompts)


@dataclass
class Memory:
    """The document is memorized; the question stands in a segment of its own.

    Attributes:
        slots: the capacity; None: the capacity in the model's settings.
        gated: whether a trained write gate decides what is written.
    """

    desk: Desk
    slots: int | None = None
    gated: bool = True

    def read(self, documents: Sequence[Document]) -> Reading:
        """Memorizes the parts of each document one after the other."""
        model = self.desk.model
        slots = self.slots or model.memory_config.num_slots
        memory = self._begun(model.init_memory(len(documents), num_slots=slots))
        read = [0] * len(documents)
        texts = [document.parts() for document in documents]
        for place in range(max(map(len, texts))):
            parts = [text[place : place + 1] for text in texts]
            rows = [self._told(part) if part else [] for part in parts]
            read = [before + len(ids) for before, ids in zip(read, rows, strict=True)]
            ids, mask = self.desk.padded(rows)
            memory = model.memorize(
                ids,
                mask,
                memory=memory,
                gated=self.gated,
                limit=self._limit(ids),
                progress=self._meter(rows),
            )
        return Reading(memory, read, row_bytes(memory))

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers from the memory."""
        found = []
        for some in chunks(asked, BATCH_QUESTIONS):
            prompts = [self.desk.prompts.asked(one, alone=True) for _, one in some]
            texts = self.desk.generate(
                self.desk.model,
                *self.desk.padded(prompts, left=True),
                memory=reading.kept.select([place for place, _ in some]),
            )
            found += [Answer(text, len(ids)) for text, ids in zip(texts, prompts, strict=True)]
            self.desk.advance(sum(map(len, prompts)))
        return found

    def _begun(self, memory: MemoryState) -> MemoryState:
        """The memory before the first part of a document."""
        return memory

    def _told(self, parts: Sequence[str]) -> list[int]:
        """The token ids that tell some parts of a document."""
        return self.desk.prompts.remembered(parts)

    def _limit(self, ids: Tensor) -> Tensor | None:
        """The highest write gate of each id; None: no limit."""
        return None

    def _meter(self, rows: Sequence[list[int]]) -> Callable[[int], None]:
        """A callback that reports the tokens read of all rows."""
        before = 0

        def progress(done: int) -> None:
            nonlocal before
            now = sum(min(done, len(ids)) for ids in rows)
            self.desk.advance(now - before)
            before = now

        return progress


@dataclass
class Session(Memory):
    """A memory that is told as `ChatSession` tells: each part is a turn of the user without thanks,
    the system message stands before it and is not written, and the first token is written once.
    """

    def _begun(self, memory: MemoryState) -> MemoryState:
        frame = self.desk.prompts.frame
        return memory if frame is None else begun(self.desk.model, frame, memory)

    def _told(self, parts: Sequence[str]) -> list[int]:
        return self.desk.prompts.said(parts)

    def _limit(self, ids: Tensor) -> Tensor | None:
        frame = self.desk.prompts.frame
        if frame is None:
            return None
        limit = torch.ones_like(ids, dtype=torch.float32)
        limit[:, : frame.unwritten] = 0
        return limit


def row_bytes(memory: MemoryState) -> list[int]:
    """The bytes of each memory in a batch, without slots that only other rows fill."""
    fixed = sum(count.nbytes for count in memory.counts.values())
    batch, slots = memory.token.shape
    each = (memory.nbytes - fixed) // (batch * slots) if slots else 0
    return [fixed // batch + each * count for count in memory.occupied.sum(-1).tolist()]
