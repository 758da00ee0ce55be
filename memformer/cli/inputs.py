"""What the commands are given: layers, slots, a document, a model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
import typer
from transformers import PreTrainedTokenizerBase, logging

from memformer import pretrained
from memformer.checkpoint import load_tokenizer
from memformer.cli.output import status
from memformer.model import MemformerForCausalLM
from memformer.pretrained import DEFAULT_MODEL, TRAINED


def parse_layers(text: str) -> str | float | tuple[int, ...]:
    """`auto`, `all`, a fraction of the depth, or layer numbers.

    Raises:
        typer.BadParameter: none of these.
    """
    if text in ("auto", "all"):
        return text
    if band := re.fullmatch(r"(\d+)-(\d+)", text):
        first, last = int(band[1]), int(band[2])
        if first <= last:
            return tuple(range(first, last + 1))
    elif re.fullmatch(r"\d+(,\d+)*", text):
        return tuple(int(layer) for layer in text.split(","))
    elif re.fullmatch(r"\d*\.\d+", text) and 0.0 < float(text) <= 1.0:
        return float(text)
    raise typer.BadParameter(
        f"{text!r} is none of auto, all, a fraction such as 0.3, a band such as 8-26, "
        "a list such as 1,2,3.",
        param_hint="--layers",
    )


def parse_slots(text: str) -> int | None:
    """How many slots; None: unbounded.

    Raises:
        typer.BadParameter: no such number.
    """
    if text == "unbounded":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(
        f"{text!r} is neither a whole number above 0 nor 'unbounded'.", param_hint="--slots"
    )


def read_document(path: Path) -> str:
    """The text of a file.

    Raises:
        ValueError: it can't be read, is empty, or is not UTF-8 text.
    """
    try:
        data = path.read_bytes()
    except IsADirectoryError:
        raise ValueError(f"{path} is a folder; give one text file.") from None
    except FileNotFoundError:
        raise ValueError(f"There is no file {path}.") from None
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the byte order mark
        offset = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise ValueError(
            f"{path} is not UTF-8 text: byte {offset} can't be decoded; convert it first."
        ) from error
    if (offset := data.find(b"\0")) >= 0:
        raise ValueError(f"{path} is not text: byte {offset} is zero; give a text file.")
    if not text.strip():
        raise ValueError(f"{path} is empty; there is nothing to read.")
    return text


def open_model(
    name: str | None, memory_config: Any = None
) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """The model and its tokenizer, quietly, on a GPU where there is one.

    Raises:
        FileNotFoundError: there is no such folder, or the default model was not fetched.
    """
    if name is None and pretrained.local_path(DEFAULT_MODEL) is None:
        raise FileNotFoundError(
            f"The default model {DEFAULT_MODEL} is not on this machine; run `memformer fetch`."
        )
    where = name or str(TRAINED)
    if _looks_like_path(where) and not Path(where).is_dir():
        raise FileNotFoundError(f"There is no model folder {where}.")
    with status("loading the model", shown=True):
        logging.disable_progress_bar()
        options = {} if memory_config is None else {"memory_config": memory_config}
        model = MemformerForCausalLM.from_pretrained(where, **options)
        if torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]  # transformers wraps it wrongly
        return model, load_tokenizer(where, model)


def _looks_like_path(name: str) -> bool:
    return name.startswith(("/", ".", "~")) or name.count("/") > 1
