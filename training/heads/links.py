"""The read modes of every head: how much it reads along links, learned from lists."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from jaxtyping import Int
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.corpora.people import Chat, Fact, Kind
from memformer import MemformerForCausalLM, MemoryState
from training.heads.kinds import MORE_NAMES

THINGS = (
    "lamp chair mirror carpet clock sofa desk oven kettle broom rope spade helmet blanket bucket "
    "pillow violin candle basket ladder"
).split()
# beginning of the list, words before each further thing, question, beginning of the answer
WORDINGS = (
    ("{name} bought a", "and then a", "What did {name} buy right after the {thing}?", "bought a"),
    ("{name} sold the", "then the", "What did {name} sell next after the {thing}?", "sold the"),
    ("{name} drew a", "next a", "What did {name} draw right after the {thing}?", "drew a"),
)
LENGTH, QUESTIONS = 7, 4
STEPS, RATE = 60, 0.1


@dataclass(frozen=True)
class Example:
    """A memory that holds a list, and questions about the list.

    Attributes:
        memory: a memory of one row.
        ids: questions with answers, padded on the right.
        mask: 0 at padding, else 1.
        labels: the tokens of the answers; -100 elsewhere.
    """

    memory: MemoryState
    ids: Int[Tensor, "questions tokens"]
    mask: Int[Tensor, "questions tokens"]
    labels: Int[Tensor, "questions tokens"]


def observe(model: MemformerForCausalLM, chat: Chat, seed: str) -> Example:
    """Reads one list into a memory, and makes questions about it."""
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
    """Mean cross entropy of the answers' tokens."""
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


def train_and_measure(
    model: MemformerForCausalLM, chat: Chat, held_out: int, seed: int, console: Console
) -> dict[str, float]:
    """Trains the read modes in place; returns the loss on other lists before and after.

    Args:
        model: has links switched on.
        chat: writes the lists and the questions.
        held_out: the number of lists to measure on.
        seed: draws all lists.
        console: shows how far the training is.
    """
    examples = [observe(model, chat, f"{seed}/held out/{number}") for number in range(held_out)]
    before = _mean_loss(model, examples)
    train(model, chat, seed, console)
    return {"before": before, "after": _mean_loss(model, examples)}


def _mean_loss(model: MemformerForCausalLM, examples: list[Example]) -> float:
    with torch.no_grad():
        return sum(loss_of(model, example).item() for example in examples) / len(examples)


def mean_modes(model: MemformerForCausalLM) -> dict[str, float]:
    """The share of each read mode, as a mean over layers and heads."""
    modes = torch.stack([layer.read_modes.detach().softmax(-1) for layer in model.memory_layers])
    return dict(zip(("backward", "content", "forward"), modes.mean((0, 1)).tolist(), strict=True))
