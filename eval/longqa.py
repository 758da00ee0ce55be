"""Questions about documents: stories, meetings, passages of an encyclopaedia.

    python -m eval.longqa --set quality --source quality.jsonl --systems full,bm25,memformer

The sets, and what they are scored by:

- `squality`: stories; answers of a paragraph; ROUGE of the best of several references
- `quality`: stories; one of four options; accuracy
- `qmsum`: transcripts of meetings; answers of a paragraph; ROUGE
- `nq`: passages of Wikipedia among others; exact match, F1, and whether the answer is contained
- `squad`: paragraphs that any window holds; exact match and F1; what a model could do before
- `narrativeqa`: books and film scripts, from the hub; F1 of the best of two answers
- `own`: your documents, in the form of training data (`eval/corpora/records.py`); exact match,
  F1, and whether the answer is contained
- `own-paragraphs`: the same with answers of a paragraph; ROUGE

All but NarrativeQA are read from a local copy, JSONL in the set's own form, which
`eval/corpora/long_documents.py` says. A document is read once for all its questions; one of your
own once for each place at which a question stands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from eval.corpora import long_documents
from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import Asked, LongDocument
from eval.harness.benchmark import Benchmark, Document, Question, Score
from eval.harness.command import command
from eval.harness.metrics import contains, exact, f1, option, rouge
from eval.reporting.extras import missing

Name = Literal[
    "squality", "quality", "qmsum", "nq", "squad", "narrativeqa", "own", "own-paragraphs"
]
NARRATIVEQA = "deepmind/narrativeqa"
SHORT = "Answer from what I told you before, in as few words as you can."
LETTER = "Answer from what I told you before. Which option is right? Write its letter."
PARAGRAPH = "Answer from what I told you before, in one paragraph."
# the name and the values of a table's columns
ALL = ("kind", ("all",))
SUMMARIES = ("question", ("summary", "specific"))


@dataclass(frozen=True)
class Kind:
    """The prompts and scores for the questions of a set.

    Attributes:
        title: the name of the set.
        instruction: the words before every question.
        metrics: the names of the scores, headline first.
        score: opens the score, and checks the packages that it needs.
        max_new_tokens: the most tokens of an answer.
        axis: the name and the values of the table's columns.
        constants: whether to report the score of a constant answer.
        quotable: whether the questions may be passed on.
    """

    title: str
    instruction: str
    metrics: tuple[str, ...]
    score: Callable[[], Score]
    max_new_tokens: int
    axis: tuple[str, tuple[str, ...]] = ALL
    constants: bool = True
    quotable: bool = True


def _short() -> Score:
    def score(question: Question, output: str) -> Mapping[str, float]:
        line = next((line for line in output.splitlines() if line.strip()), "")
        return {
            "F1": f1(line, question.answers),
            "exact match": exact(line, question.answers),
            "contained": contains(output, question.answers),
        }

    return score


def _choice() -> Score:
    def score(question: Question, output: str) -> Mapping[str, float]:
        options = [found for _, found in long_documents.OPTION.findall(question.text)]
        return {"accuracy": float(option(output, options) == question.answers[0])}

    return score


def _paragraph() -> Score:
    if sentence := missing("ROUGE", "rouge_score", "nltk"):
        raise BadRecord(sentence)
    scores = rouge()
    return lambda question, output: scores(output, question.answers)


def _with_paragraphs(title: str, axis: tuple[str, tuple[str, ...]]) -> Kind:
    metrics = ("ROUGE-L", "ROUGE-1", "ROUGE-2")
    return Kind(title, PARAGRAPH, metrics, _paragraph, 200, axis, constants=False)


def _with_few_words(title: str) -> Kind:
    return Kind(title, SHORT, ("F1", "exact match", "contained"), _short, 24)


KINDS: dict[str, Kind] = {
    "squality": _with_paragraphs("SQuALITY", SUMMARIES),
    # its repository names no licence for the data as a whole
    "quality": Kind("QuALITY", LETTER, ("accuracy",), _choice, 12, quotable=False),
    "qmsum": _with_paragraphs("QMSum", SUMMARIES),
    "nq": _with_few_words("Natural Questions"),
    "squad": _with_few_words("SQuAD"),
    "narrativeqa": _with_few_words("NarrativeQA"),
    "own": _with_few_words("Own questions"),
    "own-paragraphs": _with_paragraphs("Own questions", ALL),
}


def longqa(
    tokenizer: Any,
    name: Annotated[Name, typer.Option("--set", help="Which set.")],
    source: Annotated[
        Path | None, typer.Option(help="Its local copy, .jsonl or .jsonl.gz; not for narrativeqa.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, help="Only so many, from the first; nq: 20 are made.")
    ] = None,
    questions: Annotated[
        int | None, typer.Option(min=1, help="At most so many about a document, from the first.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the documents of nq.")] = 0,
) -> Benchmark:
    """The questions of one set.

    Raises:
        BadRecord: the set can't be read, or a row has another form.
    """
    kind = KINDS[name]
    found = _read(name, source, documents, questions, seed)
    return Benchmark(
        title=kind.title,
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
            "seed": seed,
        },
        constants=kind.constants,
        name=name,
        quotable=kind.quotable,
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
    if name == "nq":
        return list(long_documents.nq(source, documents or 20, seed))
    if name.startswith("own"):
        return list(long_documents.own(source, documents, questions))
    readers: dict[str, Callable[[Path], Iterator[LongDocument]]] = {
        "squality": long_documents.squality,
        "quality": long_documents.quality,
        "qmsum": long_documents.qmsum,
        "squad": long_documents.squad,
    }
    return list(islice(readers[name](source), documents))


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
    axis, _ = kind.axis
    asked = [_question(axis, number, each) for number, each in enumerate(one.asked)]
    found = Document.of(f"{name}/{one.id}", [one.text], asked[:most])
    return replace(found, source=f"{name}/{one.source}") if one.source else found


def _question(axis: str, number: int, asked: Asked) -> Question:
    value = "all" if axis == "kind" else ("summary" if asked.general else "specific")
    return Question(
        str(number),
        long_documents.choice(asked.question, asked.options),
        asked.answers,
        {axis: value},
        chance=1 / len(asked.options) if asked.options else 0.0,
    )


app = command(longqa)

if __name__ == "__main__":
    app()
