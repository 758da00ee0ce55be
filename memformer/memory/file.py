"""The file format of a memory: named tensors and a JSON header, in one safetensors file.

A file is written whole or not at all. This module does not know the meaning of the tensors.
"""

from __future__ import annotations

import contextlib
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

try:
    import fcntl
except ImportError:  # Windows, where an open file can't be removed
    fcntl = None  # type: ignore[assignment]

FORMAT = "memformer-memory"
VERSION = 5
# bytes of JSON before the tensors; memformer writes about two thousand
MOST_HEADER = 2**20


class IncompatibleMemory(ValueError):
    """A memory that this model or this version can't read; the message gives the reason."""


def save_tensors(path: str | Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Writes a memory file beside its destination, then moves the file there in one step.

    Args:
        path: the destination.
        tensors: the tensors by name, on the CPU and contiguous.
        header: values that JSON can hold; format, version and checksum are added.

    Raises:
        OSError: the folder can't be written; an older file stays as it was.
    """
    header = {"format": FORMAT, "version": VERSION} | header
    header["sha256"] = _digest(header, tensors)
    metadata = {"memformer": json.dumps(header)}
    write_atomically(Path(path), lambda beside: save_file(tensors, beside, metadata))


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a memory file of this version or the version before.

    Every byte is checked against the checksum. The file is read once, so that the checked
    bytes are the used bytes even if the file changes meanwhile.

    Args:
        path: the file.

    Raises:
        FileNotFoundError, PermissionError: the file can't be read.
        IncompatibleMemory: the file is of another version.
        ValueError: the file is damaged or no memory.
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
    if type(version) is int and version not in (VERSION, VERSION - 1):
        raise IncompatibleMemory(
            f"{source} has memory format version {version}; this memformer reads versions "
            f"{VERSION - 1} and {VERSION}."
        )
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise damaged(source, f"is no safetensors file ({error})") from None
    del data
    checksum = header.pop("sha256", None)
    if checksum != _digest(header, tensors):
        raise damaged(source, "does not match its checksum")
    fingerprint = header.get("fingerprint")
    if version == VERSION - 1:  # it has no record
        header.setdefault("record_tokens", None)
    says = type(version) is int and {"num_slots", "record_tokens"} <= header.keys()
    if not says or not isinstance(fingerprint, dict):
        raise damaged(source, "has a header that does not say what it is")
    return tensors, header


def read_header(path: Path) -> dict[str, Any]:
    """The header of a memory file: its user, and the model that wrote it.

    Only the form of the header is checked: `fingerprint`, where there is one, is a table, and
    `user` is text.

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
    """The JSON header of a file's bytes; safetensors itself reads headers of files only.

    Raises:
        ValueError: no memory of memformer has such a header.
    """
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        if not 8 < end <= min(len(data), 8 + MOST_HEADER):
            raise ValueError("it is cut off")
        header = json.loads(json.loads(data[8:end])["__metadata__"]["memformer"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise damaged(source, "has no header that can be read") from None
    if not isinstance(header, dict):
        raise damaged(source, "has a header that is no table")
    if header.get("format") != FORMAT:
        raise ValueError(
            f"{source} is a safetensors file, but not a memory saved by memformer; choose another "
            "file."
        )
    user, fingerprint = header.get("user"), header.get("fingerprint", {})
    if not (user is None or isinstance(user, str)) or not isinstance(fingerprint, dict):
        raise damaged(source, "has a header that does not say what it is")
    return header


def _check_is_file(source: Path) -> None:
    """Checks that a regular file is there; a reader of a pipe could wait for ever.

    Raises:
        FileNotFoundError: there is no file.
        ValueError: a folder, a pipe or a broken link is there.
    """
    if source.is_file():
        return
    if not os.path.lexists(source):
        raise FileNotFoundError(f"There is no memory file at {source}.")
    raise damaged(source, "is no regular file")


def damaged(source: str | Path, how: str) -> ValueError:
    """The error for a file that is damaged, forged or no memory."""
    return ValueError(
        f"The memory file {source} is damaged or not a memory: it {how}; restore it from a copy or "
        "start a new memory."
    )


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Writes a file so that a crash leaves either the old file or the new file.

    The file is written in a folder beside its destination and moved there. One process at a time
    writes; the others wait.

    Args:
        target: the file.
        write: writes the file at a given path.

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
    """Removes the unfinished file that a killed process left behind."""
    if os.path.lexists(_beside(target)):
        with _held(_beside(target)):
            pass


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.name}.writing")


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[Path]:
    """An empty folder that this process holds alone, and that is removed afterwards.

    If the process is killed, the system releases the folder, and its next holder empties it. A file
    or a link in place of the folder is removed; the target of a link stays.
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
                    continue  # the holder before has just removed it
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
        return  # Windows can't open folders
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
