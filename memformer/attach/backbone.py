"""The places of the attention projections in each family of decoders, in one table.

A `Family` says how to reach a decoder layer's projections; `Backbone` applies a family to one
model. `register_backbone` adds another family.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

Corrections = tuple[Tensor, Tensor, Tensor] | None
Projected = tuple[Tensor, Tensor, Tensor]
# cosines and sines of a rotation
Turn = tuple[Tensor, Tensor] | None


class StopBackbone(Exception):  # noqa: N818 - control flow, not an error
    """Raised inside the backbone where the rest of its layers is not needed."""


@dataclass(frozen=True)
class Family:
    """The places of layers and projections in one family of decoders.

    Args:
        layers: path from the causal model to its list of decoder layers.
        attention: name of the attention module in a decoder layer.
        project: `(attention, x, corrections) -> queries, keys, values` as the attention module
            computes them, with all biases and norms, without rotary positions; each
            `[entries, tokens, heads or kv_heads, width]`. `corrections` are added to the three
            projections' outputs, before any norm.
        rotary: path to the rotary embedding module, None for backbones without
            rotary positions.
        query: `(attention, x, correction) -> queries`, the first result of `project` alone; None
            where the three are one product.
    """

    layers: str
    attention: str
    project: Callable[[nn.Module, Tensor, Corrections], Projected]
    rotary: str | None = None
    query: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None


class Backbone:
    """A causal model seen through its family: projections, rotation, scales and sizes."""

    def __init__(self, model: nn.Module, family: Family) -> None:
        config: Any = model.config
        self.model = model
        self.family = family
        self.layers = list(cast(nn.ModuleList, model.get_submodule(family.layers)))
        self.rotary = model.get_submodule(family.rotary) if family.rotary else None
        forward = inspect.signature(type(self.rotary).forward) if self.rotary else None
        self._turns_by_type = forward is not None and "layer_type" in forward.parameters
        self.model_type: str = config.model_type
        self.vocabulary: int = config.vocab_size
        self.hidden: int = config.hidden_size
        self.heads: int = config.num_attention_heads
        self.kv_heads: int = getattr(config, "num_key_value_heads", None) or self.heads
        self.width: int = getattr(config, "head_dim", None) or self.hidden // self.heads

    @classmethod
    def of(cls, model: nn.Module) -> Backbone:
        """Finds the family of a model, also of a model that peft has wrapped.

        Raises:
            ValueError: the family is unknown; the sentence lists the known families.
        """
        if hasattr(model, "get_base_model"):
            model = cast(Any, model).get_base_model()
        config: Any = getattr(model, "config", None)
        model_type = getattr(config, "model_type", type(model).__name__)
        family = family_of(model_type)
        try:
            model.get_submodule(family.layers)
        except AttributeError:
            raise ValueError(
                f"A backbone must be a causal language model with its layers at "
                f"{family.layers!r}; got {type(model).__name__}. "
                "Load it with AutoModelForCausalLM."
            ) from None
        return cls(model, family)

    def attention(self, layer: int) -> nn.Module:
        """The attention module of a decoder layer."""
        module: nn.Module = getattr(self.layers[layer], self.family.attention)
        return module

    def project(
        self,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        corrections: Corrections = None,
    ) -> Projected:
        """Queries, keys and values without positions; see `Family.project`."""
        queries, keys, values = self.family.project(attention, x, corrections)
        shape = (*x.shape[:-1], -1, self.width)
        return queries.reshape(shape), keys.reshape(shape), values.reshape(shape)

    def project_queries(
        self,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        correction: Float[Tensor, "entries tokens queries"],
    ) -> Float[Tensor, "entries tokens heads width"]:
        """The queries of `project`, without keys and values where the family has them apart."""
        if self.family.query is None:
            nothing = x.new_zeros(())
            return self.project(attention, x, (correction, nothing, nothing))[0]
        queries = self.family.query(attention, x, correction)
        return queries.reshape(*x.shape[:-1], -1, self.width)

    def turn(
        self,
        layer: int,
        x: Float[Tensor, "entries tokens heads width"],
        positions: Int[Tensor, "rows columns"],
    ) -> Turn:
        """The rotation of `x` by positions; None without rotary positions.

        `rows` is 1 or entries, `columns` is 1 or tokens.
        """
        if self.rotary is None or not getattr(self.attention(layer), "use_rope", True):
            return None
        arguments: tuple[Any, ...] = (x, positions)
        if self._turns_by_type:
            arguments += (self.attention(layer).layer_type,)
        cos, sin = self.rotary(*arguments)
        return cos[:, :, None], sin[:, :, None]

    def rotate(
        self,
        layer: int,
        x: Float[Tensor, "entries tokens heads width"],
        positions: Int[Tensor, "rows columns"],
    ) -> Float[Tensor, "entries tokens heads width"]:
        """Rotates by positions; identity without rotary positions."""
        return turned(x, self.turn(layer, x, positions))

    def attention_inputs(
        self, ids: Int[Tensor, "rows tokens"], last: int | None = None
    ) -> list[Float[Tensor, "rows tokens hidden"]]:
        """The inputs of the attention modules for a text, from layer 0 to `last`; None: all layers.

        The call carries the list that the hooks fill, so calls of other threads add nothing to the
        list.
        """
        inputs: list[Tensor] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            noted = kwargs.pop("attention_inputs", None)
            if noted is not None:
                noted.append(args[0] if args else kwargs["hidden_states"])
                if last is not None and len(noted) > last:
                    raise StopBackbone
            return args, kwargs

        handles = [
            self.attention(layer).register_forward_pre_hook(note, with_kwargs=True)
            for layer in range(len(self.layers))
        ]
        try:
            self.model(ids, use_cache=False, attention_inputs=inputs)
        except StopBackbone:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return inputs

    def sees_all(self, layer: int) -> bool:
        """Whether a layer attends to the whole window, not to a sliding part of it."""
        kinds = getattr(self.model.config, "layer_types", None)
        return kinds is None or kinds[layer] == "full_attention"

    def scale(self, layer: int) -> float:
        """The factor by which the layer multiplies q . k."""
        attention: Any = self.attention(layer)
        return float(attention.scaling)

    def softcap(self, layer: int) -> float | None:
        """Magnitude at which the layer caps its attention logits; None: no cap."""
        return getattr(self.attention(layer), "attn_logit_softcapping", None)

    def fingerprint(self, weights: Mapping[str, Tensor] | None = None) -> str:
        """Sixteen hex digits of the config's shape and a sample of every weight.

        The same weights give the same digits in float32 and in bfloat16, and with and without an
        adapter of peft. The sample is small enough to compute the digits each time.

        Args:
            weights: the model's weights by name, where they had to be gathered first (FSDP).
        """
        config: Any = self.model.config
        keys = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads")
        shape = {key: getattr(config, key, None) for key in keys}
        digest = hashlib.sha256(json.dumps([shape, config.vocab_size]).encode())
        for name, weight in self.model.named_parameters():
            plain = name.replace("base_layer.", "")
            if "lora_" in plain:
                continue
            value = weight if weights is None else weights[plain]
            digest.update(f"{plain}{tuple(value.shape)}".encode())
            sample = value.detach().flatten()[:: max(1, value.numel() // 64)]
            digest.update(sample.to(torch.bfloat16).float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


def turned(
    x: Float[Tensor, "entries tokens heads width"], turn: Turn
) -> Float[Tensor, "entries tokens heads width"]:
    """Rotates by the result of `Backbone.turn`."""
    if turn is None:
        return x
    cos, sin = turn
    turning, still = x[..., : cos.shape[-1]], x[..., cos.shape[-1] :]
    first, second = turning.chunk(2, dim=-1)
    rotated = (turning * cos + torch.cat([-second, first], -1) * sin).to(x.dtype)
    return rotated if still.shape[-1] == 0 else torch.cat([rotated, still], -1)


def family_of(model_type: str) -> Family:
    """The family of decoders with this `config.model_type`.

    Raises:
        ValueError: the family is unknown; the sentence lists the known families.
    """
    if model_type not in _FAMILIES:
        raise ValueError(
            f"memformer does not know backbones of type {model_type!r}; it knows "
            f"{', '.join(sorted(_FAMILIES))}. Another decoder can be taught with "
            "memformer.register_backbone(model_type, Family(...))."
        )
    return _FAMILIES[model_type]


def register_backbone(model_type: str, family: Family) -> None:
    """Adds a family of decoders.

    Args:
        model_type: `config.model_type` of the causal model.
        family: the places of layers and projections. The model's forward must hand unknown
            keyword arguments down to its attention modules, and these modules must attend
            through transformers' attention interface, as all decoders of transformers 5 do.
    """
    _FAMILIES[model_type] = family


def _corrected(outputs: Projected, corrections: Corrections) -> Projected:
    if corrections is None:
        return outputs
    query, key, value = (out + change for out, change in zip(outputs, corrections, strict=True))
    return query, key, value


def _separate(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    return _corrected((a.q_proj(x), a.k_proj(x), a.v_proj(x)), corrections)


def _separate_head_norms(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    queries, keys, values = _separate(attention, x, corrections)
    shape = (*x.shape[:-1], -1, a.head_dim)
    return a.q_norm(queries.view(shape)), a.k_norm(keys.view(shape)), values


def _separate_whole_norms(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    queries, keys, values = _separate(attention, x, corrections)
    return a.q_norm(queries), a.k_norm(keys), values


def _query(attention: nn.Module, x: Tensor, correction: Tensor) -> Tensor:
    queries: Tensor = cast(Any, attention).q_proj(x)
    return queries + correction


def _query_head_norm(attention: nn.Module, x: Tensor, correction: Tensor) -> Tensor:
    a: Any = attention
    queries: Tensor = a.q_norm(_query(a, x, correction).view(*x.shape[:-1], -1, a.head_dim))
    return queries


def _query_whole_norm(attention: nn.Module, x: Tensor, correction: Tensor) -> Tensor:
    queries: Tensor = cast(Any, attention).q_norm(_query(attention, x, correction))
    return queries


def _phi3(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    queries = a.config.num_attention_heads * a.head_dim
    keys = a.num_key_value_heads * a.head_dim
    return _corrected(a.qkv_proj(x).split([queries, keys, keys], dim=-1), corrections)


def _gpt2(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    return _corrected(a.c_attn(x).split(a.split_size, dim=-1), corrections)


def _gpt_neox(attention: nn.Module, x: Tensor, corrections: Corrections) -> Projected:
    a: Any = attention
    fused = a.query_key_value(x).view(*x.shape[:-1], -1, 3 * a.head_size)
    queries, keys, values = (part.flatten(-2) for part in fused.chunk(3, dim=-1))
    return _corrected((queries, keys, values), corrections)


# the queries alone, of families whose three projections are apart
_QUERIES: dict[Any, Callable[[nn.Module, Tensor, Tensor], Tensor]] = {
    _separate: _query,
    _separate_head_norms: _query_head_norm,
    _separate_whole_norms: _query_whole_norm,
}


def _llama_like(project: Callable[[nn.Module, Tensor, Corrections], Projected]) -> Family:
    query = _QUERIES.get(project)
    return Family("model.layers", "self_attn", project, "model.rotary_emb", query)


_FAMILIES: dict[str, Family] = {
    "gemma2": _llama_like(_separate),
    "gemma3_text": _llama_like(_separate_head_norms),
    "gpt2": Family("transformer.h", "attn", _gpt2),
    "gpt_neox": Family("gpt_neox.layers", "attention", _gpt_neox, "gpt_neox.rotary_emb"),
    "llama": _llama_like(_separate),
    "mistral": _llama_like(_separate),
    "olmo2": _llama_like(_separate_whole_norms),
    "opt": Family("model.decoder.layers", "self_attn", _separate, query=_query),
    "phi3": _llama_like(_phi3),
    "qwen2": _llama_like(_separate),
    "qwen3": _llama_like(_separate_head_norms),
    "smollm3": _llama_like(_separate),
}
