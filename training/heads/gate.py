"""The write gate: which tokens are worth writing, and a linear map that tells them apart."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.corpora import people
from eval.corpora.stories import SENTENCE_END, Background, strewn
from eval.corpora.training_facts import KINDS, NAMES
from eval.harness.asking import Asker
from eval.harness.interview import Interview
from memformer import MemformerForCausalLM
from memformer.memory.gate import OPEN
from training.data import records
from training.data.records import Record
from training.finetuning.documents import encoded, tokenised
from training.heads.inputs import lowest_inputs
from training.heads.kinds import MORE_KINDS

FACTS = 6
LEAST_DOCUMENTS = 5
# a token counts as read if the tokens around it received at least this read weight from questions:
# the sum over reads, as a mean over heads, layers and these tokens
LEAST_READ = 0.2
# a higher read weight is cut to this: a token that everything reads, such as the first of a text,
# must not make its neighbours worth writing
MOST_READ = 3.0
# segments of book text around a record: its sentences fill a page, or are far apart
STREWN = (0.5, 2.5)
# the penalty was chosen from 1e-4 to 1e-1: it carries over best to other kinds of facts
PENALTY, STEPS, RATE = 1e-1, 300, 0.01


@dataclass(frozen=True)
class Example:
    """One document, a token a row.

    Attributes:
        inputs: inputs of the lowest memory layer.
        read: read weight that each token received from questions; `MOST_READ` for a token that is
            worth writing for another reason.
        told: whether a token is known to belong to a fact; used for the report alone.
        plain: whether a token is known to belong to no fact.
        reach: the model's `gate_reach`.
    """

    inputs: Float[Tensor, "tokens hidden"]
    read: Float[Tensor, " tokens"]
    told: Bool[Tensor, " tokens"]
    plain: Bool[Tensor, " tokens"]
    reach: int


def records_of(files: Sequence[Path], count: int) -> dict[Path, list[Record]]:
    """The first records of each file.

    Raises:
        BadRecord: a file can't be read.
        ValueError: a file has too few records.
    """
    given = {file: list(islice(records.read(file), count)) for file in files}
    for file, found in given.items():
        if len(found) < LEAST_DOCUMENTS:
            raise ValueError(
                f"{file} has {len(found)} records; a gate needs {LEAST_DOCUMENTS} or more."
            )
    return given


def read(
    interview: Interview,
    documents: int,
    told: Mapping[Path, Sequence[Record]],
    book: Background,
    console: Console,
) -> dict[str, list[Example]]:
    """Reads facts about people and the records of each file; returns the examples by source.

    Args:
        interview: the model, with the seed that draws everything.
        documents: the number of documents about people.
        told: the records by file.
        book: gives the text that records are strewn in.
        console: shows how far the reading is.
    """
    seed = interview.seed
    drawn = people.make_documents(FACTS, FACTS * documents, seed, NAMES, [*KINDS, *MORE_KINDS])
    rng = random.Random(seed)
    sources = {
        "people": [observe(interview, one) for one in track(drawn, "people", console=console)]
    }
    for file, found in told.items():
        sources.setdefault(file.name, []).extend(
            strew(interview, record, book, rng)
            for record in track(found, file.name, console=console)
        )
    return sources


def observe(interview: Interview, document: people.Document) -> Example:
    """Reads a document and its questions, and notes the read weight of each token."""
    model, chat = interview.model, interview.chat
    told = chat.facts(document)
    around = len(chat.book([0])) - 1
    room = model.memory_config.segment_tokens - len(told) - around
    if room < 1:
        raise ValueError(
            f"{FACTS} facts take {len(told) + around} tokens of this tokenizer, and a segment has "
            f"{model.memory_config.segment_tokens}; attach with a larger segment_tokens."
        )
    book = chat.book(interview.haystack.tokens(room, f"{interview.seed}/gate/{document.number}"))
    asked = [
        chat.question(fact, first=True) + chat.encode(f" {fact.value}.") for fact in document.asked
    ]
    ids = told + book
    with torch.no_grad():
        text = torch.tensor([ids], device=model.device)
        memory = model.memorize(text, memory=model.init_memory(1, num_slots=None)).closed()
        questions, mask = interview.padded(asked)
        after = model(questions, attention_mask=mask, memory=memory.select([0] * len(asked))).memory
    there = memory.occupied[0].nonzero()[:, 0]
    received = (after.reads[:, there] - memory.reads[:, there]).sum(0)
    read = torch.zeros(len(ids)).index_add(0, memory.seen_at[0, there].cpu(), received.cpu())
    known = torch.arange(len(ids)) < len(told)
    return Example(_inputs(model, ids), read, known, ~known, model.memory_config.gate_reach)


def strew(asker: Asker, record: Record, book: Background, rng: random.Random) -> Example:
    """Reads a record whose sentences are strewn in book text; a conversation is left alone."""
    model, tokenizer = asker.model, asker.tokenizer
    reach = model.memory_config.gate_reach
    if not isinstance(record.document, str):
        ids = list(tokenised(record, tokenizer, "chat").ids)
        told = torch.ones(len(ids), dtype=torch.bool)
        return Example(_inputs(model, ids), MOST_READ * told, told, ~told, reach)
    statements = [part for part in SENTENCE_END.split(record.text.strip()) if part]
    between = book.sentences(round(model.memory_config.segment_tokens * rng.uniform(*STREWN)), rng)
    text, ends = strewn(statements, between, rng)
    ids, ends_of = encoded(text, [(0, len(text))], tokenizer)
    stops = torch.tensor(ends_of)
    told = torch.zeros(len(stops), dtype=torch.bool)
    for statement, end in zip(statements, ends, strict=True):
        told |= (end - len(statement) < stops) & (stops <= end)
    read = MOST_READ * told
    return Example(_inputs(model, ids), read, told, around(read, reach) == 0, reach)


def _inputs(model: MemformerForCausalLM, ids: list[int]) -> Float[Tensor, "tokens hidden"]:
    """The lowest memory layer's inputs, segment by segment."""
    most = model.memory_config.segment_tokens
    with torch.no_grad():
        parts = [lowest_inputs(model, ids[at : at + most]) for at in range(0, len(ids), most)]
    return torch.cat(parts).cpu()


