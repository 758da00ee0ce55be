"""The model of a run, with what is to be trained thawed, and how fast each part of it learns."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, PreTrainedTokenizerBase

from memformer import MemformerConfig, MemformerForCausalLM, MemoryConfig
from memformer.backbone import Backbone
from memformer.checkpoint import load_tokenizer
from memformer.pretrained import local_path
from training.config import BadConfig
from training.parts import with_parts
from training.settings import TARGETS, TRAINED, Lora, Optim, Settings

# the rest of the memory path: how sharply, how far back and when to read, what to write
PROJECTIONS = ("correction", "release")
# of a memory: decides the shape of its weights, or was measured when it was attached
FIXED = {"memory_layers", "projection_rank", "null_offset"}


def build(settings: Settings) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """The model, with what is to be trained thawed, and its tokenizer.

    Raises:
        BadConfig: a value that is out of range.
        OSError, ValueError: it can't be loaded.
    """
    if settings.trained not in TRAINED:
        raise BadConfig(f"trained must be one of {', '.join(TRAINED)}; got {settings.trained!r}.")
    place = str(local_path(settings.model.name) or settings.model.name)
    try:
        memory = MemoryConfig.from_dict(settings.model.memory)
    except ValueError as error:
        raise BadConfig(f"model.memory: {error}") from None
    attached = isinstance(AutoConfig.from_pretrained(place), MemformerConfig)
    model = MemformerForCausalLM.from_pretrained(
        place, memory_config=None if attached else memory, dtype=torch.float32
    )
    if attached and settings.model.memory:
        fixed = set(settings.model.memory) & FIXED
        if fixed:
            raise BadConfig(
                f"model.memory: {min(fixed)} of a model that has a memory can't be changed."
            )
        model = with_parts(model, **settings.model.memory)
    tokenizer = load_tokenizer(settings.model.name, model)
    if (longest := max(stage.segment_tokens for stage in settings.stages)) > (
        most := model.memory_config.segment_tokens
    ):
        raise BadConfig(
            f"A stage has segments of {longest} tokens, and the model's have {most} at most; set "
            "model.memory.segment_tokens."
        )
    if settings.window is not None:
        if settings.trained == "memory":
            raise BadConfig("A window leaves the memory out; set trained to lora or all.")
        if not 2 <= settings.window <= most:
            raise BadConfig(f"window must be from 2 to {most} tokens; got {settings.window}.")
        model.memory.requires_grad_(False)
    torch.manual_seed(settings.seed)
    if settings.trained == "lora" and not hasattr(model.backbone, "peft_config"):
        model.backbone = _with_lora(model, settings.lora)
    for name, parameter in model.backbone.named_parameters():
        parameter.requires_grad_(
            settings.trained == "all" or (settings.trained == "lora" and "lora_" in name)
        )
    if model.memory_config.write_budget is None:
        # nothing says how much to write: what the gate was when attached, or made by training.gate
        lowest = model.memory_layers[0]
        lowest.write_gate_weight.requires_grad_(False)
        lowest.write_gate_bias.requires_grad_(False)
    if settings.optim.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return model.train(), tokenizer


def _with_lora(model: MemformerForCausalLM, settings: Lora) -> Any:
    from peft import LoraConfig, get_peft_model

    if settings.targets not in TARGETS:
        raise BadConfig(
            f"lora.targets must be one of {', '.join(TARGETS)}; got {settings.targets!r}."
        )
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
    """Factor of the learning rates at a step, from 0 on."""
    rising = min(1.0, (step + 1) / max(1, optim.warmup))
    falling = (total - step) / max(1.0, optim.decay * total)
    return min(rising, falling, 1.0)
