"""Whether a memory is alive while it is trained: what is logged, and when to warn."""

from __future__ import annotations

import math
from dataclasses import dataclass

# of the tokens read, and of the weight of a question's reads
DEAD, FULL, BLIND, DIFFUSE = 0.002, 0.998, 0.01, 0.95


@dataclass(frozen=True)
class Health:
    """Means over the last steps.

    Attributes:
        written: share of the text that the write gate lets through.
        slots: occupied at the end of a document.
        evidence: how much questions read from memory, in [0, 1]; None: nothing was asked.
        entropy: how widely their reads are spread, in nats; None: nothing was asked.
    """

    written: float
    slots: float
    evidence: float | None
    entropy: float | None

    def warnings(self, budget: float | None) -> list[str]:
        """What is wrong, a sentence each."""
        found = []
        if self.written < DEAD:
            found.append(
                f"The write gate is dead: it lets {self.written:.1%} of the text through, so there "
                "is nothing to learn from. Lower gate_lr, or raise memory.write_budget."
            )
        if budget is not None and budget < FULL < self.written:
            found.append(
                f"The write gate does not close: everything is written, and the budget is "
                f"{budget:.0%}. Raise gate_lr, or start from a model with a trained gate."
            )
        if self.evidence is not None and self.evidence < BLIND:
            found.append(
                f"Questions read {self.evidence:.1%} from memory: it has no say in the answers. "
                "Raise memory_lr, or lower memory.null_offset."
            )
        widest = DIFFUSE * math.log(self.slots) if self.slots >= 8 else math.inf
        if self.entropy is not None and self.entropy > widest:
            found.append(
                f"Reads have collapsed: they spread over all {self.slots:.0f} slots alike. "
                "Lower the learning rates."
            )
        return found
