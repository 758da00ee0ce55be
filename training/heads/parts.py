"""A model before it is trained: its tokenizer, and the parts of its memory that are switched on."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import typer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from memformer import MemformerConfig, MemformerForCausalLM
from memformer.checkpoint import first_tokenizer, load_config
from memformer.pretrained import DEFAULT_MODEL


def tokenizer_of(name: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is not opened yet.

    Args:
        name: hub id or folder of the model.
        config: the model's config.

    Raises:
        OSError, ValueError: the model has no tokenizer.
    """
    backbone = config.backbone or {} if isinstance(config, MemformerConfig) else {}
    return first_tokenizer(name, backbone.get("name"))


def open_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is not opened yet.

    Args:
        name: hub id or folder; None: the default model.

    Raises:
        typer.BadParameter: there is no such model.
    """
    name = name or DEFAULT_MODEL
    try:
        return tokenizer_of(name, load_config(name))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model {name!r} can't be opened: {reason}") from None


def with_parts(model: MemformerForCausalLM, **switches: Any) -> MemformerForCausalLM:
    """The same model and weights with other parts of the memory switched on or off.

    Args:
        model: gives its backbone away, and can not be used afterwards.
        switches: fields of `MemoryConfig`, such as `erase=True`.
    """
    settings = dataclasses.replace(model.memory_config, **switches)
    weights = model.memory.state_dict()
    config = MemformerConfig(
        text_config=copy.deepcopy(model.config.text_config),  # the model puts the real one in
        memory_config=settings.to_dict(),
        backbone=model.config.backbone,
    )
    changed = MemformerForCausalLM(config, model.unload_memory())
    known = changed.memory.state_dict().keys()
    changed.memory.load_state_dict(
        {name: weight for name, weight in weights.items() if name in known}, strict=False
    )
    return changed.train(model.training)
