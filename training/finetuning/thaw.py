"""The model of a run with its trained parts thawed, and the learning rate of each part."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig

from memformer import MemformerConfig, MemformerForCausalLM, MemoryConfig
from memformer.attach.backbone import Backbone, family_of
from memformer.checkpoint.decoders import load_config
from memformer.memory.gate import OPEN
from training.finetuning.settings import TARGETS, TRAINED, Lora, Optim, Settings
from training.setup.config import BadConfig

# parts of the memory path that are projections; the other parts are scalars and gates
PROJECTIONS = ("correction", "release")
# fields of a memory that decide the shape of its weights, or were measured when it was attached
FIXED = {"memory_layers", "projection_rank", "null_offset"}


def check_options(settings: Settings) -> None:
    """Refuses settings that no model can be trained with.

    Raises:
        BadConfig: a value is out of range.
    """
    if settings.trained not in TRAINED:
        raise BadConfig(f"trained must be one of {', '.join(TRAINED)}; got {settings.trained!r}.")
    if (targets := settings.lora.targets) not in TARGETS:
        raise BadConfig(f"lora.targets must be one of {', '.join(TARGETS)}; got {targets!r}.")
    if settings.lora.rank < 1:
        raise BadConfig(f"lora.rank must be 1 or more; got {settings.lora.rank}.")
    if settings.window is not None and settings.trained == "memory":
        raise BadConfig("A window leaves the memory out; set trained to lora or all.")
    _memory(MemoryConfig(), settings)


def check_model(settings: Settings) -> tuple[PreTrainedConfig, int]:
    """Checks the config of the model; reads no weights.

    Returns:
        The config, and the most tokens of a segment.

    Raises:
        BadConfig: the model can't be trained with these settings.
        OSError, ValueError: there is no such model.
    """
    config = load_config(settings.model.name)
    if isinstance(config, MemformerConfig):
        if fixed := set(settings.model.memory) & FIXED:
            raise BadConfig(
                f"model.memory: {min(fixed)} of a model that has a memory can't be changed."
            )
        memory = _memory(MemoryConfig.from_dict(config.memory_config or {}), settings)
        if any(one.teacher for one in settings.data) and not (config.backbone or {}).get("name"):
            raise BadConfig("A teacher needs a backbone that was not trained; this one was.")
    else:
        family_of(config.model_type)
        memory = _memory(MemoryConfig(), settings)
    most = memory.segment_tokens
    if (longest := max(stage.segment_tokens for stage in settings.stages)) > most:
        raise BadConfig(
            f"A stage has segments of {longest} tokens, and the model's have {most} at most; set "
            "model.memory.segment_tokens."
        )
    measured = settings.validation
    if measured.sources and measured.segment_tokens > most:
        raise BadConfig(
            f"validation.segment_tokens is {measured.segment_tokens}, and the model's segments "
            f"have {most} tokens at most; set model.memory.segment_tokens."
        )
    if settings.window is not None and not 2 <= settings.window <= most:
        raise BadConfig(f"window must be from 2 to {most} tokens; got {settings.window}.")
    return config, most


def _memory(memory: MemoryConfig, settings: Settings) -> MemoryConfig:
    """The config of a memory with the changes of the run.

    Raises:
        BadConfig: a field is unknown, or a value is out of range.
    """
    try:
        return MemoryConfig.from_dict(memory.to_dict() | settings.model.memory)
    except ValueError as error:
        raise BadConfig(f"model.memory: {error}") from None


def build(settings: Settings) -> MemformerForCausalLM:
    """The model, with its trained parts thawed.

    Args:
        settings: settings that passed `check_options` and `check_model`.

    Raises:
        OSError, ValueError: the model can't be loaded.
    """
    place, changes = settings.model.name, settings.model.memory
    attached = isinstance(load_config(place), MemformerConfig)
    memory = None if attached else _memory(MemoryConfig(), settings)
    model = MemformerForCausalLM.from_pretrained(place, memory_config=memory, dtype=torch.float32)
    if attached and changes:
        model = model.with_memory(**changes)
    if settings.model.open_gate:
        model.memory.table.write_gate_weight.data.zero_()
        model.memory.table.write_gate_bias.data.fill_(OPEN)
    if settings.window is not None:
        model.memory.requires_grad_(False)
    torch.manual_seed(settings.seed)
    if settings.trained == "lora" and not hasattr(model.backbone, "peft_config"):
        model.backbone = _with_lora(model, settings.lora)
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(
            settings.trained == "all" or (settings.trained == "lora" and "lora_" in name)
        )
    if model.memory_config.write_budget is None:
        # without a budget, the gate stays as attached, or as training.gate made it
        model.memory.table.write_gate_weight.requires_grad_(False)
        model.memory.table.write_gate_bias.requires_grad_(False)
    if settings.optim.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train()


def _with_lora(model: MemformerForCausalLM, settings: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    family = Backbone.of(model.backbone).family
    lowest = min(layer.layer for layer in model.memory_layers)
    inside = rf"{family.attention}\." if settings.targets == "attention" else r"(.+\.)?"
    place = re.compile(rf"{re.escape(family.layers)}\.(\d+)\.{inside}[^.]+")
    linear = [
        name
        for name, module in model.backbone.named_modules()
        if (isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D")
        and (found := place.fullmatch(name))
        and int(found[1]) >= lowest
    ]
    chosen = LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=linear)
    return get_peft_model(model.backbone, chosen)


def grouped(model: nn.Module, optim: Optim) -> list[dict[str, Any]]:
    """Parameter groups of the optimizer: gates, projections of the memory path, backbone."""
    groups: dict[str, list[nn.Parameter]] = {"gates": [], "memory": [], "backbone": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        kind = "backbone"
        if name.startswith("memory."):
            kind = "memory" if any(part in name for part in PROJECTIONS) else "gates"
        groups[kind].append(parameter)
    rates = {"gates": optim.gate_lr, "memory": optim.memory_lr, "backbone": optim.backbone_lr}
    return [
        {
            "params": groups[kind],
            "lr": rates[kind],
            "rate": rates[kind],
            "weight_decay": 0.0 if kind == "gates" else optim.weight_decay,
        }
        for kind in groups
        if groups[kind]
    ]


def rate(step: int, total: int, optim: Optim) -> float:
    """The factor of the learning rates at a step; steps count from 0."""
    rising = min(1.0, (step + 1) / max(1, optim.warmup))
    falling = (total - step) / max(1.0, optim.decay * total)
    return min(rising, falling, 1.0)
