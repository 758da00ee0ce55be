"""How far a run is, as its checkpoints keep it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from training.finetuning.step import Learned


@dataclass(frozen=True)
class Best:
    """The measurement with the best score.

    Attributes:
        score: the number that weights are chosen by; None: nothing is measured yet.
        step: the step after which it was measured.
        scores: all that was measured then, by name.
    """

    score: float | None = None
    step: int = 0
    scores: dict[str, float] | None = None

    def entry(self) -> dict[str, Any]:
        """The measurement as JSON."""
        found: dict[str, Any] = {"score": self.score, "step": self.step}
        return found if self.scores is None else found | {"scores": self.scores}


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps that are done.
        tokens: tokens that were read, in all processes.
        seconds: time that the steps took.
        share: share of the text that the last step wrote; None: there was no step.
        best: the best measurement.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    share: float | None = None
    best: Best = field(default_factory=Best)

    def add(self, learned: Learned) -> None:
        """Counts one step."""
        self.step += 1
        self.tokens += learned.tokens
        self.seconds += learned.seconds
        self.share = learned.share
