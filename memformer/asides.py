"""`forward_document`: reads a document with asides, as one training example.

A *document* is read segment after segment and remembered. An *aside*, such as a question and its
answer, stands between two segments: it reads the memory of that place, and is not written. So one
reading of a document answers any number of questions about any of its prefixes, and the questions
never change the memory.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.engine import Engine, Forwarded, begin_turn
from memformer.memory.columns import EMPTY
from memformer.memory.memory_pass import MemoryPass
from memformer.memory.state import MemoryState
from memformer.recollection import MOST_PASSAGES, is_large, places, recollect
from memformer.segments import Segments, arrange

IGNORED_LABEL = -100


def forward_document(
    engine: Engine,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    segment_ids: Int[Tensor, "batch tokens"],
    remembered: Bool[Tensor, "batch tokens"] | None,
    labels: Int[Tensor, "batch tokens"] | None,
    memory: MemoryState,
    chunks: int,
) -> Forwarded:
    """Reads a document with asides; see `forward` of the model for the arguments.

    Raises:
        ValueError: the arguments do not fit together.
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
        if part.ids.shape[2] > (most := engine.segment_tokens):
            raise ValueError(
                f"A segment of {part.ids.shape[2]} tokens is too long: the model's segment_tokens "
                f"is {most}. Cut the text into shorter segments, or attach with more."
            )
    clock = memory.num_seen[:, None] + told.cumsum(-1)
    until = clock.gather(1, asides.column[..., 0])
    return _Reading(engine, targets).read(document, asides, until, memory, told, chunks)


