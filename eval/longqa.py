"""Questions about documents: stories, meetings, chats, paragraphs, and documents of your own.

    python -m eval.longqa --source mine.jsonl --systems nothing,bm25,memformer
    python -m eval.longqa --set quality --source quality.jsonl --systems full,bm25,memformer
    python -m eval.longqa --set squad --paragraphs 30 --source squad.jsonl

Without `--set`, a file in the form of training data (`eval/corpora/records.py`) with answers of a
few words; `--set own-paragraphs` has longer answers. `docs/benchmarks.md` lists all sets, and
`eval/sets.py` how each is asked:

- answers of a few words are scored by F1, exact match, and whether the answer is contained
- answers of a paragraph are scored by ROUGE of the best of several references
- options are ranked by the likelihood of their texts, after the question without them; beside it
  stands the accuracy of a free answer to the question with them
- where a text does not answer a question, only a reply that says so is right

All but NarrativeQA are read from a local copy, JSONL. A document is read once for all its
questions; one of your own, or a long chat, once for each place at which a question stands. With
`--paragraphs`, a document is made of so many paragraphs of the set strewn together.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.corpora import long_documents
from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import Asked, LongDocument
from eval.corpora.prose import strewn
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.reporting.extras import missing
from eval.sets import KINDS, Kind, Name

NARRATIVEQA = "deepmind/narrativeqa"
RANKED = (
    "Likelihood: the text of the right option is the likeliest after the question without options, "
    "as a whole or for its length in characters. Accuracy: the option that a free answer to the "
    "question with its options names. Costs are those of the free answer."
)


def longqa(
    tokenizer: Any,
    name: Annotated[Name, typer.Option("--set", help="Which set.")] = "own",
    source: Annotated[
        Path | None, typer.Option(help="Its local copy, .jsonl or .jsonl.gz; not for narrativeqa.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Only so many, from the first; nq: 20 are made.")
    ] = None,
    questions: Annotated[
        int | None,
        typer.Option(min=1, help="At most so many about a document."),
    ] = None,
    paragraphs: Annotated[
        int | None,
        typer.Option(min=1, help="Make documents of so many paragraphs of the set each."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the documents of nq and --paragraphs.")] = 0,
) -> Benchmark:
    """The questions of one set.

    Raises:
        BadRecord: the set can't be read, or a row has another form.
    """
    kind = KINDS[name]
    if paragraphs is None:
        found = _read(name, source, documents, questions, seed)
    else:
        found = _strewn(name, source, documents, questions, paragraphs, seed)
    many = "" if paragraphs is None else f", {paragraphs} paragraphs"
    return Benchmark(
        title=f"{kind.title}{many}",
        axes={kind.axis[0]: list(kind.axis[1])},
        documents=[_document(name, kind, one, questions) for one in found],
        score=kind.score(),
        metrics=kind.metrics,
        instruction=kind.instruction,
        max_new_tokens=kind.max_new_tokens,
        settings={
            "set": name,
            "source": {source.name: sha256(source.read_bytes()).hexdigest()[:12]}
            if source
            else NARRATIVEQA,
            "documents": documents,
            "questions": questions,
            "paragraphs": paragraphs,
            "seed": seed,
        },
        constants=kind.constants,
        name=name if paragraphs is None else f"{name}-{paragraphs}",
        quotable=kind.quotable,
        ranking=kind.ranking,
        notes=(RANKED,) if kind.ranking else (),
    )


def _read(
    name: str, source: Path | None, documents: int | None, questions: int | None, seed: int
) -> list[LongDocument]:
    if name == "narrativeqa":
        if source is not None:
            raise BadRecord(f"narrativeqa is read from the hub, {NARRATIVEQA}; leave out --source.")
        return list(islice(narrativeqa(), documents))
    if source is None:
        raise BadRecord(f"{name} is read from a local copy; give it with --source.")
    read = KINDS[name].read
    if read is None:
        return list(long_documents.nq(source, documents or 20, seed))
    return list(read(source, documents, questions))


def _strewn(
    name: str,
    source: Path | None,
    documents: int | None,
    questions: int | None,
    paragraphs: int,
    seed: int,
) -> list[LongDocument]:
    """Documents of many paragraphs each."""
    if not KINDS[name].paragraphs:
        known = ", ".join(one for one, kind in KINDS.items() if kind.paragraphs)
        raise BadRecord(f"the documents of {name} are no paragraphs; --paragraphs takes {known}.")
    found = _read(name, source, None, None, seed)
    return list(islice(strewn(found, paragraphs, seed, questions), documents))


def narrativeqa() -> Iterator[LongDocument]:
    """The test split of NarrativeQA (Kocisky et al. 2018, arXiv:1712.07040), from the hub.

    Raises:
        BadRecord: the hub can't be reached, or `datasets` is not installed.
    """
    if sentence := missing("reading from the hub", "datasets"):
        raise BadRecord(sentence)
    import datasets

    try:
        rows = datasets.load_dataset(NARRATIVEQA, split="test", streaming=True)
        name, text, asked = "", "", list[Asked]()
        for row in rows:
            if row["document"]["id"] != name and asked:
                yield LongDocument(name, text, tuple(asked), name)
                asked = []
            name, text = row["document"]["id"], long_documents.tidy(row["document"]["text"])
            answers = tuple(one["text"] for one in row["answers"])
            asked.append(Asked(row["question"]["text"], answers))
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise BadRecord(f"{NARRATIVEQA} can't be had from the hub: {reason}.") from None
    if asked:
        yield LongDocument(name, text, tuple(asked), name)


def _document(name: str, kind: Kind, one: LongDocument, most: int | None) -> Document:
    asked = [_question(kind, number, each) for number, each in enumerate(one.asked)]
    found = Document.of(f"{name}/{one.id}", [one.text], asked[:most])
    return replace(found, source=f"{name}/{one.source}") if one.source else found


def _question(kind: Kind, number: int, asked: Asked) -> Question:
    return Question(
        str(number),
        long_documents.choice(asked.question, asked.options),
        asked.answers,
        {kind.axis[0]: kind.column(asked)},
        chance=1 / len(asked.options) if asked.options else 0.0,
        options=asked.options,
        bare=asked.question if asked.options else "",
    )


app = command(longqa)

if __name__ == "__main__":
    app()
