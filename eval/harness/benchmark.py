"""A benchmark: documents with questions, and a score for answers. This file knows no model.

Every question lies in one cell of the benchmark's table: it has one value on each axis, such as
task qa1 and length 4k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# characters of a token, roughly
CHARACTERS = 4


@dataclass(frozen=True)
class Question:
    """One case.

    Attributes:
        id: a name that no other question of the document has.
        text: the text of the question.
        answers: the right answers of the data; any of them suffices.
        at: the question's value on each axis of the benchmark.
        begun: the beginning of the reply, for models that complete sentences better than they
            answer.
        chance: the score of a blind guess in [0, 1], such as 0.25 with four options.
        lead: the first words of a chat, such as a task and examples; the same for all questions
            of a document.
        options: the texts of a multiple choice. They are ranked by likelihood too; the right one
            is the first of `answers`.
        bare: the text of the question without its options, which are ranked after it.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    at: Mapping[str, str]
    begun: str = ""
    chance: float = 0.0
    lead: str = ""
    options: tuple[str, ...] = ()
    bare: str = ""


@dataclass(frozen=True)
class Document:
    """A document, which is read before its questions are asked.

    Attributes:
        id: a name that no other document has.
        parts: makes the texts of the document in reading order, such as the sessions of a
            conversation. It is called late, because a document may have millions of tokens.
        questions: at least one question.
        tokens: the rough length, for the progress bar and for reading short documents together.
        source: the name of a source that several documents share: intervals are over sources.
            Empty: the document stands alone.
    """

    id: str
    parts: Callable[[], Sequence[str]]
    questions: tuple[Question, ...]
    tokens: int
    source: str = ""

    @classmethod
    def of(cls, id: str, parts: Sequence[str], questions: Iterable[Question]) -> Document:  # noqa: A002
        """A document whose texts are made already."""
        tokens = sum(map(len, parts)) // CHARACTERS
        return cls(id, lambda: parts, tuple(questions), tokens)


# the entries of a cell of a report, beside its place on the axes
COUNTED = (
    "system", "questions", "documents", "reason", "scores", "intervals", "read_tokens",
    "prompt_tokens", "state_bytes", "chance", "constant", "constant_score",
)  # fmt: skip
# makes the scores of one answer by metric, each in [0, 1]
Score = Callable[[Question, str], Mapping[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """All documents and questions of one run, and the score of answers.

    Attributes:
        title: heading of the report.
        axes: the values of each axis in the order of the table. The last axis holds the columns;
            every combination of the other axes has a table.
        documents: the documents in reading order.
        score: makes the scores of an answer; all questions have the same metrics.
        metrics: the names of the scores; the first is the headline.
        instruction: the words of a chat right before every question.
        max_new_tokens: the most tokens of an answer.
        settings: all that the documents depend on; a run with other settings is another run.
        notes: sentences for the report.
        averages: titles of plain means, with the values of the first axis that each mean covers.
        constants: whether to report the score of the best constant answer.
        heat: whether to draw a map; there must be two axes.
        marks: the words before and after a document that shares a turn with its question.
        name: the name of the report's files; empty: the name of the function that makes the
            benchmark.
        quotable: whether the report may hold questions and answers; not every licence lets data be
            passed on.
        ranking: the words of a chat right before a question whose options are ranked by
            likelihood. Questions with options have the metrics of `metrics.likelihood` too.

    Raises:
        ValueError: an axis has the name of an entry in a cell of the report.
    """

    title: str
    axes: Mapping[str, Sequence[str]]
    documents: Sequence[Document]
    score: Score
    metrics: tuple[str, ...]
    instruction: str
    max_new_tokens: int
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)
    constants: bool = True
    heat: bool = False
    marks: tuple[str, str] = ("", "")
    name: str = ""
    quotable: bool = True
    ranking: str = ""

    def __post_init__(self) -> None:
        if taken := [axis for axis in self.axes if axis in COUNTED]:
            raise ValueError(
                f"an axis can't be called {taken[0]!r}, which a report calls something else; "
                "choose another name."
            )

    @property
    def ranks(self) -> bool:
        """Whether a question has options, which every system ranks."""
        return any(one.options for document in self.documents for one in document.questions)

    def cell(self, question: Question) -> tuple[str, ...]:
        """The cell of a question: its value on each axis."""
        return tuple(question.at[axis] for axis in self.axes)
