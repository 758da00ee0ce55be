"""`Engine`: sends text of any length through a backbone and into memory, segment by segment.

A pass takes one or several segments and the memory before them, and gives the memory after them.
The engine cuts longer text, and puts as many segments into a pass as it may. For the steps of a
pass, see `memory/memory_pass.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from memformer.attach.backbone import StopBackbone
from memformer.attach.hooks import MemoryCall
from memformer.attach.layers import MemoryPath
from memformer.memory.chunk import Chunk, Rules
from memformer.memory.columns import EMPTY
from memformer.memory.memory_pass import MemoryPass
from memformer.memory.record import check_room
from memformer.memory.state import MemoryState
from memformer.segments import Segments, cut

# most tokens of a pass outside training. CPU passes stay small so that their working set fits into
# cache, and because segments of a pass also compute matches with tokens that the write gate drops
PARALLEL_TOKENS = {"cpu": 512}
PARALLEL_TOKENS_ELSEWHERE = 8192


@dataclass(frozen=True)
class Forwarded:
    """The result of a forward: for plain text, text with a cache, or a document with asides.

    The last three attributes are for documents with asides only.

    Attributes:
        logits: the logits of every requested position; for a document with asides, one row a label.
        memory: the memory after the text; None with a cache, which carries the memory.
        hidden_states: the hidden states of every layer, if the arguments ask for them.
        attentions: the attention weights of every layer, if the arguments ask for them.
        written: 1 for every token of text that is written, 0 for the others; straight-through.
        targets: the label that each row of the logits is to predict.
        evidence: the mean evidence of the reads of each aside, in [0, 1]; no gradient.
        entropy: the entropy of each aside's reads over the slots, in nats; no gradient.
    """

    logits: Tensor
    memory: MemoryState | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    written: Float[Tensor, " tokens"] | None = None
    targets: Int[Tensor, " labels"] | None = None
    evidence: Float[Tensor, " asides"] | None = None
    entropy: Float[Tensor, " asides"] | None = None


def begin_turn(
    state: MemoryState, real: Bool[Tensor, "batch tokens"]
) -> tuple[MemoryState, Int[Tensor, " batch"]]:
    """Counts a turn in every row that has text; returns the memory and the current turn."""
    begins = real.any(-1).long()
    after = state.replaced(num_turns=state.num_turns + begins)
    return after, (after.num_turns - 1).clamp_min(0)


@dataclass(frozen=True)
class Engine:
    """A backbone, its memory path, and the rules of reading and writing.

    Attributes:
        backbone: a causal language model whose attention modules have a `MemoryHook`.
        path: the memory layers.
        rules: see `Rules`.
        segment_tokens: tokens that the backbone sees at once.
        training: whether weights are trained; all segments then share a pass.
    """

    backbone: PreTrainedModel
    path: MemoryPath
    rules: Rules
    segment_tokens: int
    training: bool

    def cut(self, ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]) -> Segments:
        """Cuts text at the ends of paragraphs and sentences; see `segments.cut`."""
        return cut(ids, real, self.segment_tokens, self.path.borders)

    def begin_pass(
        self,
        part: Segments,
        state: MemoryState,
        *,
        until: Int[Tensor, "batch segments"] | None = None,
        writes: bool = True,
        limit: Float[Tensor, "batch segments tokens"] | None = None,
        reach: Bool[Tensor, "batch segments slots"] | None = None,
    ) -> MemoryPass:
        """A pass with segments that follow a memory; for the options, see `Chunk`, `MemoryPass`."""
        chunk = Chunk.after(state, part.real, part.sequences, until)
        return MemoryPass(state, chunk, self.rules, writes=writes, limit=limit, reach=reach)

    def call(self, memory: MemoryPass, *, is_last: bool = False, **arguments: Any) -> Any:
        """Calls the backbone; returns its output, or None where the upper layers are skipped."""
        try:
            return self.backbone(memory_call=MemoryCall(self.path, memory, is_last), **arguments)
        except StopBackbone:
            return None

    def ingest(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        memory: MemoryState,
        *,
        turn: Int[Tensor, " batch"] | None = None,
        limit: Float[Tensor, "batch tokens"] | None = None,
        segments_per_chunk: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> MemoryState:
        """Reads text into memory, and continues its open segment.

        Args:
            ids: token ids.
            real: False at padding.
            memory: the memory before the text.
            turn: the turn that the text belongs to, in each row; None: a new turn.
            limit: the factor on the strength of each token. With a limit, the open segment is
                closed before and after, because its tokens would be encoded again without a limit.
            segments_per_chunk: number of segments in a pass; None: as many as may be.
            progress: called with the number of new tokens per row done so far.

        Raises:
            ValueError: the record has no room for the text; see `MemoryConfig.record_tokens`.
        """
        if limit is not None:
            memory = memory.closed()
        state, open_ids, open_turns = memory.reopened()
        if turn is None:
            state, turn = begin_turn(state, real)
        turns = torch.cat([open_turns, turn[:, None].expand_as(ids)], 1)
        ids = torch.cat([open_ids.clamp_min(0), ids], 1)
        real = torch.cat([open_turns != EMPTY, real], 1)
        # refused at once, and not at the pass that is too much
        check_room(state.told, real if limit is None else real & (limit > 0), state.record_tokens)
        segments = self.cut(ids, real)
        turns = turns.gather(1, segments.column.flatten(1)).view_as(segments.ids)
        limits = None
        if limit is not None:
            limits = limit.gather(1, segments.column.flatten(1)).view(segments.ids.shape)
        begin = done = 0
        while begin < len(segments):
            end = self._pass_end(begin, segments, state, segments_per_chunk)
            part = segments.part(begin, end)
            window = (slice(None), slice(begin, end), slice(part.ids.shape[2]))
            part_limits = None if limits is None else limits[window]
            if bool(part.real.any()):
                memory_pass = self.begin_pass(part, state, limit=part_limits)
                self.call(memory_pass, is_last=True, **self._inputs(part))
                state = memory_pass.commit(part.ids, turns[window], part.closes)
            done += int(part.real.sum((1, 2)).max())
            if progress is not None:
                progress(max(0, done - open_ids.shape[1]))
            begin = end
        return state if limit is None else state.closed()

    def forward_plain(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        memory: MemoryState,
        *,
        segments_per_chunk: int | None = None,
        reach: Bool[Tensor, "batch slots"] | None = None,
        **arguments: Any,
    ) -> Forwarded:
        """The logits of plain text, and the memory after it.

        Args:
            ids: token ids.
            real: False at padding.
            memory: the memory before the text, with all segments closed.
            segments_per_chunk: number of segments in a pass; None: as many as may be.
            reach: the slots that text of one segment reads; None: those written last.
            **arguments: arguments of the backbone, if the text is one segment;
                `output_hidden_states` for text of any length.
        """
        state, turn = begin_turn(memory, real)
        if ids.shape[1] > self.segment_tokens:
            return self._forward_long(ids, real, state, turn, segments_per_chunk, **arguments)
        slots = None if reach is None else reach[:, None]
        memory_pass = MemoryPass(state, Chunk.after(state, real[:, None]), self.rules, reach=slots)
        outputs = self.call(memory_pass, input_ids=ids, use_cache=False, **arguments)
        written = memory_pass.written
        turns = turn[:, None, None].expand_as(real[:, None])
        return Forwarded(
            outputs.logits,
            memory_pass.commit(ids[:, None], turns, self.cut(ids, real).closes),
            outputs.hidden_states,
            outputs.attentions,
            written,
        )

    def _forward_long(
        self,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        state: MemoryState,
        turn: Int[Tensor, " batch"],
        segments_per_chunk: int | None,
        **arguments: Any,
    ) -> Forwarded:
        """Forwards text of more than one segment; logits and hidden states are zero at padding."""
        segments = self.cut(ids, real)
        whole: list[Tensor] = []
        written: list[Tensor] = []
        begin = 0
        while begin < len(segments):
            end = self._pass_end(begin, segments, state, segments_per_chunk)
            part = segments.part(begin, end)
            begin = end
            if not bool(part.real.any()):
                continue
            memory_pass = self.begin_pass(part, state)
            outputs = self.call(memory_pass, **self._inputs(part), **arguments)
            written.append(memory_pass.written)
            turns = turn[:, None, None].expand_as(part.ids)
            state = memory_pass.commit(part.ids, turns, part.closes)
            found = [outputs.logits, *(outputs.hidden_states or ())]
            whole = whole or [one.new_zeros(*ids.shape, one.shape[-1]) for one in found]
            rows, numbers = part.sequences
            entry, place = part.real[rows, numbers].nonzero(as_tuple=True)
            columns = part.column[rows, numbers][entry, place]
            whole = [
                total.index_put((rows[entry], columns), one[entry, place])
                for total, one in zip(whole, found, strict=True)
            ]
        logits, *hidden = whole
        return Forwarded(logits, state, tuple(hidden) or None, written=torch.cat(written))

    def _pass_end(
        self,
        begin: int,
        segments: Segments,
        state: MemoryState,
        segments_per_chunk: int | None,
    ) -> int:
        """The end of a pass: it takes as many segments as need no eviction in between."""
        if segments_per_chunk is not None and segments_per_chunk < 1:
            raise ValueError(f"segments_per_chunk must be at least 1; got {segments_per_chunk}.")
        if segments_per_chunk is not None:
            count = segments_per_chunk
        elif self.training:
            count = len(segments)
        else:
            most = PARALLEL_TOKENS.get(self.backbone.device.type, PARALLEL_TOKENS_ELSEWHERE)
            count = most // (self.segment_tokens * segments.ids.shape[0])
            if state.num_slots is not None:
                free = state.num_slots - int(state.occupied.sum(-1).max())
                count = min(count, free // self.segment_tokens)
        return min(len(segments), begin + max(1, count))

    def _inputs(self, part: Segments) -> dict[str, Any]:
        """The segments that hold text, as one batch for the backbone."""
        real = part.real[part.sequences]
        mask = None if bool(real.all()) else real.long()
        return {
            "input_ids": part.ids[part.sequences],
            "attention_mask": mask,
            "use_cache": False,
        }
