"""Where memories live between sessions: :class:`MemoryStore`, one file per user.

A store keeps the latest memory of each user, and nothing else. This file locks, loads and saves;
`folder.py` names the files, and `memory/file.py` knows their format.
"""

from __future__ import annotations

import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import platformdirs

from memformer.folder import MAX_USER_CHARACTERS, SALT, Stored, StoreFolder, checked_user
from memformer.memory import IncompatibleMemory, MemoryState
from memformer.memory.file import (
    read_header,
    remove_leftovers,
    sync_folder,
)
from memformer.memory.state import MemoryOwner

# modes with any of these bits let others into a folder
OTHERS = stat.S_IRWXG | stat.S_IRWXO


class MemoryBusy(TimeoutError):
    """Another session is using this user's memory right now."""


class MemoryStore:
    """A folder of memories, one per user id.

    The names of the files are salted hashes: no id leads out of the folder, and a listing of the
    folder does not tell whose memories are there, not even to somebody who tries names. Ids that
    look the same are the same: Unicode's form NFC decides. Only the owner can open the folder and
    its files. A salt that is lost or damaged is not replaced: calls about a user are refused until
    somebody restores it. A save replaces the file in one step: a reader sees the old memory or the
    new one, never a part.

    Args:
        root: the folder; the first save makes it. None: `$MEMFORMER_STORE`, or else the
            platform's folder for user data.

    Raises:
        ValueError: `root` is a file, or lies in a home folder that is not known.

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
        self._folder = StoreFolder(self.root)

    def load(self, user: str, model: MemoryOwner) -> MemoryState | None:
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
        """The user's memory, for any model, or None where nothing was saved.

        Raises:
            ValueError: the user id is not usable, or the file is damaged, forged or another
                user's.
            PermissionError: the file may not be read.
        """
        user = checked_user(user)
        path = self._folder.find(user)
        if path is None:
            return None
        try:
            # the files of older versions do not say whose they are
            is_old = path == self._folder.old_path(user) and read_header(path).get("user") is None
            memory = MemoryState.load(path, user=None if is_old else user)
        except FileNotFoundError:  # another process has just deleted it
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
            memory: the new memory, with one row.
            timeout: seconds to wait for another session to finish.

        Raises:
            ValueError: the user id is not usable, the memory has several rows, or it is flawed, for
                example by NaN.
            MemoryBusy: another session is writing it.
        """
        user = checked_user(user)
        if memory.batch_size != 1:
            raise ValueError(
                f"A user has one memory, but this one has {memory.batch_size} rows; pick one with "
                "memory.select([row])."
            )
        with self.lock(user, timeout):
            self._folder.find(user)  # refuses a folder or a pipe with the file's name
            path = self._folder.path(user)
            memory.save(path, user=user)
            path.chmod(0o600)
            self._folder.remove_old(user)

    def delete(self, user: str, timeout: float = 0.0) -> bool:
        """Removes the user's memory and the files beside it; False where there was none.

        Args:
            user: whose memory.
            timeout: seconds to wait for another session to finish.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: another session is writing it.
        """
        user = checked_user(user)
        if not self.root.is_dir():
            return False
        with self.lock(user, timeout):
            found = self._folder.find(user) is not None
            self._folder.path(user).unlink(missing_ok=True)
            self._folder.remove_old(user)
            sync_folder(self.root)
        return found

    def exists(self, user: str) -> bool:
        """Whether the user has a memory here.

        Raises:
            ValueError: the user id is not usable, a folder or a pipe has the name of the file, or
                the salt is damaged or lost.
        """
        return self._folder.find(checked_user(user)) is not None

    def version(self, user: str) -> str | None:
        """A mark of the saved memory that every change replaces; None where nothing is saved.

        Raises:
            ValueError: the user id is not usable, or the file is damaged.
        """
        path = self._folder.find(checked_user(user))
        if path is None:
            return None
        try:
            return str(read_header(path).get("sha256"))
        except FileNotFoundError:  # another process has just deleted it
            return None

    def memories(self) -> list[Stored]:
        """The memories in the store, by user.

        Warns:
            UserWarning: a file that is no memory, or that can't be read, is left out.
        """
        return self._folder.memories()

    @contextmanager
    def lock(self, user: str, timeout: float = 0.0) -> Iterator[None]:
        """Keeps every other process and thread from writing the user's memory.

        The holder may take the lock again, so `save` inside `with store.lock(user)` works. The lock
        removes the leftovers of killed processes beside the user's memory, and its own file where
        the user has no memory.

        Args:
            user: whose memory.
            timeout: seconds to wait for another session to finish.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: the memory was not free in time.
        """
        user = checked_user(user)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder.path(user).with_suffix(".lock")
        lock = filelock.FileLock(path, mode=0o600, is_singleton=True)
        try:
            lock.acquire(timeout=timeout)
        except filelock.Timeout as error:
            raise MemoryBusy(
                f"The memory of user {user!r} is in use by another session; "
                "try again when that one has finished."
            ) from error
        try:
            remove_leftovers(self._folder.path(user))
            yield
        finally:
            # a process that waits for the lock sees that its file is gone, and takes a new one
            if lock.lock_counter == 1 and not any(
                map(os.path.lexists, self._folder.candidates(user))
            ):
                path.unlink(missing_ok=True)
            lock.release()


__all__ = ["MAX_USER_CHARACTERS", "SALT", "MemoryBusy", "MemoryStore", "Stored"]
