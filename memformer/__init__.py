"""An external, differentiable memory for pretrained Hugging Face decoders.

To read the code, begin with the code that runs: `model.py`, `engine.py`, `attach/layers.py`,
`memory/memory_pass.py`, `memory/chunk.py`, `memory/read.py`, `memory/commit.py`. Then read
`classic/step.py`, the DNC on one screen. `docs/architecture.md` has a picture.

Names are imported when they are first used: torch and transformers take seconds, and the command
line needs neither to show its help.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

import wrapt

from memformer.version import __version__

if TYPE_CHECKING:
    from memformer.attach.backbone import Family, register_backbone
    from memformer.cache import MemoryCache
    from memformer.chat import ChatSession
    from memformer.config import MemformerConfig, MemoryConfig
    from memformer.memory import IncompatibleMemory, MemoryState
    from memformer.model import MemformerForCausalLM
    from memformer.pretrained import TRAINED, fetch
    from memformer.recollection import Passage
    from memformer.store import MemoryBusy, MemoryStore
    from memformer.template import chat_ids

_HOME = {
    "ChatSession": "chat",
    "Family": "attach.backbone",
    "IncompatibleMemory": "memory",
    "MemformerConfig": "config",
    "MemformerForCausalLM": "model",
    "MemoryBusy": "store",
    "MemoryCache": "cache",
    "MemoryConfig": "config",
    "MemoryState": "memory",
    "MemoryStore": "store",
    "Passage": "recollection",
    "TRAINED": "pretrained",
    "chat_ids": "template",
    "fetch": "pretrained",
    "register_backbone": "attach.backbone",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'memformer' has no attribute {name!r}")
    value = getattr(import_module(f"memformer.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


def _teach(name: str) -> None:
    """Imports a module that registers itself with transformers' Auto classes at its end."""
    if name not in sys.modules:  # else it is what imports them, and is not at its end yet
        import_module(name)


@wrapt.when_imported("transformers.models.auto.configuration_auto")
def _teach_config(_: Any) -> None:
    _teach("memformer.config")


@wrapt.when_imported("transformers.models.auto.modeling_auto")
def _teach_model(_: Any) -> None:
    _teach("memformer.model")


__all__ = [
    "TRAINED",
    "ChatSession",
    "Family",
    "IncompatibleMemory",
    "MemformerConfig",
    "MemformerForCausalLM",
    "MemoryBusy",
    "MemoryCache",
    "MemoryConfig",
    "MemoryState",
    "MemoryStore",
    "Passage",
    "__version__",
    "chat_ids",
    "fetch",
    "register_backbone",
]