@dataclass(frozen=True)
class Gate:
    """A fitted write gate.

    Attributes:
        weight: the linear map of the lowest memory layer's input.
        bias: lets as much plain text pass as the budget says.
    """

    weight: Float[Tensor, " hidden"]
    bias: Float[Tensor, ""]

    def opens(self, example: Example) -> Bool[Tensor, " tokens"]:
        """Which tokens the gate lets through."""
        return around(example.inputs, example.reach) @ self.weight + self.bias >= 0


def around(values: Float[Tensor, "tokens ..."], reach: int) -> Float[Tensor, "tokens ..."]:
    """The mean over each token and its neighbours, as the memory averages its gates."""
    columns = values.view(len(values), -1).T
    pool = torch.nn.AvgPool1d(2 * reach + 1, 1, reach, count_include_pad=False)
    return pool(columns).T.view_as(values)


def fit(sources: Sequence[Sequence[Example]], budget: float) -> Gate:
    """Logistic regression on the inputs: is a token read enough, or near a token that is?

    Args:
        sources: the examples of each source; all sources count alike, whatever their size.
        budget: share of plain text that the gate shall let through.

    Raises:
        ValueError: no token was read enough, or no token is known to be plain.
    """
    examples = [example for source in sources for example in source]
    inputs = torch.cat([around(example.inputs, example.reach) for example in examples])
    read = torch.cat(
        [around(example.read.clamp(max=MOST_READ), example.reach) for example in examples]
    )
    target = (read > LEAST_READ).to(inputs.dtype)
    plain = torch.cat([example.plain for example in examples])
    if not target.any():
        raise ValueError("The questions read nothing from memory; a gate can't learn from that.")
    if not plain.any():
        raise ValueError("There is no plain text among what was read; a gate needs some to close.")
    sizes = torch.tensor([sum(len(example.read) for example in source) for source in sources])
    share = (1 / sizes / len(sources)).repeat_interleave(sizes)
    mean, spread = inputs.mean(0), inputs.std(0)
    scaled = (inputs - mean) / spread
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], RATE)
    for _ in range(STEPS):
        logits = scaled @ weight + bias
        losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, share)
        loss = losses * len(target) + PENALTY * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = weight.detach() / spread
    threshold = torch.quantile(inputs[plain] @ weight, 1 - budget)
    # scaled so that open tokens have the logits of a gate that was never trained
    logits = inputs @ weight - threshold
    factor = OPEN / logits[target > 0].median().clamp_min(1e-3)
    return Gate(factor * weight, -factor * threshold)


def shares(gate: Gate, examples: Sequence[Example]) -> dict[str, float]:
    """The shares of facts, of book text, and of read tokens that the gate lets through.

    A kind of text that no example has is left out.
    """
    opens = torch.cat([gate.opens(example) for example in examples]).float()
    kinds = {
        "facts": torch.cat([example.told for example in examples]),
        "book": torch.cat([example.plain for example in examples]),
        "read": torch.cat([example.read > LEAST_READ for example in examples]),
    }
    return {name: opens[which].mean().item() for name, which in kinds.items() if which.any()}


def train(
    model: MemformerForCausalLM, sources: Mapping[str, list[Example]], budget: float
) -> dict[str, dict[str, dict[str, float]]]:
    """Fits the gate and puts it into the model; returns its shares by source.

    Args:
        model: gets the gate.
        sources: the examples of each source; a fifth of each is held out.
        budget: share of plain text that the gate shall let through.

    Returns:
        `shares` by source, under "trained_on" and under "held_out".
    """
    held_out = {name: found[: len(found) // 5] for name, found in sources.items()}
    learned = {name: found[len(found) // 5 :] for name, found in sources.items()}
    gate = fit(list(learned.values()), budget)
    with torch.no_grad():
        model.memory.table.write_gate_weight.copy_(gate.weight)
        model.memory.table.write_gate_bias.copy_(gate.bias)
    return {
        "trained_on": {name: shares(gate, found) for name, found in learned.items()},
        "held_out": {name: shares(gate, found) for name, found in held_out.items()},
    }
