"""The prompts of a benchmark: documents and questions as tokens, in two styles.

Documents and questions are tokenized apart, so that one reading serves many questions. A model
without memory sees `head`, the text and `asked` in one window, in a chat as one turn of the user; a
memory reads `remembered`, and `asked` stands alone.

Plain text is the form of training data: it holds the document and the question alone, without
instruction and lead.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from typing import Any

from memformer.template import ACKNOWLEDGEMENT, PLAIN_NAMES, Frame, chat_ids, frame, text_ids

from eval.harness.benchmark import Question

# between the parts of a document, and between a document and a question
BREAK = "\n\n"
_DOCUMENT = "@document@"


@dataclass(frozen=True)
class Plain:
    """Text without roles and without special tokens, as `training.finetune` writes it."""

    tokenizer: Any
    instruction: str
    marks: tuple[str, str] = ("", "")
    ranking: str = ""
    frame: None = None

    def head(self, question: Question) -> list[int]:
        """The ids before a document: none."""
        return []

    def text(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document."""
        return text_ids(self.tokenizer, "\n".join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document for a memory: the text."""
        return self.text(parts)

    def said(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document that a user says: the text, because there are no roles."""
        return self.text(parts)

    def asked(self, question: Question, *, alone: bool, bare: bool = False) -> list[int]:
        """The ids of a question, up to the place of the answer.

        Args:
            question: the question.
            alone: whether the text begins with the question.
            bare: whether the options are left out.
        """
        begun = f" {question.begun}" if question.begun else ""
        text = f"Question: {question.bare if bare else question.text}\nAnswer:{begun}"
        return text_ids(self.tokenizer, text if alone else f"\n{text}")

    def option(self, text: str) -> list[int]:
        """The ids of an option that follows a bare question as its answer."""
        return text_ids(self.tokenizer, f" {text}", after="Answer:")


@dataclass(frozen=True)
class Chat:
    """Chat turns: a question shares a turn with its document, or follows remembered turns.

    Raises:
        ValueError: the chat template drops the words of the user.
    """

    tokenizer: Any
    instruction: str
    marks: tuple[str, str] = ("", "")
    ranking: str = ""

    def __post_init__(self) -> None:
        self.frame  # noqa: B018 - a template that can't be used is refused at once

    @cached_property
    def frame(self) -> Frame:
        """The tokens that the chat template writes around a turn."""
        return frame(self.tokenizer)

    def head(self, question: Question) -> list[int]:
        """The ids before a document: the system message, if any, the user's name, the lead."""
        said = _joined(question.lead, f"{self.marks[0]}{_DOCUMENT}").removesuffix(_DOCUMENT)
        if self.tokenizer.chat_template:
            around = self.frame
            return [*around.opening, *around.before, *text_ids(self.tokenizer, said, after="\n")]
        begin: list[int] = self.tokenizer("").input_ids
        return [*begin, *text_ids(self.tokenizer, f"{PLAIN_NAMES['user']}: {said}")]

    def text(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document."""
        return text_ids(self.tokenizer, BREAK.join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document for a memory: a turn of the user, and an acknowledgement."""
        turns = [
            {"role": "user", "content": BREAK.join(parts)},
            {"role": "assistant", "content": ACKNOWLEDGEMENT},
        ]
        ids: list[int] = chat_ids(self.tokenizer, turns)[0].tolist()
        return ids

    def said(self, parts: Sequence[str]) -> list[int]:
        """The ids of a document that a user tells a `ChatSession`: a turn without thanks."""
        turn = [{"role": "user", "content": BREAK.join(parts)}]
        ids: list[int] = chat_ids(self.tokenizer, turn)[0].tolist()
        return ids

    def asked(self, question: Question, *, alone: bool, bare: bool = False) -> list[int]:
        """The ids of a turn, or of its rest, that asks, up to the place of the answer.

        Args:
            question: the question.
            alone: whether the turn begins with the question, not with `head` and a document.
            bare: whether the options are left out.
        """
        words = (self.ranking, question.bare) if bare else (self.instruction, question.text)
        said = " ".join(words).strip()
        if alone:
            turn = [{"role": "user", "content": _joined(question.lead, said)}]
            ids: list[int] = chat_ids(self.tokenizer, turn, reply=question.begun)[0].tolist()
            return ids
        after = _joined(f"{_DOCUMENT}{self.marks[1]}", said).removeprefix(_DOCUMENT)
        begun = question.begun.rstrip(" ")
        if not self.tokenizer.chat_template:
            begun = f"\n{PLAIN_NAMES['assistant']}: {begun}".rstrip(" ")
            return text_ids(self.tokenizer, f"{after}{begun}")
        around = self.frame
        reply = text_ids(self.tokenizer, begun, after="\n")
        return [*text_ids(self.tokenizer, after), *around.after, *around.reply, *reply]

    def option(self, text: str) -> list[int]:
        """The ids of an option that follows a bare question as its answer."""
        if self.tokenizer.chat_template:
            return text_ids(self.tokenizer, text, after="\n")
        return text_ids(self.tokenizer, f" {text}", after=f"{PLAIN_NAMES['assistant']}:")


def wording(prompts: Prompts, question: Question) -> str:
    """A checksum of the tokens that tell texts and ask a question."""
    parts = ("One.", "Another.")
    ids = [
        prompts.head(question),
        prompts.text(parts),
        prompts.remembered(parts),
        prompts.asked(question, alone=True),
        prompts.asked(question, alone=False),
    ]
    if question.options:
        ids.append(prompts.asked(question, alone=True, bare=True))
    return sha256(json.dumps(ids).encode()).hexdigest()[:12]


def _joined(*texts: str) -> str:
    return BREAK.join(text for text in texts if text)


Prompts = Plain | Chat
STYLES: dict[str, type[Plain] | type[Chat]] = {"plain": Plain, "chat": Chat}
