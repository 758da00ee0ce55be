"""`AttachedModel`: a decoder and the memory that is joined to it.

The parts of the model; how it is made, switched, saved and opened; and which memories are its own.
This file is long because transformers expects all of this in one class.
"""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel

from memformer import fingerprints
from memformer.attach import calibrate
from memformer.attach.backbone import Backbone
from memformer.attach.choosing import prepare
from memformer.attach.heads import ADDRESS_WIDTH
from memformer.attach.hooks import attach, detach
from memformer.attach.layers import MemoryLayer, MemoryPath
from memformer.checkpoint.loading import Decoder, adapted, load_parts
from memformer.checkpoint.saving import save_checkpoint
from memformer.config import MemformerConfig, MemoryConfig
from memformer.conventions import Conventions, check_adapter
from memformer.engine import Engine
from memformer.memory.check import all_finite
from memformer.memory.chunk import Rules
from memformer.memory.state import IncompatibleMemory, MemoryState

# what `with_memory` can't change, because the shapes and the calibration of a memory depend on it
FIXED = ("memory_layers", "projection_rank", "null_offset", "finders")


class AttachedModel(Conventions, PreTrainedModel):  # type: ignore[misc]
    """A backbone, a memory path beside it, and the config of both."""

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
            from transformers import AutoModelForCausalLM  # imports this file, if at the top

            backbone = AutoModelForCausalLM.from_config(config.text_config)
        # the config of the whole must not overrule the kernel that the backbone was loaded with
        kernel = backbone.config._attn_implementation
        config.text_config = backbone.config
        config._attn_implementation = kernel
        super().__init__(config)
        backbone.config._attn_implementation = kernel
        self.backbone = backbone
        self.memory_config = MemoryConfig.from_dict(config.memory_config or {})
        family = Backbone.of(backbone)
        self._family = [family]  # in a list: no submodule
        layers = calibrate.choose_layers(self.memory_config.memory_layers, len(family.layers), None)
        self._set_memory_config(dataclasses.replace(self.memory_config, memory_layers=layers))
        self.memory = MemoryPath(family, self.memory_config)
        # switches that a view may turn and a checkpoint does not keep; see `with_memory`
        self._gate = self._usage_by_reads = True
        self._hooks = attach(family, self.memory)
        self.memory.to(backbone.device)
        backbone.requires_grad_(False)
        self.generation_config = backbone.generation_config
        self.post_init()

    def _set_memory_config(self, settings: MemoryConfig) -> None:
        self.memory_config = settings
        self.config.memory_config = settings.to_dict()

    def unload_memory(self) -> PreTrainedModel:
        """Takes the memory off; returns the backbone as it was before.

        This model and its views can still be saved, but no longer read, write or generate.
        """
        detach(self._family[0], self._hooks)
        return self.backbone

    def with_memory(
        self, *, gate: bool | None = None, usage_by_reads: bool | None = None, **changes: Any
    ) -> Self:
        """The same model and weights with mechanisms of its memory switched.

        A view: both models share the backbone and all weights that both have, so that training one
        trains the other. A mechanism that this model does not have starts untrained.

        Args:
            gate: False: every token is written. A checkpoint does not keep this switch.
            usage_by_reads: False: reads do not renew the usage of a slot. Not kept either.
            **changes: fields of `MemoryConfig`, such as `focus=0.0`, `links=True`, `erase=False`.

        Raises:
            ValueError: a field that can't be changed, or a model whose `forward` was replaced.
        """
        if wrong := sorted(changes.keys() & set(FIXED)):
            raise ValueError(f"with_memory can't change {wrong[0]}; use from_backbone for that.")
        if "forward" in vars(self):
            raise ValueError("Make views before accelerate or torch.compile replaces forward.")
        settings = MemoryConfig.from_dict(dataclasses.asdict(self.memory_config) | changes)
        view = copy.copy(self)
        # modules and hooks of its own
        vars(view).update({k: copy.copy(v) for k, v in vars(self).items() if isinstance(v, dict)})
        view.config = copy.copy(self.config)
        view._set_memory_config(settings)
        view.memory = MemoryPath(self._family[0], settings).to(self.device).adopt(self.memory)
        view.memory.train(self.training)
        view._gate = self._gate if gate is None else gate
        view._usage_by_reads = self._usage_by_reads if usage_by_reads is None else usage_by_reads
        return view

    def init_weights(self) -> None:
        """Nothing to do: backbone and memory layers come initialised."""

    @classmethod
    def from_backbone(
        cls,
        backbone: PreTrainedModel,
        memory_config: MemoryConfig | None = None,
        tokenizer: Any | None = None,
    ) -> Self:
        """Attaches a warm-started, calibrated memory to a loaded model.

        Args:
            backbone: a causal language model of a known family. It is wrapped, not copied.
            memory_config: choices about the memory.
            tokenizer: used to calibrate on plain prose, to measure where retrieval happens and to
                find the ends of sentences. Without one, the memory is calibrated on text sampled
                from the backbone, `memory_layers="auto"` takes the upper three quarters of the
                depth, and segments end where they are full.

        Raises:
            ValueError: unknown family, or a memory layer that the backbone does not have.
        """
        check_adapter(backbone)
        wanted = memory_config or MemoryConfig()
        view = Backbone.of(backbone)
        layers, nulls = calibrate.measure(view, wanted.memory_layers, tokenizer)
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
            model.choose_finders(tokenizer)
        return model.train(backbone.training)

    def choose_finders(self, tokenizer: Any | None) -> None:
        """Makes the tables of a tokenizer and chooses the heads that find, as attaching does.

        For a checkpoint of an earlier version, which has neither; save it anew afterwards.
        """
        prepare(self.memory, tokenizer, self.memory_config.finders)

    @property
    def memory_layers(self) -> list[MemoryLayer]:
        """The memory layers, lowest first."""
        return [cast(MemoryLayer, layer) for layer in self.memory.layers]

    def engine(self, *, gated: bool = True) -> Engine:
        """How text goes through this model as it is now; `gated=False` writes every token."""
        settings = self.memory_config
        rules = Rules(
            settings.passage_tokens,
            settings.gate_reach,
            settings.address_reach,
            settings.least_age,
            settings.focus,
            gate=gated and self._gate,
            usage_by_reads=self._usage_by_reads,
            working_set=settings.working_set,
        )
        return Engine(self.backbone, self.memory, rules, settings.segment_tokens, self.training)

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
            finders=len(self.memory.finders.keys),
            record_tokens=self.memory_config.record_tokens,
            address_width=ADDRESS_WIDTH if self.memory_config.release else 0,
            fingerprint=self.stamp,
            dtype=self.backbone.dtype,
            device=self.device,
        )

    @property
    def architecture(self) -> str:
        """The shape and the meaning of slots in words, weights aside."""
        return fingerprints.architecture(self._family[0], self.memory_config)

    @property
    def fingerprint(self) -> dict[str, str]:
        """The properties that a memory and the model that reads it must share."""
        return {
            "architecture": self.architecture,
            "backbone": self._family[0].fingerprint(),
            "memory": fingerprints.digest(self.memory, self.backbone),
        }

    @property
    def stamp(self) -> dict[str, str]:
        """Fingerprint to stamp on memories, with the name of the backbone.

        While training it names the architecture only, because the weights still change.
        """
        named = {"name": self.backbone_name} if self.backbone_name else {}
        return named | ({"architecture": self.architecture} if self.training else self.fingerprint)

    def _stamped(self, memory: MemoryState) -> MemoryState:
        return memory.replaced(fingerprint=self.stamp)

    @property
    def backbone_name(self) -> str:
        """Hub id or folder of the backbone; empty where its weights are the checkpoint's own."""
        return (self.config.backbone or {}).get("name") or ""

    def check_memory(self, memory: MemoryState, *, source: str = "") -> None:
        """Refuses a memory that another model wrote.

        Args:
            memory: the memory that this model is to read.
            source: the place of the memory, as "in FILE" or "of user NAME". Weights are compared
                only if it is given, since a training run changes them while it carries a memory.

        Raises:
            IncompatibleMemory: the sentence lists each difference.
            ValueError: its shapes or token ids do not fit, although its fingerprint does.
        """
        whose = f"The memory {source}".strip()
        mine = self.fingerprint if source else {"architecture": self.architecture}
        mine = mine | {"name": self.backbone_name or "unnamed"}
        fingerprints.check_fits(memory, mine, whose)
        fingerprints.check_shapes(memory, self._family[0], self.memory_config, whose)
        if source:
            fingerprints.check_tokens(memory, self.config.text_config.vocab_size, whose)
        if memory.dtype != self.backbone.dtype:
            raise IncompatibleMemory(
                f"{whose} holds {memory.dtype} and the model computes in {self.backbone.dtype}; "
                "convert it with memory.to(dtype=model.dtype)."
            )

    def adopt_memory(self, memory: MemoryState, *, source: str) -> MemoryState:
        """A memory from a file, checked, on this model's device and in its dtype.

        Args:
            memory: the memory as it was loaded.
            source: the file.

        Raises:
            IncompatibleMemory: another model wrote it, or its numbers are too large for the dtype.
            ValueError: it can't be a memory of this model.
        """
        converted = memory.to(self.device, self.backbone.dtype)
        if converted.record_tokens is None:  # of a format without a record, or without a limit
            converted = converted.replaced(record_tokens=self.memory_config.record_tokens)
        keys = [(self.memory.index_of[layer], head) for layer, head in self.memory.finders.keys]
        if keys and not converted.finder_keys.shape[2]:
            converted = converted.with_keys_of_slots(keys)
        self.check_memory(converted, source=source)
        if memory.dtype != converted.dtype and not all_finite(converted.keys, converted.values):
            raise IncompatibleMemory(
                f"The memory in {source} holds numbers that {converted.dtype} can't hold; load the "
                f"model in {memory.dtype} to use it."
            )
        return converted

    def calibration_report(self) -> list[dict[str, float]]:
        """Per memory layer: its number, and its null logits' mean over heads."""
        return [
            {"layer": layer.layer, "null_logit_mean": float(layer.null_logit.detach().mean())}
            for layer in self.memory_layers
        ]

    def _check_attached(self) -> None:
        if not self._hooks:
            raise ValueError(
                "The memory was unloaded from this model; open the model again with "
                "from_pretrained, or use the backbone alone."
            )

    def save_pretrained(  # type: ignore[override]
        self,
        save_directory: Any,
        *,
        state_dict: dict[str, Tensor] | None = None,
        **kwargs: Any,
    ) -> None:
        """Saves the memory path and a reference to the backbone; see `save_checkpoint`.

        Args:
            save_directory: made if it does not exist.
            state_dict: weights gathered elsewhere (FSDP); the model's own if None.
            **kwargs: options of `save_checkpoint`.
        """
        self.config.architectures = [type(self).__name__]
        save_checkpoint(
            save_directory,
            self.config,
            self.backbone,
            state_dict or (self.state_dict() if kwargs.get("is_main_process", True) else {}),
            self.generation_config,
            **kwargs,
        )

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Any,
        *_: Any,
        memory_config: MemoryConfig | None = None,
        **kwargs: Any,
    ) -> Self:
        """Opens a memformer checkpoint, or attaches and calibrates a memory on a plain decoder.

        Args:
            pretrained_model_name_or_path: hub id or folder. The default model's id means its
                fetched copy, if there is one.
            memory_config: for a plain decoder.
            **kwargs: `backbone` (for a checkpoint: another place to load the backbone from, or the
                loaded model), `tokenizer` (to calibrate with; looked for beside a plain decoder if
                left out), `config` (the checkpoint's, if it is loaded already), and options for
                loading the backbone (`dtype`, `revision`, `device_map`, `gguf_file`,
                `attn_implementation`, ...).

        Raises:
            OSError: nothing to load there.
            ValueError: damaged weights, or arguments that do not go together.
            IncompatibleMemory: the backbone is not the one that the memory was made for.
        """
        parts = load_parts(pretrained_model_name_or_path, memory_config=memory_config, **kwargs)
        if isinstance(parts, Decoder):
            return cls.from_backbone(parts.backbone, memory_config, parts.tokenizer)
        model = cls(parts.config, parts.backbone)
        if parts.adapter is not None:
            model.backbone = adapted(parts.backbone, parts.adapter)
        model.load_state_dict(parts.fitting(model.state_dict()), strict=False)
        model.memory.to(parts.backbone.device)
        return model.eval()
