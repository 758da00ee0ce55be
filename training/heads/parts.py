"""Parts of a memory that are trained alone: switching them on, and saving what came of it.

Also what can be opened before a model is: its tokenizer.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from eval.reporting.report import write_json
from memformer import MemformerConfig, MemformerForCausalLM
from memformer.checkpoint.decoders import first_tokenizer, load_config
from memformer.pretrained import DEFAULT_MODEL
from training.setup.places import BadPlace, check_folder


def new_folder(out: Path) -> Path:
    """A folder that nothing is in, and that can be written.

    Raises:
        typer.BadParameter: it can't be used.
    """
    try:
        check_folder(out, "name a new folder")
    except BadPlace as error:
        raise typer.BadParameter(str(error)) from None
    return out


def tokenizer_of(name: str, config: PreTrainedConfig) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is not opened yet.

    Args:
        name: hub id or folder of the model.
        config: its config.

    Raises:
        OSError, ValueError: it has none.
    """
    backbone = config.backbone or {} if isinstance(config, MemformerConfig) else {}
    return first_tokenizer(name, backbone.get("name"))


def open_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is not opened yet.

    Args:
        name: hub id or folder; None: the default model.

    Raises:
        typer.BadParameter: there is no such model.
    """
    name = name or DEFAULT_MODEL
    try:
        return tokenizer_of(name, load_config(name))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model {name!r} can't be opened: {reason}") from None


NewFolder = Annotated[Path, typer.Argument(help="Folder for the checkpoint.", callback=new_folder)]


def save(
    out: Path,
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    report: dict[str, Any],
    started: float,
) -> None:
    """Writes a checkpoint that `memformer` and `eval` take as a model, with the report beside it.

    Args:
        out: the folder.
        model: to be saved.
        tokenizer: saved with it.
        report: what was trained and how it went; its name is that of the benchmark in it.
        started: `time.perf_counter()` at the beginning.
    """
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    report["seconds"] = round(time.perf_counter() - started)
    write_json(out / f"{report['benchmark']}.json", report)


def with_parts(model: MemformerForCausalLM, **switches: Any) -> MemformerForCausalLM:
    """The same model and weights with other parts of the memory switched on or off.

    Args:
        model: its backbone is handed on; the model itself is of no use afterwards.
        switches: fields of `MemoryConfig`, such as `erase=True`.
    """
    settings = dataclasses.replace(model.memory_config, **switches)
    weights = model.memory.state_dict()
    config = MemformerConfig(
        text_config=copy.deepcopy(model.config.text_config),  # the model puts the real one in
        memory_config=settings.to_dict(),
        backbone=model.config.backbone,
    )
    changed = MemformerForCausalLM(config, model.unload_memory())
    known = changed.memory.state_dict().keys()
    changed.memory.load_state_dict(
        {name: weight for name, weight in weights.items() if name in known}, strict=False
    )
    return changed.train(model.training)
