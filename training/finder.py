"""Teaches the finder heads of a checkpoint what to match; nothing else of it changes.

    python -m training.finder runs/trained runs/found --data data/prose.jsonl.gz \
        --data data/acquaintances.jsonl.gz --dev data/prose_dev.jsonl.gz

Documents with questions are taken into memories, some thousand tokens each, as they are when a
model is used. The record of a memory holds the keys of all its tokens, so no text goes through the
model twice. What is learned is a change of each finder head's queries (`Finders.match`), by the
contrastive loss of dense retrieval (Karpukhin et al. 2020, arXiv:2004.04906): the paragraph with
the answer against all others in memory, once by the heads alone and once with the words of the
question beside them (BM25), as passages are recalled. Reading goes on with the queries as they are.

The best state by the loss on the held-out documents is kept. `finder.json` in OUT has the curve.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from jaxtyping import Bool, Float, UInt8
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor

from eval.corpora.jsonl import BadRecord
from eval.reporting.app import make_app
from eval.reporting.extras import require
from eval.reporting.opening import open_model
from eval.reporting.options import ThreadsOption, use_threads
from memformer import MemformerForCausalLM
from memformer.memory.finding import Asking, calm_votes, scores, votes
from memformer.memory.passages import Stretches
from memformer.reading import begun
from memformer.recollection import WORDS_WEIGHT, cut_of, paragraph_scores, paragraph_words
from memformer.template import frame, text_ids
from training.contrast import contrastive, overlapping
from training.data.records import Record, read
from training.finetuning.documents import tokenised
from training.setup.places import BadPlace, check_folder

WEIGHTS = "model.safetensors"
MATCH = "memory.finders.match"
SLOTS = 1024  # of a memory while it is read; finding needs none
QUESTIONS = 16  # of one memory in a step
EVERY = 50  # steps between two points of the curve
RANKS = (1, 4)
# files that tell of the training before
OF_ONE_RUN = ("checkpoints", "finetune.json", "log.jsonl")


@dataclass(frozen=True)
class Asked:
    """A question, as the heads ask it before they learn, and the paragraphs that answer it."""

    asking: Asking
    words: Float[Tensor, " paragraphs"]
    right: Bool[Tensor, " paragraphs"]


@dataclass(frozen=True)
class Told:
    """What is known of one memory.

    Attributes:
        keys: the small keys of its record.
        cut: its passages and paragraphs.
        asked: the questions about it.
    """

    keys: UInt8[Tensor, "told keys width"]
    cut: Stretches
    asked: list[Asked]


def memories(
    model: MemformerForCausalLM,
    tokenizer: Any,
    records: Sequence[Record],
    tokens: int,
    console: Console,
) -> Iterator[Told]:
    """Takes documents into memories of about so many tokens each, and conversations one by one.

    Args:
        model: an opened checkpoint.
        tokenizer: its tokenizer.
        records: documents with questions; questions without a known place are left out.
        tokens: a memory that holds so many is full.
        console: shows how far this is.
    """
    memory, places = None, []
    for record in track(records, "reading", console=console, transient=True):
        is_talk = not isinstance(record.document, str)
        document = tokenised(record, tokenizer, "chat" if is_talk else "plain")
        if memory is None:
            memory = begun(model, frame(tokenizer), model.init_memory(num_slots=SLOTS))
        before = int(memory.is_told.sum())
        places += [
            (one.question, before + aside.gold[0], before + aside.gold[1])
            for one, aside in zip(record.questions, document.asides, strict=True)
            if aside.gold is not None
        ]
        memory = model.memorize(torch.tensor([document.ids]), memory=memory, gated=False)
        # what "my sister" means, only one conversation says
        if is_talk or int(memory.is_told.sum()) >= tokens:
            yield _told(model, tokenizer, memory, places)
            memory, places = None, []
    if memory is not None:
        yield _told(model, tokenizer, memory, places)


def _told(
    model: MemformerForCausalLM, tokenizer: Any, memory: Any, places: Sequence[tuple[str, int, int]]
) -> Told:
    cut = cut_of(model.engine(), memory, 0)
    spans = torch.tensor(cut.spans)
    right = overlapping(torch.tensor([place[1:] for place in places]).reshape(-1, 2), spans)
    asked = []
    for (question, *_), rows in zip(places, right, strict=True):
        ids = torch.tensor(text_ids(tokenizer, question))
        words = paragraph_words(model.memory, ids, memory.told[0], cut)
        asked.append(Asked(model.memory.ask_as_attached(ids), words, rows))
    return Told(memory.finder_keys[0], cut, asked)


def totals(
    model: MemformerForCausalLM, told: Told, asked: Sequence[Asked], nothing: Asking
) -> Float[Tensor, "questions paragraphs"]:
    """The score of each paragraph by the heads, as `recollection.recollect` has it."""
    learned, cut = model.memory.finders.learned, told.cut
    parts = told.keys, cut.passage, len(cut.begins)
    calm = calm_votes(learned(nothing), *parts)
    found = [votes(learned(one.asking), *parts, calm.unheard) for one in asked]
    rows = [paragraph_scores(scores(one, calm.votes, cut.sizes), cut) for one in found]
    return torch.stack(rows)


def both(found: Tensor, asked: Sequence[Asked]) -> tuple[Tensor, Tensor, Tensor]:
    """Scores by heads, scores by heads and words, and which paragraphs are right."""
    words = torch.stack([one.words for one in asked])
    return found, found + WORDS_WEIGHT * words, torch.stack([one.right for one in asked])


def loss_of(found: Tensor, asked: Sequence[Asked]) -> Float[Tensor, ""]:
    """The mean of the losses with words and without."""
    heads, fused, right = both(found, asked)
    return (contrastive(heads, right) + contrastive(fused, right)) / 2


@torch.no_grad()
def measure(
    model: MemformerForCausalLM, held_out: Sequence[Told], nothing: Asking
) -> dict[str, float]:
    """Loss, and the share of questions whose paragraph is among the first ones."""
    losses, counts = [], 0
    hits = {f"recall@{rank} {by}": 0 for by in ("heads", "fused") for rank in RANKS}
    for told in held_out:
        found = totals(model, told, told.asked, nothing)
        losses.append(float(loss_of(found, told.asked)) * len(told.asked))
        heads, fused, right = both(found, told.asked)
        counts += len(told.asked)
        for by, score in (("heads", heads), ("fused", fused)):
            for rank in RANKS:
                best = score.topk(min(rank, score.shape[1]), -1).indices
                hits[f"recall@{rank} {by}"] += int(right.gather(1, best).any(-1).sum())
    shares = {name: round(hit / counts, 4) for name, hit in hits.items()}
    return {"loss": round(sum(losses) / counts, 5)} | shares


def learn(
    model: MemformerForCausalLM,
    parts: tuple[Sequence[Told], Sequence[Told]],
    settings: dict[str, Any],
    console: Console,
) -> list[dict[str, float]]:
    """Leaves the best match by the loss on held-out memories in the model; returns the curve."""
    data, held_out = parts
    path, rng = model.memory, random.Random(settings["seed"])
    finders = path.finders
    with torch.no_grad():
        nothing = path.ask_as_attached(torch.tensor(finders.question_without_content))
    curve = [{"step": 0} | measure(model, held_out, nothing)]
    best, match = finders.match, finders.match.clone().requires_grad_()
    finders.match = match
    optimizer = torch.optim.AdamW([match], lr=settings["rate"], weight_decay=0.0)
    for step in track(range(1, settings["steps"] + 1), "learning", console=console):
        (told,) = rng.choices(data, [len(one.asked) for one in data])
        asked = rng.sample(told.asked, min(QUESTIONS, len(told.asked)))
        loss = loss_of(totals(model, told, asked, nothing), asked)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % EVERY == 0 or step == settings["steps"]:
            curve.append({"step": step} | measure(model, held_out, nothing))
            console.print(curve[-1])
            if curve[-1]["loss"] == min(point["loss"] for point in curve):
                best = match.detach().clone()
    finders.match = best
    return curve


def save(model: MemformerForCausalLM, folder: Path, out: Path, report: dict[str, Any]) -> None:
    """Copies a checkpoint with the match that was learned."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(*OF_ONE_RUN), dirs_exist_ok=True)
    weights = load_file(folder / WEIGHTS)
    kinds = {value.dtype for value in weights.values() if value.is_floating_point()}
    weights[MATCH] = model.memory.finders.match.to(kinds.pop() if len(kinds) == 1 else None)
    save_file(weights, out / WEIGHTS, metadata={"format": "pt"})
    (out / "finder.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def main(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of a checkpoint.", exists=True)],
    out: Annotated[Path, typer.Argument(help="Folder for the new one; new or empty.")],
    data: Annotated[
        list[Path],
        typer.Option(help="Documents with questions, and where answers stand; repeat it."),
    ],
    dev: Annotated[list[Path], typer.Option(help="Held-out documents; repeat it.")],
    documents: Annotated[int, typer.Option(min=1, help="Of each file, at most.")] = 60,
    dev_documents: Annotated[int, typer.Option(min=1, help="Of each file, at most.")] = 16,
    tokens: Annotated[int, typer.Option(min=64, help="Of a memory.")] = 8000,
    steps: Annotated[int, typer.Option(min=1, help=f"Of {QUESTIONS} questions.")] = 300,
    rate: Annotated[float, typer.Option(min=0.0, help="Of learning.")] = 1e-3,
    seed: Annotated[int, typer.Option(help="Draws documents and questions.")] = 0,
    threads: ThreadsOption = None,
) -> None:
    require("finding by words", "bm25s")
    use_threads(threads)
    console = Console()
    settings: dict[str, Any] = {
        "data": [path.name for path in data],
        "dev": [path.name for path in dev],
        "documents": documents,
        "dev_documents": dev_documents,
        "tokens": tokens,
        "steps": steps,
        "rate": rate,
        "seed": seed,
    }
    try:
        check_folder(out, "name another OUT")
        sources = [[list(read(path)) for path in paths] for paths in (data, dev)]
    except (BadPlace, BadRecord) as error:
        raise typer.BadParameter(str(error)) from None
    model, tokenizer = open_model(str(checkpoint))
    if not model.memory.finders.chosen:
        raise typer.BadParameter(
            f"{checkpoint} has no heads that find; choose them with "
            "model.choose_finders(tokenizer), and save it anew."
        )
    drawn = [
        [one for records in files for one in _some(records, most, seed)]
        for files, most in zip(sources, (documents, dev_documents), strict=True)
    ]
    with torch.no_grad():
        told, held_out = (
            [one for one in memories(model, tokenizer, some, tokens, console) if one.asked]
            for some in drawn
        )
    if not told or not held_out:
        raise typer.BadParameter("no question of one of the files says where its answer stands.")
    curve = learn(model, (told, held_out), settings, console)
    save(model, checkpoint, out, {"settings": settings, "curve": curve})


def _some(records: Sequence[Record], most: int, seed: int) -> list[Record]:
    """Some records of a file, the same whatever other files there are."""
    return random.Random(seed).sample(records, min(most, len(records)))


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
