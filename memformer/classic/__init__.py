"""The classic memory-augmented networks, as ordinary modules with explicit state.

| machine | reads and writes | finds room by |
|---|---|---|
| `NTM` (2014) | every slot, by content and by shifting | what it learns |
| `DNC` (2016) | every slot, by content and along temporal links | usage and allocation |
| `SAM` (2016) | a few slots, by content | taking the least recently accessed slot |
| `SegmentDNC` | as the DNC, a segment of tokens in one step | as the DNC |

Each maps `[batch, steps, input_size]` and a state to `[batch, steps, output_size]` and the next
state; to a `SegmentDNC` a step is a segment of tokens. `detached` ends the reach of the gradient
between the parts of a long sequence. They call the functions of `memformer/memory/`, which is where
the equations are.
"""

from memformer.classic.controller import detached
from memformer.classic.dnc import DNC
from memformer.classic.ntm import NTM
from memformer.classic.sam import SAM
from memformer.classic.segment import SegmentDNC

__all__ = ["DNC", "NTM", "SAM", "SegmentDNC", "detached"]
