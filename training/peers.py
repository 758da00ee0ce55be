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

import math
import random
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from eval.corpora.jsonl import BadRecord
from eval.peers.system import PEERS, Peer, save
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import DtypeOption, ThreadsOption
from memformer.asides import IGNORED_LABEL
from training.data.records import read
from training.finetuning import resume
from training.finetuning.attention import in_float32
from training.finetuning.documents import Aside, Document, tokenised
from training.heads.parts import open_tokenizer
from training.setup.places import BadPlace, check_folder

WARMUP = 0.05  # share of the steps in which the rate rises
FALL = 0.2  # and in which it falls to nothing again


def loss(peer: Peer, documents: Sequence[Document], segment_tokens: int) -> Tensor:
    """Cross entropy of all answer tokens of some documents, summed.

    Args:
        peer: is read and asked.
        documents: as tokens, read side by side; one of them at least has a question.
        segment_tokens: longest segment.
    """
    bounds = [one.cut(segment_tokens) for one in documents]
    state, going = peer.empty(len(documents)), list(range(len(documents)))
    losses: list[Tensor] = []
    for number in range(max(map(len, bounds)) - 1):
        asked = [
            (row, aside_in(documents[one], begin, aside))
            for row, one in enumerate(going)
            for begin, end in [bounds[one][number : number + 2]]
            for aside in documents[one].asides
            if begin < aside.after <= end
        ]
        if asked:
            here = peer.rows(state, [row for row, _ in asked])
            losses.append(asides_loss(peer, [aside for _, aside in asked], here))
        # the last segment of a document is read by its questions only
        rows = [row for row, one in enumerate(going) if number + 2 < len(bounds[one])]
        if rows:
            state, going = peer.rows(state, rows), [going[row] for row in rows]
            texts = [documents[one].ids[slice(*bounds[one][number : number + 2])] for one in going]
            state = peer.read(*padded(texts, peer.backbone.device), state)
    return torch.stack(losses).sum()


def aside_in(document: Document, begin: int, aside: Aside) -> Aside:
    """A question after what its segment, which begins at `begin`, says before it."""
    return replace(aside, ids=document.ids[begin : aside.after] + aside.ids)


def padded(texts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids as rows of one width, and which of them are text."""
    rows = [torch.tensor(one, device=device) for one in texts]
    there = [torch.ones_like(one, dtype=torch.bool) for one in rows]
    return pad_sequence(rows, batch_first=True), pad_sequence(there, batch_first=True)


def asides_loss(peer: Peer, asides: Sequence[Aside], state: Any) -> Tensor:
    """Cross entropy of the answers' tokens, summed; `state` has a row for each question."""
    ids, _ = padded([one.ids for one in asides], peer.backbone.device)
    labels = torch.full_like(ids, IGNORED_LABEL)
    for row, one in enumerate(asides):
        answer = slice(len(one.ids) - one.answer, len(one.ids))
        labels[row, answer] = ids[row, answer]
    # of what comes before an answer's tokens only: the vocabulary is most of what a question costs
    at = (labels != IGNORED_LABEL).any(0).nonzero()[:, 0] - 1
    logits = peer.logits(ids, state, at=at).float()
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1),
        labels[:, at + 1].flatten(),
        ignore_index=IGNORED_LABEL,
        reduction="sum",
    )


def beginning(document: Document, end: int) -> Document:
    """The first `end` tokens of a document, with what is asked in them."""
    return replace(
        document,
        ids=document.ids[:end],
        begins=tuple(begin for begin in document.begins if begin < end),
        asides=tuple(aside for aside in document.asides if 0 < aside.after <= end),
    )


def grouped(documents: Sequence[Document], segment_tokens: int, most: int) -> list[list[Document]]:
    """What is read up to a question, by the number of its segments, `most` at most; fewest first.

    Raises:
        typer.BadParameter: there is nothing.
    """
    groups: dict[int, list[Document]] = {}
    for document in documents:
        for end in sorted({aside.after for aside in document.asides} - {0}):
            part = beginning(document, end)
            groups.setdefault(len(part.cut(segment_tokens)) - 1, []).append(part)
    if not groups:
        raise typer.BadParameter("no document of the data has a question.")
    if min(groups) > most:
        raise typer.BadParameter(
            f"no document has a question within --segments {most} of {segment_tokens} tokens; "
            "raise one of them, or make shorter documents."
        )
    return [groups[number] for number in sorted(groups) if number <= most]


