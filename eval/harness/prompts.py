"""How a document is told and a question asked: two styles.

What is told and what is asked are tokenized apart, so that one reading serves many questions. A
model without memory sees `head`, the text and `asked` in one go, in a chat as one turn of the user;
a memory reads `remembered`, and `asked` stands alone.

Plain text is what a model was trained on: of a benchmark it has the document and the question
alone.
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
    frame: None = None

    def head(self, question: Question) -> list[int]:
        """What comes before a document: nothing."""
        return []

    def text(self, parts: Sequence[str]) -> list[int]:
        """A document."""
        return text_ids(self.tokenizer, "\n".join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """A document as a memory reads it."""
        return self.text(parts)

    def said(self, parts: Sequence[str]) -> list[int]:
        """A document as somebody says it: there are no roles, so it is the text."""
        return self.text(parts)

    def asked(self, question: Question, *, alone: bool) -> list[int]:
        """A question, up to where the answer is expected.

        Args:
            question: what is asked.
            alone: whether nothing comes before it in the same text.
        """
        begun = f" {question.begun}" if question.begun else ""
        text = f"Question: {question.text}\nAnswer:{begun}"
        return text_ids(self.tokenizer, text if alone else f"\n{text}")


@dataclass(frozen=True)
class Chat:
    """Chat turns: a question in one turn with what it is about, or remembered turns before it.

    Raises:
        ValueError: a chat template that drops what the user says.
    """

    tokenizer: Any
    instruction: str
    marks: tuple[str, str] = ("", "")

    def __post_init__(self) -> None:
        self.frame  # noqa: B018 - a template that can't be used is refused at once

    @cached_property
    def frame(self) -> Frame:
        """The tokens that the chat template writes around a turn."""
        return frame(self.tokenizer)

    def head(self, question: Question) -> list[int]:
        """What comes before a document: the system message, if any, the user's name, the lead."""
        said = _joined(question.lead, f"{self.marks[0]}{_DOCUMENT}").removesuffix(_DOCUMENT)
        if self.tokenizer.chat_template:
            around = self.frame
            return [*around.opening, *around.before, *text_ids(self.tokenizer, said, after="\n")]
        begin: list[int] = self.tokenizer("").input_ids
        return [*begin, *text_ids(self.tokenizer, f"{PLAIN_NAMES['user']}: {said}")]

    def text(self, parts: Sequence[str]) -> list[int]:
        """A document."""
        return text_ids(self.tokenizer, BREAK.join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """A document as a memory reads it: said by the user, and acknowledged."""
        turns = [
            {"role": "user", "content": BREAK.join(parts)},
            {"role": "assistant", "content": ACKNOWLEDGEMENT},
        ]
        ids: list[int] = chat_ids(self.tokenizer, turns)[0].tolist()
        return ids

    def said(self, parts: Sequence[str]) -> list[int]:
        """A document as somebody says it to a `ChatSession`: a turn, and no thanks for it."""
        turn = [{"role": "user", "content": BREAK.join(parts)}]
        ids: list[int] = chat_ids(self.tokenizer, turn)[0].tolist()
        return ids

    def asked(self, question: Question, *, alone: bool) -> list[int]:
        """The rest of a turn that asks, up to where the answer is expected.

        Args:
            question: what is asked.
            alone: whether the turn begins here, rather than with `head` and a document.
        """
        said = f"{self.instruction} {question.text}".strip()
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


def wording(prompts: Prompts, question: Question) -> str:
    """A checksum of how texts are told and a question is asked, token by token."""
    parts = ("One.", "Another.")
    ids = [
        prompts.head(question),
        prompts.text(parts),
        prompts.remembered(parts),
        prompts.asked(question, alone=True),
        prompts.asked(question, alone=False),
    ]
    return sha256(json.dumps(ids).encode()).hexdigest()[:12]


def _joined(*texts: str) -> str:
    return BREAK.join(text for text in texts if text)


Prompts = Plain | Chat
STYLES: dict[str, type[Plain] | type[Chat]] = {"plain": Plain, "chat": Chat}
