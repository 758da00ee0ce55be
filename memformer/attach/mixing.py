"""`mix`: an attention kernel for transformers that adds reads to the backbone's own attention.

An attention module with a memory sees a config that names this kernel. The module hands the kernel
the keyword arguments of its call, the read among them, and projects the result. The read belongs
to the call alone: an exception leaves nothing behind, and threads share no read.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

KERNEL = "memformer"
# kernels that do not look at the config of their module
BLIND = ("eager", "sdpa", "flex_attention")


class Read(NamedTuple):
    """The read of one memory layer for the tokens of one call.

    Attributes:
        words: r, the read words.
        evidence: g in [0, 1], the share of the read weight that is not on the null slot.
    """

    words: Float[Tensor, "entries tokens heads width"]
    evidence: Float[Tensor, "entries tokens heads"]


class BoundConfig:
    """The backbone's config as its attention modules see it while a memory is attached.

    Every setting but the name of the kernel is looked up in the backbone's config when asked for.

    Args:
        config: the backbone's config.
        eager: the kernel that stands for "eager" in this family.
    """

    _attn_implementation = KERNEL

    def __init__(self, config: Any, eager: Callable[..., Any]) -> None:
        self.config = config
        self.eager = eager

    def __getattr__(self, name: str) -> Any:
        # a copy that is being made or unpickled has no config yet
        if name == "config" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.config, name)


def bind(attention: nn.Module, config: BoundConfig | None = None) -> BoundConfig:
    """Lets an attention module mix reads in; returns the config that the module now sees.

    Args:
        attention: the module.
        config: the config that other bound modules of this backbone see; None: a new one.

    Raises:
        ValueError: the module does not attend through transformers' attention interface.
    """
    if config is None:
        names = inspect.unwrap(type(attention).forward).__globals__
        if not {"ALL_ATTENTION_FUNCTIONS", "eager_attention_forward"} <= names.keys():
            raise ValueError(
                f"{type(attention).__name__} does not attend through transformers' attention "
                "interface, where memory is mixed in; take a decoder of transformers 5 that does."
            )
        config = BoundConfig(attention.config, names["eager_attention_forward"])
    attention.config = config  # type: ignore[assignment]  # a module's attributes are untyped
    return config


def unbind(attention: nn.Module) -> None:
    """Undoes `bind`; a module that was not bound stays as it is."""
    if isinstance(attention.config, BoundConfig):
        attention.config = attention.config.config


def mix(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    memory_read: Read | None = None,
    **kwargs: Any,
) -> tuple[Float[Tensor, "entries tokens heads width"], Tensor | None]:
    """Calls the backbone's own kernel; returns (1 - g) o_local + r where there is a read."""
    bound: Any = module.config
    name = bound.config._attn_implementation
    if name == "eager" and getattr(module, "reorder_and_upcast_attn", False):
        # GPT-2 has a second eager attention, which a module that is not bound chooses itself
        upcast: Any = module._upcast_and_reordered_attn
        local, weights = upcast(query, key, value, attention_mask)
    else:
        kernel = ALL_ATTENTION_FUNCTIONS.get_interface(name, bound.eager)
        owner = module if name in BLIND else _unbound(module)
        local, weights = kernel(owner, query, key, value, attention_mask, **kwargs)
    if memory_read is None:
        return local, weights
    kept = (1.0 - memory_read.evidence)[..., None] * local.float()
    return (kept + memory_read.words).to(local.dtype), weights


def _unbound(module: nn.Module) -> nn.Module:
    """The module with the backbone's own config, where some kernels look up their own name."""
    view = copy.copy(module)
    unbind(view)
    return view


AttentionInterface.register(KERNEL, mix)
