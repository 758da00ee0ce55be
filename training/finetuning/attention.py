"""The backbone's own attention in float32, for mixed precision on a CPU.

A CPU with bfloat16 units multiplies matrices several times as fast with them, but torch's attention
kernel is slower in bfloat16 there, its backward pass by a factor of two to four.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "sdpa_float32"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Does the same as transformers' `sdpa`, in float32; the result has the dtype of the values."""
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        found, weights = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return found.to(value.dtype), weights


def in_float32(backbone: PreTrainedModel) -> None:
    """Switches a backbone from `sdpa` to attention in float32; leaves any other backbone alone."""
    if backbone.config._attn_implementation == "sdpa":
        AttentionInterface.register(NAME, attend)
        AttentionMaskInterface.register(NAME, sdpa_mask)
        backbone.set_attn_implementation(NAME)
