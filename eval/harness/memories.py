"""Systems with a memory: the document is memorized, and questions are answered from the memory.

- `memformer`: the document is memorized, the question stands in a segment of its own
- `ungated`: as `memformer`, with a trained write gate held open: every token is written
- `session`: as `memformer`, with documents told as a `ChatSession` tells them
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from memformer import MemoryState
from memformer.reading import begun
from memformer.recollection import Passage
from memformer.rereading import with_words
from torch import Tensor

from eval.harness.benchmark import Document, Question
from eval.harness.desk import BATCH_QUESTIONS, Answer, Desk, chunks, likelihoods
from eval.harness.systems import Reading


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
            memory = reading.kept.select([place for place, _ in some])
            prompts, recalled = self._recalled(
                memory,
                [one.text for _, one in some],
                [self.desk.prompts.asked(one, alone=True) for _, one in some],
            )
            texts = self.desk.generate(
                self.desk.model,
                *self.desk.padded(prompts, left=True),
                memory=memory,
                recalled=recalled,
            )
            found += [Answer(text, len(ids)) for text, ids in zip(texts, prompts, strict=True)]
            self.desk.advance(sum(map(len, prompts)))
        return found

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options from the memory; nothing of questions and options is kept."""
        prompts = self.desk.prompts
        cases: list[tuple[int, Question, list[int], list[int]]] = [
            (place, one, prompts.asked(one, alone=True, bare=True), prompts.option(text))
            for place, one in asked
            for text in one.options
        ]
        sums: list[float] = []
        for some in chunks(cases, BATCH_QUESTIONS):
            memory = reading.kept.select([place for place, *_ in some])
            bare = [one.bare for _, one, *_ in some]
            asking, recalled = self._recalled(memory, bare, [prompt for *_, prompt, _ in some])
            options = [option for *_, option in some]
            rows = [prompt + option for prompt, option in zip(asking, options, strict=True)]
            logits = self._logits(*self.desk.padded(rows), memory, recalled)
            sums += likelihoods(logits, [len(prompt) for prompt in asking], options)
        rest = iter(sums)
        return [list(islice(rest, len(one.options))) for _, one in asked]

    def _recalled(
        self, memory: MemoryState, questions: Sequence[str], prompts: Sequence[list[int]]
    ) -> tuple[list[list[int]], list[list[Passage]]]:
        """Prompts with the words that are read again, and the passages recalled for each.

        They are found by the question's own words, as retrieval does.
        """
        desk = self.desk
        marks = desk.prompts.frame
        again = with_words(desk.model, desk.tokenizer, marks, memory, questions, prompts)
        return [one.ids for one in again], [one.recalled for one in again]

    def _logits(
        self, ids: Tensor, mask: Tensor, memory: MemoryState, recalled: Sequence[list[Passage]]
    ) -> Tensor:
        """The logits of texts that read what was recalled; nothing: the whole memory."""
        # with a cache, passages that lost their slots are read too
        found: Tensor = self.desk.model(
            input_ids=ids,
            attention_mask=mask,
            memory=memory,
            recalled=recalled,
            use_cache=any(recalled),
        ).logits
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
    """The bytes of each memory in a batch, without what only other rows fill."""
    batch, slots = memory.token.shape
    fixed = sum(count.nbytes for count in memory.counts.values())
    record = sum(tensor.nbytes for tensor in memory.record.values())
    a_slot = (memory.nbytes - fixed - record) // (batch * slots) if slots else 0
    a_token = record // memory.told.numel() if memory.told.numel() else 0
    rows = zip(memory.occupied.sum(-1).tolist(), memory.num_seen.tolist(), strict=True)
    return [fixed // batch + a_slot * kept + a_token * seen for kept, seen in rows]
