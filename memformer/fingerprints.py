"""Tells which model wrote a memory, and whether another model can read the memory.

A memory carries the *fingerprint* of the model that wrote it: the architecture, the weights of the
backbone and the weights of the memory path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import cast

from torch import nn

from memformer.attach.backbone import Backbone
from memformer.attach.heads import ADDRESS_WIDTH
from memformer.attach.layers import MemoryPath
from memformer.attach.names import first_names
from memformer.config import MemoryConfig
from memformer.memory.state import IncompatibleMemory, MemoryState


def architecture(family: Backbone, config: MemoryConfig) -> str:
    """The settings, without weights, that decide the shape and the meaning of slots."""
    layers = cast("tuple[int, ...]", config.memory_layers)
    addressed = f", addresses of width {ADDRESS_WIDTH}" if config.release else ""
    return (
        f"{family.model_type}, memory layers {','.join(str(layer) for layer in layers)}, "
        f"{family.kv_heads} key heads of width {family.width}, "
        f"key positions {config.key_positions}{addressed}, passages of {config.passage_tokens} "
        f"tokens, reaches {config.gate_reach} and {config.address_reach}, "
        f"least age {config.least_age}"
    )


def digest(path: MemoryPath, backbone: nn.Module) -> str:
    """Sixteen hex digits of the memory path's weights, and of the backbone's adapter."""
    found = hashlib.sha256()
    for name, weight in first_names(path).items():
        found.update(name.encode() + weight.detach().float().cpu().numpy().tobytes())
    for name, weight in backbone.named_parameters():
        if "lora_" in name:
            sample = weight.detach().flatten()[:: max(1, weight.numel() // 64)]
            found.update(sample.float().cpu().numpy().tobytes())
    return found.hexdigest()[:16]


def differences(theirs: Mapping[str, str], mine: Mapping[str, str]) -> list[str]:
    """The differences between the model that wrote a memory and another model.

    Args:
        theirs: the fingerprint on the memory.
        mine: the other model's fingerprint; weights that it leaves out are not compared.
    """
    different = []
    if theirs.get("architecture") != mine["architecture"]:
        there = theirs.get("architecture", "unknown")
        different.append(f"architecture is {there!r} there and {mine['architecture']!r} here")
    if theirs.get("backbone") != mine.get("backbone", theirs.get("backbone")):
        there, here = theirs.get("name", "unnamed"), mine.get("name", "unnamed")
        names = f"is {there!r} there and {here!r} here" if there != here else f"is another {here!r}"
        different.append(f"backbone {names}, with other weights")
    if theirs.get("memory") != mine.get("memory", theirs.get("memory")):
        different.append("memory path has other weights, from other training")
    return different


def check_shapes(memory: MemoryState, family: Backbone, config: MemoryConfig, whose: str) -> None:
    """Refuses a memory whose slots have another shape than a model's slots.

    The record may have any number of finders: keys that it lacks are never found.

    Raises:
        ValueError: the shapes differ, although the fingerprint says that they fit.
    """
    layers = cast("tuple[int, ...]", config.memory_layers)
    shape = (len(layers), family.kv_heads, family.width)
    width = ADDRESS_WIDTH if config.release else 0
    found = (memory.keys.shape[0], *memory.keys.shape[3:]), memory.addresses.shape[-1]
    if found != (shape, width):
        raise ValueError(
            f"{whose} is damaged: it has layers, key heads, width and address width {found}, "
            f"and the model {(shape, width)}; restore it from a copy or start a new memory."
        )


def check_tokens(memory: MemoryState, vocabulary: int, whose: str) -> None:
    """Refuses a memory with tokens that a model does not have.

    Raises:
        ValueError: a token id of a slot or of the record is beyond the vocabulary.
    """
    for ids in (memory.token, memory.told):
        if bool((ids >= vocabulary).any()):
            raise ValueError(
                f"{whose} is damaged: it holds token id {int(ids.max())}, and the model has "
                f"{vocabulary} tokens; restore it from a copy or start a new memory."
            )


def check_fits(memory: MemoryState, fingerprint: Mapping[str, str], whose: str) -> None:
    """Refuses a memory that another model wrote.

    Raises:
        IncompatibleMemory: the sentence lists each difference.
    """
    if different := differences(memory.fingerprint, fingerprint):
        raise IncompatibleMemory(
            f"{whose} was written by another model: {'; '.join(different)}. "
            "Load the model that wrote it, or start a new memory."
        )
