"""Writes a checkpoint: weights, configs, a model card and, where needed, the backbone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from memformer.attach.backbone import Backbone
from memformer.checkpoint import ADAPTER, OWN_BACKBONE, WEIGHTS
from memformer.checkpoint.card import card
from memformer.config import MemformerConfig
from memformer.conventions import check_adapter, is_adapted
from memformer.memory.file import write_atomically


def save_checkpoint(
    directory: str | Path,
    config: MemformerConfig,
    backbone: PreTrainedModel,
    weights: Mapping[str, Tensor],
    generation_config: GenerationConfig | None,
    *,
    is_main_process: bool = True,
    dtype: torch.dtype | None = None,
    push_to_hub: bool = False,
    **_: Any,
) -> None:
    """Writes a checkpoint, with a model card where there is none yet.

    Args:
        directory: the folder, which is made if it does not exist.
        config: the model's config; its reference to the backbone is updated.
        backbone: the model's backbone, which is saved if no name stands for its weights.
        weights: all weights of the model, by name.
        generation_config: written beside the weights.
        is_main_process: whether this process writes.
        dtype: the type of the memory's and the adapter's weights on disk; None: as in the model.
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
    everything = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    config.backbone = _save_backbone(target, dict(config.backbone or {}), backbone, everything)
    if is_adapted(backbone):
        config.backbone["adapter"] = True
        _save_adapter(target, backbone, everything, dtype)
    # the adapter is here too, by the names with which transformers' Trainer resumes
    own = {
        name: value.to(dtype) if dtype and value.is_floating_point() else value
        for name, value in everything.items()
        if name.startswith("memory.") or "lora_" in name
    }
    write_atomically(
        target / WEIGHTS, lambda beside: save_file(own, beside, metadata={"format": "pt"})
    )
    if generation_config is not None:
        generation_config.save_pretrained(target)
    config.save_pretrained(target)
    readme = target / "README.md"
    if not readme.exists():
        readme.write_text(card(config), encoding="utf-8")


def _save_backbone(
    target: Path,
    reference: dict[str, Any],
    backbone: PreTrainedModel,
    everything: dict[str, Tensor],
) -> dict[str, Any]:
    """The reference to the backbone; saves the backbone if no name stands for its weights."""
    reference.pop("adapter", None)
    check_adapter(backbone)
    prefix = "backbone.base_model.model." if is_adapted(backbone) else "backbone."
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
    return reference | {"fingerprint": fingerprint}


def _save_adapter(
    target: Path,
    backbone: PreTrainedModel,
    everything: dict[str, Tensor],
    dtype: torch.dtype | None,
) -> None:
    """Saves the adapter in peft's own format."""
    lora = {
        name.removeprefix("backbone."): value.to(dtype or value.dtype)
        for name, value in everything.items()
        if "lora_" in name
    }
    wrapped: Any = backbone
    # "auto" would ask the hub whether the vocabulary was resized
    wrapped.save_pretrained(target / ADAPTER, state_dict=lora, save_embedding_layers=False)
    _in_order(target / ADAPTER / "adapter_config.json")


def _in_order(path: Path) -> None:
    """Sorts the names of modules, which peft writes in another order every time."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(settings["target_modules"], list):
        settings["target_modules"].sort()
        text = json.dumps(settings, indent=2, sort_keys=True)
        write_atomically(path, lambda beside: beside.write_text(text, encoding="utf-8"))
