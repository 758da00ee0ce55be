"""Rows of a batch: segments of a document, its questions as asides at their places, labels.

`memformer.asides` explains asides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from memformer.asides import IGNORED_LABEL
from training.finetuning.documents import Aside, Document

# segment ids of asides begin here, above all segment ids of documents
ASIDE = 1_000_000


@dataclass(frozen=True)
class Row:
    """One row of a batch; `MemformerForCausalLM.forward` explains the lists."""

    ids: list[int]
    segment_ids: list[int]
    remembered: list[bool]
    labels: list[int]

    def add(self, aside: Aside, segment_id: int, *, answers: bool) -> None:
        """Adds a question and its answer, which is predicted if `answers` is set."""
        asked = len(aside.ids) - aside.answer
        self.ids.extend(aside.ids)
        self.segment_ids.extend([segment_id] * len(aside.ids))
        self.remembered.extend([False] * len(aside.ids))
        self.labels.extend([IGNORED_LABEL] * asked)
        self.labels.extend(aside.ids[asked:] if answers else [IGNORED_LABEL] * aside.answer)


def with_asides(
    document: Document, segment_tokens: int, *, answers: bool = True, text: bool = False
) -> Row:
    """One row: a document with its questions as asides at their places.

    Args:
        document: as tokens.
        segment_tokens: longest segment.
        answers: whether answers are predicted.
        text: whether the document is predicted, from its second segment on; the first segment has
            no memory.
    """
    bounds = document.cut(segment_tokens)
    row = Row([], [], [], [])
    waiting = list(document.asides)
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        for place in range(begin, end):
            row.ids.append(document.ids[place])
            row.segment_ids.append(number)
            row.remembered.append(True)
            row.labels.append(document.ids[place] if text and number else IGNORED_LABEL)
            while waiting and waiting[0].after <= place + 1:
                aside = waiting.pop(0)
                row.add(aside, ASIDE + len(waiting), answers=answers)
    # questions that stand alone, after words that are read again
    for number, aside in enumerate(waiting):
        row.add(aside, ASIDE + number, answers=answers)
    return row


def windowed(document: Document, window: int, between: Sequence[int]) -> list[Row]:
    """One row for each question, with as much of the document before it as fits; no memory.

    Args:
        document: as tokens.
        window: tokens of a row at most.
        between: tokens between the document and the question.
    """
    rows = []
    for aside in document.asides:
        room = max(0, window - len(aside.ids))
        before = [*document.ids[: aside.after], *between]
        ids = [*before[max(0, len(before) - room) :], *aside.ids][-window:]
        silent = [IGNORED_LABEL] * (len(ids) - aside.answer)
        labels = [*silent, *aside.ids[-aside.answer :]]
        rows.append(Row(ids, [ASIDE] * len(ids), [False] * len(ids), labels))
    return rows


def collate(rows: Sequence[Row], padding: int) -> dict[str, Tensor]:
    """Rows as one batch, padded on the right: arguments of `MemformerForCausalLM.forward`."""
    width = max(len(row.ids) for row in rows)

    def padded(lists: list[list[int]] | list[list[bool]], fill: int) -> Tensor:
        return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])

    return {
        "input_ids": padded([row.ids for row in rows], padding),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        "segment_ids": padded([row.segment_ids for row in rows], -1),
        "remembered": padded([row.remembered for row in rows], 0).bool(),
        "labels": padded([row.labels for row in rows], IGNORED_LABEL),
    }
