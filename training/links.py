"""Trains how far the heads of a model's memory read along links, and nothing else.

    python -m training.links links-smollm2

The model reads lists of what somebody did in turn, and is asked what came right after one of these
things. Only the read modes are trained, three numbers a head, by the loss on the answers; the
wordings are others than the test's. Takes minutes on a CPU. Saves a checkpoint.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eval.corpora.people import Chat
from eval.reporting.app import make_app
from eval.reporting.options import ThreadsOption
from training.heads import links
from training.heads.command import Command, ModelOption, NewFolder


def main(
    out: NewFolder,
    model: ModelOption = None,
    held_out: Annotated[int, typer.Option(min=1, help="Lists to measure on.")] = 12,
    seed: int = 7000,
    threads: ThreadsOption = None,
) -> None:
    settings = {"steps": links.STEPS, "rate": links.RATE, "seed": seed}
    command = Command("training.links", settings, model, threads)
    loaded, tokenizer = command.open(links=True)
    losses = links.train_and_measure(loaded, Chat(tokenizer), held_out, seed, command.console)
    command.save(out, loaded, tokenizer, {"loss": losses, "modes": links.mean_modes(loaded)})
    command.console.print(
        f"loss on lists held out: {losses['before']:.3f} before, {losses['after']:.3f} after; {out}"
    )


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
