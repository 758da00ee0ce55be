"""The sets of `eval.longqa`: how each is read, asked and scored.

A set is one entry of `KINDS`. Most are of one shared form, which `corpora/prose.py` and
`corpora/talk.py` read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Literal

from eval.corpora import long_documents
from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import Asked, LongDocument
from eval.corpora.prose import prose
from eval.corpora.talk import talk
from eval.harness.benchmark import Question, Score
from eval.harness.metrics import BY_LENGTH, LIKELIHOOD, contains, exact, f1, option, rouge
from eval.harness.unknown import INSTRUCTION, says_unknown
from eval.reporting.extras import missing

Name = Literal[
    "own", "own-paragraphs", "squality", "quality", "qmsum", "nq", "squad", "narrativeqa",
    "squadshifts", "squad_train_part", "fairytaleqa", "friendsqa", "molweni", "covidqa", "policyqa",
    "pubmedqa", "qamr", "qed", "nq_swap", "narrativeqa_part", "twohop_train_sample", "clapnq_dev",
    "leval_multidoc_qa", "leval_scientific_qa", "leval_topic_retrieval", "bamboo_altqa",
    "bamboo_meetingqa", "bamboo_paperqa", "personamem", "realmem",
]  # fmt: skip
FROM_MEMORY = "Answer from what I told you before."
SHORT = "Answer from what I told you before, in as few words as you can."
LETTER = f"{FROM_MEMORY} Which option is right? Write its letter."
PARAGRAPH = "Answer from what I told you before, in one paragraph."
UNLESS_UNKNOWN = " If I have not told you, say that you don't know."
# the name and the values of a table's columns
ALL = ("kind", ("all",))
SUMMARIES = ("question", ("summary", "specific"))
KNOWN = ("question", ("answerable", "unanswerable"))
ROUGES = ("ROUGE-L", "ROUGE-1", "ROUGE-2")
# takes the local copy, and the most documents and the most questions about one
Read = Callable[[Path, int | None, int | None], Iterable[LongDocument]]


@dataclass(frozen=True)
class Kind:
    """The prompts and scores for the questions of a set.

    Attributes:
        title: the name of the set.
        read: reads the local copy; None: `eval.longqa` reads it in a way of its own.
        instruction: the words before every question.
        metrics: the names of the scores, headline first.
        score: opens the score, and checks the packages that it needs.
        max_new_tokens: the most tokens of an answer.
        axis: the name and the values of the table's columns.
        constants: whether to report the score of a constant answer.
        quotable: whether the questions may be passed on.
        ranking: the words before a question whose options are ranked.
        paragraphs: whether a document is a paragraph, so that many can be strewn together.
    """

    title: str
    read: Read | None
    instruction: str
    metrics: tuple[str, ...]
    score: Callable[[], Score]
    max_new_tokens: int
    axis: tuple[str, tuple[str, ...]] = ALL
    constants: bool = True
    quotable: bool = True
    ranking: str = ""
    paragraphs: bool = False

    def column(self, asked: Asked) -> str:
        """The column of a question in the table."""
        if self.axis is KNOWN:
            return KNOWN[1][asked.impossible]
        return "all" if self.axis is ALL else SUMMARIES[1][not asked.general]


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
        return {"accuracy": float(option(output, question.options) == question.answers[0])}

    return score


def _paragraph() -> Score:
    if sentence := missing("ROUGE", "rouge_score", "nltk"):
        raise BadRecord(sentence)
    scores = rouge()
    return lambda question, output: scores(output, question.answers)


def _or_unknown(opened: Callable[[], Score], metrics: tuple[str, ...]) -> Score:
    """A score that takes, where a question has no answer, only a reply that says so for right."""
    score = opened()

    def known(question: Question, output: str) -> Mapping[str, float]:
        if question.at[KNOWN[0]] == KNOWN[1][True]:
            return dict.fromkeys(metrics, float(says_unknown(output)))
        return score(question, output)

    return known


def _each(read: Callable[[Path], Iterator[LongDocument]]) -> Read:
    return lambda path, documents, questions: islice(read(path), documents)


def _with_paragraphs(
    title: str, read: Read, axis: tuple[str, tuple[str, ...]] = ALL, paragraphs: bool = False
) -> Kind:
    instruction = PARAGRAPH + (UNLESS_UNKNOWN if axis is KNOWN else "")
    score = partial(_or_unknown, _paragraph, ROUGES) if axis is KNOWN else _paragraph
    return Kind(
        title, read, instruction, ROUGES, score, 200, axis, constants=False, paragraphs=paragraphs
    )


def _with_few_words(
    title: str,
    read: Read | None,
    axis: tuple[str, tuple[str, ...]] = ALL,
    paragraphs: bool = False,
) -> Kind:
    metrics = ("F1", "exact match", "contained")
    instruction = INSTRUCTION if axis is KNOWN else SHORT
    score = partial(_or_unknown, _short, metrics) if axis is KNOWN else _short
    return Kind(title, read, instruction, metrics, score, 24, axis, paragraphs=paragraphs)


def _with_options(title: str, read: Read, quotable: bool = True, paragraphs: bool = False) -> Kind:
    """A set with options: they are ranked, and the free answer names one.

    A constant answer has no likelihood, so the floor is chance.
    """
    metrics = (BY_LENGTH, LIKELIHOOD, "accuracy")
    return Kind(
        title, read, LETTER, metrics, _choice, 12,
        constants=False, quotable=quotable, ranking=FROM_MEMORY, paragraphs=paragraphs,
    )  # fmt: skip


TEXTS = _each(prose)
KINDS: dict[str, Kind] = {
    "own": _with_few_words("Own questions", long_documents.own),
    "own-paragraphs": _with_paragraphs("Own questions", long_documents.own),
    "squality": _with_paragraphs("SQuALITY", _each(long_documents.squality), SUMMARIES),
    # its repository names no licence for the data as a whole
    "quality": _with_options("QuALITY", _each(long_documents.quality), quotable=False),
    "qmsum": _with_paragraphs("QMSum", _each(long_documents.qmsum), SUMMARIES),
    "nq": _with_few_words("Natural Questions", None),
    "squad": _with_few_words("SQuAD", _each(long_documents.squad), paragraphs=True),
    "narrativeqa": _with_few_words("NarrativeQA", None),
    "squadshifts": _with_few_words("SQuADShifts", TEXTS, paragraphs=True),
    "squad_train_part": _with_few_words("SQuAD, part of train", TEXTS, KNOWN, paragraphs=True),
    "fairytaleqa": _with_few_words("FairytaleQA", TEXTS),
    "friendsqa": _with_few_words("FriendsQA", talk),
    "molweni": _with_few_words("Molweni", talk, KNOWN, paragraphs=True),
    "covidqa": _with_few_words("COVID-QA", TEXTS),
    "policyqa": _with_few_words("PolicyQA", TEXTS, paragraphs=True),
    "pubmedqa": _with_options(
        "PubMedQA", _each(partial(prose, options=("yes", "no", "maybe"))), paragraphs=True
    ),
    "qamr": _with_few_words("QAMR", TEXTS, paragraphs=True),
    "qed": _with_few_words("QED", TEXTS, paragraphs=True),
    "nq_swap": _with_few_words("NQ-Swap", TEXTS, paragraphs=True),
    "narrativeqa_part": _with_few_words("NarrativeQA, summaries", TEXTS),
    "twohop_train_sample": _with_few_words("HotpotQA and MuSiQue, sample", TEXTS),
    "clapnq_dev": _with_paragraphs("CLAP NQ", TEXTS, KNOWN, paragraphs=True),
    "leval_multidoc_qa": _with_paragraphs("L-Eval, several documents", TEXTS),
    "leval_scientific_qa": _with_few_words("L-Eval, papers", TEXTS),
    "leval_topic_retrieval": _with_few_words("L-Eval, topics", talk),
    "bamboo_altqa": _with_few_words("BAMBOO, altered numbers", TEXTS),
    "bamboo_meetingqa": _with_options("BAMBOO, meetings", talk),
    "bamboo_paperqa": _with_options("BAMBOO, papers", TEXTS),
    # the copy names no licence
    "personamem": _with_options("PersonaMem", talk, quotable=False),
    "realmem": _with_paragraphs("RealMem", talk),
}