def drawn(groups: Sequence[list[Document]], count: int, share: float, seed: str) -> list[Document]:
    """Documents of one step, all of as many segments.

    Args:
        groups: by the number of segments, fewest first.
        count: how many.
        share: of the run that is over, in [0, 1]. At first only the first group is drawn from, and
            from the middle on all, each as often.
        seed: draws them.
    """
    rng = random.Random(seed)
    known = min(len(groups), 1 + int(2 * share * len(groups)))
    return rng.choices(groups[rng.randrange(known)], k=count)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
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
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # gradients of what is known by heart are tiny, and slow
    settings: dict[str, Any] = {
        "peer": name,
        "backbone": model_name(model)["model"],
        "segments": segments,
        "segment_tokens": segment_tokens,
        "data": [path.name for path in data],
        "steps": steps,
        "documents": documents,
        "rank": rank,
        "rate": rate,
        "seed": seed,
        "dtype": dtype,
    }
    checkpoints = out / resume.CHECKPOINTS
    state: dict[str, Any] = {"step": 0, "tokens": 0, "seconds": 0.0, "losses": []}
    try:
        if resumed:
            state = resume.newest(checkpoints, settings)
        else:
            check_folder(out, "go on with --resume, or name another --out")
        records = [one for path in data for one in read(path)]
    except (BadPlace, BadRecord, resume.BadCheckpoint) as error:
        raise typer.BadParameter(str(error)) from None
    tokenizer = open_tokenizer(model)
    known = [tokenised(one, tokenizer, "plain") for one in records]
    groups = grouped(known, segment_tokens, segments)
    torch.manual_seed(seed)
    released, tokenizer = open_model(model, device, dtype)
    if released.device.type == "cpu" and released.dtype == torch.bfloat16:
        in_float32(released.backbone)
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    peer = PEERS[name](get_peft_model(released.backbone, adapter)).train()
    weights = [one for one in peer.parameters() if one.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.01)
    if resumed:
        try:
            resume.load(checkpoints, state["step"], peer, optimizer)
        except resume.BadCheckpoint as error:
            raise typer.BadParameter(str(error)) from None
    measured = {key: state[key] for key in ("tokens", "seconds", "losses")}
    warmup, started = max(1, round(WARMUP * steps)), time.perf_counter() - state["seconds"]
    until = time.perf_counter() + 60 * minutes if minutes is not None else math.inf
    for step in track(
        range(state["step"], steps),
        "training",
        total=steps,
        completed=state["step"],
        console=Console(stderr=True),
    ):
        now = rate * min(1.0, (step + 1) / warmup, (steps - step) / (FALL * steps))
        for group in optimizer.param_groups:
            group["lr"] = now
        total, chosen = 0.0, drawn(groups, documents, step / steps, f"{seed}/{step}")
        answers = sum(aside.answer for one in chosen for aside in one.asides)
        for begin in range(0, documents, at_once or documents):
            part = chosen[begin : begin + (at_once or documents)]
            found = loss(peer, part, segment_tokens) / answers
            found.backward()
            total += float(found.detach())
        texts = [ids for one in chosen for ids in (one.ids, *(aside.ids for aside in one.asides))]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        measured = {
            "tokens": measured["tokens"] + sum(map(len, texts)),
            "seconds": round(time.perf_counter() - started, 1),
            "losses": [*measured["losses"], round(total, 4)],
        }
        ending = time.perf_counter() > until
        if ending or (step + 1) % save_every == 0:
            resume.save(checkpoints, step + 1, peer, optimizer, {"settings": settings, **measured})
        if ending and step + 1 < steps:
            typer.echo(f"{name}: stopped at step {step + 1}; go on with --resume")
            return
    save(peer, out, settings | measured)
    losses = measured["losses"]
    typer.echo(
        f"{name}: {measured['tokens']:,} tokens, loss {losses[0]:.3f} to {losses[-1]:.3f}; {out}"
    )


if __name__ == "__main__":
    app()
