"""The configs of the commands that train a machine, section by section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class TaskSection:
    """Which task, and in which sizes; the task says what a size is."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    smallest: int = 1
    largest: int = MISSING
    test_sizes: list[int] = MISSING
    curriculum: bool = False


@dataclass
class MachineSection:
    """Which machine; the options are those of its class."""

    name: str = MISSING
    options: dict[str, Any] = field(default_factory=dict)
    test_slots: int | None = None


@dataclass
class OptimSection:
    """How the machine is trained: Adam on batches of one size each.

    Attributes:
        lr_end: the learning rate goes from `lr` to this share of it, along a cosine.
        stop_below: the training ends once the error at the first test size is below this, on
            sequences made for that alone.
    """

    batches: int = MISSING
    batch_size: int = 16
    lr: float = 1e-3
    lr_end: float = 1.0
    clip: float = 10.0
    stop_below: float = 0.0


@dataclass
class ClassicConfig:
    """One experiment."""

    task: TaskSection = field(default_factory=TaskSection)
    machine: MachineSection = field(default_factory=MachineSection)
    optim: OptimSection = field(default_factory=OptimSection)
    seed: int = 0
    out: str = MISSING


@dataclass
class TrainSection:
    """How the machine is trained: Adam, warmed up, then down to a tenth of `lr` along a cosine."""

    batches: int = MISSING
    batch_size: int = 64
    lr: float = 1e-3
    clip: float = 10.0
    report_every: int = 500


@dataclass
class BabiConfig:
    """One experiment.

    Attributes:
        data: folder with the released files, en-10k.
        machine: name and options of the machine.
        words: width of a word's vector and of a sentence's.
        think: steps without input between a question and its answer.
        compile: compile the machine's step, which needs a C++ compiler; training takes two thirds
            of the time.
    """

    data: str = MISSING
    machine: MachineSection = field(default_factory=MachineSection)
    words: int = 64
    think: int = 2
    compile: bool = False
    train: TrainSection = field(default_factory=TrainSection)
    seed: int = 0
    out: str = MISSING
