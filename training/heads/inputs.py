"""What the heads of the lowest memory layer see: its input, for text read with a model."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from memformer import MemformerForCausalLM
from memformer.attach.backbone import Backbone


def lowest_inputs(model: MemformerForCausalLM, ids: list[int]) -> Float[Tensor, "tokens hidden"]:
    """What the lowest memory layer sees of a text; no layer above is run."""
    lowest = model.memory_layers[0].layer
    text = torch.tensor([ids], device=model.device)
    return Backbone.of(model.backbone).attention_inputs(text, last=lowest)[-1][0].float()
