"""Fixtures for all tests: one thread, a fixed seed, no network."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

torch.set_num_threads(1)  # tiny tensors: more threads only wait for one another


@pytest.fixture(autouse=True)
def _as_new() -> Iterator[None]:
    """The same seed for every test, and numbers as small as they are: training cuts them off."""
    torch.manual_seed(0)
    yield
    torch.set_flush_denormal(False)
