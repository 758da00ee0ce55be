"""A model at work: prompts go in, a few at once, and greedy answers come out.

`systems.py` decides what stands in a prompt. A beginning that many prompts share is read once.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, takewhile
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from eval.harness.asking import Asker
from eval.harness.benchmark import Question
from eval.harness.prompts import Prompts

Item = TypeVar("Item")

# the most tokens read at once, and the most tokens of context under questions asked at once, with
# padding; both bound the memory of a run
BATCH_TOKENS = 32_768
# the most questions asked at once
BATCH_QUESTIONS = 12
# prompts asked at once share the reading of a common beginning of at least so many tokens
SHARED_TOKENS = 128
# tokens of a prompt read at once. Padding needs a mask, and under a mask every token is compared
# with all tokens, later ones too; in pieces, the first tokens are not compared with the last
PIECE_TOKENS = 512


class WindowExceeded(Exception):
    """A prompt has more tokens than the model's window."""


@dataclass(frozen=True)
class Answer:
    """The generated text, and the number of tokens in its prompt."""

    text: str
    tokens: int


@dataclass
class Desk(Asker):
    """A model that is asked in one style; systems are built on it.

    Attributes:
        prompts: writes documents and questions as tokens.
        max_new_tokens: the most tokens of an answer.
        advance: is called with the number of tokens that have been read since the last call.
    """

    prompts: Prompts
    max_new_tokens: int
    advance: Callable[[int], None] = field(default=lambda tokens: None)

    @property
    def window(self) -> int | None:
        """The most tokens that the backbone can see at once; None: any number."""
        config = self.model.backbone.config.get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def told(self, parts: Sequence[str], question: Question) -> list[int]:
        """The ids before a question in the same window; all questions of a document share them."""
        return self.prompts.head(question) + self.prompts.text(parts)

    def count(self, text: str) -> int:
        """The number of the model's tokens in a text."""
        return len(self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    def fits(self, tokens: int) -> None:
        """Checks that a prompt leaves room for its answer.

        Raises:
            WindowExceeded: prompt and answer do not fit into the window.
        """
        needed = tokens + self.max_new_tokens
        if self.window is not None and needed > self.window:
            raise WindowExceeded(f"{needed} tokens, and the window has {self.window}")

    def plain(self, prompts: Sequence[list[int]]) -> list[Answer]:
        """Answers of the backbone, without memory."""
        for prompt in prompts:
            self.fits(len(prompt))
        found = []
        for some in neighbours(prompts, len, lambda prompt: 1, BATCH_QUESTIONS):
            shared = common(some)
            if len(some) > 1 and shared >= SHARED_TOKENS:
                text = self.cached(some[0][:shared])
                texts = self._continue(text, [prompt[shared:] for prompt in some])
            else:
                texts = self._complete(*self.padded(some, left=True))
            found += [Answer(text, len(one)) for text, one in zip(texts, some, strict=True)]
            self.advance(sum(map(len, some)))
        return found

    def cached(self, ids: list[int]) -> CachedText:
        """The backbone's keys and values of a text to which prompts will be added."""
        read = self.model.backbone(
            input_ids=torch.tensor([ids], device=self.model.device),
            use_cache=True,
            logits_to_keep=1,
        )
        return CachedText(read.past_key_values, len(ids))

    def generate(self, model: Any, ids: Tensor, mask: Tensor, **kwargs: Any) -> list[str]:
        """Greedy answers to prompts padded on the left."""
        texts = self.said(model, ids, mask, self.max_new_tokens, **kwargs)
        return [text.strip() for text in texts]

    def continued(
        self, texts: Mapping[int, CachedText], asked: Sequence[tuple[int, Question]]
    ) -> dict[int, Answer]:
        """Answers to the questions whose document is among the texts, by their place in `asked`."""
        found: dict[int, Answer] = {}
        for place, text in texts.items():
            mine = [number for number, (other, _) in enumerate(asked) if other == place]
            at_once = BATCH_TOKENS // text.cache.get_seq_length()
            for some in chunks(mine, max(1, min(BATCH_QUESTIONS, at_once))):
                prompts = [self.prompts.asked(asked[number][1], alone=False) for number in some]
                outputs = self._continue(text, prompts)
                for number, output, ids in zip(some, outputs, prompts, strict=True):
                    found[number] = Answer(output, len(ids))
                self.advance(sum(map(len, prompts)))
        return found

    def ranking_tokens(self, question: Question) -> int:
        """The tokens of a question without its options, and of the longest option after it."""
        asked = len(self.prompts.asked(question, alone=False, bare=True))
        return asked + max(len(self.prompts.option(one)) for one in question.options)

    def ranked(
        self, before: CachedText | list[int], question: Question, *, alone: bool = False
    ) -> list[float]:
        """The log-likelihood of each option of a question, by the backbone without memory.

        Args:
            before: what the backbone sees before the question.
            question: a question with options, which is asked without them.
            alone: whether nothing stands before the question.
        """
        prompt = self.prompts.asked(question, alone=alone, bare=True)
        options = [self.prompts.option(one) for one in question.options]
        if not isinstance(before, CachedText):
            self.fits(len(before) + len(prompt))
            whole = [*before, *prompt]
            before, prompt = self.cached(whole[:-1]), whole[-1:]
        found: list[float] = []
        at_once = BATCH_TOKENS // before.cache.get_seq_length()
        for some in chunks(options, max(1, min(BATCH_QUESTIONS, at_once))):
            cache = copy.deepcopy(before.cache)
            cache.batch_repeat_interleave(len(some))
            # padding on the right is seen by no token, so there is no need for a mask
            ids, _ = self.padded([prompt + option for option in some])
            places = torch.arange(ids.shape[1], device=ids.device) + before.tokens
            logits = self.model.backbone(
                input_ids=ids, position_ids=places[None], past_key_values=cache, use_cache=True
            ).logits
            found += likelihoods(logits, [len(prompt)] * len(some), some)
        return found

    def _continue(self, text: CachedText, prompts: Sequence[list[int]]) -> list[str]:
        cache = copy.deepcopy(text.cache)
        cache.batch_repeat_interleave(len(prompts))
        ids, mask = self.padded(prompts, left=True)
        # generate counts the tokens in the cache, but does not look at their ids
        before = ids.new_zeros(len(ids), cache.get_seq_length())
        places = (mask.cumsum(-1) - 1).clamp_min(0) + text.tokens
        return self._complete(
            torch.cat([before, ids], 1),
            torch.cat([torch.ones_like(before), mask], 1),
            past_key_values=cache,
            position_ids=torch.cat([before, places], 1),
        )

    def _complete(self, ids: Tensor, mask: Tensor, **kwargs: Any) -> list[str]:
        """The backbone's greedy answers to prompts padded on the left, read in pieces."""
        pieces = {"prefill_chunk_size": PIECE_TOKENS}
        return self.generate(self.model.backbone, ids, mask, **pieces, **kwargs)


@dataclass(frozen=True)
class CachedText:
    """Keys and values of a text, or of its end, and the number of tokens of the whole text."""

    cache: DynamicCache
    tokens: int

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values."""
        layers: Any = self.cache.layers
        return sum(layer.keys.nbytes + layer.values.nbytes for layer in layers)


def neighbours(
    items: Sequence[Item], tokens: Callable[[Item], int], cases: Callable[[Item], int], most: int
) -> Iterator[Sequence[Item]]:
    """Neighbouring items that may be read at once, padded to the longest of them.

    Args:
        items: prompts, or documents.
        tokens: counts the tokens of an item.
        cases: counts the questions of an item.
        most: the most questions in all, unless one item alone has more.
    """
    begin = 0
    while begin < len(items):
        end, longest, asked = begin + 1, tokens(items[begin]), cases(items[begin])
        while end < len(items):
            longest = max(longest, tokens(items[end]))
            asked += cases(items[end])
            if asked > most or longest * (end + 1 - begin) > BATCH_TOKENS:
                break
            end += 1
        yield items[begin:end]
        begin = end


def likelihoods(logits: Tensor, begins: Sequence[int], options: Sequence[list[int]]) -> list[float]:
    """The log-likelihood of the option in each row, summed over its tokens.

    Args:
        logits: (rows, tokens, vocabulary), of prompts and options padded on the right.
        begins: the place of the first token of each option.
        options: the ids of the options.
    """
    sums = []
    for row, begin, option in zip(logits, begins, options, strict=True):
        shares = row[begin - 1 : begin - 1 + len(option)].float().log_softmax(-1)
        ids = torch.tensor(option, device=shares.device)[:, None]
        sums.append(round(float(shares.gather(-1, ids).sum()), 4))
    return sums


def common(prompts: Sequence[list[int]]) -> int:
    """The number of tokens that all prompts begin with; at least one token of each is left."""
    most = min(map(len, prompts)) - 1
    alike = (len(set(column)) == 1 for column in zip(*prompts, strict=False))
    return sum(takewhile(bool, islice(alike, most)))


def chunks(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Items in runs of `size`."""
    for begin in range(0, len(items), size):
        yield items[begin : begin + size]
