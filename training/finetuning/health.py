"""The state of a memory in training: the logged values, and warnings about them."""

from __future__ import annotations

import math
from dataclasses import dataclass

# bounds of the share of written tokens, of the weight of reads, and of their spread
DEAD, FULL, BLIND, DIFFUSE = 0.002, 0.998, 0.01, 0.95


@dataclass(frozen=True)
class Health:
    """Means of the logged values over the last steps.

    Attributes:
        written: share of the text that the write gate lets through.
        slots: occupied slots at the end of a document.
        evidence: how much questions read from memory, in [0, 1]; None: there was no question.
        entropy: how widely the reads are spread, in nats; None: there was no question.
    """

    written: float
    slots: float
    evidence: float | None
    entropy: float | None

    def warnings(self, budget: float | None) -> list[str]:
        """The problems of the memory, a sentence each."""
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
