"""Opens plain decoders, their configs and their tokenizers.

A name is a hub id or a folder; the default model's id means its fetched copy, if there is one. Code
that comes with a model does not run unless the caller asks for it, and pickled weights are not
opened.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from memformer.pretrained import DEFAULT_MODEL, HUB_REVISION, local_path

# AutoTokenizer and AutoModelForCausalLM are imported in functions: `memformer/__init__.py` imports
# the model, and so this file, as soon as anybody imports them

# arguments that say where to look for configs, tokenizers and weights
LOOKUP = ("revision", "token", "cache_dir", "local_files_only")
# options of loading, unless the caller gives others
TRUST = "trust_remote_code"
SAFE = {TRUST: False, "use_safetensors": True}
# attributes that transformers leaves on a model from a GGUF file, and refuses to save
QUANTISED = ("hf_quantizer", "is_quantized", "quantization_method")


def load_config(name: str, **options: Any) -> Any:
    """The config of a decoder or of a memformer checkpoint; its weights are not read.

    Args:
        name: hub id or folder. The default model's id means its fetched copy, if there is one.
        **options: arguments of `AutoConfig.from_pretrained`.

    Raises:
        OSError: there is nothing to load.
        ValueError: transformers does not know the config.
    """
    source = str(local_path(name) or name)
    check_place(source)
    options = pinned(source) | {TRUST: False} | options
    try:
        return AutoConfig.from_pretrained(source, **options)
    except OSError as error:
        if source != DEFAULT_MODEL:
            raise
        raise OSError(
            f"The default model {DEFAULT_MODEL} is not on this machine and the hub did not "
            "answer; fetch it with `memformer fetch`."
        ) from error


def check_place(name: str) -> None:
    """Refuses the name of a folder that is not there, before the hub is asked for it.

    Raises:
        FileNotFoundError: there is no such folder.
    """
    path = Path(name)
    is_folder = name.startswith(("/", ".", "~")) or name.count("/") > 1 or "\\" in name
    # a hub id has one slash too, but its first part is no folder of this machine
    is_folder = is_folder or ("/" in name and path.parent.is_dir())
    if is_folder and not path.is_dir():
        raise FileNotFoundError(f"There is no model folder {name}.")


def pinned(place: str) -> dict[str, Any]:
    """The revision, as an option of loading, if the place is the default model on the hub."""
    return {"revision": HUB_REVISION} if place == DEFAULT_MODEL else {}


def load_tokenizer(
    name: str, model: PreTrainedModel, backbone: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model or, if there is none, the tokenizer of its backbone.

    Args:
        name: hub id or folder that the model was loaded from.
        model: the model.
        backbone: the place of its backbone, if the caller chose another than the checkpoint's.

    Raises:
        OSError, ValueError: neither place has a tokenizer.
    """
    return first_tokenizer(name, backbone, (model.config.backbone or {}).get("name"))


def first_tokenizer(name: str, *others: str | None) -> PreTrainedTokenizerBase:
    """The first tokenizer that is found in some places.

    Args:
        name: hub id or folder.
        *others: further places; None is skipped.

    Raises:
        OSError, ValueError: no place has a tokenizer; the message is about the last place.
    """
    *places, last = [name, *filter(None, others)]
    for place in places:
        try:
            return _load_tokenizer(place)
        except (OSError, ValueError):
            continue
    return _load_tokenizer(last)


def _load_tokenizer(place: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    options = {TRUST: False} | (pinned(place) if local_path(place) is None else {})
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        local_path(place) or place, **options
    )
    return tokenizer


def open_decoder(place: str, options: dict[str, Any]) -> PreTrainedModel:
    """Opens a plain decoder; the default model keeps its name, wherever its copy is.

    Code that comes with a model does not run unless `trust_remote_code=True` asks for it, and
    pickled weights are not opened.

    Raises:
        OSError: there is nothing to load.
        ValueError: the files are damaged.
    """
    options = SAFE | options
    if "gguf_file" in options:
        del options["use_safetensors"]
    from transformers import AutoModelForCausalLM

    try:
        model: Any = AutoModelForCausalLM.from_pretrained(place, **options)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The decoder at {place} can't be loaded ({gist(error)}); its files are damaged."
        ) from error
    if Path(place) == local_path(DEFAULT_MODEL):
        model.config._name_or_path = model.name_or_path = DEFAULT_MODEL
    loaded: PreTrainedModel = model
    return loaded


def forget_gguf(model: Any) -> None:
    """Removes the attributes that transformers leaves on a model from a GGUF file."""
    del model.config.quantization_config
    for attribute in QUANTISED:
        if hasattr(model, attribute):
            delattr(model, attribute)
    model.config._name_or_path = ""  # the folder alone does not name a GGUF file


def tokenizer_beside(source: str, lookup: dict[str, Any]) -> Any | None:
    """The tokenizer beside a decoder; None without one, because calibration needs none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source, **lookup)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def gist(error: Exception) -> str:
    """The first line of an error's message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def chosen(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    """The arguments among `names` that were given."""
    return {name: arguments[name] for name in names if name in arguments}
