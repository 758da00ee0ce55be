"""A memory in parts, as files and checks see it: tensors by name, and the rest of its header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from memformer.memory.columns import EMPTY


@dataclass(frozen=True)
class ReadDocument:
    """A document that was read into a memory of one row, whole or up to where it was interrupted.

    Attributes:
        checksum: the checksum of its text.
        name: the name that a person gives it.
        turn: the turn that its slots belong to.
        tokens: how many tokens of the text are read so far.
        whole: whether nothing of it is left to read.
    """

    checksum: str
    name: str
    turn: int
    tokens: int
    whole: bool


@dataclass(frozen=True)
class Parts:
    """A memory in parts, as they are in a file.

    Attributes:
        tensors: all that `columns.py` names.
        num_slots: see `MemoryConfig`.
        fingerprint: of the model that wrote it.
        documents: those that were read into it.
    """

    tensors: Mapping[str, Tensor]
    num_slots: Any
    fingerprint: Mapping[Any, Any]
    documents: tuple[ReadDocument, ...] = ()

    @property
    def occupied(self) -> Bool[Tensor, "batch slots"]:
        """Which slots hold something."""
        return self.tensors["token"] != EMPTY
