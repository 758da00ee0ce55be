"""Fine-tunes a model with a memory on documents with questions.

    python -m training.finetune configs/finetune/NAME.yaml KEY=VALUE ...
    python -m training.finetune configs/finetune/NAME.yaml --launch configs/accelerate/ddp.yaml

`--launch` starts the processes that an accelerate config asks for; `accelerate launch -m
training.finetune ...` and `torchrun` do so too, but put a traceback below what an error says. A run
that was interrupted goes on with `--resume` as if it had not been; `--minutes 9` ends it in time,
to be resumed later.

A step takes documents of one source (`sources.py`), lays them out with their questions
(`documents.py`), sends each batch through the model in one forward, all segments at once, and
minimises the loss on answers and, where a source asks for it, on the text (`objective.py`).
OUT becomes a checkpoint that `memformer` and `eval` take as a model, with `finetune.json` (config,
command, scores) and `log.jsonl` beside it.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Annotated, NoReturn

import torch
import typer
from accelerate import Accelerator
from rich.console import Console
from rich.markup import escape
from transformers import logging

from eval.corpora.jsonl import BadRecord
from eval.reporting.options import use_threads
from training.finetuning import resume
from training.finetuning.launch import LaunchFailed, hand_over, launch
from training.finetuning.log import Log
from training.finetuning.loop import Run
from training.finetuning.preparation import check, prepare
from training.finetuning.settings import Settings
from training.finetuning.thaw import build
from training.setup.config import BadConfig, read_config

app = typer.Typer(add_completion=False)


def fail(error: Exception, console: Console, status: int = 2) -> NoReturn:
    """Ends the command with one sentence; a process that was launched hands it over instead."""
    sentence = " ".join(str(error).split())
    if not hand_over(sentence):
        console.print(f"[red]error:[/] {escape(sentence)}", highlight=False, soft_wrap=True)
    raise typer.Exit(status) from None


@app.command(help=__doc__)
def main(
    config: Annotated[Path, typer.Argument(help="YAML; see configs/finetune.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Other values.")
    ] = None,
    resumed: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in OUT stopped.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.1, help="Stop after this time, to be resumed.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="PyTorch threads.")] = None,
    launched: Annotated[
        Path | None,
        typer.Option(
            "--launch", help="An accelerate config: in how many processes; see configs/accelerate."
        ),
    ] = None,
) -> None:
    console = Console(stderr=True)
    logging.disable_progress_bar()
    # peft asks transformers for what transformers calls otherwise by now
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    use_threads(threads)
    # softmax weights far from any match are denormal numbers, with which a CPU is four times slower
    torch.set_flush_denormal(True)
    try:
        settings = read_config(Settings, config, overrides or [])
        check(settings)
        if launched is not None:
            options = [
                *(["--resume"] if resumed else []),
                *([f"--minutes={minutes}"] if minutes else []),
                *([f"--threads={threads}"] if threads else []),
            ]
            launch(launched, "training.finetune", [str(config), *(overrides or []), *options])
            return
        accelerator = Accelerator(
            log_with="tensorboard" if settings.tensorboard else None, project_dir=settings.out
        )
        tell = Log(Path(settings.out), accelerator, console).tell
        prepared = prepare(settings, accelerator, tell, resumed=resumed)
        run = Run(prepared, build(settings), accelerator, console)
        if resumed:
            run.go_on()
        if settings.tensorboard:
            accelerator.init_trackers("tensorboard")
        if run.train(minutes):
            run.finish()
            tell(f"saved {settings.out}")
        accelerator.end_training()
    except LaunchFailed as error:
        fail(error, console, error.status)
    except (BadConfig, BadRecord, resume.BadCheckpoint, OSError, ValueError) as error:
        fail(error, console)


if __name__ == "__main__":
    sys.exit(app())
