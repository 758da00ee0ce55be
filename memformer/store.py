"""Where memories live between sessions: :class:`MemoryStore`, one file per user.

Knows files, names and locks; what is inside a memory is `memory/state.py`'s business. It keeps the
latest memory of each user and nothing else. Next: `chat.py`, which loads, talks and saves.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import stat
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

from memformer.memory import IncompatibleMemory, MemoryState
from memformer.memory.file import (
    read_header,
    remove_leftovers,
    sync_folder,
    write_atomically,
)

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

MAX_USER_CHARACTERS = 256
SALT = "salt"
SUFFIX = ".safetensors"
# modes with any of these bits let others into a folder
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class MemoryBusy(TimeoutError):
    """Someone else is using this user's memory right now."""


@dataclass(frozen=True)
class Stored:
    """One memory of a store, as its file says.

    Attributes:
        user: whose it is; None in a file of an older version, which does not say.
        path: the file.
        nbytes: its size.
        saved: when it was saved last, in seconds since 1970.
        model: the backbone of the model that wrote it; empty where it has no name.
        architecture: what decides the shape of its slots.
    """

    user: str | None
    path: Path
    nbytes: int
    saved: float
    model: str
    architecture: str


class MemoryStore:
    """A folder of memories, one per user id.

    File names are hashes with a salt that lies in the folder: an id can't leave the folder, and
    who sees a listing of it can't tell whose memories are there, not even by trying names. Ids that
    look the same are the same: they are compared in Unicode's form NFC. The folder is made for its
    owner only, and so is every file in it. A salt that is lost or damaged is not replaced: calls
    about a user are refused until it is restored. A save replaces the file in one step: whoever
    reads sees the old memory or the new one, never a part.

    Args:
        root: the folder; made when something is first saved. None: `$MEMFORMER_STORE`, or else
            the platform's folder for user data.

    Raises:
        ValueError: `root` is a file, or in a home folder that is not known.

    Warns:
        UserWarning: other users of the machine can look into the folder.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        try:
            if root is None:
                root = os.environ.get("MEMFORMER_STORE") or platformdirs.user_data_dir("memformer")
            self.root = Path(root).expanduser()
        except RuntimeError as error:
            raise ValueError(
                "The store of memories should be in a home folder, but this one is not known; set "
                "MEMFORMER_STORE to a full path."
            ) from error
        if self.root.exists() and not self.root.is_dir():
            raise ValueError(
                f"The store of memories must be a folder, but {self.root} is a file; choose "
                "another place, or move that file."
            )
        if os.name == "posix" and self.root.is_dir() and self.root.stat().st_mode & OTHERS:
            warnings.warn(
                f"Other users of this machine can look into the store of memories {self.root}; "
                f"close it with: chmod 700 {self.root}",
                stacklevel=2,
            )

    def load(self, user: str, model: MemformerForCausalLM) -> MemoryState | None:
        """The user's memory, or None where nothing was saved.

        Raises:
            ValueError: the user id is not usable, or the file is damaged, forged or another
                user's.
            IncompatibleMemory: the memory was made by another model.
            PermissionError: the file may not be read.
        """
        memory = self.read(user)
        if memory is None:
            return None
        try:
            return model.adopt_memory(memory, source=f"of user {user!r}")
        except IncompatibleMemory as error:
            raise IncompatibleMemory(
                f"{error} To put this one away: memformer memory delete --user {user!r}"
            ) from None

    def read(self, user: str) -> MemoryState | None:
        """The user's memory, whichever model wrote it, or None where nothing was saved.

        Raises:
            ValueError: the user id is not usable, or the file is damaged, forged or another
                user's.
            PermissionError: the file may not be read.
        """
        user = _checked(user)
        path = self._found(user)
        if path is None:
            return None
        try:
            # a file of an older version does not say whose it is
            is_old = path == self._old_path(user) and read_header(path).get("user") is None
            memory = MemoryState.load(path, user=None if is_old else user)
        except FileNotFoundError:  # deleted a moment ago
            return None
        if memory.batch_size != 1:
            raise ValueError(
                f"The memory of user {user!r} has {memory.batch_size} rows instead of one; it was "
                "not saved by a store. Put the right file there, or delete it."
            )
        return memory

    def save(self, user: str, memory: MemoryState, timeout: float = 0.0) -> None:
        """Replaces the user's memory.

        Args:
            user: whose memory.
            memory: of one row.
            timeout: seconds to wait for another session to finish.

        Raises:
            ValueError: the user id is not usable, the memory has several rows, or it holds what no
                memory can hold, such as NaN.
            MemoryBusy: another session is writing it.
        """
        user = _checked(user)
        if memory.batch_size != 1:
            raise ValueError(
                f"A user has one memory, but this one has {memory.batch_size} rows; pick one with "
                "memory.select([row])."
            )
        with self.lock(user, timeout):
            self._found(user)  # refuses a folder or a pipe that has the file's name
            path = self._path(user)
            memory.save(path, user=user)
            path.chmod(0o600)
            self._remove_old(user)

    def delete(self, user: str, timeout: float = 0.0) -> bool:
        """Removes the user's memory and all that belongs to it; False where there was none.

        Args:
            user: whose memory.
            timeout: seconds to wait for another session to finish.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: another session is writing it.
        """
        user = _checked(user)
        if not self.root.is_dir():
            return False
        with self.lock(user, timeout):
            found = self._found(user) is not None
            self._path(user).unlink(missing_ok=True)
            self._remove_old(user)
            sync_folder(self.root)
        return found

    def exists(self, user: str) -> bool:
        """Whether the user has a memory here.

        Raises:
            ValueError: the user id is not usable, a folder or a pipe has the name of the file, or
                the salt is damaged or lost.
        """
        return self._found(_checked(user)) is not None

    def version(self, user: str) -> str | None:
        """A mark of what is saved, different after every change; None where nothing is.

        Raises:
            ValueError: the user id is not usable, or the file is damaged.
        """
        path = self._found(_checked(user))
        if path is None:
            return None
        try:
            return str(read_header(path).get("sha256"))
        except FileNotFoundError:  # deleted a moment ago
            return None

    def memories(self) -> list[Stored]:
        """The memories in the store, by user; files that are no memories are left out.

        Warns:
            UserWarning: a file that is no memory, or that can't be read.
        """
        stored = []
        for path in self.root.glob(f"*{SUFFIX}"):
            try:
                header, status = read_header(path), path.stat()
            except FileNotFoundError:  # deleted a moment ago
                continue
            except (OSError, ValueError) as error:
                warnings.warn(f"The list of memories leaves a file out: {error}", stacklevel=2)
                continue
            fingerprint = header.get("fingerprint", {})
            stored.append(
                Stored(
                    user=header.get("user"),
                    path=path,
                    nbytes=status.st_size,
                    saved=status.st_mtime,
                    model=str(fingerprint.get("name", "")),
                    architecture=str(fingerprint.get("architecture", "")),
                )
            )
        return sorted(stored, key=lambda one: (one.user is None, one.user or "", one.path.name))

    @contextmanager
    def lock(self, user: str, timeout: float = 0.0) -> Iterator[None]:
        """Keeps every other process and thread from writing the user's memory.

        The one who holds it may take it again, so `save` inside `with store.lock(user)` is fine.
        What killed processes left beside the user's memory is removed, and the lock's own file
        goes with the last memory of the user.

        Args:
            user: whose memory.
            timeout: seconds to wait for someone else to finish.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: it was not free in time.
        """
        user = _checked(user)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._path(user).with_suffix(".lock")
        lock = filelock.FileLock(path, mode=0o600, is_singleton=True)
        try:
            lock.acquire(timeout=timeout)
        except filelock.Timeout as error:
            raise MemoryBusy(
                f"The memory of user {user!r} is in use by another session; "
                "try again when that one has finished."
            ) from error
        try:
            remove_leftovers(self._path(user))
            yield
        finally:
            # who waits for the lock sees that its file is gone, and takes a new one
            if lock.lock_counter == 1 and not any(map(os.path.lexists, self._paths(user))):
                path.unlink(missing_ok=True)
            lock.release()

    def _found(self, user: str) -> Path | None:
        """The file with the user's memory; None where there is none.

        Raises:
            ValueError: what has its name is no regular file, or the salt is damaged or lost.
        """
        found = next((path for path in self._paths(user) if os.path.lexists(path)), None)
        if found is not None and not found.is_file() and os.path.lexists(found):
            raise ValueError(
                f"{found} has the name of the memory of user {user!r}, but is no regular file; "
                "move it away, or put the memory's file there."
            )
        return found

    def _paths(self, user: str) -> list[Path]:
        """Where the user's memory may be: its name now, and that of older versions."""
        salted = [self._path(user)] if self._has_salt() else []
        return [*salted, self._old_path(user)]

    def _path(self, user: str) -> Path:
        digest = hashlib.sha256(self._salt() + user.encode("utf-8", "surrogatepass"))
        return self.root / f"{digest.hexdigest()}{SUFFIX}"

    def _old_path(self, user: str) -> Path:
        """Where versions up to 0.1.0 kept it: names without a salt."""
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass"))
        return self.root / f"{digest.hexdigest()}{SUFFIX}"

    def _remove_old(self, user: str) -> None:
        """Removes what older versions kept of a user, and what they left when they were killed."""
        old = self._old_path(user)
        if old.is_file():
            old.unlink()
            for left in (old.with_suffix(".lock"), *self.root.glob(f".{old.name}.*")):
                left.unlink(missing_ok=True)

    def _salt(self) -> bytes:
        """The folder's own random text; without it, no memory in the folder is found again.

        Raises:
            ValueError: the file is damaged, or it is lost and memories need it.
        """
        path = self.root / SALT
        if not self._has_salt():
            beside = path.with_suffix(".lock")
            with filelock.FileLock(beside, mode=0o600):
                if not self._has_salt():
                    write_atomically(path, _write_salt)
                beside.unlink(missing_ok=True)
        salt = path.read_text(encoding="ascii", errors="replace") if path.is_file() else ""
        if not re.fullmatch("[0-9a-f]{64}", salt):
            raise self._without_salt("is damaged")
        return salt.encode()

    def _has_salt(self) -> bool:
        """Whether the salt is there; it is made when something is first saved.

        Raises:
            ValueError: it is lost, and memories need it.
        """
        path = self.root / SALT
        if os.path.lexists(path):
            return True
        # a file that says whose it is has a name that was made with a salt
        is_needed = any(one.user is not None for one in self.memories())
        # another process may have made the salt and that file a moment ago
        if is_needed and not os.path.lexists(path):
            raise self._without_salt("is gone")
        return is_needed

    def _without_salt(self, how: str) -> ValueError:
        return ValueError(
            f"The file {self.root / SALT}, which the names of all memories there depend on, {how}; "
            f"restore it from a copy, or move it and all files *{SUFFIX} there away."
        )


def _write_salt(path: Path) -> None:
    path.write_text(secrets.token_hex(32), encoding="ascii")
    path.chmod(0o600)


def _checked(user: str) -> str:
    """A usable id, in the form in which ids are compared."""
    if isinstance(user, str) and user.strip() and len(user) <= MAX_USER_CHARACTERS:
        return unicodedata.normalize("NFC", user)
    shown = repr(user) if len(repr(user)) < 40 else f"one of {len(user)} characters"
    raise ValueError(
        f"A user id must be text of 1 to {MAX_USER_CHARACTERS} characters, "
        f"not only white space; got {shown}."
    )
