"""The memory itself: functions from tensors to tensors, which know no backbone.

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

Read `memory_pass.py` first: it lists the steps of a pass. Then `chunk.py`, `gate.py`, `read.py`,
`commit.py` and `state.py`.
"""

from memformer.memory.memory_pass import MemoryPass
from memformer.memory.state import IncompatibleMemory, MemoryState

__all__ = ["IncompatibleMemory", "MemoryPass", "MemoryState"]
