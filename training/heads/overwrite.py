"""The erase head: its gate, its addresses and its threshold, learned from facts that change."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.corpora.haystack import Haystack
from eval.corpora.people import Chat, Fact, Kind
from eval.corpora.training_facts import KINDS, NAMES
from memformer import MemformerForCausalLM, MemoryState
from memformer.attach.heads import ReleaseHeads
from memformer.memory.addressing import matches
from memformer.memory.chunk import Chunk, Rules
from memformer.memory.gate import OPEN, gate, let_go
from training.heads.inputs import lowest_inputs
from training.heads.kinds import MANY_KINDS, MORE_KINDS, MORE_NAMES

PEOPLE, KINDS_EACH = 4, 2  # in a document
CHANGED, NEW = 3, 3  # facts of the later text
PAGE = 150  # tokens of the book
# words before a changed fact
LEADS = ("", "", "Now ", "By now ", "From today on ", "Since Monday ", "No longer so: ")
STEPS, BATCH, RATE, GATE_RATE = 400, 16, 3e-3, 1e-2
# weights in the loss: few pairs of tokens match, so they count more. Pairs of a told value with
# other old text count almost as much, because most mistakes confuse two people's values of one kind
MATCH_WEIGHT, TOLD_WEIGHT = 5.0, 4.0
# in standard deviations of the inputs; without noise, half of the replaced values of new kinds keep
# most of their strength, with noise hardly any
NOISE = 0.7
SHARPNESS, THRESHOLD = 18.0, 0.6
# this share of the replaced values shall keep this share of their strength at most
MOST, LEFT = 0.9, 0.3


@dataclass(frozen=True)
class Example:
    """Older and later text, a token a row.

    Attributes:
        older: inputs of the lowest memory layer for the older text.
        later: inputs of the lowest memory layer for the later text.
        tells: whether a later token belongs to a told value.
        pairs: whether a later and an older token belong to values of the same fact.
        rules: how the model takes text in.
    """

    older: Float[Tensor, "older hidden"]
    later: Float[Tensor, "later hidden"]
    tells: Bool[Tensor, " later"]
    pairs: Bool[Tensor, "later older"]
    rules: Rules

    @property
    def replaced(self) -> Bool[Tensor, " older"]:
        """Whether an older token belongs to a value that the later text replaces."""
        return self.pairs.any(0)


def told(chat: Chat, facts: list[Fact], leads: list[str]) -> tuple[list[int], list[int]]:
    """A turn that tells facts, and for each token the number of the fact with its value, or -1."""
    ids: list[int] = []
    values: list[int] = []
    for number, (fact, lead) in enumerate(zip(facts, leads, strict=True)):
        before = chat.encode((" " if number else "") + fact.begun(lead))
        value = chat.encode(f" {fact.value}.")
        ids += before + value
        values += [-1] * len(before) + [number] * len(value)
    turn = chat.told(ids)
    start = next(at for at in range(len(turn)) if turn[at : at + len(ids)] == ids)
    return turn, [-1] * start + values + [-1] * (len(turn) - start - len(values))


def observe(
    model: MemformerForCausalLM,
    chat: Chat,
    haystack: Haystack,
    names: list[str],
    kinds: list[Kind],
    seed: str,
) -> list[Example]:
    """Reads a document of facts and a page, and three kinds of later text."""
    draws = random.Random(seed)
    some = draws.sample(kinds, 2 * KINDS_EACH)
    people = draws.sample(names, PEOPLE)
    facts = [
        Fact(name, kind, draws.choice(kind.values))
        for name in people
        for kind in draws.sample(some, KINDS_EACH)
    ]
    draws.shuffle(facts)
    known = {(fact.name, fact.kind) for fact in facts}
    free = [(name, kind) for name in people for kind in some if (name, kind) not in known]
    changed = [
        Fact(
            fact.name,
            fact.kind,
            draws.choice([value for value in fact.kind.values if value != fact.value]),
        )
        for fact in draws.sample(facts, CHANGED)
    ]
    later = changed + [
        Fact(name, kind, draws.choice(kind.values)) for name, kind in draws.sample(free, NEW)
    ]
    draws.shuffle(later)
    page = chat.book(haystack.tokens(PAGE, f"{seed}/page"))
    turn, old = told(chat, facts, [""] * len(facts))
    update, new = told(chat, later, [draws.choice(LEADS) for _ in later])
    asked = draws.choice(facts)
    answer = chat.encode(f" {draws.choice(asked.kind.values)}.")
    question = chat.question(asked, first=True) + answer
    pages = chat.book(haystack.tokens(2 * PAGE, f"{seed}/pages"))
    with torch.no_grad():
        older = torch.cat([lowest_inputs(model, ids) for ids in (turn, page)])
        texts = [lowest_inputs(model, ids) for ids in (update, question, pages)]
    examples = []
    for text, values in zip(texts, (new, [-1] * len(question), [-1] * len(pages)), strict=True):
        pairs = torch.zeros(len(text), len(older), dtype=torch.bool)
        for row, number in enumerate(values):
            for column, other in enumerate(old):
                pairs[row, column] = min(number, other) >= 0 and same(later[number], facts[other])
        tells = torch.tensor(values) >= 0
        examples.append(Example(older, text, tells, pairs, model.engine().rules))
    return examples


def read(
    model: MemformerForCausalLM,
    chat: Chat,
    haystack: Haystack,
    documents: int,
    seed: int,
    console: Console,
) -> tuple[list[Example], list[Example]]:
    """Examples to train on, and examples of names and kinds of facts that are held out.

    Args:
        model: reads the documents.
        chat: writes the turns.
        haystack: gives the pages of the book.
        documents: the number of documents; a fifth of them is held out.
        seed: draws all documents.
        console: shows how far the reading is.
    """
    kinds, names = [*KINDS, *MORE_KINDS, *MANY_KINDS], [*NAMES, *MORE_NAMES]
    trained_on, held_out = (
        [
            example
            for number in track(numbers, "reading", console=console, transient=True)
            for example in observe(
                model,
                chat,
                haystack,
                [name for at, name in enumerate(names) if (at % 5 == 0) == is_held_out],
                [kind for at, kind in enumerate(kinds) if (at % 5 == 0) == is_held_out],
                f"{seed}/{number}",
            )
        ]
        for is_held_out, numbers in (
            (False, range(documents // 5, documents)),
            (True, range(documents // 5)),
        )
    )
    return trained_on, held_out


def same(one: Fact, other: Fact) -> bool:
    """Whether two facts have the same person and kind, whatever their values."""
    return (one.name, one.kind) == (other.name, other.kind)


def recent(x: Float[Tensor, "tokens hidden"], reach: int) -> Float[Tensor, "tokens twice"]:
    """The input of an address: each token, and the mean over the tokens just before it."""
    real = torch.ones(1, 1, len(x), dtype=torch.bool)
    chunk = Chunk.after(MemoryState.empty(1, 1, 1, 1), real)
    return torch.cat([x, chunk.recent(x[None], reach)[0]], -1)


def kept(heads: ReleaseHeads, example: Example) -> Float[Tensor, " older"]:
    """The share of its strength that each older token keeps after the later text."""
    texts = torch.nn.utils.rnn.pad_sequence([example.older, example.later], batch_first=True)
    real = torch.zeros(1, *texts.shape[:2], dtype=torch.bool)
    real[0, 0, : len(example.older)] = real[0, 1, : len(example.later)] = True
    state = MemoryState.empty(1, 1, 1, 1, address_width=len(heads.address_bias))
    chunk = Chunk.after(state, real, (torch.tensor([0, 0]), torch.tensor([0, 1])))
    writes = gate(state, chunk, texts.new_full(texts.shape[:2], OPEN), None, example.rules)
    addresses, releases = heads(texts, chunk)
    writes = let_go(state, chunk, writes, addresses, releases, example.rules.least_age)
    return writes.retained[1][0, : len(example.older)]


def train(heads: ReleaseHeads, examples: list[Example], seed: int) -> None:
    """Trains heads in place on examples."""
    inputs = torch.cat([torch.cat([example.older, example.later]) for example in examples])
    mean, spread = inputs.mean(0), inputs.std(0)
    later = (torch.cat([example.later for example in examples]) - mean) / spread
    fit_gate(heads, later, torch.cat([example.tells for example in examples]))
    fit_address(heads, [scaled(one, mean, spread) for one in examples], seed)
    with torch.no_grad():
        # turns maps of standardised inputs into maps of the model's inputs
        heads.address_weight.div_(spread.repeat(2))
        heads.address_bias.sub_(heads.address_weight @ mean.repeat(2))
        erase = heads.head("erase")
        erase.gate_weight.div_(spread)
        erase.gate_bias.sub_(erase.gate_weight @ mean)
        set_threshold(heads, [example for example in examples if example.pairs.any()])


def scaled(example: Example, mean: Tensor, spread: Tensor) -> Example:
    """The example with standardised inputs, in the form that `recent` returns."""
    reach = example.rules.address_reach
    older, later = (recent((x - mean) / spread, reach) for x in (example.older, example.later))
    return replace(example, older=older, later=later)


def fit_gate(
    heads: ReleaseHeads, inputs: Float[Tensor, "tokens hidden"], tells: Bool[Tensor, " tokens"]
) -> None:
    """Logistic regression: does a token tell a value?"""
    erase = heads.head("erase")
    optimizer = torch.optim.AdamW([erase.gate_weight, erase.gate_bias], GATE_RATE)
    for _ in range(STEPS):
        logits = inputs @ erase.gate_weight + erase.gate_bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, tells.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def fit_address(heads: ReleaseHeads, examples: list[Example], seed: int) -> None:
    """Logistic regression on pairs of addresses: do two tokens belong to the same fact?"""
    erase = heads.head("erase")
    draws, noise = random.Random(seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        erase.log_sharpness.fill_(math.log(SHARPNESS))
        erase.threshold.fill_(THRESHOLD)
    optimizer = torch.optim.AdamW(
        [
            {"params": [heads.address_weight, heads.address_bias], "lr": RATE},
            {"params": [erase.threshold], "lr": 5 * RATE},
        ]
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)

    def address(x: Tensor) -> Tensor:
        blurred = x + NOISE * torch.randn(x.shape, generator=noise)
        return torch.nn.functional.linear(blurred, heads.address_weight, heads.address_bias)

    for _ in range(STEPS):
        loss = torch.zeros(())
        for one in draws.sample(examples, min(BATCH, len(examples))):
            match = matches(
                address(one.older),
                address(one.later),
                erase.log_sharpness[0].exp(),
                erase.threshold[0],
            )
            weight = torch.where(one.tells, TOLD_WEIGHT, 1.0)[:, None].expand_as(match)
            weight = torch.where(one.pairs, MATCH_WEIGHT, weight)
            loss = loss + torch.nn.functional.binary_cross_entropy(
                match, one.pairs.float(), weight, reduction="sum"
            )
        optimizer.zero_grad()
        (loss / BATCH).backward()
        optimizer.step()
        schedule.step()


def set_threshold(heads: ReleaseHeads, examples: list[Example]) -> None:
    """Sets the highest threshold with which `MOST` of the replaced values keep `LEFT` at most."""
    threshold = heads.head("erase").threshold
    low, high = -1.0, 1.0
    for _ in range(8):
        threshold.fill_((low + high) / 2)
        left = torch.cat([kept(heads, example)[example.replaced] for example in examples])
        if (left <= LEFT).float().mean() >= MOST:
            low = threshold.item()
        else:
            high = threshold.item()
    threshold.fill_(low)


def shares(heads: ReleaseHeads, examples: list[Example]) -> dict[str, float]:
    """The shares of replaced and of other tokens that lose more than half of their strength."""
    with torch.no_grad():
        lost = torch.cat([kept(heads, example) for example in examples]) < 0.5
    replaced = torch.cat([example.replaced for example in examples])
    return {
        "replaced": lost[replaced].float().mean().item(),
        "others": lost[~replaced].float().mean().item(),
    }
