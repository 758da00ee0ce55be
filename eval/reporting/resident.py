"""Memory of the machine: free bytes, resident bytes of this process, and fresh processes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TypeVar

import psutil
import torch

Given = TypeVar("Given")
Found = TypeVar("Found")


def in_fresh_process(measure: Callable[[Given], Found], cell: Given) -> Found:
    """Runs a measurement in a new interpreter, so that no earlier one leaves memory resident."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, cell).result()


def _status(field: str) -> int | None:
    """A size in bytes from the kernel's page on this process; None if there is no such page."""
    page = Path("/proc/self/status")
    if not page.is_file():
        return None
    for line in page.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def available(device: str) -> int:
    """Free bytes for a model, on the machine or on a GPU."""
    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def peak() -> int:
    """Highest resident size so far, in bytes."""
    # the kernel's page is preferred: getrusage counts memory of the parent process too, and does
    # not follow a reset
    found = _status("VmHWM")
    if found is not None:
        return found
    usage = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return usage if sys.platform == "darwin" else usage * 1024


def resident() -> int:
    """Resident size now, in bytes; the peak where the system tells only the peak."""
    found = _status("VmRSS")
    return peak() if found is None else found


def release() -> None:
    """Gives freed memory back to the system, where the C library can (glibc can).

    Otherwise memory that loading has freed stays resident, and reading seems to need less.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak() -> bool:
    """Resets the peak; returns whether the system can (Linux can)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True
