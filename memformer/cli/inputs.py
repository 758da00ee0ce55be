"""Parses and opens the arguments of commands: layers, slots, documents, a model."""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from memformer import pretrained
from memformer.cli.output import status
from memformer.pretrained import DEFAULT_MODEL, TRAINED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.documents import Document
    from memformer.model import MemformerForCausalLM


def parse_layers(text: str) -> str | float | tuple[int, ...]:
    """Parses `auto`, `all`, a fraction of the depth, or layer numbers.

    Raises:
        typer.BadParameter: the text is none of these.
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
    """Parses the number of slots; None stands for `unbounded`.

    Raises:
        typer.BadParameter: the text is neither a number above 0 nor `unbounded`.
    """
    if text == "unbounded":
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    raise typer.BadParameter(
        f"{text!r} is neither a whole number above 0 nor 'unbounded'.", param_hint="--slots"
    )


@contextmanager
def open_documents(paths: list[Path]) -> Iterator[list[Document]]:
    """Opens documents and checks each to its end; `-` is standard input, copied to a file.

    Raises:
        OSError: a document can't be read.
        ValueError: a document is no text, or empty.
    """
    from memformer.documents import Document

    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "standard input"
        if any(str(path) == "-" for path in paths):
            if sys.stdin is None:
                raise ValueError(
                    "`--document -` reads standard input, which is closed; pipe a text into the "
                    "command, or name a file."
                )
            with given.open("wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        yield [Document.file(given if str(path) == "-" else path) for path in paths]


def open_model(
    name: str | None,
    memory_config: Any = None,
    *,
    backbone: str | None = None,
    gguf_file: str | None = None,
) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """Loads a model and its tokenizer without bars, on a GPU where there is one.

    Args:
        name: a checkpoint, or a decoder; None: the default.
        memory_config: the memory to attach, for a decoder.
        backbone: the folder of the decoder, for a checkpoint.
        gguf_file: the GGUF file in the folder, for a decoder.

    Raises:
        FileNotFoundError: there is no such folder, or the default model was not fetched.
    """
    if name is None and backbone is None and pretrained.local_path(DEFAULT_MODEL) is None:
        raise FileNotFoundError(
            f"The default model {DEFAULT_MODEL} is not on this machine; run `memformer fetch`."
        )
    where = name or str(TRAINED)
    with status("loading the model", shown=True):
        import torch
        from transformers import AutoTokenizer, logging

        from memformer.checkpoint.decoders import load_tokenizer
        from memformer.model import MemformerForCausalLM

        logging.disable_progress_bar()
        options: dict[str, Any] = {
            "memory_config": memory_config,
            "backbone": backbone,
            "gguf_file": gguf_file,
        }
        given = {option: value for option, value in options.items() if value is not None}
        model = MemformerForCausalLM.from_pretrained(where, **given)
        if torch.cuda.is_available():
            model.to("cuda")  # type: ignore[arg-type]  # transformers wraps it wrongly
        if gguf_file is not None:
            return model, AutoTokenizer.from_pretrained(where, gguf_file=gguf_file)
        return model, load_tokenizer(where, model, backbone)
