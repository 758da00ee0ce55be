"""A run that trains a peer: steps, checkpoints to resume from, and the trained peer."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import typer
from peft import LoraConfig, get_peft_model
from rich.console import Console
from rich.progress import track

from eval.corpora.jsonl import BadRecord
from eval.peers.system import PEERS, Peer, save
from eval.reporting.opening import open_model
from training.baselines.groups import drawn, grouped
from training.baselines.loss import loss
from training.data.records import read
from training.finetuning import resume
from training.finetuning.attention import in_float32
from training.finetuning.documents import Document, tokenised
from training.setup.places import BadPlace, check_folder
from training.setup.tokenizer import open_tokenizer

WARMUP = 0.05  # share of the steps in which the rate rises
FALL = 0.2  # share of the steps in which it falls to nothing again


@dataclass(frozen=True)
class Settings:
    """A run, as its checkpoints and its report keep it.

    Attributes:
        peer: "rmt" or "armt".
        backbone: hub id or folder of the decoder.
        segments: longest document.
        segment_tokens: longest segment.
        data: names of the files.
        steps: steps of the optimizer.
        documents: documents in a step.
        rank: rank of the adapter on the backbone.
        rate: learning rate.
        seed: draws weights and documents.
        dtype: dtype of weights and activations.
    """

    peer: str
    backbone: str
    segments: int
    segment_tokens: int
    data: list[str]
    steps: int
    documents: int
    rank: int
    rate: float
    seed: int
    dtype: str


@dataclass
class Progress:
    """How far a run is.

    Attributes:
        step: steps that are done.
        tokens: tokens that were read, questions included.
        seconds: time since the start, without interruptions.
        losses: the loss of each step.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)

    def measured(self) -> dict[str, Any]:
        """The numbers that go into the report."""
        return {"tokens": self.tokens, "seconds": self.seconds, "losses": self.losses}


@dataclass(frozen=True)
class Pace:
    """How a run divides its work; no part of the settings, which decide the trained weights.

    Attributes:
        at_once: documents in one forward; None: all of a step.
        save_every: steps between checkpoints.
        minutes: the time until the run stops, to be resumed; None: it does not stop.
    """

    at_once: int | None
    save_every: int
    minutes: float | None


def opened(settings: Settings, device: str) -> tuple[Any, torch.optim.Optimizer]:
    """A peer that is not trained yet, which is a `Peer` and a module, and its optimizer."""
    torch.manual_seed(settings.seed)
    released, _ = open_model(settings.backbone, device, settings.dtype)
    if released.device.type == "cpu" and released.dtype == torch.bfloat16:
        in_float32(released.backbone)
    rank = settings.rank
    adapter = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
    peer = PEERS[settings.peer](get_peft_model(released.backbone, adapter)).train()
    weights = [one for one in peer.parameters() if one.requires_grad]
    return peer, torch.optim.AdamW(weights, lr=settings.rate, weight_decay=0.01)


def learn(
    peer: Peer,
    optimizer: torch.optim.Optimizer,
    documents: Sequence[Document],
    segment_tokens: int,
    at_once: int,
) -> float:
    """Takes one step; returns the mean loss of the answers' tokens.

    Args:
        peer: is trained.
        optimizer: has the peer's weights.
        documents: those of the step.
        segment_tokens: longest segment.
        at_once: documents in one forward.
    """
    answers = sum(aside.answer for one in documents for aside in one.asides)
    total = 0.0
    for begin in range(0, len(documents), at_once):
        found = loss(peer, documents[begin : begin + at_once], segment_tokens) / answers
        found.backward()
        total += float(found.detach())
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def train(
    peer: Any,
    optimizer: torch.optim.Optimizer,
    groups: Sequence[list[Document]],
    settings: Settings,
    progress: Progress,
    pace: Pace,
    checkpoints: Path,
) -> bool:
    """Trains to the end, or until time is up; returns whether the run is done.

    Args:
        peer: a `Peer` and a module; is trained.
        optimizer: has the peer's weights.
        groups: documents by their number of segments, fewest first.
        settings: the run's.
        progress: where the run begins; counts the steps.
        pace: when checkpoints are written, and when the run stops.
        checkpoints: the folder of the checkpoints.
    """
    steps, count = settings.steps, settings.documents
    warmup, started = max(1, round(WARMUP * steps)), time.perf_counter() - progress.seconds
    until = time.perf_counter() + 60 * pace.minutes if pace.minutes is not None else math.inf
    first, console = progress.step, Console(stderr=True)
    for step in track(
        range(first, steps), "training", total=steps, completed=first, console=console
    ):
        for group in optimizer.param_groups:
            group["lr"] = settings.rate * min(
                1.0, (step + 1) / warmup, (steps - step) / (FALL * steps)
            )
        chosen = drawn(groups, count, step / steps, f"{settings.seed}/{step}")
        total = learn(peer, optimizer, chosen, settings.segment_tokens, pace.at_once or count)
        progress.step = step + 1
        texts = [ids for one in chosen for ids in (one.ids, *(aside.ids for aside in one.asides))]
        progress.tokens += sum(map(len, texts))
        progress.seconds = round(time.perf_counter() - started, 1)
        progress.losses.append(round(total, 4))
        ending = time.perf_counter() > until
        if ending or progress.step % pace.save_every == 0:
            state = {"settings": asdict(settings), **progress.measured()}
            resume.save(checkpoints, progress.step, peer, optimizer, state)
        if ending and progress.step < steps:
            typer.echo(f"{settings.peer}: stopped at step {progress.step}; go on with --resume")
            return False
    return True


def run(
    settings: Settings, data: Sequence[Path], out: Path, pace: Pace, device: str, *, resumed: bool
) -> None:
    """Reads the data, trains a peer on them, and saves it.

    Args:
        settings: the run's.
        data: files of records.
        out: the folder of the trained peer.
        pace: when checkpoints are written, and when the run stops.
        device: where to run.
        resumed: whether the run goes on where it stopped.

    Raises:
        typer.BadParameter: folder, data, model or checkpoint can't be used.
    """
    checkpoints, progress = out / resume.CHECKPOINTS, Progress()
    try:
        if resumed:
            state = resume.newest(checkpoints, asdict(settings))
            progress = Progress(*(state[key] for key in ("step", "tokens", "seconds", "losses")))
        else:
            check_folder(out, "go on with --resume, or name another --out")
        records = [record for path in data for record in read(path)]
    except (BadPlace, BadRecord, resume.BadCheckpoint) as error:
        raise typer.BadParameter(str(error)) from None
    tokenizer = open_tokenizer(settings.backbone)
    documents = [tokenised(record, tokenizer, "plain") for record in records]
    groups = grouped(documents, settings.segment_tokens, settings.segments)
    peer, optimizer = opened(settings, device)
    if resumed:
        try:
            resume.load(checkpoints, progress.step, peer, optimizer)
        except resume.BadCheckpoint as error:
            raise typer.BadParameter(str(error)) from None
    if train(peer, optimizer, groups, settings, progress, pace, checkpoints):
        save(peer, out, asdict(settings) | progress.measured())
        losses = f"loss {progress.losses[0]:.3f} to {progress.losses[-1]:.3f}"
        typer.echo(f"{settings.peer}: {progress.tokens:,} tokens, {losses}; {out}")
