"""Recall over distance: facts first, then book text, then a question about one of the facts.

    python -m eval.recall MODEL --facts 6 --distances 0,512,2048,8192 --systems full,bm25,memformer

A document is n facts about n people and, after them, so many tokens of a novel. Up to six of the
people are asked about; the sentence of the answer is begun, and only the exact value counts. A
document has the same facts at every distance. The recipe of the memory was found with other names,
facts and wordings: this is a test, so never tune anything on it.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any

import typer

from eval.corpora.book import book_name
from eval.corpora.haystack import Haystack
from eval.corpora.people import NAMES, make_documents
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.interview import MAX_NEW_TOKENS
from eval.harness.metrics import first_words
from eval.reporting.options import BookOption, numbers

# the tokens of one fact, roughly
FACT_TOKENS = 8


def recall(
    tokenizer: Any,
    facts: Annotated[str, typer.Option(help="Facts in a document; a list runs all.")] = "6",
    distances: Annotated[
        str, typer.Option(help="Tokens of book text between facts and question; a list.")
    ] = "0,512,2048,8192",
    cases: Annotated[int, typer.Option(min=1, help="Questions in each cell.")] = 200,
    seed: Annotated[int, typer.Option(help="Draws the documents.")] = 0,
    book: BookOption = None,
) -> Benchmark:
    """Facts about people, and book text after them."""
    counts, sizes = numbers(facts, 1, "--facts"), numbers(distances, 0, "--distances")
    if max(counts) > len(NAMES):
        raise typer.BadParameter(f"--facts goes up to {len(NAMES)}; got {max(counts)}.")
    haystack = Haystack(tokenizer, book)
    drawn = {"cases": cases, "seed": seed, "book": book_name(book)}
    documents = []
    for count in counts:
        for size in sizes:
            at = {"facts": str(count), "tokens later": f"{size:,}"}
            for one in make_documents(count, cases, seed):
                asked = [
                    Question(str(n), fact.question, (fact.value,), at, fact.answer_prefix)
                    for n, fact in enumerate(one.asked)
                ]
                draw = f"{seed}/book/{one.number}"
                parts = partial(_parts, tokenizer, haystack, one.told, size, draw)
                tokens = FACT_TOKENS * count + size
                documents.append(
                    Document(f"{count}/{size}/{one.number}", parts, tuple(asked), tokens)
                )
    axes = {"facts": list(map(str, counts)), "tokens later": [f"{size:,}" for size in sizes]}
    if len(sizes) == 1:  # one table with a column for each number of facts
        axes = dict(reversed(axes.items()))
    return Benchmark(
        title="Recall",
        axes=axes,
        documents=documents,
        score=_exact,
        metrics=("exact match",),
        instruction="",
        max_new_tokens=MAX_NEW_TOKENS,
        settings={"facts": counts, "distances": sizes, **drawn},
        constants=False,
    )


def _parts(tokenizer: Any, haystack: Haystack, told: str, size: int, draw: str) -> list[str]:
    pages = tokenizer.decode(haystack.tokens(size, draw)).strip()
    return [told, pages] if pages else [told]


def _exact(question: Question, output: str) -> dict[str, float]:
    return {"exact match": float(first_words(output) == question.answers[0].lower())}


app = command(recall)

if __name__ == "__main__":
    app()
