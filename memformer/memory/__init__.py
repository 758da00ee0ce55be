"""The memory itself: tensors in, tensors out; knows nothing of any backbone.

Axes, in the order in which they stand everywhere:

| word | paper | meaning |
|---|---|---|
| layers | | memory layers, lowest first |
| batch | | independent memories |
| slots | N | rows of a memory; slot numbers are stable while a slot is occupied |
| segments, tokens | S, T | the text of one chunk |
| heads | R | query heads (the DNC's read heads) |
| kv_heads | | key/value heads |
| width | W | numbers per key or value of one head |

Read `addressing.py` (one equation a function), then `state.py`, then `segment.py`.
"""

from memformer.memory.segment import MemoryPass
from memformer.memory.state import IncompatibleMemory, MemoryState

__all__ = ["IncompatibleMemory", "MemoryPass", "MemoryState"]
