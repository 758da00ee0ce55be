"""Opening a model for a measurement: memory attached, on a device, with room for its weights."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
import typer

from eval.reporting.resident import available

if TYPE_CHECKING:
    from memformer import MemformerForCausalLM
    from transformers import PreTrainedTokenizerBase


def open_model(
    name: str | None, device: str = "cpu", dtype: str = "float32"
) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """A model with its memory attached, and its tokenizer.

    Args:
        name: hub id or folder of a decoder or of a memformer checkpoint; None: the default model.
        device: the device of the model.
        dtype: torch's name for the type of weights and activations.

    Raises:
        typer.BadParameter: the model does not exist, can't be opened, or is too large.
    """
    from memformer import MemformerForCausalLM
    from memformer.checkpoint.decoders import load_tokenizer
    from memformer.pretrained import DEFAULT_MODEL
    from transformers import logging

    logging.disable_progress_bar()
    name = name or DEFAULT_MODEL
    try:
        _check_room(name, device, getattr(torch, dtype))
        with warnings.catch_warnings():
            # peft uses a name of transformers that has been replaced
            warnings.simplefilter("ignore", FutureWarning)
            model = MemformerForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).eval()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model {name!r} can't be opened: {reason}") from None
    model.to(torch.device(device))
    return model, load_tokenizer(name, model)


def _check_room(name: str, device: str, dtype: torch.dtype) -> None:
    """Checks that the weights fit into memory; on a CPU, the system would kill the process.

    Raises:
        typer.BadParameter: the weights do not fit.
        OSError, ValueError: the model does not exist.
    """
    from memformer import MemformerConfig
    from memformer.pretrained import local_path
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(local_path(name) or name)
    if isinstance(config, MemformerConfig):
        config = config.text_config
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).parameters()
    needed, free = dtype.itemsize * sum(one.numel() for one in weights), available(device)
    if needed > free:
        raise typer.BadParameter(
            f"the model {name!r} takes {needed / 2**30:.1f} GiB as {str(dtype).partition('.')[2]}, "
            f"and {free / 2**30:.1f} GiB are free on {device}; take a smaller model, --dtype "
            "bfloat16, or a device with more memory."
        )


def model_name(name: str | None) -> dict[str, str]:
    """The entry of a report that names its pretrained model."""
    from memformer.pretrained import DEFAULT_MODEL

    return {"model": name or DEFAULT_MODEL}
