"""`MergedLinear`: a linear map with a LoRA adapter of peft that takes one product instead of three.

An opened checkpoint computes with the sum of the backbone's weight and the adapter. The sum is made
at the first call and kept beside both. So neither the backbone's weight nor the adapter ever
changes: fingerprints, files, `disable_adapter` and training know nothing of the sum.

This file imports peft, so only a checkpoint with an adapter imports this file.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from peft.tuners.lora.layer import Linear
from torch import Tensor, nn


class _Sum(NamedTuple):
    """The sum of weight and adapter.

    Attributes:
        weight: the sum.
        adapter: the name of the adapter, as peft keeps it.
        parts: each module that has a part of the sum, its weight, and the weight's version then.
    """

    weight: Float[Tensor, "outputs inputs"]
    adapter: Any
    parts: tuple[tuple[nn.Module, Tensor, int], ...]

    def is_current(self, adapter: Any) -> bool:
        """Whether the adapter is the same, and no part was replaced, written over or unfrozen."""
        for module, weight, version in self.parts:
            if module._parameters["weight"] is not weight or weight._version != version:
                return False
            if weight.requires_grad:
                return False
        return bool(self.adapter == adapter)


class MergedLinear(Linear):
    """peft's linear map, which at inference multiplies by the sum of its weight and its adapter.

    peft's own forward is used in training mode, while a weight is trainable, for all that peft
    does beyond one plain LoRA adapter, and for weights loaded in inference mode, whose changes
    torch does not count. After a `disable_adapter` block, peft leaves the adapter trainable.
    """

    _sum: _Sum | None = None

    def forward(self, x: Float[Tensor, "... inputs"], *args: Any, **kwargs: Any) -> Tensor:
        """The map's output, with the adapter unless it is disabled."""
        weight = None if args or kwargs else self._merged()
        if weight is None:
            result: Tensor = super().forward(x, *args, **kwargs)
            return result
        # not through torch's __getattr__, which takes as long as the rest of this method
        base: Any = self._modules["base_layer"]
        return nn.functional.linear(x, weight, base.bias)

    def _merged(self) -> Float[Tensor, "outputs inputs"] | None:
        """The sum of weight and adapter; None where peft's own forward is to be used."""
        if self.training or self._disable_adapters or self.merged_adapters:
            return None
        if torch.compiler.is_compiling():
            return None
        if self._sum is None or not self._sum.is_current(self._active_adapter):
            self._sum = self._made()
        return None if self._sum is None else self._sum.weight

    @torch.inference_mode(False)
    @torch.no_grad()
    def _made(self) -> _Sum | None:
        """The sum in float32, rounded once; None unless one weight and one adapter are frozen."""
        if len(self.active_adapters) != 1 or self.active_adapters[0] not in self.lora_A:
            return None
        name = self.active_adapters[0]
        modules: list[Any] = [self.base_layer, self.lora_A[name], self.lora_B[name]]
        parts: list[Tensor] = [module.weight for module in modules]
        weight, down, up = parts
        beyond = name in self.lora_variant or self.lora_bias[name] or self.fan_in_fan_out
        # accelerate fetches the weights of a module with a hook at each call
        if beyond or any(hasattr(module, "_hf_hook") for module in modules):
            return None
        if any(part.requires_grad or part.is_meta or part.is_inference() for part in parts):
            return None
        change = (up.float() @ down.float()) * self.scaling[name]
        total = (weight.float() + change).to(weight.dtype)
        known = [(module, part, part._version) for module, part in zip(modules, parts, strict=True)]
        return _Sum(total, self._active_adapter, tuple(known))

    def train(self, mode: bool = True) -> MergedLinear:
        """Sets training or evaluation mode; training needs no sum."""
        self._sum = None
        super().train(mode)
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        """Moves or casts the weights, which changes them without a new version."""
        self._sum = None
        return super()._apply(fn, recurse)

    def __getstate__(self) -> dict[str, Any]:
        """The state without the sum, which a copy makes anew."""
        return {name: value for name, value in super().__getstate__().items() if name != "_sum"}


def merge_at_inference(backbone: nn.Module) -> None:
    """Lets all plain LoRA layers of a wrapped backbone merge their adapter at inference."""
    for module in backbone.modules():
        if type(module) is Linear and type(module.base_layer) is nn.Linear:
            module.__class__ = MergedLinear
