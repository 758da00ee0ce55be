"""How a document is told and a question asked: two styles.

What is told and what is asked are tokenized apart, so that one reading serves many questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memformer.chat import ACKNOWLEDGEMENT, chat_ids

from eval.harness.benchmark import Question


@dataclass(frozen=True)
class Plain:
    """Text without roles and without special tokens, as `training.finetune` writes it."""

    tokenizer: Any
    instruction: str

    def told(self, parts: Sequence[str]) -> list[int]:
        """The text of a document."""
        return self._ids("\n".join(parts))

    def asked(self, question: Question, *, alone: bool) -> list[int]:
        """A question, up to where the answer is expected.

        Args:
            question: what is asked.
            alone: whether nothing comes before it in the same text.
        """
        begun = f" {question.begun}" if question.begun else ""
        text = f"Question: {question.text}\nAnswer:{begun}"
        return self._ids(text if alone else f"\n{text}")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids


@dataclass(frozen=True)
class Chat:
    """Chat turns, as `ChatSession` writes them: what is told is said by the user."""

    tokenizer: Any
    instruction: str

    def told(self, parts: Sequence[str]) -> list[int]:
        """A turn of the user for each part, and an acknowledgement after it."""
        return self._ids([turn for part in parts for turn in _told(part)])

    def asked(self, question: Question, *, alone: bool) -> list[int]:
        """The turn with the question, up to where the answer is expected.

        Args:
            question: what is asked.
            alone: whether the turn begins a chat (with the system message, if the format has one)
                rather than going on with one.

        Raises:
            ValueError: a template that writes a turn in another way when others follow.
        """
        turn = {"role": "user", "content": f"{self.instruction} {question.text}".strip()}
        if alone:
            return self._ids([turn], question.begun)
        # any turns before it will do: they are cut off again
        before = self._ids(_told("Hello."))
        both = self._ids([*_told("Hello."), turn], question.begun)
        if both[: len(before)] != before:
            raise ValueError("The chat template of the tokenizer changes a turn when others follow")
        return both[len(before) :]

    def _ids(self, messages: list[dict[str, str]], reply: str | None = None) -> list[int]:
        ids: list[int] = chat_ids(self.tokenizer, messages, reply=reply)[0].tolist()
        return ids


def _told(part: str) -> list[dict[str, str]]:
    return [
        {"role": "user", "content": part},
        {"role": "assistant", "content": ACKNOWLEDGEMENT},
    ]


Prompts = Plain | Chat
STYLES: dict[str, type[Plain] | type[Chat]] = {"plain": Plain, "chat": Chat}
