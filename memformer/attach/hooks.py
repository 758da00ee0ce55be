"""`MemoryHook`: calls the memory path at the input of every attention module of the backbone.

The hook changes no weight and no name of the backbone. A call of the backbone carries a
`MemoryCall` as the keyword argument `memory_call`; without this argument the hook does nothing. The
hook hands the read words on as the argument `memory_read` of the same call, and `mixing.py` adds
them to the attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.utils.hooks import RemovableHandle

from memformer.attach.backbone import Backbone, StopBackbone
from memformer.attach.layers import MemoryPath
from memformer.attach.mixing import bind, unbind
from memformer.memory.memory_pass import MemoryPass


@dataclass(frozen=True)
class MemoryCall:
    """The argument that one call of the backbone carries to its attention modules.

    Attributes:
        path: the memory layers.
        memory: the pass: the memory, and the text of this call.
        is_last: whether the call stops at the top memory layer.
    """

    path: MemoryPath
    memory: MemoryPass
    is_last: bool = False


class MemoryHook:
    """Hook at the input of one attention module, beside a memory layer or not.

    The hook always removes the argument `memory_call`, which the module's kernel must not see.

    Args:
        number: the number of the decoder layer.
    """

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(
        self, attention: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Writes to the memory, reads from it, and hands the read on."""
        call: MemoryCall | None = kwargs.pop("memory_call", None)
        if call is None or self.number not in call.path.index_of:
            return args, kwargs
        x = args[0] if args else kwargs["hidden_states"]
        read = call.path(self.number, attention, x, call.memory)
        if call.is_last and call.path.index_of[self.number] == len(call.path) - 1:
            raise StopBackbone
        if read is not None:
            kwargs["memory_read"] = read
        return args, kwargs


def attach(backbone: Backbone, path: MemoryPath) -> list[RemovableHandle]:
    """Hooks every attention module of a backbone, and binds the modules with a memory layer.

    Raises:
        ValueError: the backbone has a memory already.
    """
    attentions = [backbone.attention(number) for number in range(len(backbone.layers))]
    for attention in attentions:
        hooks = attention._forward_pre_hooks.values()
        if any(isinstance(hook, MemoryHook) for hook in hooks):
            raise ValueError(
                "This backbone has a memory already; take it off with "
                "model.unload_memory(), or load the backbone anew."
            )
    bound = None
    for number in sorted(path.index_of):
        bound = bind(attentions[number], bound)
    return [
        attention.register_forward_pre_hook(MemoryHook(number), with_kwargs=True)
        for number, attention in enumerate(attentions)
    ]


def detach(backbone: Backbone, handles: list[RemovableHandle]) -> None:
    """Removes all hooks, and empties the list of their handles."""
    for handle in handles:
        handle.remove()
    handles.clear()
    for number in range(len(backbone.layers)):
        unbind(backbone.attention(number))
