"""An interview: a model memorizes facts about people, and answers from its memory alone.

`eval.ablation`, `eval.recipe` and `training.gate` use it: turns are token ids, so that two runs
differ in the memory alone. `eval.recall` compares systems instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from memformer import MemoryState

from eval.corpora.haystack import Haystack
from eval.corpora.people import Chat, Document, Fact
from eval.harness.asking import Asker
from eval.harness.desk import chunks
from eval.harness.metrics import first_words

# the longest value has 3 tokens of SmolLM2; the rest shows the end of the answer
MAX_NEW_TOKENS = 8
# documents memorized at once and questions asked at once; both bound the memory of a run
DOCUMENTS_AT_ONCE = 4
QUESTIONS_AT_ONCE = 12


@dataclass
class Interview(Asker):
    """A model, a book to put between facts and questions, and the turns of a chat."""

    haystack: Haystack
    seed: int = 0
    chat: Chat = field(init=False)

    def __post_init__(self) -> None:
        self.chat = Chat(self.tokenizer)

    def turns(self, document: Document, distance: int) -> tuple[list[int], list[int]]:
        """The turn with facts, and the turn with `distance` tokens of the book."""
        book = self.haystack.tokens(distance, f"{self.seed}/book/{document.number}")
        return self.chat.facts(document), self.chat.book(book)

    def answers(self, documents: Sequence[Document], distance: int) -> list[str]:
        """The answers to all questions, in the order of documents and questions."""
        texts = []
        with torch.inference_mode():
            for some in chunks(documents, DOCUMENTS_AT_ONCE):
                memory = self.model.init_memory(len(some), num_slots=None)
                for turns in zip(*(self.turns(one, distance) for one in some), strict=True):
                    if any(turns):
                        memory = self.model.memorize(*self.padded(turns), memory=memory)
                asked = [(row, fact) for row, one in enumerate(some) for fact in one.asked]
                texts += self.ask(memory, asked)
        return texts

    def ask(self, memory: MemoryState, asked: Sequence[tuple[int, Fact]]) -> list[str]:
        """The answers to questions, each from the memory in the row that is given with it."""
        texts = []
        for part in chunks(asked, QUESTIONS_AT_ONCE):
            questions = [self.chat.question(fact, first=True) for _, fact in part]
            texts += self.said(
                self.model,
                *self.padded(questions, left=True),
                MAX_NEW_TOKENS,
                memory=memory.select([row for row, _ in part]),
            )
        return texts


def right(text: str, fact: Fact) -> bool:
    """Whether the first words of a reply are the value of a fact."""
    return first_words(text) == fact.value.lower()
