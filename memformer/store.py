"""Where memories live between sessions: :class:`MemoryStore`, one file per user.

Knows files, names and locks; what is inside a memory is `memory/state.py`'s business. It keeps the
latest memory of each user and nothing else: versions, listing, export and a file of its own for
each of them come with the full store. Next: `chat.py`, which loads, talks and saves.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import filelock
import platformdirs

from memformer.memory import MemoryState

if TYPE_CHECKING:
    from memformer.model import MemformerForCausalLM

MAX_USER_CHARACTERS = 256


class MemoryBusy(TimeoutError):
    """Someone else is using this user's memory right now."""


class MemoryStore:
    """A folder of memories, one per user id.

    File names are hashes, so that an id can neither leave the folder nor be read off a listing of
    it. The folder is made for its owner only, and so is every file in it. A save replaces the
    file in one step: whoever reads sees the old memory or the new one, never a part.

    Args:
        root: the folder; made when something is first saved. None: `$MEMFORMER_STORE`, or else
            the platform's folder for user data.
    """

    def __init__(self, root: str | os.PathLike[str] | None = None) -> None:
        if root is None:
            root = os.environ.get("MEMFORMER_STORE") or platformdirs.user_data_dir("memformer")
        self.root = Path(root).expanduser()

    def load(self, user: str, model: MemformerForCausalLM) -> MemoryState | None:
        """The user's memory, or None where nothing was saved.

        Raises:
            ValueError: the user id is not usable, or the file is damaged.
            IncompatibleMemory: the memory was made by another model.
        """
        path = self._path(user)
        return MemoryState.load(path, model=model) if path.exists() else None

    def save(self, user: str, memory: MemoryState) -> None:
        """Replaces the user's memory.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: another session is writing it.
        """
        path = self._path(user)
        with self.lock(user):
            memory.save(path)
            path.chmod(0o600)

    def delete(self, user: str) -> bool:
        """Removes the user's memory; False where there was none.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: another session is writing it.
        """
        path = self._path(user)
        if not path.exists():
            return False
        with self.lock(user):
            path.unlink(missing_ok=True)
        return True

    def exists(self, user: str) -> bool:
        """Whether the user has a memory here.

        Raises:
            ValueError: the user id is not usable.
        """
        return self._path(user).exists()

    @contextmanager
    def lock(self, user: str, timeout: float = 0.0) -> Iterator[None]:
        """Keeps every other process and thread from writing the user's memory.

        The one who holds it may take it again, so `save` inside `with store.lock(user)` is fine.

        Args:
            user: whose memory.
            timeout: seconds to wait for someone else to finish.

        Raises:
            ValueError: the user id is not usable.
            MemoryBusy: it was not free in time.
        """
        path = self._path(user).with_suffix(".lock")
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = filelock.FileLock(path, is_singleton=True)
        try:
            lock.acquire(timeout=timeout)
        except filelock.Timeout as error:
            raise MemoryBusy(
                f"The memory of user {user!r} is in use by another session; "
                "try again when that one has finished."
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _path(self, user: str) -> Path:
        if not isinstance(user, str) or not user.strip() or len(user) > MAX_USER_CHARACTERS:
            shown = repr(user) if len(repr(user)) < 40 else f"one of {len(user)} characters"
            raise ValueError(
                f"A user id must be text of 1 to {MAX_USER_CHARACTERS} characters, "
                f"not only white space; got {shown}."
            )
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass")).hexdigest()
        return self.root / f"{digest}.safetensors"
