"""Trains a peer on the data that memformer is trained on: a baseline on equal terms.

    python -m training.peers rmt data/where.jsonl.gz --out runs/rmt
    python -m training.peers rmt data/where.jsonl.gz --out runs/rmt --resume

`rmt` is the Recurrent Memory Transformer, `armt` the associative one (see `eval.peers`). Documents
are read segment by segment, questions are asked where they stand, in the segment of the text before
them; the loss is that of the answers, and its gradient goes back through all segments. The peer's
own weights and an adapter on the backbone are trained. A document is read up to one of the places
where something is asked. In the first half of the run these are in the first segment at first, then
in later ones too, each number of segments as often: the curriculum of the papers. A run that was
interrupted goes on with `--resume` as if it had not been; `--minutes 9` ends it in time.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from eval.reporting.app import make_app
from eval.reporting.opening import model_name
from eval.reporting.options import DtypeOption, ThreadsOption, use_threads
from training.baselines.run import Pace, Settings, run


def main(
    name: Annotated[Literal["rmt", "armt"], typer.Argument(help="Which peer.")],
    data: Annotated[list[Path], typer.Argument(help="Records, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained peer.")],
    model: Annotated[str | None, typer.Option(help="Decoder; the default model.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 300,
    documents: Annotated[int, typer.Option(min=1, help="In a step.")] = 8,
    at_once: Annotated[
        int | None, typer.Option(min=1, help="So many of them together; all if left out.")
    ] = None,
    segments: Annotated[
        int, typer.Option(min=1, help="Longest document; longer ones are read in part.")
    ] = 4,
    segment_tokens: Annotated[int, typer.Option(min=2, help="Longest segment.")] = 128,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter on the backbone.")] = 16,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Draws weights and documents.")] = 0,
    save_every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 25,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Stop after this time, to be resumed.")
    ] = None,
    resumed: Annotated[
        bool, typer.Option("--resume", help="Go on where the run in OUT stopped.")
    ] = False,
    dtype: DtypeOption = "float32",
    device: Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")] = "cpu",
    threads: ThreadsOption = None,
) -> None:
    # peft asks transformers for what transformers calls otherwise by now
    warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
    use_threads(threads)
    torch.set_flush_denormal(True)  # gradients of what is known by heart are tiny, and slow
    settings = Settings(
        peer=name,
        backbone=model_name(model)["model"],
        segments=segments,
        segment_tokens=segment_tokens,
        data=[path.name for path in data],
        steps=steps,
        documents=documents,
        rank=rank,
        rate=rate,
        seed=seed,
        dtype=dtype,
    )
    run(settings, data, out, Pace(at_once, save_every, minutes), device, resumed=resumed)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
