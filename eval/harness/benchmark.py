"""What a benchmark is: documents with questions, and a way to score answers. Knows no model.

Every question lies in one cell of the benchmark's table: it has one value on each axis, such as
task qa1 and length 4k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

# of a token of text, roughly
CHARACTERS = 4


@dataclass(frozen=True)
class Question:
    """One case.

    Attributes:
        id: unlike that of any other question of the document.
        text: as it is asked.
        answers: what the data hold for right; any of them will do.
        at: its value on each axis of the benchmark.
        begun: how the reply begins, for models that complete sentences better than they answer.
        chance: score of a blind guess in [0, 1], such as 0.25 with four options.
        lead: what a chat is told first of all, such as a task and examples; the same for all
            questions of a document.
    """

    id: str
    text: str
    answers: tuple[str, ...]
    at: Mapping[str, str]
    begun: str = ""
    chance: float = 0.0
    lead: str = ""


@dataclass(frozen=True)
class Document:
    """What is read before its questions are asked.

    Attributes:
        id: unlike that of any other document.
        parts: makes its texts, in the order in which they are read, such as the sessions of a
            conversation. Called when they are needed: a document may be of millions of tokens.
        questions: at least one.
        tokens: about how long it is; for the progress bar, and to read short ones together.
        source: what it is a part of, if others are too: intervals are over sources. Empty: it
            stands alone.
    """

    id: str
    parts: Callable[[], Sequence[str]]
    questions: tuple[Question, ...]
    tokens: int
    source: str = ""

    @classmethod
    def of(cls, id: str, parts: Sequence[str], questions: Iterable[Question]) -> Document:  # noqa: A002
        """A document whose texts are there already."""
        tokens = sum(map(len, parts)) // CHARACTERS
        return cls(id, lambda: parts, tuple(questions), tokens)


# what a cell of a report holds beside its place on the axes
COUNTED = (
    "system", "questions", "documents", "reason", "scores", "intervals", "read_tokens",
    "prompt_tokens", "state_bytes", "chance", "constant", "constant_score",
)  # fmt: skip
# scores of one answer by metric, each in [0, 1]
Score = Callable[[Question, str], Mapping[str, float]]


@dataclass(frozen=True)
class Benchmark:
    """Everything that is asked in one run.

    Attributes:
        title: heading of the report.
        axes: the values of each axis in the order of the table. The last axis are its columns; for
            every combination of the others there is one table.
        documents: in the order in which they are read.
        score: of an answer; the same metrics for all questions.
        metrics: their names; the first is the headline.
        instruction: what a chat is told right before every question.
        max_new_tokens: of an answer.
        settings: what the documents depend on; a run with others is another run.
        notes: sentences for the report.
        averages: of which values of the first axis a plain mean is reported, by title.
        constants: whether to report what the best constant answer scores.
        heat: whether to draw a map; there must be two axes.
        marks: what stands before and after a document in one turn of a chat with its question.
        name: of the report's files, if not the name of the function that makes the benchmark.
        quotable: whether the report may hold what is asked and answered; not every licence lets
            data be passed on.

    Raises:
        ValueError: an axis has the name of something that a cell of the report holds.
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

    def __post_init__(self) -> None:
        if taken := [axis for axis in self.axes if axis in COUNTED]:
            raise ValueError(
                f"an axis can't be called {taken[0]!r}, which a report calls something else; "
                "choose another name."
            )

    def cell(self, question: Question) -> tuple[str, ...]:
        """Where a question stands: its value on each axis."""
        return tuple(question.at[axis] for axis in self.axes)
