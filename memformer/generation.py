"""Generation with a memory: what `generate` does before and after transformers' own loop.

The prompt's finished segments go to memory first, the rest is the current segment. Inside the loop
`forward_cached` feeds that segment and turns the page where it is full. Afterwards what was said
is written. There is one way into memory, `memorize`'s: a finished segment is encoded again as a
whole, so a memory does not depend on how its text came about.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import GenerationMixin

from memformer.cache import MemoryCache
from memformer.engine import begin_turn, ingest
from memformer.memory.segment import MemoryPass
from memformer.memory.state import MemoryState

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM


class Generated(NamedTuple):
    """What `generate` returns with `return_memory`; unpacks as a pair.

    Attributes:
        output: what transformers returns.
        memory: in which the prompt and what was said are remembered.
    """

    output: Any
    memory: MemoryState | None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            "With return_memory, generate returns the output and the memory, which have no "
            f"{name!r}. A pipeline can't pass a memory on: call model.generate yourself."
        )


def generate(
    model: MemformerForCausalLM,
    inputs: Int[Tensor, "batch tokens"] | None,
    memory: MemoryState | None,
    kwargs: dict[str, Any],
    return_memory: bool = False,
    limit: Float[Tensor, "batch tokens"] | None = None,
    reply_limit: float = 1.0,
) -> Any:
    """See `MemformerForCausalLM.generate`."""
    if inputs is None:
        inputs = kwargs.pop("input_ids", None)
    if inputs is not None and not isinstance(inputs, Tensor):
        model.check_input(inputs, None, None)
    if inputs is None or inputs.dim() != 2 or inputs.shape[1] == 0:
        raise ValueError(
            "The prompt is empty: generate needs input_ids of shape [batch, tokens] with at "
            "least one token a row."
        )
    if kwargs.get("past_key_values") is not None:
        raise ValueError("Pass memory= to generate instead of past_key_values.")
    # transformers types its mixin's self as a protocol that no class of its own satisfies
    mixin: Any = GenerationMixin
    others = {name: value for name, value in kwargs.items() if name != "generation_config"}
    config, _ = mixin._prepare_generation_config(model, kwargs.get("generation_config"), **others)
    if kwargs.get("cache_implementation") is not None:
        raise ValueError(
            "A memory brings its own cache; leave cache_implementation out of the call."
        )
    if config.cache_implementation is not None:
        kwargs["cache_implementation"] = None
    attention_mask = kwargs.get("attention_mask")
    if attention_mask is None:
        attention_mask = _guess_mask(inputs, config)
        kwargs["attention_mask"] = attention_mask
    real = model.check_input(inputs, attention_mask, memory)
    limit = model.check_limit(limit, inputs)
    if not 0 <= reply_limit <= 1:
        raise ValueError(f"reply_limit must be between 0 and 1; got {reply_limit}.")
    if not bool(real.any(-1).all()):
        row = int((~real.any(-1)).nonzero()[0])
        raise ValueError(f"The prompt in row {row} is empty: attention_mask is 0 everywhere.")
    before = (model.init_memory(inputs.shape[0]) if memory is None else memory).closed()
    before, turn = begin_turn(before, real)
    # whole segments of the prompt go to memory at once; the rest is the current segment
    lengths = real.sum(-1)
    tokens = model.memory_config.segment_tokens
    rest = (lengths - 1) % tokens + 1
    place = real.long().cumsum(-1) - 1
    finished = real & (place < (lengths - rest)[:, None])
    with torch.no_grad():
        readable = ingest(model, inputs, finished, before, turn=turn)
        # what may be read while generating, such as a system message, need not be remembered
        if limit is None:
            before = readable
        elif bool(finished.any()):
            before = ingest(model, inputs, finished, before, turn=turn, limit=limit)
    unread = real & ~finished
    first_column = unread.long().argmax(-1)
    if config.use_cache is False:
        kwargs["memory"] = memory
    else:
        kwargs["past_key_values"] = MemoryCache(readable, int(first_column.min()), first_column)
    result: Any = mixin.generate(model, inputs, **kwargs)
    structured = not isinstance(result, Tensor)
    if not (return_memory or structured):
        return result
    sequences = result.sequences if structured else result
    with torch.no_grad():
        after = _remember(model, sequences, unread, before, turn, config, limit, float(reply_limit))
    if structured and result.past_key_values is not None:
        result.past_key_values.memory = after
    return Generated(result, after) if return_memory else result


def forward_cached(
    model: MemformerForCausalLM,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    cache: MemoryCache,
    **backbone_arguments: Any,
) -> list[Float[Tensor, "batch tokens _"]]:
    """Feeds new columns to the current segments, turning pages where rows are full.

    Returns:
        Logits and, if the arguments ask for them, the hidden states of every layer.
    """
    tokens = model.memory_config.segment_tokens
    columns = torch.arange(ids.shape[1], device=ids.device) + cache.num_seen
    real = real & (columns[None] >= cache.first_column[:, None])
    pieces: list[list[Tensor]] = []
    begin = 0
    while begin < ids.shape[1]:
        full = (cache.lengths >= tokens).nonzero().flatten()
        if full.numel():
            before = cache.memory.select(full)
            turn = (before.num_turns - 1).clamp_min(0)
            memory = ingest(model, cache.ids[full], cache.real[full], before, turn=turn)
            cache.turn_page(full, memory.closed())
        fits = (cache.lengths[:, None] + real[:, begin:].cumsum(-1) <= tokens).all(0)
        end = begin + int(fits.long().cumprod(0).sum())
        new, new_real = ids[:, begin:end], real[:, begin:end]
        mask = torch.cat([cache.real, new_real], 1).long()
        positions = (mask.cumsum(-1) - 1).clamp_min(0)[:, -new.shape[1] :]
        # with a gradient, what is laid out belongs to one step
        laid = None if torch.is_grad_enabled() else cache.laid
        memory_pass = MemoryPass(cache.memory, new_real[:, None], writes=False, laid=laid)
        outputs = model.backbone(
            input_ids=new,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.segment,
            use_cache=True,
            memory_pass=memory_pass,
            **backbone_arguments,
        )
        cache.append(new, new_real)
        pieces.append([outputs.logits, *(outputs.hidden_states or ())])
        begin = end
    return [torch.cat(parts, 1) for parts in zip(*pieces, strict=True)]


def memory_after(model: MemformerForCausalLM, cache: MemoryCache) -> MemoryState:
    """See `MemformerForCausalLM.memory_after`."""
    turn = (cache.memory.num_turns - 1).clamp_min(0)
    return ingest(model, cache.ids, cache.real, cache.memory, turn=turn)


def _remember(
    model: MemformerForCausalLM,
    sequences: Int[Tensor, "answers tokens"],
    unread: Bool[Tensor, "batch prompt"],
    memory: MemoryState,
    turn: Int[Tensor, " batch"],
    config: Any,
    limit: Float[Tensor, "batch prompt"] | None,
    reply_limit: float,
) -> MemoryState:
    """Writes the rest of the prompt and each answer, up to and with its end-of-text token."""
    answers = sequences.shape[0] // unread.shape[0]
    rows = torch.arange(unread.shape[0], device=sequences.device).repeat_interleave(answers)
    said = sequences[:, unread.shape[1] :]
    ends = torch.zeros_like(said, dtype=torch.bool)
    if config.eos_token_id is not None:
        eos = torch.as_tensor(config.eos_token_id, device=said.device).flatten()
        ends = torch.isin(said, eos)
    spoken = ends.long().cumsum(-1) - ends.long() == 0
    new = torch.cat([unread[rows], spoken & (reply_limit > 0)], 1)
    limits = None
    if limit is not None or reply_limit < 1:
        asked = torch.ones_like(unread, dtype=torch.float32) if limit is None else limit
        answered = torch.full_like(said, reply_limit, dtype=torch.float32)
        limits = torch.cat([asked[rows], answered], 1)
    return ingest(model, sequences, new, memory.select(rows), turn=turn[rows], limit=limits)


def _guess_mask(ids: Int[Tensor, "batch tokens"], config: Any) -> Tensor:
    """As transformers does without a mask: padding is where the pad token is, unless it may
    also end a text."""
    pad, eos = config.pad_token_id, config.eos_token_id
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    if pad is None or pad in ends:
        return torch.ones_like(ids)
    return (ids != pad).long()
