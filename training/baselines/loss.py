"""The loss of a peer: documents read segment by segment, with the questions of each segment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eval.peers.system import Peer
from memformer.asides import IGNORED_LABEL
from training.finetuning.documents import Aside, Document


def loss(peer: Peer, documents: Sequence[Document], segment_tokens: int) -> Tensor:
    """Cross entropy of the answers of some documents, summed over tokens.

    Args:
        peer: reads and answers.
        documents: the documents, read side by side; at least one of them has a question.
        segment_tokens: longest segment.
    """
    bounds = [one.cut(segment_tokens) for one in documents]
    state, going = peer.empty(len(documents)), list(range(len(documents)))
    losses: list[Tensor] = []
    for number in range(max(map(len, bounds)) - 1):
        asked = [
            (row, aside_in(documents[one], begin, aside))
            for row, one in enumerate(going)
            for begin, end in [bounds[one][number : number + 2]]
            for aside in documents[one].asides
            if begin < aside.after <= end
        ]
        if asked:
            here = peer.rows(state, [row for row, _ in asked])
            losses.append(asides_loss(peer, [aside for _, aside in asked], here))
        # only questions read the last segment of a document
        rows = [row for row, one in enumerate(going) if number + 2 < len(bounds[one])]
        if rows:
            state, going = peer.rows(state, rows), [going[row] for row in rows]
            texts = [documents[one].ids[slice(*bounds[one][number : number + 2])] for one in going]
            state = peer.read(*padded(texts, peer.backbone.device), state)
    return torch.stack(losses).sum()


def aside_in(document: Document, begin: int, aside: Aside) -> Aside:
    """A question after the text of its segment, which begins at `begin`."""
    return replace(aside, ids=document.ids[begin : aside.after] + aside.ids)


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids as rows of one width, and a mask that is true at text."""
    rows = [torch.tensor(one, device=device) for one in texts]
    there = [torch.ones_like(one, dtype=torch.bool) for one in rows]
    return pad_sequence(rows, batch_first=True), pad_sequence(there, batch_first=True)


def asides_loss(peer: Peer, asides: Sequence[Aside], state: Any) -> Tensor:
    """Cross entropy of the answers' tokens, summed; `state` has a row for each question."""
    ids, _ = padded([one.ids for one in asides], peer.backbone.device)
    labels = torch.full_like(ids, IGNORED_LABEL)
    for row, one in enumerate(asides):
        answer = slice(len(one.ids) - one.answer, len(one.ids))
        labels[row, answer] = ids[row, answer]
    # only before an answer's tokens: the scores of the vocabulary are most of a question's cost
    at = (labels != IGNORED_LABEL).any(0).nonzero()[:, 0] - 1
    logits = peer.logits(ids, state, at=at).float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels[:, at + 1].flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )
