"""Saves and loads the parts of a memory, and checks them both times."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from memformer.memory.check import MOST, flaw, flaw_of_slots
from memformer.memory.columns import COLUMNS, CONTENTS, COUNTS, RECORD
from memformer.memory.file import VERSION, damaged, load_tensors, save_tensors
from memformer.memory.parts import Parts, ReadDocument
from memformer.memory.record import of_slots

# the longest text of which a memory without a record is converted: a record takes 12 bytes a token
MOST_CONVERTED = 2**26


def save_parts(path: str | Path, parts: Parts, user: str | None) -> None:
    """Writes a memory to a file; refuses a memory with a flaw."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in parts.tensors.items()}
    parts = dataclasses.replace(parts, tensors=tensors)
    if (found := flaw(parts)) is not None:
        raise ValueError(f"The memory was not saved, because it {found}; nothing has changed.")
    header: dict[str, Any] = {
        "fingerprint": parts.fingerprint,
        "num_slots": parts.num_slots,
        "record_tokens": parts.record_tokens,
    }
    if parts.documents:
        header["documents"] = [dataclasses.asdict(read) for read in parts.documents]
    if user is not None:
        header["user"] = user
    save_tensors(path, tensors, header)


def load_parts(path: str | Path, user: str | None) -> Parts:
    """Reads a memory from a file, and checks every byte."""
    tensors, header = load_tensors(path)
    has_record = header["version"] == VERSION
    if tensors.keys() != {*CONTENTS, *COLUMNS, *COUNTS, *(RECORD if has_record else ())}:
        raise damaged(path, "does not match its checksum")
    try:
        documents = tuple(ReadDocument(**read) for read in header.get("documents", ()))
    except TypeError:
        raise damaged(path, "has documents that are none") from None
    parts = Parts(
        tensors, header["num_slots"], header["record_tokens"], header["fingerprint"], documents
    )
    # the clocks of a loaded memory need room for the turns that follow
    most = MOST // 2
    if not has_record:
        parts = _converted(path, parts, most)
    if (found := flaw(parts, most)) is not None:
        raise damaged(path, found)
    if user is not None and header.get("user") != user:
        raise ValueError(
            f"The memory file {path} is not the memory of user {user!r}: it was saved for "
            f"{header.get('user', 'nobody in particular')!r}. Put the right file there, or delete "
            "it and start a new memory."
        )
    return parts


def _converted(path: str | Path, parts: Parts, most: int) -> Parts:
    """A memory of the format before, with a record of the tokens that are still in its slots."""
    if (found := flaw_of_slots(parts, most)) is not None:
        raise damaged(path, found)
    num_seen = int(parts.tensors["num_seen"].max())
    if num_seen > MOST_CONVERTED:
        raise damaged(path, f"has num_seen {num_seen}, and a record has room for {MOST_CONVERTED}")
    return dataclasses.replace(parts, tensors={**parts.tensors, **of_slots(parts.tensors)})
