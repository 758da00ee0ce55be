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
from hashlib import sha256
from typing import Any

from memformer.chat import ACKNOWLEDGEMENT, PLAIN_NAMES, chat_ids

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

    def head(self, question: Question) -> list[int]:
        """What comes before a document: nothing."""
        return []

    def text(self, parts: Sequence[str]) -> list[int]:
        """A document."""
        return _ids(self.tokenizer, "\n".join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """A document as a memory reads it."""
        return self.text(parts)

    def asked(self, question: Question, *, alone: bool) -> list[int]:
        """A question, up to where the answer is expected.

        Args:
            question: what is asked.
            alone: whether nothing comes before it in the same text.
        """
        begun = f" {question.begun}" if question.begun else ""
        text = f"Question: {question.text}\nAnswer:{begun}"
        return _ids(self.tokenizer, text if alone else f"\n{text}")


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
        if _DOCUMENT not in self._turn(_DOCUMENT):
            raise ValueError("The chat template of the tokenizer drops what the user says.")

    def head(self, question: Question) -> list[int]:
        """What comes before a document: the system message, if any, the user's name, the lead."""
        before = _joined(question.lead, f"{self.marks[0]}{_DOCUMENT}")
        text = self._turn(before).partition(_DOCUMENT)[0]
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=not self.tokenizer.chat_template
        ).input_ids
        return ids

    def text(self, parts: Sequence[str]) -> list[int]:
        """A document."""
        return _ids(self.tokenizer, BREAK.join(parts))

    def remembered(self, parts: Sequence[str]) -> list[int]:
        """A document as `ChatSession.remember` reads it: said by the user, and acknowledged."""
        turns = [
            {"role": "user", "content": BREAK.join(parts)},
            {"role": "assistant", "content": ACKNOWLEDGEMENT},
        ]
        ids: list[int] = chat_ids(self.tokenizer, turns)[0].tolist()
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
        after = _joined(f"{_DOCUMENT}{self.marks[1]}", said)
        text = self._turn(after).partition(_DOCUMENT)[2]
        return _ids(self.tokenizer, f"{text}{question.begun}".rstrip(" "))

    def _turn(self, content: str) -> str:
        """A chat of one turn, up to where the reply is expected, as `chat_ids` writes it."""
        if not self.tokenizer.chat_template:
            user, assistant = PLAIN_NAMES["user"], PLAIN_NAMES["assistant"]
            return f"{user}: {content}\n{assistant}: "
        rendered: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        return rendered


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


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
    return ids


Prompts = Plain | Chat
STYLES: dict[str, type[Plain] | type[Chat]] = {"plain": Plain, "chat": Chat}
