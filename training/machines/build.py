"""The task and the machine that a config names."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from memformer.classic import DNC, NTM, SAM, SegmentDNC
from training.machines.machine import LSTM, Machine
from training.machines.settings import ClassicConfig, MachineSection
from training.machines.tasks import TASKS, Task
from training.setup.config import BadConfig

MACHINES: dict[str, type] = {
    "dnc": DNC,
    "ntm": NTM,
    "sam": SAM,
    "segment_dnc": SegmentDNC,
    "lstm": LSTM,
}


def build(config: ClassicConfig) -> tuple[Task, Machine]:
    """The task and the machine of a config.

    Raises:
        BadConfig: an unknown name, or an option that its class does not have.
    """
    task = _made(TASKS, "task", config.task)
    sizes = {"input_size": task.input_size, "output_size": task.output_size}
    torch.manual_seed(config.seed)
    return task, made_machine(config.machine, **sizes)


def made_machine(section: MachineSection, **sizes: int) -> Any:
    """The machine of a config.

    Args:
        section: its name and options.
        sizes: the other arguments of its class: `input_size` and `output_size`.

    Raises:
        BadConfig: an unknown name, or an option that its class does not have.
    """
    return _made(MACHINES, "machine", section, **sizes)


def _made(known: dict[str, type], what: str, section: Any, **given: int) -> Any:
    """An object of the class that a section names.

    Args:
        known: classes by name.
        what: "task" or "machine", for messages.
        section: has a name and options.
        given: the arguments of the class that are no options.
    """
    if section.name not in known:
        names = ", ".join(sorted(known))
        raise BadConfig(f"{what}.name is {section.name!r}; it must be one of {names}.")
    options = set(inspect.signature(known[section.name]).parameters) - set(given)
    if unknown := set(section.options) - options:
        raise BadConfig(
            f"{what}.options: {section.name} has no option {min(unknown)!r}; it has "
            f"{', '.join(sorted(options))}."
        )
    try:
        return known[section.name](**given, **section.options)
    except (ValueError, ModuleNotFoundError) as error:
        raise BadConfig(f"{what}.options of {section.name}: {error}") from None
