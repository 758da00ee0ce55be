"""`Parts`: a memory as files and checks see it, as tensors by name and the rest of the header."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Bool
from torch import Tensor

from memformer.memory.columns import EMPTY


@dataclass(frozen=True)
class ReadDocument:
    """A document that was read into a memory of one row, whole or in part.

    Attributes:
        checksum: the checksum of the document's text.
        name: the name that a person gives the document.
        turn: the turn that the document's slots belong to.
        tokens: how many tokens of the text are read so far.
        whole: whether all of the text is read.
    """

    checksum: str
    name: str
    turn: int
    tokens: int
    whole: bool


@dataclass(frozen=True)
class Parts:
    """The parts of a memory, as a file holds them.

    Attributes:
        tensors: the tensors that `columns.py` names.
        num_slots: see `MemoryConfig`.
        record_tokens: see `MemoryConfig`.
        fingerprint: the fingerprint of the model that wrote the memory.
        documents: the documents that were read into the memory.
    """

    tensors: Mapping[str, Tensor]
    num_slots: Any
    record_tokens: Any
    fingerprint: Mapping[Any, Any]
    documents: tuple[ReadDocument, ...] = ()

    @property
    def occupied(self) -> Bool[Tensor, "batch slots"]:
        """Which slots hold a token."""
        return self.tensors["token"] != EMPTY
