"""`MemoryOwner`: what a memory asks of the model that it belongs to."""

from __future__ import annotations

from typing import Protocol, TypeVar

State = TypeVar("State")


class MemoryOwner(Protocol[State]):
    """A model that checks a memory from a file and takes it over.

    The type of the memory is a parameter, so that this file imports no other file.
    """

    def adopt_memory(self, memory: State, *, source: str) -> State:
        """Checks a memory and brings it to the model's device and dtype.

        Args:
            memory: the memory as it was loaded.
            source: the origin of the memory, for messages.

        Raises:
            IncompatibleMemory: another model wrote the memory.
            ValueError: no memory of this model can look like that.
        """
        ...
