"""A needle in a haystack: one fact at some depth of a book, and a question about it.

    python -m eval.needle MODEL --lengths 1000,4000,16000 --systems truncated:4096,bm25,memformer

The fact is about a person who is in no novel: `passkey` hides a number of five digits, `fact` one
of the sentences of `eval.recall`. The report has a map of length against depth for every system.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Annotated, Any, Literal

import typer

from eval.corpora.book import book_name
from eval.corpora.haystack import Haystack
from eval.corpora.people import KINDS, NAMES, Fact
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.metrics import contains
from eval.reporting.options import BookOption, numbers

DEPTHS = (0, 25, 50, 75, 100)  # percent of the book text that come before the fact


def needle(
    tokenizer: Any,
    lengths: Annotated[str, typer.Option(help="Tokens of book text; a list.")] = "1000,2000,4000",
    hide: Annotated[Literal["fact", "passkey"], typer.Option(help="What is looked for.")] = "fact",
    cases: Annotated[int, typer.Option(min=1, help="Of each length and depth.")] = 10,
    seed: Annotated[int, typer.Option(help="Draws facts and book text.")] = 0,
    book: BookOption = None,
) -> Benchmark:
    """Needles of one sort, for each length and depth."""
    sizes = numbers(lengths, 1, "--lengths")
    haystack = Haystack(tokenizer, book)
    drawn = {"cases": cases, "seed": seed, "book": book_name(book)}
    documents = []
    for size in sizes:
        for depth in DEPTHS:
            for case in range(cases):
                # the same needles at every length and depth
                sentence, asked, begun, answer = _hidden(hide, random.Random(f"{seed}/{case}"))
                text = partial(_strewn, tokenizer, haystack, f"{seed}/{case}", size, depth)
                at = {"depth": f"{depth} %", "length": f"{size:,}"}
                question = Question("0", asked, (answer,), at, begun)
                documents.append(
                    Document(f"{size}/{depth}/{case}", partial(text, sentence), (question,), size)
                )
    return Benchmark(
        title="Needle in a haystack",
        axes={"depth": [f"{one} %" for one in DEPTHS], "length": [f"{one:,}" for one in sizes]},
        documents=documents,
        score=lambda question, output: {"found": contains(output, question.answers)},
        metrics=("found",),
        instruction="Answer from what I told you before.",
        max_new_tokens=10,
        settings={"hide": hide, "lengths": sizes, **drawn},
        averages={"mean of all depths": [f"{one} %" for one in DEPTHS]},
        constants=False,
        heat=True,
    )


def _strewn(
    tokenizer: Any, haystack: Haystack, seed: str, size: int, depth: int, sentence: str
) -> list[str]:
    """The text of a case: `size` tokens of the book with a sentence in them."""
    ids, place = haystack.tokens(size, seed), size * depth // 100
    before, after = tokenizer.decode(ids[:place]), tokenizer.decode(ids[place:])
    return [f"{before} {sentence} {after}".strip()]


def _hidden(what: str, rng: random.Random) -> tuple[str, str, str, str]:
    """A sentence, a question, the beginning of the answer, and its end."""
    name = rng.choice(NAMES)
    if what == "passkey":
        key = str(rng.randrange(10_000, 100_000))
        begun = f"The pass key of {name} is"
        return f"{begun} {key}.", f"What is the pass key of {name}?", begun, key
    kind = rng.choice(KINDS)
    fact = Fact(name, kind, rng.choice(kind.values))
    return fact.sentence, fact.question, fact.answer_prefix, fact.value


app = command(needle)

if __name__ == "__main__":
    app()
