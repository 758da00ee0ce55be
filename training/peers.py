"""Trains a peer on the data that memformer is trained on: a baseline on equal terms.

    python -m training.peers rmt data/where.jsonl.gz --out runs/rmt

`rmt` is the Recurrent Memory Transformer, `armt` the associative one (see `eval.peers`). Documents
are read segment by segment, questions are asked where they stand, in a segment that is not written;
the loss is that of the answers, and its gradient goes back through all segments. The peer's own
weights and an adapter on the backbone are trained. In the first half of the run documents have few
segments at first, then more: the curriculum of the papers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.jsonl import BadRecord
from eval.peers.system import PEERS, Peer, save
from eval.report import ThreadsOption, model_name, open_model
from memformer.layout import IGNORED_LABEL
from training.data.records import read
from training.documents import Document, tokenised

WARMUP = 0.05  # share of the steps in which the rates rise


def loss(peer: Peer, document: Document, segment_tokens: int) -> Tensor | None:
    """Mean cross entropy of all answer tokens of a document; None if it has no question.

    Args:
        peer: is read and asked.
        document: as tokens.
        segment_tokens: longest segment.
    """
    device = peer.backbone.device
    state = peer.empty()
    losses: list[Tensor] = []
    waiting = list(document.asides)
    bounds = sorted({*document.cut(segment_tokens), *(one.after for one in waiting)})
    for begin, end in zip(bounds, bounds[1:], strict=False):
        state = peer.read(torch.tensor([document.ids[begin:end]], device=device), state)
        here = [one for one in waiting if one.after == end]
        if here:
            waiting = waiting[len(here) :]
            width = max(len(one.ids) for one in here)
            ids = torch.zeros(len(here), width, dtype=torch.long, device=device)
            labels = torch.full_like(ids, IGNORED_LABEL)
            for row, one in enumerate(here):
                told = torch.tensor(one.ids, device=device)
                ids[row, : len(told)] = told
                labels[row, len(told) - one.answer : len(told)] = told[-one.answer :]
            logits = peer.logits(ids, state)[:, :-1].float()
            losses.append(
                torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1),
                    labels[:, 1:].flatten(),
                    ignore_index=IGNORED_LABEL,
                    reduction="none",
                )[labels[:, 1:].flatten() != IGNORED_LABEL]
            )
    return torch.cat(losses).mean() if losses else None


def drawn(
    documents: Sequence[Document], count: int, segment_tokens: int, share: float, rng: random.Random
) -> list[Document]:
    """Documents of one step.

    Args:
        documents: to draw from.
        count: how many.
        segment_tokens: longest segment.
        share: of the run that is over, in [0, 1]. At first the documents with fewest segments are
            drawn, and from the middle on all.
        rng: draws them.
    """
    ordered = sorted(documents, key=lambda one: len(one.cut(segment_tokens)))
    first = max(count, round(len(ordered) * min(1.0, 2 * share)))
    return rng.choices(ordered[:first], k=count)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    name: Annotated[Literal["rmt", "armt"], typer.Argument(help="Which peer.")],
    data: Annotated[list[Path], typer.Argument(help="Records, .jsonl or .jsonl.gz.")],
    out: Annotated[Path, typer.Option(help="Folder for the trained peer.")],
    model: Annotated[str | None, typer.Option(help="Decoder; the default model.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of the optimizer.")] = 300,
    documents: Annotated[int, typer.Option(min=1, help="In a step.")] = 8,
    segment_tokens: Annotated[int, typer.Option(min=2, help="Longest segment.")] = 64,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapter on the backbone.")] = 16,
    rate: Annotated[float, typer.Option(min=0, help="Learning rate.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Draws weights and documents.")] = 0,
    device: Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")] = "cpu",
    threads: ThreadsOption = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    released, tokenizer = open_model(model, device)
    try:
        pool = [tokenised(one, tokenizer, "plain") for path in data for one in read(path)]
    except BadRecord as error:
        raise typer.BadParameter(str(error)) from None
    pool = [one for one in pool if one.asides]
    if not pool:
        raise typer.BadParameter("no document of the data has a question.")
    chosen = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    peer = PEERS[name](get_peft_model(released.backbone, chosen)).train()
    weights = [one for one in peer.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    warmup = max(1, round(WARMUP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / warmup, (steps - step) / (0.2 * steps))
    )
    rng, started, tokens, losses = random.Random(seed), time.perf_counter(), 0, []
    for step in track(range(steps), "training", console=Console(stderr=True)):
        total = 0.0
        for document in drawn(pool, documents, segment_tokens, step / steps, rng):
            found = loss(peer, document, segment_tokens)
            if found is not None:
                (found / documents).backward()
                total += float(found.detach()) / documents
            tokens += len(document.ids) + sum(len(one.ids) for one in document.asides)
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(round(total, 4))
    settings = {
        "peer": name,
        "backbone": model_name(model)["model"],
        "segment_tokens": segment_tokens,
        "data": [path.name for path in data],
        "steps": steps,
        "documents": documents,
        "rank": rank,
        "rate": rate,
        "seed": seed,
        "tokens": tokens,
        "seconds": round(time.perf_counter() - started, 1),
        "losses": losses,
    }
    save(peer, out, settings)
    typer.echo(f"{name}: {tokens:,} tokens, loss {losses[0]:.3f} to {losses[-1]:.3f}; {out}")


if __name__ == "__main__":
    app()
