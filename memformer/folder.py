"""`StoreFolder`: which file of a store keeps whose memory, and which memories there are.

The name of a file is a hash of the user's id and of a salt. The salt is a random text that lies in
the folder, so a listing of the folder does not tell whose memories are there.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import unicodedata
import warnings
from dataclasses import dataclass
from pathlib import Path

import filelock

from memformer.memory.file import read_header, write_atomically

MAX_USER_CHARACTERS = 256
SALT = "salt"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Stored:
    """One memory of a store, as its file describes it.

    Attributes:
        user: whose memory it is; None where a file of an older version does not say.
        path: the file.
        nbytes: the size of the file.
        saved: when the file was last written, in seconds since 1970.
        model: the backbone of the model that wrote the memory; empty where it has no name.
        architecture: the part of the fingerprint that decides the shape of the slots.
    """

    user: str | None
    path: Path
    nbytes: int
    saved: float
    model: str
    architecture: str


class StoreFolder:
    """The folder of a store.

    A salt that is lost or damaged is not replaced: calls about a user are refused until somebody
    restores it.

    Args:
        root: the folder; it need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def memories(self) -> list[Stored]:
        """The memories in the folder, by user; files that are no memory are left out."""
        stored = []
        for path in self.root.glob(f"*{SUFFIX}"):
            try:
                header, status = read_header(path), path.stat()
            except FileNotFoundError:  # another process has just deleted it
                continue
            except (OSError, ValueError) as error:
                warnings.warn(f"The list of memories leaves a file out: {error}", stacklevel=3)
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

    def find(self, user: str) -> Path | None:
        """The file that holds the user's memory; None where there is none.

        Raises:
            ValueError: a folder or a pipe has the name of the file, or the salt is damaged or lost.
        """
        found = next((path for path in self.candidates(user) if os.path.lexists(path)), None)
        if found is not None and not found.is_file() and os.path.lexists(found):
            raise ValueError(
                f"{found} has the name of the memory of user {user!r}, but is no regular file; "
                "move it away, or put the memory's file there."
            )
        return found

    def candidates(self, user: str) -> list[Path]:
        """The places where the user's memory may lie: its name today and in older versions."""
        salted = [self.path(user)] if self._has_salt() else []
        return [*salted, self.old_path(user)]

    def path(self, user: str) -> Path:
        """The file for the user's memory; makes the salt where the folder has none."""
        digest = hashlib.sha256(self._salt() + user.encode("utf-8", "surrogatepass"))
        return self.root / f"{digest.hexdigest()}{SUFFIX}"

    def old_path(self, user: str) -> Path:
        """The file that versions up to 0.1.0 used: its name has no salt."""
        digest = hashlib.sha256(user.encode("utf-8", "surrogatepass"))
        return self.root / f"{digest.hexdigest()}{SUFFIX}"

    def remove_old(self, user: str) -> None:
        """Removes the file of an older version, and the leftovers of processes that were killed."""
        old = self.old_path(user)
        if old.is_file():
            old.unlink()
            for left in (old.with_suffix(".lock"), *self.root.glob(f".{old.name}.*")):
                left.unlink(missing_ok=True)

    def _salt(self) -> bytes:
        """The salt, made on the first call.

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
        """Whether the salt is there.

        Raises:
            ValueError: the salt is lost, and memories need it.
        """
        path = self.root / SALT
        if os.path.lexists(path):
            return True
        is_needed = self._is_salt_needed()
        # another process may have made the salt and a memory a moment ago
        if is_needed and not os.path.lexists(path):
            raise self._without_salt("is gone")
        return is_needed

    def _is_salt_needed(self) -> bool:
        # a file that says whose it is has a name that was made with a salt
        return any(one.user is not None for one in self.memories())

    def _without_salt(self, how: str) -> ValueError:
        return ValueError(
            f"The file {self.root / SALT}, which the names of all memories there depend on, {how}; "
            f"restore it from a copy, or move it and all files *{SUFFIX} there away."
        )


def _write_salt(path: Path) -> None:
    path.write_text(secrets.token_hex(32), encoding="ascii")
    path.chmod(0o600)


def checked_user(user: str) -> str:
    """A usable user id, in the form in which ids are compared (Unicode NFC).

    Raises:
        ValueError: the id is not usable.
    """
    if isinstance(user, str) and user.strip() and len(user) <= MAX_USER_CHARACTERS:
        return unicodedata.normalize("NFC", user)
    shown = repr(user) if len(repr(user)) < 40 else f"one of {len(user)} characters"
    raise ValueError(
        f"A user id must be text of 1 to {MAX_USER_CHARACTERS} characters, "
        f"not only white space; got {shown}."
    )
