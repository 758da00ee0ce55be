"""How a model is asked BABILong's questions: the rows that are compared, and two styles of prompt.

`eval.babilong` says what the rows are. This file knows models and prompts, but neither scores nor
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from memformer.chat import ACKNOWLEDGEMENT, chat_ids

from eval.asking import Asker
from eval.babilong_samples import Sample
from eval.recall import WindowExceeded

ROWS = ("memformer", "truncated", "full", "nothing")
MAX_NEW_TOKENS = 20
WINDOW = 512  # tokens of the row `truncated`
# tokens read at once, padding too: bounds the memory a run needs
BATCH_TOKENS = 32768

# ---- how a case is written -----------------------------------------------------------------


@dataclass(frozen=True)
class Plain:
    """Text without roles and without special tokens, as in fine-tuning."""

    tokenizer: Any

    def document(self, sample: Sample) -> list[int]:
        """What is memorized."""
        return self._ids(sample.document)

    def question(self, sample: Sample) -> list[int]:
        """What is asked in a segment of its own."""
        return self._ids(_question(sample))

    def together(self, sample: Sample) -> list[int]:
        """Both in one window."""
        return self._ids(f"{sample.document}\n{_question(sample)}")

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        return ids


def _question(sample: Sample) -> str:
    return f"Question: {sample.question}\nAnswer:"


@dataclass(frozen=True)
class Chat:
    """Chat turns, as `ChatSession` writes them, for models that were not fine-tuned."""

    tokenizer: Any

    def document(self, sample: Sample) -> list[int]:
        """What is memorized."""
        return self._ids(self._told(sample))

    def question(self, sample: Sample) -> list[int]:
        """What is asked in a segment of its own."""
        return self._ids(self._asked(sample), reply="")

    def together(self, sample: Sample) -> list[int]:
        """Both in one window."""
        return self._ids([*self._told(sample), *self._asked(sample)], reply="")

    def _told(self, sample: Sample) -> list[dict[str, str]]:
        return [
            {"role": "user", "content": sample.document},
            {"role": "assistant", "content": ACKNOWLEDGEMENT},
        ]

    def _asked(self, sample: Sample) -> list[dict[str, str]]:
        text = f"Answer from what I told you before, with one word. {sample.question}"
        return [{"role": "user", "content": text}]

    def _ids(self, messages: list[dict[str, str]], reply: str | None = None) -> list[int]:
        ids: list[int] = chat_ids(self.tokenizer, messages, reply=reply)[0].tolist()
        return ids


# ---- rows ----------------------------------------------------------------------------------


@dataclass
class Bench(Asker):
    """A model and how it is asked.

    Args:
        num_slots: capacity of the row `memformer`; None for unbounded.
        advance: told how many tokens more are done.
    """

    style: Plain | Chat
    num_slots: int | None
    advance: Callable[[int], None] = lambda tokens: None

    def answers(self, row: str, samples: Sequence[Sample]) -> list[str]:
        """What is generated for each sample; those beside it change nothing.

        Raises:
            WindowExceeded: `full`, and a document is longer than the model's window.
        """
        with torch.inference_mode():
            match row:
                case "memformer":
                    return self._memory(samples)
                case "truncated":
                    return self._plain([self.style.together(one)[-WINDOW:] for one in samples])
                case "full":
                    return self._full(samples)
                case "nothing":
                    return self._plain([self.style.question(one) for one in samples])
        raise ValueError(f"There is no row {row!r}; the rows are {', '.join(ROWS)}.")

    def count(self, text: str) -> int:
        """How long a text is, in tokens of the model."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def _memory(self, samples: Sequence[Sample]) -> list[str]:
        texts = []
        documents = [self.style.document(sample) for sample in samples]
        for places in _fitting(documents):
            read = 0

            def progress(done: int, rows: int = len(places)) -> None:
                nonlocal read
                self.advance((done - read) * rows)
                read = done

            memory = self.model.memorize(
                *self.padded([documents[place] for place in places]),
                memory=self.model.init_memory(len(places), num_slots=self.num_slots),
                progress=progress,
            )
            questions = [self.style.question(samples[place]) for place in places]
            texts += self._generate(self.model, questions, memory=memory)
        return texts

    def _full(self, samples: Sequence[Sample]) -> list[str]:
        config = self.model.backbone.config.get_text_config()
        limit = getattr(config, "max_position_embeddings", None)
        prompts = [self.style.together(sample) for sample in samples]
        needed = max(map(len, prompts)) + MAX_NEW_TOKENS
        if limit is not None and needed > limit:
            raise WindowExceeded(f"{needed} tokens, and the window has {limit}")
        return self._plain(prompts)

    def _plain(self, prompts: Sequence[list[int]]) -> list[str]:
        texts = []
        for places in _fitting(prompts):
            some = [prompts[place] for place in places]
            texts += self._generate(self.model.backbone, some)
            self.advance(sum(map(len, some)))
        return texts

    def _generate(self, model: Any, prompts: Sequence[list[int]], **kwargs: Any) -> list[str]:
        ids, mask = self.padded(prompts, left=True)
        return [text.strip() for text in self.said(model, ids, mask, MAX_NEW_TOKENS, **kwargs)]


def _fitting(rows: Sequence[list[int]]) -> Iterator[list[int]]:
    """Places of neighbouring rows that may be read at once, padded to the longest of them."""
    begin = 0
    while begin < len(rows):
        end, longest = begin + 1, len(rows[begin])
        while end < len(rows):
            longest = max(longest, len(rows[end]))
            if longest * (end + 1 - begin) > BATCH_TOKENS:
                break
            end += 1
        yield list(range(begin, end))
        begin = end


STYLES: dict[str, type[Plain] | type[Chat]] = {"plain": Plain, "chat": Chat}
