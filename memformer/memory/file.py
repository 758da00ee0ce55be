"""The file format of a memory: one safetensors file with a JSON header, whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from memformer.memory.state import CONTENTS, ROW, TABLE, IncompatibleMemory, MemoryState

FORMAT = "memformer-memory"
VERSION = 3


def save_memory(state: MemoryState, path: str | Path) -> None:
    """Writes a memory beside its destination, then moves it there in one step.

    Raises:
        OSError: the folder can't be written; an older file stays as it was.
    """
    target = Path(path)
    tensors = {name: value.detach().cpu().contiguous() for name, value in state._tensors().items()}
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": state.fingerprint,
        "num_slots": state.num_slots,
    }
    header["sha256"] = _digest(header, tensors)
    write_atomically(target, save(tensors, metadata={"memformer": json.dumps(header)}))


def load_memory(path: str | Path) -> MemoryState:
    """Reads a memory back, checking every byte of it; see `MemoryState.load`."""
    source = Path(path)
    if not source.is_file():
        raise FileNotFoundError(f"There is no memory file at {source}.")
    try:
        with safe_open(source, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("memformer", "{}"))
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names}
    except (SafetensorError, ValueError, OSError) as error:
        raise ValueError(
            f"The memory file {source} is damaged or not a memory ({error}); "
            "restore it from a copy or start a new memory."
        ) from None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ValueError(f"{source} is a safetensors file, but not a memory saved by memformer.")
    if header.get("version") != VERSION:
        raise IncompatibleMemory(
            f"{source} has memory format version {header.get('version')}; this memformer reads "
            f"version {VERSION}."
        )
    checksum = header.pop("sha256", None)
    if names != {*CONTENTS, *TABLE, *ROW} or checksum != _digest(header, tensors):
        raise ValueError(
            f"The memory file {source} is damaged: its contents do not match its checksum; "
            "restore it from a copy or start a new memory."
        )
    return MemoryState(
        **tensors, num_slots=header["num_slots"], fingerprint=dict(header["fingerprint"])
    )


def write_atomically(target: Path, data: bytes) -> None:
    """Writes a file so that a crash leaves either the old one or the new one."""
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value: Any = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
