"""Many documents in a row, and questions about the first, the last and those in between.

    python -m eval.continual MODEL --documents 64 --systems truncated:4096,bm25,memformer

Each document is a page of a novel with facts about people in it. All are read one after the other,
as a user might over weeks; then there is one question about every document that the columns name:
how many documents were read since.
"""

from __future__ import annotations

import random
from functools import partial
from typing import Annotated, Any

import typer

from eval.corpora.book import book_name
from eval.corpora.haystack import Haystack
from eval.corpora.people import KINDS, NAMES, Fact
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.metrics import contains
from eval.reporting.options import BookOption

# facts in one document, of which one may be asked for
FACTS = 2


def continual(
    tokenizer: Any,
    documents: Annotated[
        int, typer.Option(min=1, max=len(NAMES) // FACTS, help="Read in a row.")
    ] = 32,
    page: Annotated[int, typer.Option(min=0, help="Tokens of book text in a document.")] = 200,
    rows: Annotated[int, typer.Option(min=1, help="How often, with other documents.")] = 10,
    seed: Annotated[int, typer.Option(help="Draws facts and pages.")] = 0,
    book: BookOption = None,
) -> Benchmark:
    """Rows of documents, with questions 0, 1, 3, 7, ... documents later."""
    haystack = Haystack(tokenizer, book)
    drawn = {"rows": rows, "seed": seed, "book": book_name(book)}
    since = [2**power - 1 for power in range(documents.bit_length()) if 2**power <= documents]
    return Benchmark(
        title="Continual",
        axes={"documents since": [str(one) for one in since]},
        documents=[
            _row(tokenizer, haystack, documents, page, since, f"{seed}/{number}")
            for number in range(rows)
        ],
        score=lambda question, output: {"found": contains(output, question.answers)},
        metrics=("found",),
        instruction="Answer from what I told you before.",
        max_new_tokens=10,
        settings={"documents": documents, "page": page, **drawn},
    )


def _row(
    tokenizer: Any, haystack: Haystack, documents: int, page: int, since: list[int], seed: str
) -> Document:
    rng = random.Random(seed)
    names = iter(rng.sample(NAMES, FACTS * documents))
    told: list[list[Fact]] = []
    for _ in range(documents):
        kinds = rng.sample(KINDS, FACTS)
        told.append([Fact(next(names), kind, rng.choice(kind.values)) for kind in kinds])
    questions = []
    for ago in since:
        fact = rng.choice(told[-1 - ago])
        at = {"documents since": str(ago)}
        questions.append(
            Question(str(ago), fact.question, (fact.value,), at, begun=fact.answer_prefix)
        )
    pages = partial(_pages, tokenizer, haystack, told, page, seed)
    return Document(seed, pages, tuple(questions), documents * (page + 10 * FACTS))


def _pages(
    tokenizer: Any, haystack: Haystack, told: list[list[Fact]], page: int, seed: str
) -> list[str]:
    """The texts of a row: facts in the middle of book text that goes on from page to page."""
    ids = haystack.tokens(page * len(told), seed)
    texts = []
    for number, facts in enumerate(told):
        begin, half = page * number, page * number + page // 2
        before, after = (
            tokenizer.decode(ids[begin:half]),
            tokenizer.decode(ids[half : begin + page]),
        )
        said = " ".join(fact.sentence for fact in facts)
        texts.append(f"{before} {said} {after}".strip())
    return texts


app = command(continual)

if __name__ == "__main__":
    app()
