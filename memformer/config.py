"""The settings of a memory, :class:`MemoryConfig`, and of a whole model, :class:`MemformerConfig`.

`MemoryConfig` holds every choice that a user makes about the memory. `MemformerConfig` is the
Hugging Face config of the model: its backbone, its memory, and where the backbone came from.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

KEY_POSITIONS = ("none", "passage")


@dataclass(frozen=True)
class MemoryConfig:
    """Every choice about a memory, validated on construction.

    Args:
        num_slots: how many tokens a full memory keeps; new tokens replace the least used. None: no
            token is evicted, and the memory grows with the text.
        segment_tokens: most tokens that the backbone sees at once; segments share only the memory.
            With a tokenizer, a segment ends at the end of a paragraph or a sentence.
        memory_layers: the decoder layers that read and write. `"auto"` measures where retrieval
            happens; `"all"`, a list of layer numbers, or a fraction (that share of the layers, from
            the top) sets them. After attaching: the layer numbers.
        projection_rank: rank of the trainable corrections to the memory path's query, key and
            value projections. None: full matrices.
        key_positions: `"passage"` keeps the order of tokens inside passages in the stored keys,
            `"none"` stores keys without any position. No effect on backbones without rotary
            positions.
        read_distance: distance in tokens from every query to the memory: to every slot with
            `"none"`, to the end of each stored passage with `"passage"`.
        focus: how firmly the heads of a layer read the same passages; 0: each head on its own.
            Without focus, heads miss the wanted passage in a long text.
        erase: after training (docs/dnc.md), new text weakens the text that it replaces.
        free: after training, new text weakens text that is no longer needed.
        links: after training, heads also read the slots written just before and just after the
            slots that they match.
        write_budget: share of the text that the write gate shall let through in training, where a
            penalty on the loss enforces it; None: no penalty.
        null_offset: number added to the calibrated null logit of every head; with a higher number,
            heads read less.
        passage_tokens: number of written tokens in a row that form a passage, in which the keys
            keep their order: a few sentences. Tokens that the write gate keeps out do not count,
            neither here nor in ages, so they leave a memory as it is.
        gate_reach: number of tokens on either side of a token over which its write gate is
            averaged: the words around a token decide too whether it is written.
        address_reach: number of tokens in the address of a slot, its own token and the tokens just
            before it: a short sentence.
        least_age: a token weakens only slots that were seen at least so many tokens before it, and
            so none of its own sentence.
        record_tokens: number of tokens that a memory may record beside its slots; text beyond is
            refused until something is forgotten. None: no limit.
        working_set: most slots that a turn reads: those of the passages that it is found to be
            about. A memory that is no larger is read whole, unless words are read again.
        reread_tokens: most tokens of the passages found whose words a reply reads again, before the
            question, in place of their slots. 0: none.
        finders: number of heads that find passages; 0: nothing is found, and the newest slots are
            read.

    Raises:
        ValueError: a value out of range; the sentence names the field.
    """

    num_slots: int | None = 4096
    segment_tokens: int = 512
    memory_layers: str | float | tuple[int, ...] = "auto"
    projection_rank: int | None = 8
    key_positions: str = "passage"
    read_distance: int = 100
    focus: float = 8.0
    erase: bool = False
    free: bool = False
    links: bool = False
    write_budget: float | None = None
    null_offset: float = 0.0
    passage_tokens: int = 64
    gate_reach: int = 8
    address_reach: int = 6
    least_age: int = 16
    record_tokens: int | None = 4_000_000
    working_set: int = 1024
    reread_tokens: int = 320
    finders: int = 8

    def __post_init__(self) -> None:
        for field, least, optional in (
            ("num_slots", 1, True),
            ("segment_tokens", 2, False),
            ("projection_rank", 1, True),
            ("read_distance", 0, False),
            ("passage_tokens", 1, False),
            ("gate_reach", 0, False),
            ("address_reach", 1, False),
            ("least_age", 0, False),
            ("record_tokens", 1, True),
            ("working_set", 1, False),
            ("reread_tokens", 0, False),
            ("finders", 0, False),
        ):
            _check_int(field, getattr(self, field), least, optional)
        if self.key_positions not in KEY_POSITIONS:
            raise ValueError(
                f"key_positions must be one of {', '.join(KEY_POSITIONS)}; "
                f"got {self.key_positions!r}."
            )
        for field in ("erase", "free", "links"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"{field} must be true or false; got {getattr(self, field)!r}.")
        for field, lowest in (("focus", 0.0), ("null_offset", -math.inf)):
            value = getattr(self, field)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not lowest <= value < math.inf:
                at_least = " >= 0" if lowest == 0.0 else ""
                raise ValueError(f"{field} must be a number{at_least}; got {value!r}.")
        budget = self.write_budget
        if budget is not None and not (isinstance(budget, float) and 0.0 < budget <= 1.0):
            raise ValueError(f"write_budget must be in (0, 1] or None; got {budget!r}.")
        object.__setattr__(self, "memory_layers", _check_layers(self.memory_layers))

    @property
    def release(self) -> tuple[str, ...]:
        """The names of the release heads."""
        return tuple(name for name in ("erase", "free") if getattr(self, name))

    def __new__(cls, *_: Any, **values: Any) -> MemoryConfig:
        """Refuses an unknown field and names the nearest, before the dataclass refuses it."""
        cls._check_names(values)
        return super().__new__(cls)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> MemoryConfig:
        """Builds a config from plain data.

        Raises:
            ValueError: an unknown key; the sentence names the nearest valid key.
        """
        cls._check_names(values)
        return cls(**values)

    @classmethod
    def _check_names(cls, values: Mapping[str, Any]) -> None:
        names = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in names:
                near = difflib.get_close_matches(key, names, n=1, cutoff=0.0)[0]
                raise ValueError(
                    f"MemoryConfig has no key {key!r}; the nearest valid key is {near!r}."
                )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that `from_dict` and JSON read back."""
        values = dataclasses.asdict(self)
        if isinstance(self.memory_layers, tuple):
            values["memory_layers"] = list(self.memory_layers)
        return values


