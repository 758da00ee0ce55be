"""Text laid out in segments, with asides: what a training example is made of.

A *document* is read segment after segment and remembered. An *aside*, such as a question and its
answer, stands between two segments: it reads the memory as it is there, and is not written to it.
So one pass over a document answers any number of questions about any of its prefixes, and the
document is never spoiled by them. `MemformerForCausalLM.forward` calls `forward_laid_out`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.engine import begin_turn
from memformer.memory.segment import MemoryPass
from memformer.memory.state import MemoryState
from memformer.segments import Segments, arrange

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

IGNORED_LABEL = -100


def forward_laid_out(
    model: MemformerForCausalLM,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    segment_ids: Int[Tensor, "batch tokens"],
    remembered: Bool[Tensor, "batch tokens"] | None,
    labels: Int[Tensor, "batch tokens"] | None,
    memory: MemoryState,
    chunks: int,
) -> dict[str, Any]:
    """Reads laid out text; the arguments are those of `MemformerForCausalLM.forward`.

    Returns:
        Fields of `MemformerOutput`, and `targets`: the label that each row of the logits is to
        predict.

    Raises:
        ValueError: a layout that can't be.
    """
    if remembered is None:
        remembered = torch.ones_like(real)
    _check(real, segment_ids, remembered, labels, chunks)
    told = real & remembered.bool()
    targets = torch.full_like(ids, IGNORED_LABEL)
    if labels is not None:
        targets[:, :-1] = labels.masked_fill(~real, IGNORED_LABEL)[:, 1:]
    if labels is not None and not bool((targets != IGNORED_LABEL).any()):
        raise ValueError("labels hold nothing to predict: all are -100, padding, or a row's first.")
    document = arrange(ids, told, segment_ids)
    asides = arrange(ids, real & ~told, segment_ids)
    for part in (document, asides):
        if part.ids.shape[2] > (most := model.memory_config.segment_tokens):
            raise ValueError(
                f"A segment of {part.ids.shape[2]} tokens is too long: the model's segment_tokens "
                f"is {most}. Cut the text into shorter segments, or attach with more."
            )
    clock = memory.clock[:, None] + told.cumsum(-1)
    until = clock.gather(1, asides.column[..., 0])
    asked = asides.real.any(-1)
    state, turn = begin_turn(memory, told)
    found = _Found(ids.shape[1])
    written, evidence, entropy = [], [], []
    bounds = [len(document) * part // chunks for part in range(chunks + 1)]
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    for begin, end in zip(bounds, bounds[1:], strict=False):
        part = document.part(begin, end)
        if part.real.any():
            state = state.detach() if begin else state
            memory_pass = MemoryPass(
                state,
                part.real,
                part.sequences,
                segment_tokens=model.memory_config.segment_tokens,
                closes=part.real.any(-1),
            )
            found.add(model, part, memory_pass, targets)
            written.append(memory_pass.written)
            state = memory_pass.finish(part.ids, turn[:, None, None].expand_as(part.ids))
        elif distributed:
            found.idle(model, state)
        # those that stand in this part; what nothing of the document precedes is in the first
        due = asked & ((until <= state.clock[:, None]) | (end == len(document)))
        if due.any():
            asked = asked & ~due
            part = Segments(asides.ids, asides.real & due[..., None], asides.column)
            memory_pass = MemoryPass(state, part.real, part.sequences, writes=False, until=until)
            found.add(model, part, memory_pass, targets)
            for number in range(len(part)):
                read = memory_pass.read_mass(number, state.token.shape[1])[due[:, number]]
                evidence.append(read.sum(-1) / part.real[due[:, number], number].sum(-1))
                share = read / read.sum(-1, keepdim=True).clamp_min(1e-30)
                entropy.append(torch.special.entr(share).sum(-1))
        elif distributed:
            found.idle(model, state)
    nothing = torch.zeros(0, device=ids.device)
    return {
        "logits": found.logits(),
        "targets": targets[targets != IGNORED_LABEL],
        "memory": state,
        "written": torch.cat(written).mean() if written else nothing.sum(),
        "evidence": torch.cat([nothing, *evidence]),
        "entropy": torch.cat([nothing, *entropy]),
    }


class _Found:
    """Collects logits where there is something to predict, and puts them in the text's order."""

    def __init__(self, columns: int) -> None:
        self.columns = columns
        self.pieces: list[Tensor] = []
        self.places: list[Tensor] = []

    def add(
        self,
        model: MemformerForCausalLM,
        part: Segments,
        memory_pass: MemoryPass,
        targets: Int[Tensor, "batch tokens"],
    ) -> None:
        """Sends segments through the backbone."""
        rows, numbers = part.sequences
        real, column = part.real[rows, numbers], part.column[rows, numbers]
        wanted = real & (targets[rows[:, None], column] != IGNORED_LABEL)
        some = wanted.any(0)
        # one place at least, and never a layer less: whoever shards the model must see every
        # layer end, and the same number of calls on all ranks
        some[0] |= ~some.any()
        logits = model.backbone(
            input_ids=part.ids[rows, numbers],
            attention_mask=None if bool(real.all()) else real.long(),
            use_cache=False,
            logits_to_keep=some.nonzero().flatten(),
            memory_pass=memory_pass,
        ).logits
        entry, place = wanted[:, some].nonzero(as_tuple=True)
        self.pieces.append(logits[entry, place])
        self.places.append((rows[:, None] * self.columns + column)[:, some][entry, place])

    def idle(self, model: MemformerForCausalLM, state: MemoryState) -> None:
        """A call that predicts nothing, in place of one that other ranks may have to make.

        Who shards layers waits in each for all ranks; and a weight that is used on one rank must
        have its gradient on all.
        """
        until = state.clock[:, None]
        token = torch.zeros_like(until)[..., None]
        part = Segments(token, torch.ones_like(token, dtype=torch.bool), token)
        memory_pass = MemoryPass(state, part.real, part.sequences, writes=False, until=until)
        self.add(model, part, memory_pass, torch.full_like(until, IGNORED_LABEL))

    def logits(self) -> Float[Tensor, "labels vocabulary"]:
        """One row a label."""
        places = torch.cat(self.places)
        logits = self.pieces[0] if len(self.pieces) == 1 else torch.cat(self.pieces)
        if bool((places[1:] > places[:-1]).all()):
            return logits  # of a document alone, which is in order: no copy of them all
        return logits[places.argsort()]


def _check(
    real: Tensor,
    segment_ids: Tensor,
    remembered: Tensor,
    labels: Tensor | None,
    chunks: int,
) -> None:
    for name, value in (
        ("segment_ids", segment_ids),
        ("remembered", remembered),
        ("labels", labels),
    ):
        if value is not None and value.shape != real.shape:
            raise ValueError(
                f"{name} must have the shape of input_ids, {tuple(real.shape)}; "
                f"got {tuple(value.shape)}."
            )
    if not bool(real.any()):
        raise ValueError("There is no text: attention_mask is 0 everywhere.")
    if chunks < 1:
        raise ValueError(f"chunks must be at least 1; got {chunks}.")
    same = (segment_ids[:, 1:] == segment_ids[:, :-1]) & real[:, 1:] & real[:, :-1]
    if bool((same & (remembered[:, 1:] != remembered[:, :-1])).any()):
        raise ValueError(
            "A segment is remembered in part: remembered must be the same for all tokens with "
            "one segment id."
        )
