"""`MemformerForCausalLM`: a pretrained decoder with a memory between its segments of text.

`forward`, `memorize` and `generate` check what they are given and say what is kept. How text goes
through the backbone: `engine.py`, or `layout.py` where it comes laid out; generation:
`generation.py`; saving and loading: `checkpoint.py`; the memory's own computation:
`memory/segment.py`.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from memformer import engine, generation
from memformer.asides import IGNORED_LABEL, forward_laid_out
from memformer.attach import calibrate, mixing
from memformer.attach.backbone import Backbone
from memformer.attach.heads import ADDRESS_WIDTH
from memformer.attach.layers import MemoryLayer, drop_memory_argument
from memformer.cache import MemoryCache
from memformer.config import MemformerConfig, MemoryConfig
from memformer.conventions import Conventions, check_adapter
from memformer.memory.check import all_finite
from memformer.memory.state import IncompatibleMemory, MemoryState

NO_TOKEN_IDS = (
    "A memory needs input_ids, because it keeps which tokens it was written from; give these "
    "instead of inputs_embeds, or call the model within memory_disabled()."
)

# of the squared difference between the share that is written and the budget, in the loss
BUDGET_WEIGHT = 1.0


@dataclass
class MemformerOutput(CausalLMOutputWithPast):
    """Output of `MemformerForCausalLM.forward`: the usual fields, and the memory.

    Attributes:
        memory: afterwards.
        written: of text laid out in segments: share that the write gate let through, which the
            gate's gradient passes straight through.
        evidence: and for every aside, how much its tokens read from memory, in [0, 1], mean over
            heads and layers;
        entropy: in nats, how widely that is spread over the slots. Neither carries a gradient.
    """

    memory: MemoryState | None = None
    written: Float[Tensor, ""] | None = None
    evidence: Float[Tensor, " asides"] | None = None
    entropy: Float[Tensor, " asides"] | None = None


def _kept(logits: Tensor, places: int | Tensor) -> Tensor:
    """Logits of the last positions, of all (0), or of those that are named."""
    return logits[:, -places:] if isinstance(places, int) else logits[:, places]


class MemformerForCausalLM(Conventions, PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model that reads and writes an explicit memory.

    Make one with `from_pretrained` or `from_backbone`. The backbone's weights are frozen and never
    changed; only the memory path trains, unless you unfreeze `model.backbone`.
    """

    config_class = MemformerConfig
    config: MemformerConfig
    base_model_prefix = "backbone"
    supports_gradient_checkpointing = True
    _is_stateful = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _skip_keys_device_placement = ["past_key_values", "memory"]
    _no_split_modules: list[str] = []

    def __init__(self, config: MemformerConfig, backbone: PreTrainedModel | None = None) -> None:
        if backbone is None:
            backbone = AutoModelForCausalLM.from_config(config.text_config)
        # the config of the whole must not overrule the kernel that the backbone was loaded with
        kernel = backbone.config._attn_implementation
        config.text_config = backbone.config
        config._attn_implementation = kernel
        super().__init__(config)
        backbone.config._attn_implementation = kernel
        self.backbone = backbone
        self.memory_config = MemoryConfig.from_dict(config.memory_config or {})
        self._family = [Backbone.of(backbone)]  # in a list: a view of the backbone, no submodule
        family = self._family[0]
        layers = calibrate.choose_layers(self.memory_config.memory_layers, len(family.layers), None)
        self.memory_config = dataclasses.replace(self.memory_config, memory_layers=layers)
        config.memory_config = self.memory_config.to_dict()
        self.memory = nn.ModuleList(
            MemoryLayer(
                family,
                layer,
                index,
                rank=self.memory_config.projection_rank,
                key_positions=self.memory_config.key_positions,
                read_distance=self.memory_config.read_distance,
                focus=self.memory_config.focus,
                links=self.memory_config.links,
                release=self.memory_config.release,
            )
            for index, layer in enumerate(layers)
        )
        self._hooks = self._attach()
        self.memory.to(backbone.device)
        backbone.requires_grad_(False)
        self.generation_config = backbone.generation_config
        self.post_init()

    def _attach(self) -> list[Any]:
        """Hooks every attention module; those without a memory only drop its argument."""
        family = self._family[0]
        hooks: dict[int, Any] = {
            layer.layer: layer.before_attention for layer in self.memory_layers
        }
        attentions = [family.attention(layer) for layer in range(len(family.layers))]
        for attention in attentions:
            for hook in attention._forward_pre_hooks.values():
                if getattr(hook, "__module__", "") == drop_memory_argument.__module__:
                    raise ValueError(
                        "This backbone has a memory already; take it off with "
                        "model.unload_memory(), or load the backbone anew."
                    )
        bound = None
        for layer in sorted(hooks):
            bound = mixing.bind(attentions[layer], bound)
        return [
            attention.register_forward_pre_hook(
                hooks.get(layer) or drop_memory_argument, with_kwargs=True
            )
            for layer, attention in enumerate(attentions)
        ]

    def unload_memory(self) -> PreTrainedModel:
        """Takes the memory off; returns the backbone as it was before.

        This model can still be saved, but no longer read, write or generate.
        """
        for handle in self._hooks:
            handle.remove()
        self._hooks = []
        for layer in self.memory_layers:
            mixing.unbind(self._family[0].attention(layer.layer))
        return self.backbone

    def init_weights(self) -> None:
        """Nothing to do: backbone and memory layers come initialised."""

    @classmethod
    def from_backbone(
        cls,
        backbone: PreTrainedModel,
        memory_config: MemoryConfig | None = None,
        tokenizer: Any | None = None,
    ) -> MemformerForCausalLM:
        """Attaches a warm-started, calibrated memory to a loaded model.

        Args:
            backbone: a causal language model of a known family. It is wrapped, not copied.
            memory_config: choices about the memory.
            tokenizer: used to calibrate on plain prose and to measure where retrieval happens.
                Without one, the memory is calibrated on text sampled from the backbone, and
                `memory_layers="auto"` takes the upper three quarters of the depth.

        Raises:
            ValueError: unknown family, or a memory layer that the backbone does not have.
        """
        check_adapter(backbone)
        wanted = memory_config or MemoryConfig()
        view = Backbone.of(backbone)
        measured = None
        if wanted.memory_layers == "auto" and tokenizer is not None:
            measured = calibrate.retrieval(view, tokenizer)
        layers = calibrate.choose_layers(wanted.memory_layers, len(view.layers), measured)
        nulls = calibrate.null_logits(view, calibrate.plain_text(view, tokenizer))
        config = MemformerConfig(
            text_config=copy.deepcopy(backbone.config),  # the model puts the real one in
            memory_config=dataclasses.replace(wanted, memory_layers=layers).to_dict(),
            backbone={
                "name": getattr(backbone.config, "_name_or_path", ""),
                "revision": getattr(backbone.config, "_commit_hash", None),
                "fingerprint": view.fingerprint(),
            },
        )
        model = cls(config, backbone)
        with torch.no_grad():
            for layer in model.memory_layers:
                layer.null_logit.copy_(nulls[layer.layer] + wanted.null_offset)
        return model.train(backbone.training)

    @property
    def memory_layers(self) -> list[MemoryLayer]:
        """The memory layers, lowest first."""
        return [cast(MemoryLayer, layer) for layer in self.memory]

    # ---- memory ----------------------------------------------------------------------------

    def init_memory(self, batch_size: int = 1, num_slots: int | None = -1) -> MemoryState:
        """An empty memory for this model.

        Args:
            batch_size: how many independent memories.
            num_slots: capacity; the config's if left out, None for unbounded.
        """
        family = self._family[0]
        return MemoryState.empty(
            batch_size,
            len(self.memory),
            family.kv_heads,
            family.width,
            num_slots=self.memory_config.num_slots if num_slots == -1 else num_slots,
            address_width=ADDRESS_WIDTH if self.memory_config.release else 0,
            fingerprint=self.stamp,
            dtype=self.backbone.dtype,
            device=self.device,
        )

    @property
    def architecture(self) -> str:
        """What decides the shape and the meaning of slots, weights aside."""
        family = self._family[0]
        addressed = f", addresses of width {ADDRESS_WIDTH}" if self.memory_config.release else ""
        return (
            f"{self.config.text_config.model_type}, memory layers "
            f"{','.join(str(layer) for layer in self._layer_numbers)}, "
            f"{family.kv_heads} key heads of width {family.width}, "
            f"key positions {self.memory_config.key_positions}{addressed}"
        )

    @property
    def fingerprint(self) -> dict[str, str]:
        """What a memory must have in common with the model that reads it."""
        memory = hashlib.sha256()
        for name, weight in self.memory.state_dict().items():
            memory.update(name.encode() + weight.float().cpu().numpy().tobytes())
        for name, weight in self.backbone.named_parameters():
            if "lora_" in name:
                sample = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
                memory.update(sample.float().cpu().numpy().tobytes())
        return {
            "architecture": self.architecture,
            "backbone": self._family[0].fingerprint(),
            "memory": memory.hexdigest()[:16],
        }

    @property
    def stamp(self) -> dict[str, str]:
        """Fingerprint of the memories that this model writes, with the name of its backbone.

        While training it names the architecture only, because the weights still change.
        """
        named = {"name": self.backbone_name} if self.backbone_name else {}
        return named | ({"architecture": self.architecture} if self.training else self.fingerprint)

    @property
    def backbone_name(self) -> str:
        """Hub id or folder of the backbone; empty where its weights are the checkpoint's own."""
        return (self.config.backbone or {}).get("name") or ""

    @property
    def _layer_numbers(self) -> tuple[int, ...]:
        layers = self.memory_config.memory_layers
        assert isinstance(layers, tuple)
        return layers

    def check_memory(self, memory: MemoryState, *, source: str = "") -> None:
        """Refuses a memory that another model wrote.

        Args:
            memory: to be read by this model.
            source: where it was kept, as "in FILE" or "of user NAME"; only then weights are
                compared too, since a memory may be carried through a training run that changes
                them.

        Raises:
            IncompatibleMemory: the sentence lists each difference.
            ValueError: its shapes or token ids are not those of a memory of this model, although
                its fingerprint says so.
        """
        whose = f"The memory {source}".strip()
        if different := self._differences(memory.fingerprint, weights=bool(source)):
            raise IncompatibleMemory(
                f"{whose} was written by another model: {'; '.join(different)}. "
                "Load the model that wrote it, or start a new memory."
            )
        family = self._family[0]
        shape = (len(self.memory), family.kv_heads, family.width)
        width = ADDRESS_WIDTH if self.memory_config.release else 0
        found = (memory.keys.shape[0], *memory.keys.shape[3:]), memory.addresses.shape[-1]
        if found != (shape, width):
            raise ValueError(
                f"{whose} is damaged: it has layers, key heads, width and address width {found}, "
                f"and the model {(shape, width)}; restore it from a copy or start a new memory."
            )
        vocabulary = self.config.text_config.vocab_size
        if source and bool((memory.token >= vocabulary).any()):
            raise ValueError(
                f"{whose} is damaged: it holds token id {int(memory.token.max())}, and the model "
                f"has {vocabulary} tokens; restore it from a copy or start a new memory."
            )
        if memory.dtype != self.backbone.dtype:
            raise IncompatibleMemory(
                f"{whose} holds {memory.dtype} and the model computes in {self.backbone.dtype}; "
                "convert it with memory.to(dtype=model.dtype)."
            )

    def _differences(self, theirs: dict[str, str], *, weights: bool) -> list[str]:
        """In what a memory's writer differs from this model."""
        different = []
        if theirs.get("architecture") != self.architecture:
            there = theirs.get("architecture", "unknown")
            different.append(f"architecture is {there!r} there and {self.architecture!r} here")
        mine = self.fingerprint if weights else {}
        if theirs.get("backbone") != mine.get("backbone", theirs.get("backbone")):
            there, here = theirs.get("name", "unnamed"), self.backbone_name or "unnamed"
            names = (
                f"is {there!r} there and {here!r} here" if there != here else f"is another {here!r}"
            )
            different.append(f"backbone {names}, with other weights")
        if theirs.get("memory") != mine.get("memory", theirs.get("memory")):
            different.append("memory path has other weights, from other training")
        return different

    def adopt_memory(self, memory: MemoryState, *, source: str) -> MemoryState:
        """A memory from a file, checked, and as this model computes: on its device, in its dtype.

        Args:
            memory: as it was loaded.
            source: the file.

        Raises:
            IncompatibleMemory: another model wrote it, or its numbers are too large for the dtype.
            ValueError: it can't be a memory of this model.
        """
        converted = memory.to(self.device, self.backbone.dtype)
        self.check_memory(converted, source=source)
        if memory.dtype != converted.dtype and not all_finite(converted.keys, converted.values):
            raise IncompatibleMemory(
                f"The memory in {source} holds numbers that {converted.dtype} can't hold; load the "
                f"model in {memory.dtype} to use it."
            )
        return converted

    def calibration_report(self) -> list[dict[str, float]]:
        """Per memory layer: its number, and its null logits' mean over heads."""
        means = [float(layer.null_logit.detach().mean()) for layer in self.memory_layers]
        return [
            {"layer": number, "null_logit_mean": mean}
            for number, mean in zip(self._layer_numbers, means, strict=True)
        ]

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
        anywhere and continued gives the memory of one pass. The memory carries a gradient in
        training mode only: that of a book would fill any machine.

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
            The memory afterwards. The one passed in is unchanged.

        Raises:
            ValueError: shapes, token ids or memory that do not fit.
        """
        real = self.check_input(input_ids, attention_mask, memory)
        if self.is_memory_disabled:
            return self.init_memory(input_ids.shape[0]) if memory is None else memory
        memory = self.init_memory(input_ids.shape[0]) if memory is None else memory
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.training):
            after = engine.ingest(
                self,
                input_ids,
                real,
                memory if gated else memory.closed(),
                turn=self._check_turn(turn, memory),
                gated=gated,
                limit=self.check_limit(limit, input_ids),
                segments_per_chunk=segments_per_chunk,
                progress=progress,
            )
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

        Text may also come laid out, with `segment_ids`: a document in segments of any length and,
        between them, asides such as questions, which read the memory as it is there and are not
        written to it. One call then holds a whole training example, whatever wraps the model.

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
        if input_ids is None or kwargs.get("inputs_embeds") is not None:
            raise ValueError(NO_TOKEN_IDS)
        if past_key_values is not None and not isinstance(past_key_values, MemoryCache):
            raise ValueError(
                f"past_key_values must be a MemoryCache; got {type(past_key_values).__name__}. "
                "Pass memory= instead, and generate makes the cache itself."
            )
        carried = past_key_values.memory if past_key_values is not None else memory
        items = kwargs.pop("num_items_in_batch", None)
        real = self.check_input(input_ids, attention_mask, carried)
        written: list[Tensor] = []
        if segment_ids is not None:
            state = self.init_memory(input_ids.shape[0]) if memory is None else memory.closed()
            found = forward_laid_out(
                self, input_ids, real, segment_ids, remembered, labels, state, chunks
            )
            targets = found.pop("targets")
            state = found.pop("memory").replaced(fingerprint=self.stamp)
            output = MemformerOutput(memory=state, **found)
            written.append(found["written"][None])
        elif past_key_values is not None or (use_cache and labels is None):
            cache = past_key_values
            if cache is None:  # an empty cache is falsy
                state = self.init_memory(input_ids.shape[0]) if memory is None else memory
                cache = MemoryCache(engine.begin_turn(state.closed(), real)[0])
            # a decoding step keeps logits of its last tokens; a tensor names places
            few = logits_to_keep if isinstance(logits_to_keep, int) else 0
            logits, *hidden = generation.forward_cached(
                self, input_ids, real, cache, logits_to_keep=few, **self._wanted(kwargs)
            )
            output = MemformerOutput(
                logits=_kept(logits, logits_to_keep),
                past_key_values=cache,
                hidden_states=tuple(hidden) or None,
            )
        else:
            if not bool(real.any()):
                raise ValueError("There is no text: attention_mask is 0 everywhere.")
            state = self.init_memory(input_ids.shape[0]) if memory is None else memory.closed()
            state, turn = engine.begin_turn(state, real)
            if input_ids.shape[1] <= self.memory_config.segment_tokens:
                outputs, state = engine.forward_segment(
                    self,
                    input_ids,
                    real,
                    state,
                    turn,
                    written,
                    attention_mask=attention_mask,
                    position_ids=position_ids,
                    logits_to_keep=logits_to_keep,
                    **kwargs,
                )
                output = MemformerOutput(
                    logits=outputs.logits,
                    hidden_states=outputs.hidden_states,
                    attentions=outputs.attentions,
                    memory=state,
                )
            else:
                # transformers itself counts tokens where it generates without a cache
                counted = real.long().cumsum(-1) - 1
                if position_ids is not None and bool((position_ids != counted)[real].any()):
                    raise ValueError(
                        f"position_ids can be given for text of one segment, "
                        f"{self.memory_config.segment_tokens} tokens; in longer text positions "
                        "start anew in every segment. Leave them out."
                    )
                (logits, *hidden), state = engine.forward_long(
                    self,
                    input_ids,
                    real,
                    state,
                    turn,
                    written,
                    segments_per_chunk,
                    **self._wanted(kwargs),
                )
                output = MemformerOutput(
                    logits=_kept(logits, logits_to_keep),
                    memory=state,
                    hidden_states=tuple(hidden) or None,
                )
        if labels is not None and output.logits is not None:
            labels = labels.masked_fill(~real, IGNORED_LABEL)
            if segment_ids is None:
                targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED_LABEL)
            output.loss = self.loss_function(
                logits=output.logits,
                labels=labels,
                vocab_size=output.logits.shape[-1],
                shift_labels=targets,
                num_items_in_batch=items,
            )
            if self.training and (budget := self.memory_config.write_budget) is not None:
                share = torch.cat(written).mean()
                output.loss = output.loss + BUDGET_WEIGHT * (share - budget).square()
            self._check_learnable(output.loss)
        return output.to_tuple() if return_dict is False else output

    def _wanted(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """What the backbone can be asked for where it sees a text in parts."""
        if arguments.get("output_attentions"):
            raise ValueError(
                "output_attentions works for text of one segment without a cache: attention never "
                "crosses a segment border. Leave it out, or hand segments over one by one."
            )
        wanted = arguments.get("output_hidden_states")
        return {"output_hidden_states": True} if wanted else {}

    def _check_learnable(self, loss: Tensor) -> None:
        if self.training and torch.is_grad_enabled() and not loss.requires_grad:
            raise ValueError(
                "Nothing can be learnt from this text: it is one segment, which reads no memory, "
                "and the backbone is frozen. Give longer texts, or attach with smaller "
                "segment_tokens, or unfreeze the backbone."
            )

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

    # ---- generation ------------------------------------------------------------------------

    def generate(  # type: ignore[override]
        self,
        inputs: Int[Tensor, "batch tokens"] | None = None,
        *,
        memory: MemoryState | None = None,
        return_memory: bool = False,
        limit: Float[Tensor, "batch tokens"] | None = None,
        reply_limit: float = 1.0,
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
        return generation.generate(self, inputs, memory, kwargs, return_memory, limit, reply_limit)

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
        return generation.memory_after(self, past_key_values)

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
        if not isinstance(ids, Tensor):
            kind = type(ids).__name__
            how = (
                "unpack it, as in model.generate(**inputs)"
                if isinstance(ids, Mapping)
                else ("tokenize text first, with tokenizer(text, return_tensors='pt')")
            )
            raise ValueError(f"input_ids must be a tensor of token ids; got {kind}: {how}.")
        if ids.dim() != 2 or ids.numel() == 0:
            raise ValueError(
                "input_ids must be of shape [batch, tokens] with at least one row and one token; "
                f"got {tuple(ids.shape)}."
            )
        if ids.dtype not in (torch.int64, torch.int32):
            raise ValueError(
                f"input_ids must be token ids in torch.int64; got {ids.dtype}: convert them with "
                "input_ids.long()."
            )
        vocabulary = self.config.text_config.vocab_size
        # a decoding step feeds tokens that the model chose itself
        if ids.shape[1] > 1 and not (0 <= int(ids.min()) and int(ids.max()) < vocabulary):
            wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
            raise ValueError(
                f"Token id {int(wrong)} is out of range: the backbone's vocabulary has "
                f"{vocabulary} tokens. Use the tokenizer of the backbone."
            )
        if memory is not None:
            if not isinstance(memory, MemoryState):
                raise ValueError(f"memory must be a MemoryState; got {type(memory).__name__}.")
            if memory.batch_size != ids.shape[0]:
                raise ValueError(
                    f"The memory has {memory.batch_size} rows and input_ids has {ids.shape[0]}; "
                    "they must be equal. memory.select(rows) repeats or drops rows."
                )
            self.check_memory(memory)
        if attention_mask is None:
            return torch.ones_like(ids, dtype=torch.bool)
        if attention_mask.dim() != 2 or (
            attention_mask.shape[0] != ids.shape[0] or attention_mask.shape[1] < ids.shape[1]
        ):
            raise ValueError(
                "attention_mask must have the shape of input_ids; got "
                f"{tuple(attention_mask.shape)} for {tuple(ids.shape)}."
            )
        return attention_mask[:, -ids.shape[1] :].bool()

    def _check_attached(self) -> None:
        if not self._hooks:
            raise ValueError(
                "The memory was unloaded from this model; open the model again with "
                "from_pretrained, or use the backbone alone."
            )

    def check_limit(
        self, limit: Tensor | None, ids: Int[Tensor, "batch tokens"]
    ) -> Float[Tensor, "batch tokens"] | None:
        """A limit of what is written, as a tensor.

        Raises:
            ValueError: its shape or a value does not fit.
        """
        if limit is None:
            return None
        limit = torch.as_tensor(limit, dtype=torch.float32, device=ids.device)
        if limit.shape != ids.shape or not bool(((limit >= 0) & (limit <= 1)).all()):
            raise ValueError(
                f"limit must have the shape of input_ids, {tuple(ids.shape)}, and values between 0 "
                f"and 1; got shape {tuple(limit.shape)}."
            )
        return limit

    def _check_turn(self, turn: int | None, memory: MemoryState) -> Int[Tensor, " batch"] | None:
        if turn is None:
            return None
        if not 0 <= turn < int(memory.num_turns.min()):
            raise ValueError(
                f"turn must be one that the memory has, below {int(memory.num_turns.min())}; got "
                f"{turn}."
            )
        return torch.full_like(memory.clock, turn)

    def save_pretrained(  # type: ignore[override]
        self, save_directory: Any, **kwargs: Any
    ) -> None:
        """Saves the memory path and a reference to the backbone; see `checkpoint.save_model`."""
        from memformer.checkpoint import save_model

        save_model(self, save_directory, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> MemformerForCausalLM:
        """Opens a memformer checkpoint, or attaches a memory to a plain decoder.

        See `checkpoint.load_model` for the arguments.
        """
        from memformer.checkpoint import load_model

        return load_model(cls, pretrained_model_name_or_path, **kwargs)


# transformers' AutoModelForCausalLM opens checkpoints once this module is imported
AutoModelForCausalLM.register(MemformerConfig, MemformerForCausalLM, exist_ok=True)

__all__ = ["IncompatibleMemory", "MemformerForCausalLM", "MemformerOutput"]
