"""Generation with a memory: the steps before, inside and after transformers' own loop.

Before the loop, the finished segments of the prompt go to memory; the rest is the current segment.
Inside the loop, `forward_cached` feeds the current segment, and starts a new one where it is full:
the part up to the last end of a paragraph or a sentence goes to memory, the rest begins the next.
After the loop, the reply is written. All text goes to memory through `Engine.ingest`, which encodes
a finished segment again as a whole, so a memory does not depend on how its text came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, GenerationConfig, GenerationMixin, PreTrainedModel

from memformer.cache import MemoryCache
from memformer.engine import Engine, Forwarded, begin_turn
from memformer.memory.chunk import Chunk
from memformer.memory.memory_pass import MemoryPass
from memformer.memory.record import check_room
from memformer.memory.state import MemoryState
from memformer.recollection import Passage, places, reading, recollect_if_large, reread_rows


class Generated(NamedTuple):
    """The result of `generate` with `return_memory`; unpacks as a pair.

    Attributes:
        output: the result of transformers.
        memory: the memory after the prompt and the reply.
    """

    output: Any
    memory: MemoryState | None

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            "With return_memory, generate returns the output and the memory, which have no "
            f"{name!r}. A pipeline can't pass a memory on: call model.generate yourself."
        )


@dataclass(frozen=True)
class Prompt:
    """The prompts of one call of `generate`, checked.

    Attributes:
        ids: token ids.
        real: False at padding.
        memory: the memory before the prompts, with all segments closed.
        limit: the factor on the strength of each token; None: 1.
        reply_limit: the factor on the strength of every generated token.
        reread: the tokens that the reply sees and that are not written again, nor seen by what is
            written; None: there are none.
    """

    ids: Int[Tensor, "batch tokens"]
    real: Bool[Tensor, "batch tokens"]
    memory: MemoryState
    limit: Float[Tensor, "batch tokens"] | None
    reply_limit: float
    reread: Bool[Tensor, "batch tokens"] | None = None

    @property
    def written(self) -> Bool[Tensor, "batch tokens"]:
        """The tokens that go through the memory, whether it keeps them or not."""
        return self.real if self.reread is None else self.real & ~self.reread

    @property
    def remembered(self) -> Bool[Tensor, "batch tokens"]:
        """The tokens that the memory after the prompts records."""
        return self.written if self.limit is None else self.written & (self.limit > 0)


def settings(model: PreTrainedModel, arguments: dict[str, Any]) -> GenerationConfig:
    """The config that transformers makes from the arguments of `generate`.

    Raises:
        ValueError: the arguments ask for a cache of their own.
    """
    if arguments.get("past_key_values") is not None:
        raise ValueError("Pass memory= to generate instead of past_key_values.")
    # transformers types its mixin's self as a protocol that none of its classes satisfies
    mixin: Any = GenerationMixin
    others = {name: value for name, value in arguments.items() if name != "generation_config"}
    given = arguments.get("generation_config")
    config, _ = mixin._prepare_generation_config(model, given, **others)
    if arguments.get("cache_implementation") is not None:
        raise ValueError(
            "A memory brings its own cache; leave cache_implementation out of the call."
        )
    found: GenerationConfig = config
    return found


def generate(
    model: PreTrainedModel,
    engine: Engine,
    prompt: Prompt,
    config: GenerationConfig,
    arguments: dict[str, Any],
    *,
    return_memory: bool,
    given: MemoryState | None,
    recalled: Sequence[Sequence[Passage]] | None = None,
) -> tuple[Any, MemoryState | None]:
    """The result of transformers, and the memory after the reply where the caller asks for it.

    Args:
        model: the model that generates.
        engine: the engine that reads text into memory.
        prompt: the checked prompts.
        config: from `settings`; a kind of cache that it names is dropped.
        arguments: the arguments of `generate`, for transformers.
        return_memory: whether the caller asks for the memory after the reply.
        given: the memory as the caller gave it, for a generation without a cache.
        recalled: the passages that each row reads; None: those that its prompt is about.

    Raises:
        ValueError: the record has no room for the prompt and the reply; see
            `MemoryConfig.record_tokens`. What is not remembered needs no room.
    """
    if config.cache_implementation is not None:
        arguments = arguments | {"cache_implementation": None}
    quota = prompt.memory.record_tokens
    if return_memory or config.return_dict_in_generate:
        check_room(prompt.memory.told, prompt.remembered, quota)
    before, turn = begin_turn(prompt.memory, prompt.real)
    finished = _finished(engine, prompt.ids, prompt.real)
    unread = unwritten = prompt.real & ~finished
    with torch.no_grad():
        unlimited = before.replaced(record_tokens=None)
        readable = engine.ingest(prompt.ids, finished, unlimited, turn=turn)
        # text can be read while generating but not remembered, such as a system message
        if prompt.reread is not None:
            unwritten = prompt.written  # cut into segments of its own
        elif prompt.limit is None:
            before = readable.replaced(record_tokens=quota)
        elif bool(finished.any()):
            before = engine.ingest(prompt.ids, finished, before, turn=turn, limit=prompt.limit)
    if recalled is None:
        recalled = recollect_if_large(engine, prompt.ids, unread & prompt.written, readable)
    if config.use_cache is False:
        carried: dict[str, Any] = {
            "memory": None if given is None else given.replaced(record_tokens=None),
            "recalled": recalled,
        }
    else:
        first_column = unread.long().argmax(-1)
        cache = MemoryCache(readable, int(first_column.min()), first_column)
        cache.recalled = places(engine, recalled, readable)
        cache.rereads = reread_rows(recalled, readable)
        carried = {"past_key_values": cache}
    mixin: Any = GenerationMixin
    result: Any = mixin.generate(model, prompt.ids, **(arguments | carried))
    structured = not isinstance(result, Tensor)
    if not (return_memory or structured):
        return result, None
    sequences = result.sequences if structured else result
    with torch.no_grad():
        after = _remember(engine, prompt, sequences, unwritten, before, turn, config.eos_token_id)
        if recalled is not None and any(recalled):
            # what was recalled stays when others are evicted
            marked = places(engine, recalled, prompt.memory, reread=True)
            answers = after.batch_size // len(marked)
            after = after.renewed(_wide(marked.repeat_interleave(answers, 0), after))
    return result, after


def _wide(marked: Bool[Tensor, "rows told"], memory: MemoryState) -> Bool[Tensor, "rows told"]:
    """Marks for a record that has grown."""
    return torch.nn.functional.pad(marked, (0, memory.told.shape[1] - marked.shape[1]))


def _finished(
    engine: Engine, ids: Int[Tensor, "batch tokens"], real: Bool[Tensor, "batch tokens"]
) -> Bool[Tensor, "batch tokens"]:
    """Marks the finished segments of a text; the last segment is the current one."""
    segments = engine.cut(ids, real)
    has_text = segments.real.any(-1)
    last = has_text.sum(-1, keepdim=True) - 1
    number = torch.arange(len(segments), device=ids.device)
    rows, numbers, places = (segments.real & (number < last)[..., None]).nonzero(as_tuple=True)
    finished = torch.zeros_like(real)
    finished[rows, segments.column[rows, numbers, places]] = True
    return finished


def forward_cached(
    engine: Engine,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    cache: MemoryCache,
    **arguments: Any,
) -> Forwarded:
    """Feeds new columns to the current segments; a row that is full starts a new segment."""
    tokens = engine.segment_tokens
    columns = torch.arange(ids.shape[1], device=ids.device) + cache.num_seen
    real = real & (columns[None] >= cache.first_column[:, None])
    if cache.recalled is None:
        found = recollect_if_large(engine, ids, real, cache.memory)
        cache.recalled = places(engine, found, cache.memory)
    pieces: list[list[Tensor]] = []
    begin = 0
    while begin < ids.shape[1]:
        full = (cache.lengths >= tokens).nonzero().flatten()
        if full.numel():
            _turn_page(engine, cache, full)
        fits = (cache.lengths[:, None] + real[:, begin:].cumsum(-1) <= tokens).all(0)
        end = begin + int(fits.long().cumprod(0).sum())
        new, new_real = ids[:, begin:end], real[:, begin:end]
        mask = torch.cat([cache.real, new_real], 1).long()
        positions = _positions(mask)[:, -new.shape[1] :]
        # with a gradient, prepared slots serve one step only
        if cache.reading is None:
            cache.reading = reading(engine, cache.memory, cache.recalled, cache.rereads)
        is_kept = not torch.is_grad_enabled()
        chunk = Chunk.after(cache.reading, new_real[:, None])
        memory_pass = MemoryPass(
            cache.reading,
            chunk,
            engine.rules,
            writes=False,
            slot_views=cache.slot_views if is_kept else None,
            notes=cache.notes if is_kept else None,
        )
        outputs = engine.call(
            memory_pass,
            input_ids=new,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.segment,
            use_cache=True,
            **arguments,
        )
        cache.append(new, new_real)
        pieces.append([outputs.logits, *(outputs.hidden_states or ())])
        begin = end
    logits, *hidden = [torch.cat(parts, 1) for parts in zip(*pieces, strict=True)]
    return Forwarded(logits, hidden_states=tuple(hidden) or None)


def _turn_page(engine: Engine, cache: MemoryCache, rows: Int[Tensor, " rows"]) -> None:
    """Starts a new segment in rows whose segment is full, with the tokens that stay in it."""
    ids, real, before = cache.ids[rows], cache.real[rows], cache.memory.select(rows)
    # one more token, because a full segment is cut where text goes on
    pad = torch.nn.functional.pad
    finished = _finished(engine, pad(ids, (0, 1)), pad(real, (0, 1), value=True))[:, :-1]
    turn = (before.num_turns - 1).clamp_min(0)
    memory = engine.ingest(ids, finished, before, turn=turn)
    cache.turn_page(rows, memory.closed(), real & ~finished)
    # what is said next may be about something else
    found = recollect_if_large(engine, ids, finished, cache.memory.select(rows))
    cache.renew(rows, places(engine, found, cache.memory.select(rows)))
    staying = rows[cache.real[rows].any(-1)]
    if not staying.numel():
        return
    # encoded again, because they stood elsewhere and saw what is now in memory
    real, segment = cache.real[staying], DynamicCache()
    assert cache.recalled is not None
    memory = cache.memory.select(staying)
    memory = reading(engine, memory, cache.recalled[staying], cache.rereads[staying])
    chunk = Chunk.after(memory, real[:, None])
    engine.call(
        MemoryPass(memory, chunk, engine.rules, writes=False),
        input_ids=cache.ids[staying],
        attention_mask=real.long(),
        position_ids=_positions(real.long()),
        past_key_values=segment,
        use_cache=True,
        logits_to_keep=1,
    )
    cache.put(staying, segment)


def _positions(mask: Int[Tensor, "batch columns"]) -> Int[Tensor, "batch columns"]:
    """The place of each token in its segment."""
    return (mask.cumsum(-1) - 1).clamp_min(0)


def memory_after(engine: Engine, cache: MemoryCache) -> MemoryState:
    """The memory after all text that a cache has seen."""
    turn = (cache.memory.num_turns - 1).clamp_min(0)
    return engine.ingest(cache.ids, cache.real, cache.memory, turn=turn)


def _remember(
    engine: Engine,
    prompt: Prompt,
    sequences: Int[Tensor, "answers tokens"],
    unwritten: Bool[Tensor, "batch prompt"],
    memory: MemoryState,
    turn: Int[Tensor, " batch"],
    eos_token_id: int | list[int] | None,
) -> MemoryState:
    """Writes the rest of the prompt and each answer, up to and with its end-of-text token."""
    answers = sequences.shape[0] // unwritten.shape[0]
    rows = torch.arange(unwritten.shape[0], device=sequences.device).repeat_interleave(answers)
    said = sequences[:, unwritten.shape[1] :]
    ends = torch.zeros_like(said, dtype=torch.bool)
    if eos_token_id is not None:
        eos = torch.as_tensor(eos_token_id, device=said.device).flatten()
        ends = torch.isin(said, eos)
    spoken = ends.long().cumsum(-1) - ends.long() == 0
    new = torch.cat([unwritten[rows], spoken & (prompt.reply_limit > 0)], 1)
    limits, limit = None, prompt.limit
    if limit is not None or prompt.reply_limit < 1:
        asked = torch.ones_like(unwritten, dtype=torch.float32) if limit is None else limit
        answered = torch.full_like(said, prompt.reply_limit, dtype=torch.float32)
        limits = torch.cat([asked[rows], answered], 1)
    return engine.ingest(sequences, new, memory.select(rows), turn=turn[rows], limit=limits)


def guess_mask(ids: Int[Tensor, "batch tokens"], config: GenerationConfig) -> Tensor:
    """The mask that transformers guesses: 0 at the pad token, unless it may also end a text."""
    pad, eos = config.pad_token_id, config.eos_token_id
    ends = [eos] if isinstance(eos, int) else list(eos or [])
    if pad is None or pad in ends:
        return torch.ones_like(ids)
    return (ids != pad).long()
