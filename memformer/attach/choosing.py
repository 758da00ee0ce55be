"""Chooses the heads that find, on questions of our own (`questions.py`).

With the votes of a question without content taken off, the heads are taken that give the passage
with the answer the highest score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from memformer.attach.backbone import Backbone
from memformer.attach.borders import border_table
from memformer.attach.calibrate import plain_text
from memformer.attach.layers import MemoryPath
from memformer.attach.questions import QUESTIONS
from memformer.attach.words import word_table
from memformer.memory.finding import Asking, loud, scores_by_head, votes
from memformer.memory.record import to_bits

# the form in which heads are asked, and the question without content (arXiv:2410.02642)
FORM = "Question: {}\nAnswer:"
NOTHING = "N/A"
# tokens of a segment and of a passage while heads are chosen
SEGMENT, PASSAGE = 512, 64


@torch.no_grad()
def prepare(path: MemoryPath, tokenizer: Any | None, finders: int) -> None:
    """Fills in what is made once for a memory: the tables of a tokenizer, and the finder heads.

    Args:
        path: the memory layers, whose null logits are calibrated.
        tokenizer: the backbone's tokenizer; None: there is nothing to know of tokens, and the heads
            are chosen on text that the backbone generates.
        finders: how many heads find; 0: none.
    """
    backbone = path.backbone
    path.borders.copy_(border_table(backbone, tokenizer))
    path.words.copy_(word_table(backbone.vocabulary, tokenizer))
    layers = tuple(layer for layer in path.index_of if backbone.sees_all(layer))
    if not finders or not layers:
        return
    found = material(backbone, tokenizer)
    path.finders.set(choose(path, found, layers, finders), found.nothing)


class Material(NamedTuple):
    """Passages and questions to choose heads on, as token ids.

    Attributes:
        passages: the passages.
        questions: one question about each passage.
        nothing: the question without content.
    """

    passages: list[list[int]]
    questions: list[list[int]]
    nothing: list[int]


def material(backbone: Backbone, tokenizer: Any | None) -> Material:
    """Our own questions; without a tokenizer, text that the backbone generates, asked about itself.

    Args:
        backbone: the decoder.
        tokenizer: its tokenizer.
    """
    if tokenizer is None:
        text = plain_text(backbone, None)
        rows = [row[begin : begin + 16].tolist() for row in text for begin in range(0, 48, 16)]
        return Material(rows, [row[4:12] for row in rows], text[0, :1].tolist())

    def ids(words: str) -> list[int]:
        found: list[int] = tokenizer(words, add_special_tokens=False).input_ids
        return found

    passages, questions = zip(*QUESTIONS, strict=True)
    return Material(
        [ids(f"{passage}\n\n") for passage in passages],
        [ids(FORM.format(question)) for question in questions],
        ids(FORM.format(NOTHING)),
    )


@torch.no_grad()
def choose(
    path: MemoryPath,
    found: Material,
    layers: Sequence[int],
    count: int,
) -> Int[Tensor, "finders 2"]:
    """The decoder layers and numbers of the heads that find best, best first.

    Args:
        path: the memory layers, trained or not.
        found: the passages and the questions.
        layers: the decoder layers that may find, lowest first.
        count: how many heads.
    """
    backbone = path.backbone
    keys, passage = _stored(path, layers, found.passages)
    pair_of = torch.arange(backbone.heads) // (backbone.heads // backbone.kv_heads)

    def inputs_of(ids: list[int]) -> list[Tensor]:
        return backbone.attention_inputs(torch.tensor([ids], device=keys.device), layers[-1])

    def asking(number: int, inputs: list[Tensor]) -> Asking:
        layer = path.layer(layers[number])
        queries = layer.queries(backbone.attention(layer.layer), inputs[layer.layer])[0]
        return Asking(queries, pair_of, layer.null_logit.float())

    total = torch.zeros(len(layers), backbone.heads, device=keys.device)
    sizes = torch.bincount(passage, minlength=len(found.passages))
    nothing = inputs_of(found.nothing)
    questions = [inputs_of(question) for question in found.questions]
    for number in range(len(layers)):
        calm = asking(number, nothing)
        unheard = loud(calm, keys[number])
        parts = keys[number], passage, len(found.passages), unheard
        less = votes(calm, *parts)
        for right, inputs in enumerate(questions):
            asked = votes(asking(number, inputs), *parts)
            total[number] += scores_by_head(asked, less, sizes)[:, right]
    best = total.flatten().topk(min(count, total.numel())).indices.cpu()
    return torch.stack([torch.tensor(layers)[best // backbone.heads], best % backbone.heads], 1)


def _stored(
    path: MemoryPath, layers: Sequence[int], passages: list[list[int]]
) -> tuple[UInt8[Tensor, "layers told kv_heads width"], Int[Tensor, " told"]]:
    """The keys of passages in segments of whole passages, and the passage of each token."""
    backbone = path.backbone
    device = next(backbone.model.parameters()).device
    keys: list[Tensor] = []
    numbers: list[Tensor] = []
    waiting = list(enumerate(passages))
    while waiting:
        part = [waiting.pop(0)]
        while waiting and sum(len(ids) for _, ids in part) + len(waiting[0][1]) <= SEGMENT:
            part.append(waiting.pop(0))
        ids = torch.tensor([[token for _, one in part for token in one]], device=device)
        owner = torch.tensor([number for number, one in part for _ in one], device=device)
        positions = torch.arange(ids.shape[1], device=device)[None] % PASSAGE - PASSAGE
        inputs = backbone.attention_inputs(ids, layers[-1])
        rows = []
        for number in layers:
            layer = path.layer(number)
            attention = backbone.attention(number)
            rows.append(to_bits(layer.keys(attention, inputs[number], positions)[0]))
        keys.append(torch.stack(rows))
        numbers.append(owner)
    return torch.cat(keys, 1), torch.cat(numbers)
