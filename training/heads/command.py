"""The main part of every command that trains one head: options, opening, saving, the report."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from transformers import PreTrainedTokenizerBase

from eval.reporting.opening import model_name, open_model
from eval.reporting.options import checked_book, use_threads
from eval.reporting.report import head, write_json
from memformer import MemformerForCausalLM
from training.setup.places import BadPlace, check_folder

BOOK = Path(__file__).parents[1] / "data" / "garden.txt"


def new_folder(out: Path) -> Path:
    """A folder that is empty or not there, and that can be written.

    Raises:
        typer.BadParameter: it can't be used.
    """
    try:
        check_folder(out, "name a new folder")
    except BadPlace as error:
        raise typer.BadParameter(str(error)) from None
    return out


NewFolder = Annotated[Path, typer.Argument(help="Folder for the checkpoint.", callback=new_folder)]
ModelOption = Annotated[str | None, typer.Option(help="Default: the default model.")]
TrainingBook = Annotated[Path, typer.Option(help="Text file to train with.", callback=checked_book)]


class Command:
    """One call of a command that trains a head.

    Args:
        module: the command's module, such as `training.gate`.
        settings: its options, for the report.
        model: hub id or folder; None: the default model.
        threads: CPU threads of torch; None: torch's own choice.
    """

    def __init__(
        self, module: str, settings: dict[str, Any], model: str | None, threads: int | None
    ) -> None:
        use_threads(threads)
        self.console = Console()
        self.model = model
        self.started = time.perf_counter()
        self.report = head(module, settings) | model_name(model)

    def open(self, **switches: bool) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
        """The model with some parts of its memory switched on, and its tokenizer.

        Args:
            switches: fields of `MemoryConfig`, such as `erase=True`.
        """
        model, tokenizer = open_model(self.model)
        return model.with_memory(**switches), tokenizer

    def save(
        self,
        out: Path,
        model: MemformerForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        figures: dict[str, Any],
    ) -> None:
        """Writes a checkpoint that `memformer` and `eval` take as a model, with the report in it.

        Args:
            out: the folder.
            model: the model with the trained head.
            tokenizer: saved beside the model.
            figures: what the report says about the training.
        """
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        seconds = {"seconds": round(time.perf_counter() - self.started)}
        write_json(out / f"{self.report['benchmark']}.json", self.report | figures | seconds)
