"""Rows of a batch: segments of a document, its questions as asides at their places, labels.

`memformer.asides` explains asides. Beside the model's arguments, a batch says where the answer of
each question stands, for a loss on what finds it (`training.finetuning.finding`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from memformer.asides import IGNORED_LABEL
from training.finetuning.documents import Aside, Document

# segment ids of asides begin here, above all segment ids of documents
ASIDE = 1_000_000
NO_GOLD = (-1, -1)


@dataclass(frozen=True)
class Row:
    """One row of a batch; `MemformerForCausalLM.forward` explains the first four lists.

    Attributes:
        asked: whether a token belongs to a question, without its instruction and the template.
        gold: for each aside, begin and end of the passage that holds its answer, on the clock of
            the document's tokens; (-1, -1): none is known.
        gold_sentence: the same of the sentence.
    """

    ids: list[int]
    segment_ids: list[int]
    remembered: list[bool]
    labels: list[int]
    asked: list[bool] = field(default_factory=list)
    gold: list[tuple[int, int]] = field(default_factory=list)
    gold_sentence: list[tuple[int, int]] = field(default_factory=list)

    def add(self, aside: Aside, segment_id: int, *, answers: bool) -> None:
        """Adds a question and its answer, which is predicted if `answers` is set."""
        asked = len(aside.ids) - aside.answer
        self.ids.extend(aside.ids)
        self.segment_ids.extend([segment_id] * len(aside.ids))
        self.remembered.extend([False] * len(aside.ids))
        self.labels.extend([IGNORED_LABEL] * asked)
        self.labels.extend(aside.ids[asked:] if answers else [IGNORED_LABEL] * aside.answer)
        self.asked.extend(_marked(aside))
        self.gold.append(aside.gold or NO_GOLD)
        self.gold_sentence.append(aside.gold_sentence or NO_GOLD)


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
            row.asked.append(False)
            while waiting and waiting[0].after <= place + 1:
                aside = waiting.pop(0)
                row.add(aside, ASIDE + len(waiting), answers=answers)
    # questions that stand alone, after words that are read again
    for number, aside in enumerate(waiting):
        row.add(aside, ASIDE + number, answers=answers)
    return row


def _marked(aside: Aside) -> list[bool]:
    """Whether each token of an aside belongs to its question."""
    begin, end = aside.asked
    return [begin <= place < end for place in range(len(aside.ids))]


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
        asked = [*[False] * len(before), *_marked(aside)][-len(ids) :]
        rows.append(Row(ids, [ASIDE] * len(ids), [False] * len(ids), labels, asked))
    return rows


def collate(rows: Sequence[Row], padding: int) -> dict[str, Tensor]:
    """Rows as one batch, padded on the right.

    Returns:
        The arguments of `MemformerForCausalLM.forward`; and, for the finder, `asked` of the shape
        of the tokens, and `gold` and `gold_sentence` of shape [rows, asides, 2], which the model
        does not take (`training.finetuning.finding.arguments`).
    """
    width = max(len(row.ids) for row in rows)
    asides = max(len(row.gold) for row in rows)

    def padded(lists: list[list[int]] | list[list[bool]], fill: int) -> Tensor:
        return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])

    def ranges(lists: list[list[tuple[int, int]]]) -> Tensor:
        filled = [[*values, *[NO_GOLD] * (asides - len(values))] for values in lists]
        return torch.tensor(filled, dtype=torch.long).reshape(len(rows), asides, 2)

    return {
        "input_ids": padded([row.ids for row in rows], padding),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        "segment_ids": padded([row.segment_ids for row in rows], -1),
        "remembered": padded([row.remembered for row in rows], 0).bool(),
        "labels": padded([row.labels for row in rows], IGNORED_LABEL),
        "asked": padded([row.asked for row in rows], 0).bool(),
        "gold": ranges([row.gold for row in rows]),
        "gold_sentence": ranges([row.gold_sentence for row in rows]),
    }
