"""Trains how far the heads of a model's memory read along links, and nothing else.

    python -m training.links links-smollm2

The model reads lists of what somebody did in turn, and is asked what came right after one of these
things. Only the read modes are trained, three numbers a head, by the loss on the answers; the
wordings are others than the test's. Takes minutes on a CPU. Saves a checkpoint.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.corpora.people import Chat, Fact, Kind
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import ThreadsOption
from eval.reporting.report import head
from memformer import MemformerForCausalLM, MemoryState
from training.heads.kinds import MORE_NAMES
from training.heads.parts import NewFolder, save, with_parts

THINGS = (
    "lamp chair mirror carpet clock sofa desk oven kettle broom rope spade helmet blanket bucket "
    "pillow violin candle basket ladder"
).split()
# what is told: the first thing, each further thing, the question, how the answer begins
WORDINGS = (
    ("{name} bought a", "and then a", "What did {name} buy right after the {thing}?", "bought a"),
    ("{name} sold the", "then the", "What did {name} sell next after the {thing}?", "sold the"),
    ("{name} drew a", "next a", "What did {name} draw right after the {thing}?", "drew a"),
)
LENGTH, QUESTIONS = 7, 4
STEPS, RATE = 60, 0.1


@dataclass(frozen=True)
class Example:
    """A memory that holds a list, and questions about it.

    Attributes:
        memory: one row.
        ids: questions with answers, padded on the right.
        mask: 0 at padding.
        labels: -100 but at the answers.
    """

    memory: MemoryState
    ids: Int[Tensor, "questions tokens"]
    mask: Int[Tensor, "questions tokens"]
    labels: Int[Tensor, "questions tokens"]


def observe(model: MemformerForCausalLM, chat: Chat, seed: str) -> Example:
    """One list in memory, with questions."""
    draws = random.Random(seed)
    name, things = draws.choice(MORE_NAMES), draws.sample(THINGS, LENGTH)
    first, then, question, answer = draws.choice(WORDINGS)
    told = first.format(name=name) + " " + f", {then} ".join(things)
    rows: list[tuple[list[int], int]] = []
    for before, after in draws.sample(list(zip(things, things[1:], strict=False)), QUESTIONS):
        kind = Kind(
            f"After the {before}, {{name}} {answer}", question.replace("{thing}", before), things
        )
        asked = chat.question(Fact(name, kind, after), first=True)
        rows.append((asked + chat.encode(f" {after}."), len(asked)))
    width = max(len(ids) for ids, _ in rows)
    ids, mask = (torch.zeros(QUESTIONS, width, dtype=torch.long) for _ in range(2))
    labels = torch.full((QUESTIONS, width), -100)
    for row, (words, start) in enumerate(rows):
        ids[row, : len(words)] = torch.tensor(words)
        mask[row, : len(words)] = 1
        labels[row, start : len(words)] = torch.tensor(words[start:])
    with torch.no_grad():
        memory = model.memorize(torch.tensor([chat.told(chat.encode(told + "."))]))
    return Example(memory.closed(), ids, mask, labels)


def loss_of(model: MemformerForCausalLM, example: Example) -> Tensor:
    """Cross-entropy of the answers, a token."""
    memory = example.memory.select([0] * len(example.ids))
    loss = model(
        example.ids, attention_mask=example.mask, labels=example.labels, memory=memory
    ).loss
    assert loss is not None
    return loss


def train(model: MemformerForCausalLM, chat: Chat, seed: int, console: Console) -> None:
    """Trains the read modes in place."""
    modes = [layer.read_modes for layer in model.memory_layers]
    for parameter in model.memory.parameters():
        parameter.requires_grad_(any(parameter is mode for mode in modes))
    optimizer = torch.optim.Adam(modes, RATE)
    for step in track(range(STEPS), "training", console=console, transient=True):
        optimizer.zero_grad()
        for part in range(2):
            (loss_of(model, observe(model, chat, f"{seed}/{step}/{part}")) / 2).backward()
        optimizer.step()
    model.memory.requires_grad_(True)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    out: NewFolder,
    model: Annotated[str | None, typer.Option(help="Default: the default model.")] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Lists to measure on.")] = 12,
    seed: int = 7000,
    threads: ThreadsOption = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    started = time.perf_counter()
    report = head("training.links", {"steps": STEPS, "rate": RATE, "seed": seed})
    report |= model_name(model)
    loaded, tokenizer = open_model(model)
    loaded = with_parts(loaded, links=True)
    chat = Chat(tokenizer)
    examples = [observe(loaded, chat, f"{seed}/held out/{number}") for number in range(held_out)]
    losses = []
    for trained in (False, True):
        if trained:
            train(loaded, chat, seed, console)
        with torch.no_grad():
            losses.append(sum(loss_of(loaded, one).item() for one in examples) / held_out)
    modes = torch.stack([layer.read_modes.detach().softmax(-1) for layer in loaded.memory_layers])
    report["loss"] = {"before": losses[0], "after": losses[1]}
    report["modes"] = dict(
        zip(("backward", "content", "forward"), modes.mean((0, 1)).tolist(), strict=True)
    )
    save(out, loaded, tokenizer, report, started)
    console.print(f"loss on lists held out: {losses[0]:.3f} before, {losses[1]:.3f} after; {out}")


if __name__ == "__main__":
    app()
