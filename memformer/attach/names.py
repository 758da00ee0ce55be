"""Names of the memory's weights: the names of today, and the names of version 0.1.0.

In version 0.1.0 the lowest memory layer owned the heads of the slot table. Checkpoints of that
version still open. Fingerprints are still made with the old names, so that memories of that version
still fit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor

from memformer.attach.layers import MemoryPath

_TABLE = re.compile(r"^memory\.0\.(write_gate_|release\.)")
_LAYER = re.compile(r"^memory\.(\d+)\.")


def upgraded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights of a checkpoint by the names of today; names of today stay as they are."""
    return {
        _LAYER.sub(r"memory.layers.\1.", _TABLE.sub(r"memory.table.\1", name)): weight
        for name, weight in weights.items()
    }


def first_names(path: MemoryPath) -> dict[str, Tensor]:
    """The weights of a memory path by the names, and in the order, of version 0.1.0."""
    named: dict[str, Tensor] = {}
    for index, layer in enumerate(path.layers):
        modules = [layer, path.table] if index == 0 else [layer]
        own = [list(module.named_parameters(recurse=False)) for module in modules]
        parts = [
            [(name, weight) for name, weight in module.named_parameters() if "." in name]
            for module in modules
        ]
        for group in (*own, *parts):
            named |= {f"{index}.{name}": weight for name, weight in group}
    return named
