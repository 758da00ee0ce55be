"""The input of the lowest memory layer, which its heads see."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memformer import MemformerForCausalLM
from memformer.attach.backbone import Backbone


def lowest_inputs(model: MemformerForCausalLM, ids: list[int]) -> Float[Tensor, "tokens hidden"]:
    """The input of the lowest memory layer for a text; no layer above it runs."""
    lowest = model.memory_layers[0].layer
    text = torch.tensor([ids], device=model.device)
    return Backbone.of(model.backbone).attention_inputs(text, last=lowest)[-1][0].float()
