"""Learning from examples that were read long ago: sentences with made-up labels, then a new one.

    python -m eval.fewshot MODEL --shots 1,2,4 --systems nothing,full,bm25,memformer

Four subjects each have a label that means nothing. Labelled sentences are read first, book text
after them, and then the label of a new sentence is asked for. Chance is one in four; a model that
knows the subjects and remembers the labels gets all.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any

import typer

from eval.corpora.book import book_name
from eval.corpora.haystack import Haystack
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.metrics import normal
from eval.reporting.options import BookOption, numbers

LABELS = "dax wug fep zib toma lorp".split()
SENTENCES = {
    "weather": (
        "A cold wind blew from the north all night.",
        "It has been raining since this morning.",
        "The fog was so thick that we lost the path.",
        "Snow lay on every roof of the town.",
        "The sun burned down on the dry fields.",
        "A thunderstorm is expected in the evening.",
    ),
    "food": (
        "She put more pepper into the soup.",
        "The bread came out of the oven golden and warm.",
        "We shared a plate of fried fish with lemon.",
        "He peeled the potatoes and boiled them in salt water.",
        "The cake had three layers of chocolate cream.",
        "For breakfast there were eggs and toast with butter.",
    ),
    "sport": (
        "The goalkeeper stopped the ball with one hand.",
        "She ran the last mile faster than all others.",
        "The match ended without a goal.",
        "He trains at the swimming pool four times a week.",
        "The team won the cup after extra time.",
        "Her serve hit the net twice in a row.",
    ),
    "music": (
        "The violins came in too early.",
        "She hummed the tune all the way home.",
        "The band played until midnight.",
        "He practises scales on the piano every day.",
        "The choir rose to sing the last song.",
        "Somebody was tuning a guitar next door.",
    ),
}
MOST = len(SENTENCES["weather"]) - 1  # one sentence of each subject is left for the question


def score(question: Question, output: str) -> Mapping[str, float]:
    """Whether the first label in the output is the right one."""
    said = next((word for word in normal(output).split() if word in LABELS), None)
    return {"accuracy": float(said == question.answers[0])}


def fewshot(
    tokenizer: Any,
    shots: Annotated[str, typer.Option(help=f"Examples of each label, up to {MOST}; a list.")] = (
        "1,2,4"
    ),
    distances: Annotated[
        str, typer.Option(help="Tokens of book text between examples and question; a list.")
    ] = "0,1000",
    cases: Annotated[int, typer.Option(min=1, help="Of each cell.")] = 25,
    seed: Annotated[int, typer.Option(help="Draws examples, labels and book text.")] = 0,
    book: BookOption = None,
) -> Benchmark:
    """Cases for each number of examples and each distance.

    Raises:
        ValueError: `shots` asks for more examples than a subject has.
    """
    counts, gaps = numbers(shots, 1, "--shots"), numbers(distances, 0, "--distances")
    if max(counts) > MOST:
        raise ValueError(f"--shots takes numbers up to {MOST}; got {max(counts)}.")
    haystack = Haystack(tokenizer, book)
    drawn = {"cases": cases, "seed": seed, "book": book_name(book)}
    axes = {
        "examples a label": [str(one) for one in counts],
        "distance": [f"{one:,}" for one in gaps],
    }
    return Benchmark(
        title="Few-shot",
        axes=axes,
        documents=[
            _case(tokenizer, haystack, count, gap, f"{seed}/{case}")
            for count in counts
            for gap in gaps
            for case in range(cases)
        ],
        score=score,
        metrics=("accuracy",),
        instruction="",
        max_new_tokens=6,
        settings={"shots": counts, "distances": gaps, **drawn},
        averages={"mean of all numbers of examples": axes["examples a label"]},
    )


def _case(tokenizer: Any, haystack: Haystack, count: int, gap: int, seed: str) -> Document:
    # all cells share questions and labels; fewer examples are the beginning of more
    rng = random.Random(seed)
    labels = dict(zip(SENTENCES, rng.sample(LABELS, len(SENTENCES)), strict=True))
    mixed = {subject: rng.sample(said, len(said)) for subject, said in SENTENCES.items()}
    subject = rng.choice(list(SENTENCES))
    told = [
        f'"{sentence}" is a {labels[one]}.'
        for one, sentences in mixed.items()
        for sentence in sentences[:count]
    ]
    rng.shuffle(told)
    question = Question(
        "0",
        f'What is "{mixed[subject][-1]}"? One of: {", ".join(sorted(labels.values()))}.',
        (labels[subject],),
        {"examples a label": str(count), "distance": f"{gap:,}"},
        begun=f'"{mixed[subject][-1]}" is a',
        chance=1 / len(labels),
    )
    parts = partial(_parts, tokenizer, haystack, " ".join(told), gap, seed)
    return Document(f"{count}/{gap}/{seed}", parts, (question,), 15 * len(told) + gap)


def _parts(tokenizer: Any, haystack: Haystack, told: str, gap: int, seed: str) -> list[str]:
    """The texts of a case: the examples, and book text after them."""
    return [told, tokenizer.decode(haystack.tokens(gap, seed))] if gap else [told]


app = command(fewshot)

if __name__ == "__main__":
    app()
