"""The JSON file of a report: its head (command, settings, versions, machine), and writing it."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch


def head(module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The head of a report: command, settings, versions, machine and time.

    Args:
        module: the module that was run, such as `eval.recall`.
        settings: the settings of the measurement.
    """
    return {
        "benchmark": module.rpartition(".")[2],
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "transformers", "memformer-lm")},
        },
        "machine": machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # a checkout that is not installed has no metadata
        from memformer import __version__

        return __version__


def machine() -> dict[str, Any]:
    """The kind of machine, without its name: processor, cores, threads, and the GPU, if any."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    found: dict[str, Any] = {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def write_json(path: Path, report: dict[str, Any], levels: int = 4) -> None:
    """Writes a report whole or not at all: an interrupted run leaves the earlier report.

    Args:
        path: the file to write; its folder is made.
        report: the entries.
        levels: so many levels of entries get a line for each entry.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(_layout(report, levels) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _layout(value: Any, levels: int, indent: str = "") -> str:
    """JSON text; the entries of the first `levels` levels stand on lines of their own."""
    if levels == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        opening, closing = "{", "}"
        entries = [f"{json.dumps(k)}: {_layout(v, levels - 1, deeper)}" for k, v in value.items()]
    else:
        opening, closing = "[", "]"
        entries = [_layout(v, levels - 1, deeper) for v in value]
    inside = ",\n".join(deeper + entry for entry in entries)
    return f"{opening}\n{inside}\n{indent}{closing}"
