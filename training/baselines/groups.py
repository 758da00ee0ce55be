"""The documents of a peer's training by their number of segments, and those of each step."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import typer

from training.finetuning.documents import Document


def beginning(document: Document, end: int) -> Document:
    """The first `end` tokens of a document, with the questions in them."""
    return replace(
        document,
        ids=document.ids[:end],
        begins=tuple(begin for begin in document.begins if begin < end),
        asides=tuple(aside for aside in document.asides if 0 < aside.after <= end),
    )


def grouped(documents: Sequence[Document], segment_tokens: int, most: int) -> list[list[Document]]:
    """Every document up to each of its questions, by number of segments; fewest first.

    Args:
        documents: with questions.
        segment_tokens: longest segment.
        most: the most segments; longer beginnings are left out.

    Raises:
        typer.BadParameter: no question is left.
    """
    groups: dict[int, list[Document]] = {}
    for document in documents:
        for end in sorted({aside.after for aside in document.asides} - {0}):
            part = beginning(document, end)
            groups.setdefault(len(part.cut(segment_tokens)) - 1, []).append(part)
    if not groups:
        raise typer.BadParameter("no document of the data has a question.")
    if min(groups) > most:
        raise typer.BadParameter(
            f"no document has a question within --segments {most} of {segment_tokens} tokens; "
            "raise one of them, or make shorter documents."
        )
    return [groups[number] for number in sorted(groups) if number <= most]


def drawn(groups: Sequence[list[Document]], count: int, share: float, seed: str) -> list[Document]:
    """Documents of one step, all with the same number of segments.

    Args:
        groups: documents by the number of segments, fewest first.
        count: number of documents.
        share: share of the run that is over, in [0, 1]. The first documents come from the first
            group; from the middle of the run on, every group is drawn equally often.
        seed: draws the documents.
    """
    rng = random.Random(seed)
    known = min(len(groups), 1 + int(2 * share * len(groups)))
    return rng.choices(groups[rng.randrange(known)], k=count)
