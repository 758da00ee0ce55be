"""The classic memory-augmented networks, as ordinary modules with explicit state.

| machine | reads and writes | finds room by |
|---|---|---|
| `NTM` (2014) | every slot, by content and by shifting | learning to |
| `DNC` (2016) | every slot, by content and along temporal links | usage and allocation |
| `SAM` (2016) | a few slots, by content | taking the least recently accessed slot |
| `SegmentDNC` | like the DNC, a segment of tokens in one step | usage and allocation |

Each maps `[batch, steps, input_size]` and a state to `[batch, steps, output_size]` and the next
state; a step of a `SegmentDNC` is a segment of tokens. `detached` ends the reach of the gradient
between the parts of a long sequence. `addressing.py` and `memory/addressing.py` have the equations,
and `step.py` has the DNC on one screen.
"""

from memformer.classic.controller import detached
from memformer.classic.dnc import DNC
from memformer.classic.ntm import NTM
from memformer.classic.sam import SAM
from memformer.classic.segment import SegmentDNC

__all__ = ["DNC", "NTM", "SAM", "SegmentDNC", "detached"]
