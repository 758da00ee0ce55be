"""An external, differentiable memory for pretrained Hugging Face decoders.

Reading order: `memory/dnc.py`, `memory/addressing.py`, `memory/read.py`, `memory/state.py`,
`memory/segment.py`, `layers.py`, `backbone.py`, `model.py`.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from memformer.backbone import Family, register_backbone
from memformer.cache import MemoryCache
from memformer.chat import ChatSession
from memformer.config import MemformerConfig, MemoryConfig
from memformer.memory import IncompatibleMemory, MemoryState
from memformer.model import MemformerForCausalLM
from memformer.store import MemoryStore

__version__ = "0.1.0"

AutoConfig.register("memformer", MemformerConfig, exist_ok=True)
AutoModelForCausalLM.register(MemformerConfig, MemformerForCausalLM, exist_ok=True)

__all__ = [
    "ChatSession",
    "Family",
    "IncompatibleMemory",
    "MemformerConfig",
    "MemformerForCausalLM",
    "MemoryCache",
    "MemoryConfig",
    "MemoryState",
    "MemoryStore",
    "__version__",
    "register_backbone",
]
