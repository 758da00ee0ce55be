"""`MemformerForCausalLM`: a pretrained decoder with a memory between its segments of text.

The methods check what they are given and say what is kept; the work is elsewhere. Text goes through
the backbone in `engine.py` (`asides.py` for a document with questions, `generation.py` for
generation); checkpoints are in `checkpoint.py`. This file is long because the arguments of one
public class are explained in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
)
from transformers.modeling_outputs import CausalLMOutputWithPast

from memformer import generation
from memformer.asides import IGNORED_LABEL, forward_document
from memformer.attached import AttachedModel
from memformer.cache import MemoryCache
from memformer.checks import NO_TOKEN_IDS, check_ids, check_limit, check_rows, text_of
from memformer.config import MemformerConfig
from memformer.engine import Engine, Forwarded, begin_turn
from memformer.memory.state import IncompatibleMemory, MemoryState
from memformer.recollection import Passage, Recollection, places, reach, recollect, reread_rows

# weight of the write-budget penalty in the loss
BUDGET_WEIGHT = 1.0


@dataclass
class MemformerOutput(CausalLMOutputWithPast):
    """Output of `MemformerForCausalLM.forward`: the usual fields, and the memory.

    Attributes:
        memory: the memory after this call.
        written: with `segment_ids`: the share of tokens that the write gate let through; the
            gradient of the gate passes straight through.
        evidence: for every aside, how much its tokens read from memory, in [0, 1], mean over heads
            and layers. Carries no gradient.
        entropy: for every aside, how widely its reads are spread over the slots, in nats. Carries
            no gradient.
    """

    memory: MemoryState | None = None
    written: Float[Tensor, ""] | None = None
    evidence: Float[Tensor, " asides"] | None = None
    entropy: Float[Tensor, " asides"] | None = None


class MemformerForCausalLM(AttachedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model that reads and writes an explicit memory.

    Make one with `from_pretrained` or `from_backbone`. The backbone's weights are frozen and never
    changed; only the memory path trains, unless you unfreeze `model.backbone`.
    """

    def memorize(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        memory: MemoryState | None = None,
        *,
        gated: bool = True,
        limit: Float[Tensor, "batch tokens"] | None = None,
        turn: int | None = None,
        segments_per_chunk: int | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> MemoryState:
        """Reads text into memory: no logits, and no layer above the top memory layer is run.

        Text continues the memory's last segment if that is still open: a document interrupted
        anywhere and continued gives the memory of one pass. Gradients flow through the memory in
        training mode only; for a book they would not fit into any machine.

        Args:
            input_ids: any number of tokens, padded on either side.
            attention_mask: 0 at padding, which is never written.
            memory: what is remembered so far; None: nothing.
            gated: False writes every token, whatever a trained write gate makes of it, in segments
                of its own: the last one is closed before and after.
            limit: how firmly each token may be written at most, in [0, 1]; 0 at tokens that are
                context for those beside them and not remembered, such as a system message. Written
                in segments of its own too. None: 1.
            turn: the turn that the text belongs to, of those that there are already; None: a turn
                of its own.
            segments_per_chunk: encode this many segments at once. By default as many as fit
                without an eviction among them, so that the result is that of the recurrent form;
                while training, all.
            progress: called with the number of new tokens per row done so far.

        Returns:
            The memory after the text. The one passed in is unchanged.

        Raises:
            ValueError: shapes, token ids or memory that do not fit.
        """
        real = self.check_input(input_ids, attention_mask, memory)
        if self.is_memory_disabled:
            return self.init_memory(input_ids.shape[0]) if memory is None else memory
        memory = self.init_memory(input_ids.shape[0]) if memory is None else memory
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            after = self.engine(gated=gated).ingest(
                input_ids,
                real,
                memory if gated else memory.closed(),
                turn=self._check_turn(turn, memory),
                limit=check_limit(limit, input_ids),
                segments_per_chunk=segments_per_chunk,
                progress=progress,
            )
        after = self._stamped(after)
        return after if gated else after.closed()

    # ---- language modelling ----------------------------------------------------------------

    def forward(
        self,
        input_ids: Int[Tensor, "batch tokens"] | None = None,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
        position_ids: Int[Tensor, "batch tokens"] | None = None,
        past_key_values: MemoryCache | None = None,
        labels: Int[Tensor, "batch tokens"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        memory: MemoryState | None = None,
        segments_per_chunk: int | None = None,
        recalled: Sequence[Sequence[Passage]] | None = None,
        segment_ids: Int[Tensor, "batch tokens"] | None = None,
        remembered: Bool[Tensor, "batch tokens"] | None = None,
        chunks: int = 1,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> MemformerOutput | tuple[Any, ...]:
        """Logits for text of any length, given a memory.

        The text begins a new segment; where it is longer than one, it is cut into segments, which
        share nothing but the memory. With an empty memory and text of at most one segment, the
        logits are the backbone's, bit for bit.

        With `segment_ids`, the text is a document with asides: segments of any length and, between
        them, asides such as questions, which read the memory as it is there and are not written
        to it. One call then holds a whole training example, whatever wraps the model.

        Args:
            input_ids: token ids, padded on either side.
            attention_mask: 0 at padding.
            position_ids: handed to the backbone for text of at most one segment; positions start
                anew in every segment.
            past_key_values: a `MemoryCache`, in generation; it carries the memory then.
            labels: token ids to predict, -100 where there is nothing to predict; padding is
                ignored too. Shifted over the whole text: no target is lost at a segment border. In
                training mode the loss also holds the write gate to its budget, if it has one.
            use_cache: in generation: start a `MemoryCache`.
            logits_to_keep: compute logits for the last so many positions only, or for those that a
                tensor names; 0: all.
            memory: what is remembered so far; None: nothing.
            segments_per_chunk: see `memorize`; 1 is the recurrent form.
            recalled: the passages that text of one segment reads, from `recall`; None: the slots
                written last, because the text itself must not choose what its beginning reads.
            segment_ids: which segment each token is in; a segment begins where the number changes.
                Logits are then computed only where there is a label to predict, of shape
                `[labels, vocabulary]` in the order of the text, row after row.
            remembered: with `segment_ids`: False at asides.
            chunks: with `segment_ids`: so many parts, in each of which all segments go through the
                backbone at once. Asides are read after the part they stand in; the gradient does
                not go from one part to another.
            return_dict: False returns a tuple.
            **kwargs: handed to the backbone (text of at most one segment) and to the loss.
                `output_hidden_states` works for text of any length, `output_attentions` for text
                of one segment.

        Returns:
            Its `memory` holds all that was remembered before and the whole text. With a cache it
            is None: the cache carries the memory, and `memory_after(cache)` gives it.

        Raises:
            ValueError: shapes, token ids or memory that do not fit, an argument that means nothing
                for this text, or a loss from which nothing can be learnt.
        """
        if self.is_memory_disabled:
            return self._without_memory(
                memory,
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past_key_values,
                labels=labels,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                return_dict=return_dict,
                **kwargs,
            )
        ids = self._token_ids(input_ids, past_key_values, kwargs)
        carried = past_key_values.memory if past_key_values is not None else memory
        real = self.check_input(ids, attention_mask, carried)
        items = kwargs.pop("num_items_in_batch", None)
        cache = past_key_values if segment_ids is None else None
        if cache is None and use_cache and labels is None and segment_ids is None:
            cache = MemoryCache(begin_turn(self._known(memory, ids), real)[0])
        engine = self.engine()
        if cache is not None and recalled is not None and cache.recalled is None:
            cache.recalled = places(engine, recalled, cache.memory)
            cache.rereads = reread_rows(recalled, cache.memory)
        if segment_ids is not None:
            known = self._known(memory, ids)
            found = forward_document(
                engine, ids, real, segment_ids, remembered, labels, known, chunks
            )
        elif cache is not None:
            found = self._forward_cached(engine, ids, real, cache, logits_to_keep, kwargs)
        else:
            known = self._known(memory, ids)
            kwargs |= {"attention_mask": attention_mask, "position_ids": position_ids}
            found = self._forward_plain(
                engine, ids, real, known, segments_per_chunk, recalled, logits_to_keep, kwargs
            )
        output = MemformerOutput(
            logits=found.logits,
            past_key_values=cache,
            hidden_states=found.hidden_states,
            attentions=found.attentions,
            memory=None if found.memory is None else self._stamped(found.memory),
            written=_share(found) if segment_ids is not None else None,
            evidence=found.evidence,
            entropy=found.entropy,
        )
        if labels is not None:
            output.loss = self._loss(found, labels.masked_fill(~real, IGNORED_LABEL), items)
        return output.to_tuple() if return_dict is False else output

    def _token_ids(
        self, ids: Int[Tensor, "batch tokens"] | None, cache: Any, arguments: dict[str, Any]
    ) -> Int[Tensor, "batch tokens"]:
        """The token ids; refuses text without, and a cache that carries no memory."""
        if ids is None or arguments.get("inputs_embeds") is not None:
            raise ValueError(NO_TOKEN_IDS)
        if cache is not None and not isinstance(cache, MemoryCache):
            raise ValueError(
                f"past_key_values must be a MemoryCache; got {type(cache).__name__}. "
                "Pass memory= instead, and generate makes the cache itself."
            )
        return ids

    def _known(self, memory: MemoryState | None, ids: Int[Tensor, "batch tokens"]) -> MemoryState:
        """The memory before a new segment begins."""
        return self.init_memory(len(ids)) if memory is None else memory.closed()

    def _forward_cached(
        self,
        engine: Engine,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        cache: MemoryCache,
        logits_to_keep: int | Tensor,
        arguments: dict[str, Any],
    ) -> Forwarded:
        """New columns of the current segments, such as the token of a decoding step."""
        # a decoding step keeps logits of its last tokens; a tensor names places
        few = logits_to_keep if isinstance(logits_to_keep, int) else 0
        found = generation.forward_cached(
            engine, ids, real, cache, logits_to_keep=few, **_hidden(arguments)
        )
        return _kept(found, logits_to_keep)

    def _forward_plain(
        self,
        engine: Engine,
        ids: Int[Tensor, "batch tokens"],
        real: Bool[Tensor, "batch tokens"],
        memory: MemoryState,
        segments_per_chunk: int | None,
        recalled: Sequence[Sequence[Passage]] | None,
        logits_to_keep: int | Tensor,
        arguments: dict[str, Any],
    ) -> Forwarded:
        """Text in a row; the arguments of the backbone are checked where the text is long."""
        if not bool(real.any()):
            raise ValueError("There is no text: attention_mask is 0 everywhere.")
        if ids.shape[1] <= self.memory_config.segment_tokens:
            slots = None
            if recalled is not None:
                marked = places(engine, recalled, memory)
                slots = reach(engine, memory, marked, reread_rows(recalled, memory))
            return engine.forward_plain(
                ids, real, memory, logits_to_keep=logits_to_keep, reach=slots, **arguments
            )
        # transformers itself counts tokens where it generates without a cache
        counted, position_ids = real.long().cumsum(-1) - 1, arguments["position_ids"]
        if position_ids is not None and bool((position_ids != counted)[real].any()):
            raise ValueError(
                f"position_ids can be given for text of one segment, "
                f"{self.memory_config.segment_tokens} tokens; in longer text positions "
                "start anew in every segment. Leave them out."
            )
        found = engine.forward_plain(
            ids, real, memory, segments_per_chunk=segments_per_chunk, **_hidden(arguments)
        )
        return _kept(found, logits_to_keep)

    def _loss(
        self, found: Forwarded, labels: Int[Tensor, "batch tokens"], items: Any
    ) -> Float[Tensor, ""]:
        """The loss, in training mode with the penalty of the write budget."""
        targets = found.targets
        if targets is None:
            targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
        loss: Tensor = self.loss_function(
            logits=found.logits,
            labels=labels,
            vocab_size=found.logits.shape[-1],
            shift_labels=targets,
            num_items_in_batch=items,
        )
        budget = self.memory_config.write_budget
        share = _share(found)
        if self.training and budget is not None and share is not None:
            loss = loss + BUDGET_WEIGHT * (share - budget).square()
        if self.training and torch.is_grad_enabled() and not loss.requires_grad:
            raise ValueError(
                "Nothing can be learnt from this text: it is one segment, which reads no memory, "
                "and the backbone is frozen. Give longer texts, or attach with smaller "
                "segment_tokens, or unfreeze the backbone."
            )
        return loss

    def _without_memory(
        self, memory: MemoryState | None, *, return_dict: bool | None, **arguments: Any
    ) -> MemformerOutput | tuple[Any, ...]:
        """The backbone's own output, and the memory as it was."""
        self._refuse_memory_cache(arguments["past_key_values"])
        output = MemformerOutput(**self.backbone(**arguments), memory=memory)
        return output.to_tuple() if return_dict is False else output

    def _refuse_memory_cache(self, cache: Any) -> None:
        if isinstance(cache, MemoryCache):
            raise ValueError(
                "This MemoryCache holds a memory, which memory_disabled() turns off; leave the "
                "block to use the cache, or begin a cache of the backbone within the block."
            )

    # ---- recollection ----------------------------------------------------------------------

    def recall(
        self,
        input_ids: Int[Tensor, "batch tokens"],
        memory: MemoryState,
        top_k: int = 4,
        attention_mask: Int[Tensor, "batch tokens"] | None = None,
    ) -> list[Recollection]:
        """Finds what a memory was told that a question is about; nothing is read or written.

        Args:
            input_ids: the questions, padded on either side.
            memory: one memory a question.
            top_k: the most passages for each question.
            attention_mask: 0 at padding.

        Returns:
            For each question its passages, whole paragraphs of at most 256 tokens, best first;
            `before` and `after` of each are its neighbours in the order of telling. Each list has
            an `evidence` that there is anything at all; see `Recollection`.

        Raises:
            ValueError: top_k below 1, an empty question, or a memory that does not fit.
        """
        if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
            raise ValueError(f"top_k must be a whole number of at least 1; got {top_k!r}.")
        real = self.check_input(input_ids, attention_mask, memory)
        if not bool(real.any(-1).all()):
            raise ValueError("The question is empty: give at least one token a row to recall by.")
        if not self.memory.finders.chosen:
            raise ValueError(
                "This model has no heads that find: it was saved by an earlier version, or with "
                "finders=0. Choose them with model.choose_finders(tokenizer), and save it anew."
            )
        return recollect(self.engine(), input_ids, real, memory, top_k)

    # ---- generation ------------------------------------------------------------------------

    def generate(  # type: ignore[override]
        self,
        inputs: Int[Tensor, "batch tokens"] | None = None,
        *,
        memory: MemoryState | None = None,
        return_memory: bool = False,
        limit: Float[Tensor, "batch tokens"] | None = None,
        reply_limit: float = 1.0,
        recalled: Sequence[Sequence[Passage]] | None = None,
        reread: Bool[Tensor, "batch tokens"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """`GenerationMixin.generate`, with a memory.

        The prompt begins a new segment. Generation may outgrow its segment, which then goes to
        memory. Prompts in a batch are padded on the left.

        Args:
            inputs: the prompt's token ids; also as `input_ids=`.
            memory: what is remembered so far. With beams or several answers a prompt, each gets a
                copy.
            return_memory: also return the memory in which the prompt and what was said are
                remembered, up to and with the end-of-text token; one row an answer.
            limit: how firmly each token of the prompt may be remembered at most; see `memorize`.
            reply_limit: the same for all that is generated; 0: the answer is not remembered.
            recalled: the passages that each row reads, from `recall`; None: those that its prompt
                is found to be about. A memory of at most `working_set` slots is read whole, unless
                words of them are read again.
            reread: marks the tokens of the prompt that are read again (`memformer.rereading`); they
                are neither written nor seen by what is written.
            **kwargs: as in transformers.

        Returns:
            What transformers returns; with `return_memory`, a pair of that and the memory: see
            `Generated`.

        Raises:
            ValueError: an empty prompt, or a memory that does not fit.
        """
        if self.is_memory_disabled:
            self._refuse_memory_cache(kwargs.get("past_key_values"))
            backbone: Any = self.backbone
            said = backbone.generate(inputs, **kwargs)
            return generation.Generated(said, memory) if return_memory else said
        if kwargs.get("inputs_embeds") is not None:
            raise ValueError(NO_TOKEN_IDS)
        prompt, config = self._prompt(inputs, memory, kwargs, limit, reply_limit, reread)
        said, after = generation.generate(
            self,
            self.engine(),
            prompt,
            config,
            kwargs,
            return_memory=return_memory,
            given=memory,
            recalled=recalled,
        )
        if after is None:
            return said
        after = self._stamped(after)
        if not isinstance(said, Tensor) and said.past_key_values is not None:
            said.past_key_values.memory = after
        return generation.Generated(said, after) if return_memory else said

    def _prompt(
        self,
        inputs: Any,
        memory: MemoryState | None,
        arguments: dict[str, Any],
        limit: Tensor | None,
        reply_limit: float,
        reread: Tensor | None,
    ) -> tuple[generation.Prompt, GenerationConfig]:
        """The prompts of a generation, checked; their mask is put among the arguments."""
        ids = arguments.pop("input_ids", None) if inputs is None else inputs
        if ids is not None and not isinstance(ids, Tensor):
            self.check_input(ids, None, None)
        if ids is None or ids.dim() != 2 or ids.shape[1] == 0:
            raise ValueError(
                "The prompt is empty: generate needs input_ids of shape [batch, tokens] with at "
                "least one token a row."
            )
        config = generation.settings(self, arguments)
        if arguments.get("attention_mask") is None:
            arguments["attention_mask"] = generation.guess_mask(ids, config)
        real = self.check_input(ids, arguments["attention_mask"], memory)
        limit = check_limit(limit, ids)
        if not 0 <= reply_limit <= 1:
            raise ValueError(f"reply_limit must be between 0 and 1; got {reply_limit}.")
        if not bool(real.any(-1).all()):
            row = int((~real.any(-1)).nonzero()[0])
            raise ValueError(f"The prompt in row {row} is empty: attention_mask is 0 everywhere.")
        known = self._known(memory, ids)
        if reread is not None and reread.shape != ids.shape:
            raise ValueError(
                f"reread must have the shape of the prompt, {tuple(ids.shape)}; got "
                f"{tuple(reread.shape)}."
            )
        return generation.Prompt(ids, real, known, limit, float(reply_limit), reread), config

    @torch.no_grad()
    def memory_after(self, past_key_values: MemoryCache) -> MemoryState:
        """The memory once all that a cache has seen is in it, the open segment too.

        For decoding loops of your own; `generate` returns it with `return_memory`.

        Args:
            past_key_values: from `forward` with `use_cache=True`. It can be used on.

        Raises:
            ValueError: the memory was unloaded.
        """
        self._check_attached()
        return self._stamped(generation.memory_after(self.engine(), past_key_values))

    def _expand_inputs_for_generation(  # type: ignore[override]
        self, expand_size: int = 1, **kwargs: Any
    ) -> tuple[Any, dict[str, Any]]:
        if expand_size > 1:
            if isinstance(cache := kwargs.get("past_key_values"), MemoryCache):
                cache.batch_repeat_interleave(expand_size)
            if isinstance(memory := kwargs.get("memory"), MemoryState):
                rows = torch.arange(memory.batch_size).repeat_interleave(expand_size)
                kwargs["memory"] = memory.select(rows)
        mixin: Any = super()
        expanded: tuple[Any, dict[str, Any]] = mixin._expand_inputs_for_generation(
            expand_size=expand_size, **kwargs
        )
        return expanded

    # ---- checks and conventions ------------------------------------------------------------

    def check_input(
        self,
        ids: Int[Tensor, "batch tokens"],
        attention_mask: Int[Tensor, "batch all_tokens"] | None,
        memory: MemoryState | None,
    ) -> Bool[Tensor, "batch tokens"]:
        """Checks an input; returns where it is text rather than padding.

        Raises:
            ValueError: shapes, token ids or memory that do not fit, or the memory was unloaded.
        """
        self._check_attached()
        check_ids(ids, self.config.text_config.vocab_size)
        if memory is not None:
            check_rows(memory, ids.shape[0])
            self.check_memory(memory)
        return text_of(ids, attention_mask)

    def _check_turn(self, turn: int | None, memory: MemoryState) -> Int[Tensor, " batch"] | None:
        if turn is None:
            return None
        if not 0 <= turn < int(memory.num_turns.min()):
            raise ValueError(
                f"turn must be one that the memory has, below {int(memory.num_turns.min())}; got "
                f"{turn}."
            )
        return torch.full_like(memory.num_seen, turn)


def _kept(found: Forwarded, places: int | Tensor) -> Forwarded:
    """The same with logits of the last positions only, of all (0), or of those that are named."""
    logits = found.logits[:, -places:] if isinstance(places, int) else found.logits[:, places]
    return dataclasses.replace(found, logits=logits)


def _share(found: Forwarded) -> Float[Tensor, ""] | None:
    """The share of the text that is written, 0 of no text; None where nothing is written yet."""
    if found.written is None:
        return None
    return found.written.mean() if found.written.numel() else found.written.sum()


def _hidden(arguments: dict[str, Any]) -> dict[str, Any]:
    """The options of the backbone that work where it sees a text in parts."""
    if arguments.get("output_attentions"):
        raise ValueError(
            "output_attentions works for text of one segment without a cache: attention never "
            "crosses a segment border. Leave it out, or hand segments over one by one."
        )
    wanted = arguments.get("output_hidden_states")
    return {"output_hidden_states": True} if wanted else {}


# transformers' AutoModelForCausalLM opens checkpoints once this module is imported
AutoModelForCausalLM.register(MemformerConfig, MemformerForCausalLM, exist_ok=True)

__all__ = ["IncompatibleMemory", "MemformerForCausalLM", "MemformerOutput"]
