"""Finds passages of a memory by words, and shows them as text that a person recognises."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from memformer.memory import MemoryState
from memformer.recollection import Passage, Recollection, is_large
from memformer.replies import side_by_side
from memformer.template import Frame, check_text, text_ids
from memformer.turns import without_marks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# passages that are looked at for a reply
FOR_A_REPLY = 8


def recalled(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    memory: MemoryState,
    words: str,
    top_k: int,
) -> Recollection:
    """The passages of a memory of one row that some words are about, best first.

    Raises:
        ValueError: there are no words, top_k is below 1, or the model has no heads that find.
    """
    check_text(words)
    ids = torch.tensor([text_ids(tokenizer, words)], device=model.device)
    return model.recall(ids, memory, top_k)[0]


def for_replies(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    memory: MemoryState,
    questions: Sequence[str],
) -> list[Recollection]:
    """The passages that each question is about, to read their slots or their words again.

    None where nothing told is about the question and its memory is small enough to be read whole.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer.
        memory: a row for each question.
        questions: the words to find passages by.
    """
    if model.is_memory_disabled or not model.memory.finders.chosen:
        return [Recollection() for _ in questions]
    large = is_large(model.engine(), memory).tolist()
    if not (model.memory_config.reread_tokens or any(large)):
        return [Recollection() for _ in questions]
    rows = [torch.tensor(text_ids(tokenizer, one), device=model.device) for one in questions]
    ids, mask = side_by_side(rows)
    found = model.recall(ids, memory, FOR_A_REPLY, attention_mask=mask)
    is_found = [one or two.is_about for one, two in zip(large, found, strict=True)]
    return [one if finds else Recollection() for one, finds in zip(found, is_found, strict=True)]


def with_text(
    passages: Sequence[Passage], tokenizer: PreTrainedTokenizerBase, marks: Frame
) -> list[Passage]:
    """Passages and their neighbours with their words, without the marks of a template.

    Those without words are left out.

    Args:
        passages: from `recalled`.
        tokenizer: the tokenizer of the model.
        marks: the tokens that its template writes around a turn.
    """

    def decoded(passage: Passage) -> Passage | None:
        ids = without_marks(list(passage.token_ids), marks)
        text = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
        return dataclasses.replace(passage, text=text) if text else None

    return _each(passages, decoded)


def still_told(passages: Sequence[Passage], told: Int[Tensor, " told"]) -> list[Passage]:
    """The passages, and of their neighbours those, that a record still holds."""

    def held(passage: Passage) -> Passage | None:
        is_there = told[passage.start : passage.end].tolist() == list(passage.token_ids)
        return passage if is_there else None

    return _each(passages, held)


def _each(
    passages: Sequence[Passage], change: Callable[[Passage], Passage | None]
) -> list[Passage]:
    """Passages after a change to each and to its neighbours; None leaves one out."""

    def near(neighbour: Passage | None) -> Passage | None:
        return None if neighbour is None else change(neighbour)

    changed = []
    for passage in passages:
        whole = change(passage)
        if whole is not None:
            before, after = near(passage.before), near(passage.after)
            changed.append(dataclasses.replace(whole, before=before, after=after))
    return changed
