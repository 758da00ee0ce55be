"""Files of a run in progress: weights and optimizer, written whole or not at all, no pickle.

A run keeps `checkpoints/STEP` folders with two safetensors files and one JSON file. All else that a
resumed run needs is a function of the step: data, learning rate and random numbers (`sources.py`,
`step.py`). The memory of a document lives no longer than its step.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from memformer.memory.file import write_atomically

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
ENGINE = "engine"
# folder of the checkpoints, in the folder of a run
CHECKPOINTS = "checkpoints"
# the first process gets whole tensors, however they are sharded
WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
BEST = "best.safetensors"
SEPARATOR = "|"


class BadCheckpoint(ValueError):
    """A checkpoint that can't be used; the message gives the reason."""


def whole_weights(model: nn.Module) -> dict[str, Tensor]:
    """All weights as whole tensors, on the CPU of the first process."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    return cast(dict[str, Tensor], get_model_state_dict(model, options=options))


def save_best(folder: Path, weights: dict[str, Tensor]) -> None:
    """Writes the best weights so far."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {name: weight.contiguous() for name, weight in weights.items()}
    write_atomically(folder / BEST, lambda beside: save_file(whole, beside))


def load_best(folder: Path) -> dict[str, Tensor]:
    """Reads the best weights."""
    found: dict[str, Tensor] = load_file(folder / BEST)
    return found


def trained(weights: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The trained weights among all weights."""
    wanted = {name for name, weight in model.named_parameters() if weight.requires_grad}
    wanted = {name.removeprefix("module.") for name in wanted}
    return {name: weight for name, weight in weights.items() if name in wanted}


def save(
    folder: Path,
    step: int,
    model: nn.Module,
    optimizer: Optimizer,
    state: dict[str, Any],
    *,
    main: bool = True,
    keep: int = 2,
    engine: Callable[[Path], None] | None = None,
) -> None:
    """Writes `folder/STEP`, whole or not at all; all processes take part.

    Args:
        folder: the folder of all checkpoints of the run.
        step: number of steps that are done.
        model: the model in training, sharded or not.
        optimizer: the optimizer of `model`.
        state: the rest of the run's state, as JSON.
        main: whether this process writes.
        keep: number of checkpoints to keep, the newest ones.
        engine: writes weights and optimizer into a folder: DeepSpeed's own checkpoint. None: they
            are written here.
    """
    target = folder / f"{step:06d}"
    beside = folder / f".{target.name}.part"
    if main:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    try:
        if engine is not None:
            engine(beside / ENGINE)
        else:
            state = state | _gather(beside, model, optimizer, main)
        if not main:
            return
        text = json.dumps({"step": step, **state}, indent=1)
        (beside / STATE).write_text(text + "\n", encoding="utf-8")
        for file in beside.rglob("*.*"):
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        shutil.rmtree(target, ignore_errors=True)
        os.replace(beside, target)
    finally:
        if main:
            shutil.rmtree(beside, ignore_errors=True)
    for old in steps(folder)[:-keep]:
        shutil.rmtree(folder / f"{old:06d}")


def _gather(folder: Path, model: nn.Module, optimizer: Optimizer, main: bool) -> dict[str, Any]:
    """Writes whole weights and optimizer state in the first process; returns the groups as JSON."""
    weights = trained(cast(dict[str, Tensor], get_model_state_dict(model, options=WHOLE)), model)
    found = cast(dict[str, Any], get_optimizer_state_dict(model, optimizer, options=WHOLE))
    if not main:
        return {}
    moments = {
        f"{name}{SEPARATOR}{key}": torch.as_tensor(value).clone().contiguous()
        for name, entries in found["state"].items()
        for key, value in entries.items()
    }
    save_file({name: weight.contiguous() for name, weight in weights.items()}, folder / WEIGHTS)
    save_file(moments, folder / OPTIMIZER)
    groups = [
        {key: value for key, value in group.items() if _is_json(value)}
        for group in found["param_groups"]
    ]
    return {"groups": groups}


def _is_json(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple)


def steps(folder: Path) -> list[int]:
    """The steps with a checkpoint, in order."""
    return sorted(int(path.name) for path in folder.glob("[0-9]*") if (path / STATE).is_file())


def read_state(folder: Path, step: int) -> dict[str, Any]:
    """The state of a checkpoint, as given to `save`, with its `step`.

    Raises:
        BadCheckpoint: the file can't be read.
    """
    path = folder / f"{step:06d}" / STATE
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} can't be read ({error}); remove that folder.") from None
    return found


def newest(folder: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """The state of the newest checkpoint, as given to `save`, with its `step`.

    Args:
        folder: the folder of all checkpoints of the run.
        settings: settings of the run that goes on; the checkpoint must have the same.

    Raises:
        BadCheckpoint: there is none, its settings differ, or it can't be read.
    """
    kept = steps(folder)
    if not kept:
        raise BadCheckpoint(f"There is no checkpoint in {folder} to resume from.")
    state = read_state(folder, kept[-1])
    for key, value in json.loads(json.dumps(settings)).items():
        if state["settings"].get(key) != value:
            raise BadCheckpoint(
                f"The run in {folder.parent} has {key} {state['settings'].get(key)!r}, not "
                f"{value!r}; resume with the same, or choose another folder."
            )
    return state


def load(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Puts weights and optimizer state of a checkpoint back.

    Raises:
        BadCheckpoint: the checkpoint is damaged, or of another model.
    """
    place = folder / f"{step:06d}"
    try:
        weights = load_file(place / WEIGHTS)
        moments = load_file(place / OPTIMIZER)
    except (OSError, SafetensorError) as error:
        raise BadCheckpoint(f"{place} can't be read ({error}); remove that folder.") from None
    every: dict[str, Tensor] = {
        name.removeprefix("module."): weight for name, weight in model.named_parameters()
    }
    if different := set(weights) ^ trained(every, model).keys():
        raise BadCheckpoint(
            f"{place} is of another model: {len(different)} weights are in one of the two only, "
            f"such as {min(different)}."
        )
    many = torch.distributed.is_initialized()
    options = StateDictOptions(full_state_dict=True, strict=False, broadcast_from_rank0=many)
    set_model_state_dict(model, cast(dict[str, Any], weights), options=options)
    state: dict[str, Any] = {}
    for name, value in moments.items():
        parameter, _, key = name.rpartition(SEPARATOR)
        state.setdefault(parameter, {})[key] = value
    groups = [{**group, "params": group["params"]} for group in read_state(folder, step)["groups"]]
    set_optimizer_state_dict(
        model,
        optimizer,
        {"state": state, "param_groups": groups},
        options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=many),
    )
