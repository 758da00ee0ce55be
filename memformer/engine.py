"""Text of any length through the backbone, segment by segment, and into memory.

One pass takes some segments and the memory before them, and gives the memory after them. `ingest`
only reads, `forward_segment` and `forward_long` want logits too. Longer text is cut, and as many
segments share a pass as may. What a segment does with the memory: `memory/segment.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.attach.backbone import StopBackbone
from memformer.memory.segment import MemoryPass
from memformer.memory.state import EMPTY, MemoryState
from memformer.segments import Segments, cut

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

# tokens that one parallel pass encodes at most outside training. A CPU is the faster the less it
# has at once: what it works on stays in its cache, and segments of one pass read each other before
# it is known what a write gate drops
PARALLEL_TOKENS = {"cpu": 512}
PARALLEL_TOKENS_ELSEWHERE = 8192


def begin_turn(
    state: MemoryState, real: Bool[Tensor, "batch tokens"]
) -> tuple[MemoryState, Int[Tensor, " batch"]]:
    """Counts a turn in every row that has text; returns the turn of what is written now."""
    begins = real.any(-1).long()
    after = state.replaced(num_turns=state.num_turns + begins)
    return after, (after.num_turns - 1).clamp_min(0)


def ingest(
    model: MemformerForCausalLM,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    memory: MemoryState,
    *,
    turn: Int[Tensor, " batch"] | None = None,
    gated: bool = True,
    limit: Float[Tensor, "batch tokens"] | None = None,
    segments_per_chunk: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> MemoryState:
    """Reads text into memory, continuing its open segment; see `MemformerForCausalLM.memorize`.

    Args:
        model: whose backbone reads.
        ids: token ids.
        real: where they are text rather than padding.
        memory: what is remembered so far.
        turn: the turn that the text belongs to, in each row; None: one of its own.
        gated: False writes every token.
        limit: how firmly each token may be written at most. The open segment is closed before and
            after then, because its tokens would be encoded again without a limit.
        segments_per_chunk: so many segments in one pass.
        progress: called with the number of new tokens per row done so far.
    """
    if limit is not None:
        memory = memory.closed()
    state, open_ids, open_turns = memory.reopened()
    if turn is None:
        state, turn = begin_turn(state, real)
    turns = torch.cat([open_turns, turn[:, None].expand_as(ids)], 1)
    ids = torch.cat([open_ids.clamp_min(0), ids], 1)
    real = torch.cat([open_turns != EMPTY, real], 1)
    segments = cut(ids, real, model.memory_config.segment_tokens)
    turns = turns.gather(1, segments.column.flatten(1)).view_as(segments.ids)
    limits = None
    if limit is not None:
        limits = limit.gather(1, segments.column.flatten(1)).view(segments.ids.shape)
    begin = done = 0
    while begin < len(segments):
        end = _pass_end(model, begin, segments, state, segments_per_chunk)
        part = segments.part(begin, end)
        cut_out = (slice(None), slice(begin, end), slice(part.ids.shape[2]))
        part_limits = None if limits is None else limits[cut_out]
        _, state = _pass(model, part, turns[cut_out], state, gated=gated, limit=part_limits)
        done += int(part.real.sum((1, 2)).max())
        if progress is not None:
            progress(max(0, done - open_ids.shape[1]))
        begin = end
    state = state.replaced(fingerprint=model.stamp)
    return state if limit is None else state.closed()


def forward_segment(
    model: MemformerForCausalLM,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    state: MemoryState,
    turn: Int[Tensor, " batch"],
    written: list[Tensor],
    **backbone_arguments: Any,
) -> tuple[Any, MemoryState]:
    """The backbone's output for text of at most one segment, and the memory afterwards.

    `written` is given what the write gate let through.
    """
    memory_pass = MemoryPass(
        state, real[:, None], segment_tokens=model.memory_config.segment_tokens
    )
    outputs = model.backbone(
        input_ids=ids, use_cache=False, memory_pass=memory_pass, **backbone_arguments
    )
    written.append(memory_pass.written)
    after = memory_pass.finish(ids[:, None], turn[:, None, None].expand_as(real[:, None]))
    return outputs, after.replaced(fingerprint=model.stamp)


def forward_long(
    model: MemformerForCausalLM,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    state: MemoryState,
    turn: Int[Tensor, " batch"],
    written: list[Tensor],
    segments_per_chunk: int | None,
    **backbone_arguments: Any,
) -> tuple[list[Float[Tensor, "batch tokens _"]], MemoryState]:
    """Logits for text of more than one segment, zero at padding, and the memory afterwards.

    The logits are followed by the hidden states of every layer, if the arguments ask for them.
    `written` is given what the write gate let through, one tensor a pass.
    """
    segments = cut(ids, real, model.memory_config.segment_tokens)
    whole: list[Tensor] = []
    begin = 0
    while begin < len(segments):
        end = _pass_end(model, begin, segments, state, segments_per_chunk)
        part = segments.part(begin, end)
        turns = turn[:, None, None].expand_as(part.ids)
        outputs, state = _pass(
            model, part, turns, state, logits=True, written=written, **backbone_arguments
        )
        if outputs is not None:
            found = [outputs.logits, *(outputs.hidden_states or ())]
            whole = whole or [one.new_zeros(*ids.shape, one.shape[-1]) for one in found]
            rows, numbers = part.sequences
            entry, place = part.real[rows, numbers].nonzero(as_tuple=True)
            columns = part.column[rows, numbers][entry, place]
            whole = [
                all_of_it.index_put((rows[entry], columns), one[entry, place])
                for all_of_it, one in zip(whole, found, strict=True)
            ]
        begin = end
    return whole, state.replaced(fingerprint=model.stamp)


def _pass_end(
    model: MemformerForCausalLM,
    begin: int,
    segments: Segments,
    state: MemoryState,
    segments_per_chunk: int | None,
) -> int:
    """How far one pass goes: over as many segments as need no eviction in between."""
    if segments_per_chunk is not None and segments_per_chunk < 1:
        raise ValueError(f"segments_per_chunk must be at least 1; got {segments_per_chunk}.")
    tokens = model.memory_config.segment_tokens
    if segments_per_chunk is not None:
        count = segments_per_chunk
    elif model.training:
        count = len(segments)
    else:
        most = PARALLEL_TOKENS.get(model.device.type, PARALLEL_TOKENS_ELSEWHERE)
        count = most // (tokens * segments.ids.shape[0])
        if state.num_slots is not None:
            free = state.num_slots - int(state.occupied.sum(-1).max())
            count = min(count, free // tokens)
    return min(len(segments), begin + max(1, count))


def _pass(
    model: MemformerForCausalLM,
    part: Segments,
    turns: Int[Tensor, "batch segments tokens"],
    state: MemoryState,
    *,
    logits: bool = False,
    gated: bool = True,
    limit: Float[Tensor, "batch segments tokens"] | None = None,
    written: list[Tensor] | None = None,
    **backbone_arguments: Any,
) -> tuple[Any, MemoryState]:
    """The segments that hold text go through the backbone as one batch; its output, if wanted."""
    sequences = part.sequences
    if sequences[0].numel() == 0:
        return None, state
    memory_pass = MemoryPass(
        state,
        part.real,
        sequences,
        segment_tokens=model.memory_config.segment_tokens,
        gated=gated,
        limit=limit,
        stop_after=None if logits else len(model.memory) - 1,
    )
    real = part.real[sequences]
    mask = None if bool(real.all()) else real.long()
    outputs = None
    try:
        outputs = model.backbone(
            input_ids=part.ids[sequences],
            attention_mask=mask,
            use_cache=False,
            memory_pass=memory_pass,
            **backbone_arguments,
        )
    except StopBackbone:
        pass
    if written is not None:
        written.append(memory_pass.written)
    return outputs, memory_pass.finish(part.ids, turns)