class _Reading:
    """Reads one document, and collects the logits of the places with a label.

    Args:
        engine: the engine that reads the document.
        targets: the label that each token is to predict.
    """

    def __init__(self, engine: Engine, targets: Int[Tensor, "batch tokens"]) -> None:
        self.engine = engine
        self.targets = targets
        self.logits: list[Tensor] = []
        self.places: list[Tensor] = []
        self.written: list[Tensor] = []
        self.evidence: list[Tensor] = []
        self.entropy: list[Tensor] = []

    def read(
        self,
        document: Segments,
        asides: Segments,
        until: Int[Tensor, "batch asides"],
        memory: MemoryState,
        told: Bool[Tensor, "batch tokens"],
        chunks: int,
    ) -> Forwarded:
        """Reads the document part by part, and after each part the asides that stand in it."""
        asked = asides.real.any(-1)
        state, turn = begin_turn(memory, told)
        bounds = [len(document) * part // chunks for part in range(chunks + 1)]
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        for begin, end in zip(bounds, bounds[1:], strict=False):
            part = document.part(begin, end)
            if part.real.any():
                state = self.remember(part, state.detach() if begin else state, turn)
            elif distributed:
                self.idle(state)
            # asides that stand in this part; asides before the whole document are in the first part
            due = asked & ((until <= state.num_seen[:, None]) | (end == len(document)))
            if due.any():
                asked = asked & ~due
                self.answer(asides, due, state, until)
            elif distributed:
                self.idle(state)
        nothing = torch.zeros(0, device=told.device)
        return Forwarded(
            logits=self.in_order(),
            memory=state,
            written=torch.cat([nothing, *self.written]),
            targets=self.targets[self.targets != IGNORED_LABEL],
            evidence=torch.cat([nothing, *self.evidence]),
            entropy=torch.cat([nothing, *self.entropy]),
        )

    def remember(
        self, part: Segments, state: MemoryState, turn: Int[Tensor, " batch"]
    ) -> MemoryState:
        """Reads segments of the document into memory; each segment is closed at its end."""
        memory_pass = self.engine.begin_pass(part, state)
        self.predict(part, memory_pass, self.targets)
        self.written.append(memory_pass.written)
        turns = turn[:, None, None].expand_as(part.ids)
        return memory_pass.commit(part.ids, turns, part.closes)

    def answer(
        self,
        asides: Segments,
        due: Bool[Tensor, "batch asides"],
        state: MemoryState,
        until: Int[Tensor, "batch asides"],
    ) -> None:
        """Reads asides; each aside reads the memory of the place where it stands."""
        part = Segments(asides.ids, asides.real & due[..., None], asides.column, due)
        reach = self.reach(part, state, until)
        memory_pass = self.engine.begin_pass(part, state, until=until, writes=False, reach=reach)
        self.predict(part, memory_pass, self.targets)
        for number in range(len(part)):
            read = memory_pass.read_mass(number, state.token.shape[1])[due[:, number]]
            self.evidence.append(read.sum(-1) / part.real[due[:, number], number].sum(-1))
            share = read / read.sum(-1, keepdim=True).clamp_min(1e-30)
            self.entropy.append(torch.special.entr(share).sum(-1))

    def reach(
        self, part: Segments, state: MemoryState, until: Int[Tensor, "batch asides"]
    ) -> Bool[Tensor, "batch asides slots"] | None:
        """The slots that each aside reads: those that its question is found to be about.

        The question is what stands before the first label. None: memories are read whole.
        """
        large = is_large(self.engine, state)
        if not bool(large.any()):
            return None
        slots = torch.ones_like(state.occupied)[:, None].repeat(1, len(part), 1)
        told_at = torch.arange(state.told.shape[1], device=state.device)
        for row, number in (part.real.any(-1) & large[:, None]).nonzero().tolist():
            real = part.real[row, number]
            ids, column = part.ids[row, number][real], part.column[row, number][real]
            answered = (self.targets[row, column] != IGNORED_LABEL).nonzero().flatten()
            question = ids[: int(answered[0]) + 1] if len(answered) else ids
            # an aside knows what was told before it, and no more
            known = state.select([row])
            later = told_at >= until[row, number]
            known = known.replaced(told=known.told.masked_fill(later, EMPTY))
            is_text = torch.ones_like(question, dtype=torch.bool)
            found = recollect(self.engine, question[None], is_text[None], known, MOST_PASSAGES)
            slots[row, number] = known.at_places(places(self.engine, found, known))[0]
        return slots

    def predict(
        self, part: Segments, memory_pass: MemoryPass, targets: Int[Tensor, "batch tokens"]
    ) -> None:
        """Sends segments through the backbone; keeps the logits that have a label to predict."""
        rows, numbers = part.sequences
        real, column = part.real[rows, numbers], part.column[rows, numbers]
        wanted = real & (targets[rows[:, None], column] != IGNORED_LABEL)
        some = wanted.any(0)
        # at least one place and all layers, because sharding needs the end of every layer, and
        # the same number of calls on all ranks
        some[0] |= ~some.any()
        logits = self.engine.call(
            memory_pass,
            input_ids=part.ids[rows, numbers],
            attention_mask=None if bool(real.all()) else real.long(),
            use_cache=False,
            logits_to_keep=some.nonzero().flatten(),
        ).logits
        entry, place = wanted[:, some].nonzero(as_tuple=True)
        self.logits.append(logits[entry, place])
        columns = self.targets.shape[1]
        self.places.append((rows[:, None] * columns + column)[:, some][entry, place])

    def idle(self, state: MemoryState) -> None:
        """Calls the model without a label, because other ranks may have a call to make here.

        A sharded layer waits for all ranks, and a weight that is used on one rank needs a gradient
        on all ranks.
        """
        until = state.num_seen[:, None]
        token = torch.zeros_like(until)[..., None]
        real = torch.ones_like(token, dtype=torch.bool)
        part = Segments(token, real, token, real[..., 0])
        memory_pass = self.engine.begin_pass(part, state, until=until, writes=False)
        self.predict(part, memory_pass, torch.full_like(until, IGNORED_LABEL))

    def in_order(self) -> Float[Tensor, "labels vocabulary"]:
        """The logits, one row a label, in the order of the text."""
        places = torch.cat(self.places)
        logits = self.logits[0] if len(self.logits) == 1 else torch.cat(self.logits)
        if bool((places[1:] > places[:-1]).all()):
            return logits  # a document without asides is in order, and needs no copy of all logits
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
