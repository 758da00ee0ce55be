"""The log of a run, and the lines that it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console

from memformer import MemoryConfig
from training.finetuning.health import Health
from training.finetuning.settings import Settings


class Log:
    """Prints lines, and writes `log.jsonl`; the first process alone does both."""

    def __init__(self, out: Path, accelerator: Accelerator, console: Console) -> None:
        self.out, self.accelerator, self.console = out, accelerator, console

    def tell(self, text: str) -> None:
        """Prints a line."""
        if self.accelerator.is_main_process:
            self.console.print(text, highlight=False)

    def write(self, step: int, entry: Mapping[str, Any]) -> None:
        """Appends an entry to the log, and hands its numbers to accelerate's trackers."""
        if self.accelerator.is_main_process:
            with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **entry}) + "\n")
        numbers = {name: value for name, value in entry.items() if isinstance(value, float)}
        self.accelerator.log(numbers, step=step)


def means(entries: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean of each value over the steps that have it, rounded."""
    found = {}
    for name in dict.fromkeys(name for entry in entries for name in entry):
        values = [entry[name] for entry in entries if name in entry]
        found[name] = round(sum(values) / len(values), 5)
    return found


def warnings(entry: Mapping[str, float], settings: Settings, memory: MemoryConfig) -> list[str]:
    """Sentences about a memory that does not work; none where no step had a memory."""
    if settings.window is not None or "written" not in entry:
        return []
    health = Health(entry["written"], entry["slots"], entry.get("evidence"), entry.get("entropy"))
    return health.warnings(memory.write_budget)


def shown(entry: Mapping[str, float]) -> str:
    """The values that stand beside the progress bar."""
    return "  ".join(
        f"{name.removesuffix('_loss')} {entry[name]:.3f}"
        for name in ("answer_loss", "text_loss", "teacher_loss", "written", "evidence")
        if name in entry
    )
