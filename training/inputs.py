"""What the heads of the lowest memory layer see: its input, for text read with a model."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memformer import MemformerForCausalLM
from memformer.backbone import Backbone
from memformer.layers import StopBackbone


def lowest_inputs(model: MemformerForCausalLM, ids: list[int]) -> Float[Tensor, "tokens hidden"]:
    """What the lowest memory layer sees of a text; no layer above is run."""
    seen: list[Tensor] = []

    def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])
        raise StopBackbone

    attention = Backbone.of(model.backbone).attention(model.memory_layers[0].layer)
    handle = attention.register_forward_pre_hook(look, with_kwargs=True)
    try:
        model.backbone(torch.tensor([ids], device=model.device), use_cache=False)
    except StopBackbone:
        pass
    finally:
        handle.remove()
    return seen[0][0].float()
