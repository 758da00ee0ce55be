"""The tokenizer of a model that is not opened yet."""

from __future__ import annotations

import typer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from memformer import MemformerConfig
from memformer.checkpoint.decoders import first_tokenizer, load_config
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
