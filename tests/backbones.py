"""Tiny random backbones of every family that memformer knows."""

from __future__ import annotations

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCABULARY = 97

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_FULL_HEADS = {**_COMMON, "num_key_value_heads": 4}
_NO_GROUPS = {key: value for key, value in _COMMON.items() if key != "num_key_value_heads"}
_GEMMA = {**_COMMON, "head_dim": 10, "query_pre_attn_scalar": 10, "sliding_window": 6}

FAMILIES: dict[str, dict[str, Any]] = {
    "gemma2": {**_GEMMA, "attn_logit_softcapping": 5.0, "final_logit_softcapping": 9.0},
    "gemma3_text": {**_GEMMA, "layer_types": ["sliding_attention", "full_attention"] * 2},
    "gpt2": {
        "vocab_size": VOCABULARY,
        "n_embd": 24,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "gpt_neox": {**_FULL_HEADS, "rotary_pct": 0.5},
    "llama": _COMMON,
    "mistral": {**_COMMON, "sliding_window": 6, "head_dim": 6},
    "olmo2": _COMMON,
    "opt": {**_NO_GROUPS, "ffn_dim": 40, "word_embed_proj_dim": 24, "dropout": 0.0},
    "phi3": {**_COMMON, "partial_rotary_factor": 0.75, "head_dim": 8, "hidden_size": 32},
    "qwen2": _COMMON,
    "qwen3": {**_COMMON, "head_dim": 10},
    "smollm3": {**_COMMON, "no_rope_layer_interval": 2},
}


def tiny_backbone(model_type: str = "llama", seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A random model of one family: four layers, grouped heads where the family has them."""
    torch.manual_seed(seed)
    kernel = "eager" if model_type == "gemma2" else "sdpa"  # gemma 2 has no sdpa
    kernel = changes.pop("attn_implementation", kernel)
    config = AutoConfig.for_model(model_type, **{**FAMILIES[model_type], **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=kernel)
    # larger weights than a fresh model's, so that attention is far from uniform
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4.0)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def random_ids(*shape: int, seed: int = 0) -> torch.Tensor:
    """Token ids without the special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)
