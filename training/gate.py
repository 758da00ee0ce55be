"""Trains the write gate of a model's memory, and nothing else: write what will be read.

    python -m training.gate gate-smollm2 --budget 0.05
    python -m training.gate gate-smollm2 --data train.jsonl.gz

1. Documents are read with the gate open: facts about people, then book text.
2. Each question is read with its answer; how much it read from every token is noted. The names,
   the facts and the book are others than those of `eval.recall`.
3. A token is worth writing if enough was read around it. With `--data`, so is all that those
   documents tell (records of `training.data.records` without book text in them): texts are strewn
   in the book sentence by sentence, conversations are taken as they are.
4. The gate, a linear map of the lowest memory layer's input around a token, is fitted to that by
   logistic regression, its bias is moved so that it lets `--budget` of plain book text through, and
   it is scaled to be as sure of what it writes as the gate that writes everything.

The backbone and all other memory weights stay as they are. Takes minutes on a CPU, as nothing is
differentiated but the regression. Saves a checkpoint that `memformer` and `eval` take as a model.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated

import torch
import typer
from jaxtyping import Bool, Float
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval import people
from eval.asking import Asker
from eval.haystack import Haystack
from eval.recall import Bench
from eval.recipe import KINDS, NAMES
from eval.report import ThreadsOption, checked_book, head, model_name, open_model
from eval.stories import SENTENCE_END, Background, strewn
from memformer import MemformerForCausalLM
from memformer.memory.segment import GATE_REACH, OPEN
from training.data import records
from training.data.jsonl import BadRecord
from training.data.records import Record
from training.documents import tokenised
from training.inputs import lowest_inputs
from training.kinds import MORE_KINDS
from training.parts import NewFolder, save

BOOK = Path(__file__).parent / "data" / "garden.txt"
FACTS = 6
# a token counts as read if around it questions read on average this much of a token: the sum of
# their read weights, mean over heads and layers
LEAST_READ = 0.2
# a token that everything reads, such as the first of a text, does not make its neighbours worth it
MOST_READ = 3.0
# of 1e-4 to 1e-1, the penalty that carries over best from some kinds of facts to others
PENALTY, STEPS, RATE = 1e-1, 300, 0.01


@dataclass(frozen=True)
class Example:
    """One document, a token a row.

    Attributes:
        inputs: of the lowest memory layer.
        read: read weight received from the questions; as much as counts where it is worth writing
            for another reason.
        told: whether the token is known to be of what is told; used for the report alone.
        plain: whether it is known to be of nothing that is asked about.
    """

    inputs: Float[Tensor, "tokens hidden"]
    read: Float[Tensor, " tokens"]
    told: Bool[Tensor, " tokens"]
    plain: Bool[Tensor, " tokens"]


def observe(bench: Bench, document: people.Document) -> Example:
    """Reads a document and its questions, and notes what was read."""
    model, chat = bench.model, bench.chat
    told = chat.facts(document)
    around = len(chat.book([0])) - 1
    room = model.memory_config.segment_tokens - len(told) - around
    if room < 1:
        raise ValueError(
            f"{FACTS} facts take {len(told) + around} tokens of this tokenizer, and a segment has "
            f"{model.memory_config.segment_tokens}; attach with a larger segment_tokens."
        )
    book = chat.book(bench.haystack.tokens(room, f"{bench.seed}/gate/{document.number}"))
    asked = [
        chat.question(fact, first=True) + chat.encode(f" {fact.value}.") for fact in document.asked
    ]
    ids = told + book
    with torch.no_grad():
        text = torch.tensor([ids], device=model.device)
        memory = model.memorize(text, memory=model.init_memory(1, num_slots=None)).closed()
        questions, mask = bench.padded(asked)
        after = model(questions, attention_mask=mask, memory=memory.select([0] * len(asked))).memory
    there = memory.occupied[0].nonzero()[:, 0]
    received = (after.reads[:, there] - memory.reads[:, there]).sum(0)
    read = torch.zeros(len(ids)).index_add(0, memory.written_at[0, there].cpu(), received.cpu())
    known = torch.arange(len(ids)) < len(told)
    return Example(_inputs(model, ids), read, known, ~known)


def strew(bench: Asker, record: Record, book: Background, rng: random.Random) -> Example:
    """What a record tells, among a segment's worth of book text; a conversation is left alone."""
    model, tokenizer = bench.model, bench.tokenizer
    if not isinstance(record.document, str):
        ids = list(tokenised(record, tokenizer, "chat").ids)
        told = torch.ones(len(ids), dtype=torch.bool)
        return Example(_inputs(model, ids), MOST_READ * told, told, ~told)
    statements = [part for part in SENTENCE_END.split(record.text.strip()) if part]
    between = book.sentences(model.memory_config.segment_tokens, rng)
    text, ends = strewn(statements, between, rng)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    stops = torch.tensor([stop for _, stop in encoded.offset_mapping])
    told = torch.zeros(len(stops), dtype=torch.bool)
    for statement, end in zip(statements, ends, strict=True):
        told |= (end - len(statement) < stops) & (stops <= end)
    read = MOST_READ * told
    return Example(_inputs(model, encoded.input_ids), read, told, _around(read) == 0)


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
        weight: of the lowest memory layer's input.
        bias: with it, as much plain text passes as was asked for.
    """

    weight: Float[Tensor, " hidden"]
    bias: Float[Tensor, ""]

    def opens(self, example: Example) -> Bool[Tensor, " tokens"]:
        """Which tokens it lets through."""
        return _around(example.inputs) @ self.weight + self.bias >= 0


def _around(values: Float[Tensor, "tokens ..."]) -> Float[Tensor, "tokens ..."]:
    """The mean over each token and its neighbours, as the memory takes it of its gates."""
    columns = values.view(len(values), -1).T
    pool = torch.nn.AvgPool1d(2 * GATE_REACH + 1, 1, GATE_REACH, count_include_pad=False)
    return pool(columns).T.view_as(values)


def fit(examples: list[Example], budget: float) -> Gate:
    """Logistic regression of "read enough, or near what is" on the inputs.

    Args:
        examples: what was observed.
        budget: share of plain text that the gate shall let through.

    Raises:
        ValueError: nothing was read.
    """
    inputs = torch.cat([_around(example.inputs) for example in examples])
    read = torch.cat([_around(example.read.clamp(max=MOST_READ)) for example in examples])
    target = (read > LEAST_READ).to(inputs.dtype)
    if not target.any():
        raise ValueError("The questions read nothing from memory; a gate can't learn from that.")
    mean, spread = inputs.mean(0), inputs.std(0)
    scaled = (inputs - mean) / spread
    weight = torch.zeros(inputs.shape[1], requires_grad=True)
    bias = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.Adam([weight, bias], RATE)
    for _ in range(STEPS):
        loss = torch.nn.functional.binary_cross_entropy_with_logits(scaled @ weight + bias, target)
        loss = loss + PENALTY * weight.square().sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    weight = weight.detach() / spread
    plain = inputs[torch.cat([example.plain for example in examples])]
    threshold = torch.quantile(plain @ weight, 1 - budget)
    # as sure of what is written as a gate that was never trained
    logits = inputs @ weight - threshold
    factor = OPEN / logits[target > 0].median().clamp_min(1e-3)
    return Gate(factor * weight, -factor * threshold)


def shares(gate: Gate, examples: list[Example]) -> dict[str, float]:
    """How much of the facts, of the book text, and of what was read the gate lets through."""
    opens = torch.cat([gate.opens(example) for example in examples]).float()
    told, plain, read = (
        torch.cat(parts)
        for parts in (
            [example.told for example in examples],
            [example.plain for example in examples],
            [example.read > LEAST_READ for example in examples],
        )
    )
    return {
        "facts": opens[told].mean().item(),
        "book": opens[plain].mean().item(),
        "read": opens[read].mean().item(),
    }


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    out: NewFolder,
    model: Annotated[str | None, typer.Option(help="Default: the default model.")] = None,
    budget: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of plain text that is written.")
    ] = 0.05,
    documents: Annotated[int, typer.Option(min=5, help="A fifth is held out.")] = 60,
    data: Annotated[
        list[Path] | None, typer.Option(help="As many records of this file too; repeatable.")
    ] = None,
    book: Annotated[
        Path, typer.Option(help="Text file to train with.", callback=checked_book)
    ] = BOOK,
    seed: int = 5000,
    threads: ThreadsOption = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    console = Console()
    started = time.perf_counter()
    settings = {
        "budget": budget,
        "documents": documents,
        "data": [file.name for file in data or []],
        "book": book.name,
        "seed": seed,
        "least_read": LEAST_READ,
    }
    report = head("training.gate", settings) | model_name(model)
    loaded, tokenizer = open_model(model)
    bench = Bench(loaded, tokenizer, Haystack(tokenizer, book), seed)
    drawn = people.make_documents(FACTS, FACTS * documents, seed, NAMES, [*KINDS, *MORE_KINDS])
    try:
        background = Background([book], lambda text: len(tokenizer(text).input_ids))
        given = [record for file in data or [] for record in islice(records.read(file), documents)]
    except (BadRecord, ValueError) as error:
        console.print(str(error), soft_wrap=True)
        raise typer.Exit(2) from None
    rng = random.Random(seed)
    todo: list[people.Document | Record] = [*drawn, *given]
    rng.shuffle(todo)
    examples = [
        strew(bench, one, background, rng) if isinstance(one, Record) else observe(bench, one)
        for one in track(todo, "reading", console=console, transient=True)
    ]
    held_out = len(examples) // 5
    gate = fit(examples[held_out:], budget)
    report["trained_on"] = shares(gate, examples[held_out:])
    report["held_out"] = shares(gate, examples[:held_out])
    lowest = loaded.memory_layers[0]
    with torch.no_grad():
        lowest.write_gate_weight.copy_(gate.weight)
        lowest.write_gate_bias.copy_(gate.bias)
    save(out, loaded, tokenizer, report, started)
    kept = report["held_out"]
    console.print(
        f"held out: {kept['facts']:.1%} of the facts and {kept['book']:.1%} of the book text are "
        f"written; saved in {out}"
    )


if __name__ == "__main__":
    app()
