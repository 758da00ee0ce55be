"""The file format of a memory: one safetensors file with a JSON header, whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from memformer.memory.check import MOST, flaw
from memformer.memory.state import (
    CONTENTS,
    ROW,
    TABLE,
    IncompatibleMemory,
    MemoryState,
    ReadDocument,
)

try:
    import fcntl
except ImportError:  # on Windows, where an open file can't be removed anyway
    fcntl = None  # type: ignore[assignment]

FORMAT = "memformer-memory"
VERSION = 3
# bytes of JSON before the tensors; memformer writes about two thousand
MOST_HEADER = 2**20


def save_memory(state: MemoryState, path: str | Path, user: str | None = None) -> None:
    """Writes a memory beside its destination, then moves it there in one step.

    Args:
        state: the memory.
        path: where it goes.
        user: whose it is, kept in the header: no other user can be given the file.

    Raises:
        ValueError: the memory holds what none can hold, such as NaN; an older file stays as it was.
        OSError: the folder can't be written; an older file stays as it was.
    """
    tensors = {name: value.detach().cpu().contiguous() for name, value in state._tensors().items()}
    if (found := flaw(state)) is not None:
        raise ValueError(f"The memory was not saved, because it {found}; nothing has changed.")
    header: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "fingerprint": state.fingerprint,
        "num_slots": state.num_slots,
    }
    if state.documents:
        header["documents"] = [dataclasses.asdict(read) for read in state.documents]
    if user is not None:
        header["user"] = user
    header["sha256"] = _digest(header, tensors)
    metadata = {"memformer": json.dumps(header)}
    write_atomically(Path(path), lambda beside: save_file(tensors, beside, metadata))


def load_memory(path: str | Path, user: str | None = None) -> MemoryState:
    """Reads a memory back, checking every byte of it; see `MemoryState.load`.

    The file is read once, so that what is checked is what is used, whatever happens to the file.

    Args:
        path: the file.
        user: whose memory it has to be; None: anybody's.
    """
    source = Path(path)
    _check_is_file(source)
    try:
        data = source.read_bytes()
    except PermissionError:
        raise PermissionError(
            f"The memory file {source} can't be read: you have no permission to; give its reader "
            "the right to read it."
        ) from None
    header = _header(source, data)
    version = header.get("version")
    if type(version) is int and version != VERSION:
        raise IncompatibleMemory(
            f"{source} has memory format version {version}; this memformer reads version {VERSION}."
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise _damaged(source, f"is no safetensors file ({error})") from None
    del data
    checksum = header.pop("sha256", None)
    if tensors.keys() != {*CONTENTS, *TABLE, *ROW} or checksum != _digest(header, tensors):
        raise _damaged(source, "does not match its checksum")
    fingerprint = header.get("fingerprint")
    if type(version) is not int or "num_slots" not in header or not isinstance(fingerprint, dict):
        raise _damaged(source, "has a header that does not say what it is")
    try:
        documents = tuple(ReadDocument(**read) for read in header.get("documents", ()))
    except TypeError:
        raise _damaged(source, "has documents that are none") from None
    state = MemoryState(
        **tensors, num_slots=header["num_slots"], fingerprint=fingerprint, documents=documents
    )
    # the clocks of a loaded memory need room for the turns that follow
    if (found := flaw(state, MOST // 2)) is not None:
        raise _damaged(source, found)
    if user is not None and header.get("user") != user:
        raise ValueError(
            f"The memory file {source} is not the memory of user {user!r}: it was saved for "
            f"{header.get('user', 'nobody in particular')!r}. Put the right file there, or delete "
            "it and start a new memory."
        )
    return state


def read_header(path: Path) -> dict[str, Any]:
    """The header of a memory file: whose it is and which model wrote it.

    Only the form of the header is checked. `fingerprint`, where it is there, is a table, and `user`
    is text.

    Raises:
        OSError: the file can't be read.
        ValueError: the file is no memory.
    """
    _check_is_file(path)
    with path.open("rb") as file:
        start = file.read(8)
        data = start + file.read(min(int.from_bytes(start, "little"), MOST_HEADER))
    return _header(path, data)


def _header(source: Path, data: bytes) -> dict[str, Any]:
    """The JSON beside the tensors, which safetensors itself gives for files only.

    Raises:
        ValueError: no memory of memformer has such a header.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        if not 8 < end <= min(len(data), 8 + MOST_HEADER):
            raise ValueError("it is cut off")
        header = json.loads(json.loads(data[8:end])["__metadata__"]["memformer"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(source, "has no header that can be read") from None
    if not isinstance(header, dict):
        raise _damaged(source, "has a header that is no table")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{source} is a safetensors file, but not a memory saved by memformer; choose another "
            "file."
        )
    user, fingerprint = header.get("user"), header.get("fingerprint", {})
    if not (user is None or isinstance(user, str)) or not isinstance(fingerprint, dict):
        raise _damaged(source, "has a header that does not say what it is")
    return header


def _check_is_file(source: Path) -> None:
    """That a regular file is there; whoever reads a pipe would wait for ever.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: a folder, a pipe or a broken link is there.
    """
    if source.is_file():
        return
    if not os.path.lexists(source):
        raise FileNotFoundError(f"There is no memory file at {source}.")
    raise _damaged(source, "is no regular file")


def _damaged(source: Path, how: str) -> ValueError:
    return ValueError(
        f"The memory file {source} is damaged or not a memory: it {how}; restore it from a copy or "
        "start a new memory."
    )


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that a crash leaves either the old one or the new one.

    It is written in a folder beside its destination and moved there. One process at a time writes
    it; the others wait.

    Args:
        target: the file.
        write: makes the file at the path that it is given.

    Raises:
        OSError: the file can't be written; an older file stays as it was.
    """
    with _held(_beside(target)) as folder:
        try:
            write(folder / target.name)
        except SafetensorError as error:  # on a full disk, for example
            raise OSError(
                f"{target} can't be written ({error}); make room on the disk or check its folder."
            ) from None
        with (folder / target.name).open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(folder / target.name, target)
    sync_folder(target.parent)


def remove_leftovers(target: Path) -> None:
    """Removes what a process that was killed while it wrote a file left of it."""
    if os.path.lexists(_beside(target)):
        with _held(_beside(target)):
            pass


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.writing")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """An empty folder that this process has for itself, and that is gone afterwards.

    The system lets go of it where the process is killed; who has it next empties it. A file or a
    link in its place is removed, and what a link points to stays.
    """
    while True:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISDIR(folder.lstat().st_mode):
                folder.unlink()
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.ExitStack() as stack:
            if fcntl is not None:
                try:
                    handle = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
                except FileNotFoundError:
                    continue  # who had it before has just removed it
                stack.callback(os.close, handle)
                fcntl.flock(handle, fcntl.LOCK_EX)
                if not folder.exists() or os.fstat(handle).st_ino != folder.lstat().st_ino:
                    continue
            for old in folder.iterdir():
                if stat.S_ISDIR(old.lstat().st_mode):
                    shutil.rmtree(old)
                else:
                    old.unlink()
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            yield folder
            return


def sync_folder(folder: Path) -> None:
    """Makes a rename or a removal in a folder last through a loss of power."""
    if os.name == "nt":
        return  # folders can't be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(tensors):
        value: Any = tensors[name]
        digest.update(f"{name}{tuple(value.shape)}{value.dtype}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
