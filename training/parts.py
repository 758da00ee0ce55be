"""Parts of a memory that are trained alone: switching them on, and saving what came of it."""

from __future__ import annotations

import copy
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedTokenizerBase

from eval.report import write_json
from memformer import MemformerConfig, MemformerForCausalLM


def new_folder(out: Path) -> Path:
    """A folder that nothing is in.

    Raises:
        typer.BadParameter: something is.
    """
    if out.exists() and (out.is_file() or any(out.iterdir())):
        raise typer.BadParameter(f"{out} is not empty; name a new folder.")
    return out


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
