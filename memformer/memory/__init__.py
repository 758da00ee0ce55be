"""The memory itself: tensors in, tensors out; knows nothing of any backbone.

Axes, in the order in which they stand everywhere:

| word | paper | meaning |
|---|---|---|
| layers | | memory layers, lowest first |
| batch | | independent memories |
| slots | N | rows of a memory; slot numbers are stable while a slot is occupied |
| segments, tokens | S, T | the text of one chunk |
| heads | R | query heads of a language model |
| kv_heads | | key/value heads |
| width | W | numbers per key or value of one head |

| reads, writes | R, K | read heads, and writes in one step, of a classic machine |

Read `dnc.py` (the machine on one screen) and `addressing.py` (one equation a function) for where it
comes from; `read.py`, `state.py` and `segment.py` for the memory of a language model.
"""

from memformer.memory.segment import MemoryPass
from memformer.memory.state import IncompatibleMemory, MemoryState

__all__ = ["IncompatibleMemory", "MemoryPass", "MemoryState"]