class MemformerConfig(PreTrainedConfig):
    """Config of a backbone with a memory.

    Args:
        text_config: config of the backbone.
        memory_config: a `MemoryConfig` as plain data.
        backbone: where the backbone's weights are: `name` (hub id or folder, empty where they
            are saved beside the memory), `revision`, `fingerprint`.
    """

    model_type = "memformer"
    sub_configs_defaults = {
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama")
    }
    keys_to_ignore_at_inference = ["past_key_values", "memory", "written", "evidence", "entropy"]

    text_config: Any = None
    memory_config: dict[str, Any] | None = None
    backbone: dict[str, Any] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.text_config, dict):
            data = dict(self.text_config)
            self.text_config = AutoConfig.for_model(data.pop("model_type", "llama"), **data)
        elif self.text_config is None:
            self.text_config = AutoConfig.for_model("llama")
        self.memory_config = MemoryConfig.from_dict(self.memory_config or {}).to_dict()
        if not isinstance(self.backbone or {}, dict):
            raise ValueError(
                "backbone must be a table with name, revision and fingerprint; got "
                f"{self.backbone!r}. The checkpoint's config.json is damaged."
            )
        self.backbone = dict(self.backbone or {})
        for key in ("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings"):
            kwargs.setdefault(key, getattr(self.text_config, key, None))
        super().__post_init__(**kwargs)


def _check_int(field: str, value: Any, least: int, optional: bool) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        none = " or None" if optional else ""
        raise ValueError(f"{field} must be a whole number >= {least}{none}; got {value!r}.")


def _check_layers(layers: Any) -> str | float | tuple[int, ...]:
    if layers in ("auto", "all"):
        return str(layers)
    if isinstance(layers, float) and 0.0 < layers <= 1.0:
        return layers
    if isinstance(layers, list | tuple | range) and len(layers) > 0:
        if all(isinstance(layer, int) and not isinstance(layer, bool) for layer in layers):
            return tuple(sorted(set(layers)))
    raise ValueError(
        "memory_layers must be 'auto', 'all', a list of layer numbers or a fraction in (0, 1]; "
        f"got {layers!r}."
    )


# transformers' AutoConfig opens checkpoints once this module is imported
AutoConfig.register("memformer", MemformerConfig, exist_ok=True)
