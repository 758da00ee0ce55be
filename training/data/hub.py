"""Training data from the Hugging Face hub, read with the `datasets` library (the `train` extra).

`SETS` lists the sets that are known by name. These sets have one row a question; neighbouring rows
about the same document become one record. A copy in a folder, laid out as on the hub, is read in
the same way.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from eval.corpora.jsonl import BadRecord, Row, field, items
from eval.corpora.long_documents import choice, spoken, tidy
from training import missing
from training.data.dialogues import Dialogue, dialogue
from training.data.records import Record, parse

PERSONAS = "google/Synthetic-Persona-Chat"


class BadSet(ValueError):
    """A set that is not known, or can't be read; the message names the set and the reason."""


@dataclass(frozen=True)
class Asked:
    """One row of a set.

    Attributes:
        about: names the document; rows with the same name become one record.
        text: the document, or a part of it.
        question: the question.
        answer: the answer; the first, if there are several.
    """

    about: str
    text: str
    question: str
    answer: str


@dataclass(frozen=True)
class HubSet:
    """A set on the hub.

    Attributes:
        asked: makes a question of a row; also takes the row's place, for messages.
        config: the part of the set, if it has several.
        split: the split to train with.
        clean: cleans the text of a document.
    """

    asked: Callable[[Row, str], Asked]
    config: str | None = None
    split: str = "train"
    clean: Callable[[str], str] = tidy


def _babilong(row: Row, place: str) -> Asked:
    text, question, answer = (
        field(row, name, str, place) for name in ("input", "question", "target")
    )
    return Asked(text, text, question, answer)


def _narrativeqa(row: Row, place: str) -> Asked:
    document = field(row, "document", dict, place)
    asked = field(row, "question", dict, place)
    answers = [field(one, "text", str, where) for where, one in items(row, "answers", dict, place)]
    return Asked(
        field(document, "id", str, f"{place}, document"),
        field(document, "text", str, f"{place}, document"),
        field(asked, "text", str, f"{place}, question"),
        _first(answers, place),
    )


def _squad(row: Row, place: str) -> Asked:
    answers = field(row, "answers", dict, place)
    texts = [text for _, text in items(answers, "text", str, f"{place}, answers")]
    return Asked(
        field(row, "title", str, place),
        field(row, "context", str, place),
        field(row, "question", str, place),
        _first(texts, place),
    )


def _hotpot(row: Row, place: str) -> Asked:
    context = field(row, "context", dict, place)
    titles = [title for _, title in items(context, "title", str, f"{place}, context")]
    passages = [
        "".join(map(str, one)) for _, one in items(context, "sentences", list, f"{place}, context")
    ]
    if len(titles) != len(passages):
        raise BadRecord(f"{place}: {len(titles)} titles and {len(passages)} passages.")
    text = "\n\n".join(f"{title}\n{said}" for title, said in zip(titles, passages, strict=True))
    question, answer = (field(row, name, str, place) for name in ("question", "answer"))
    return Asked(field(row, "id", str, place), text, question, answer)


def _qmsum(row: Row, place: str) -> Asked:
    query, _, transcript = field(row, "input", str, place).partition("\n")
    return Asked(transcript, transcript, query, field(row, "output", str, place))


def _quality(row: Row, place: str) -> Asked:
    text, question = (field(row, name, str, place) for name in ("article", "question"))
    options = [tidy(option) for _, option in items(row, "options", str, place)]
    answer = field(row, "answer", int, place)
    if not 0 <= answer < len(options):
        raise BadRecord(f"{place}: there is no option {answer}; they are 0 to {len(options) - 1}.")
    return Asked(text, text, choice(question, options), options[answer])


def _first(answers: list[str], place: str) -> str:
    if not answers:
        raise BadRecord(f"{place}: there is no answer.")
    return answers[0]


def _without_tags(text: str) -> str:
    """Removes the tags of film scripts in NarrativeQA, which are web pages."""
    return tidy(re.sub(r"<[^<>]{1,300}>", "", text))


def _turns(text: str) -> str:
    return "\n".join(filter(None, map(spoken, text.splitlines())))


# licences that the sets state: narrativeqa and qmsum-cleaned Apache-2.0, squad and hotpot_qa
# CC BY-SA 4.0; the other two sets state none, but bAbI is CC BY 3.0 and QuALITY CC BY 4.0
SETS = {
    "RMT-team/babilong-train-5k-samples": HubSet(_babilong, "4k", "qa1", str.strip),
    "deepmind/narrativeqa": HubSet(_narrativeqa, clean=_without_tags),
    "rajpurkar/squad": HubSet(_squad),
    "hotpotqa/hotpot_qa": HubSet(_hotpot, "distractor", clean=str.strip),
    "pszemraj/qmsum-cleaned": HubSet(_qmsum, clean=_turns),
    "emozilla/quality": HubSet(_quality),
}


def hub(
    name: str, config: str | None = None, split: str | None = None, source: Path | None = None
) -> Iterator[Record]:
    """The records of a set.

    Args:
        name: one of `SETS`.
        config: the part of the set; None: the part that `SETS` names.
        split: the split; None: the split that `SETS` names.
        source: folder with a copy, which is read instead of the hub.

    Raises:
        BadSet: the set is not known, or can't be read.
        BadRecord: a row is of another form.
    """
    if name not in SETS:
        raise BadSet(f"There is no set {name} here; known are {', '.join(SETS)}.")
    known = SETS[name]
    rows = _rows(name, config or known.config, split or known.split, source)
    asked = ((place, known.asked(row, place)) for place, row in rows)
    groups = itertools.groupby(asked, lambda one: one[1].about)
    for number, (_, group) in enumerate(groups):
        (place, first), *others = group
        found = [first, *(one for _, one in others)]
        # SQuAD repeats a paragraph for each of its questions
        texts = dict.fromkeys(one.text for one in found)
        questions = [
            {"question": one.question.strip(), "answer": one.answer.strip()} for one in found
        ]
        record = {
            "id": f"{name}/{number}",
            "document": "\n\n".join(map(known.clean, texts)),
            "questions": questions,
        }
        yield parse(record, place)


def hub_dialogues(split: str = "train", source: Path | None = None) -> Iterator[Dialogue]:
    """The dialogues of Synthetic-Persona-Chat, for `training.data.dialogues`.

    Args:
        split: "train", "validation" or "test".
        source: folder with a copy, which is read instead of the hub.

    Raises:
        BadSet: the set can't be read.
        BadRecord: a row is of another form.
    """
    for place, row in _rows(PERSONAS, None, split, source):
        persona = field(row, "user 1 personas", str, place).splitlines()
        lines = field(row, "Best Generated Conversation", str, place).splitlines()
        found = dialogue(persona, lines)
        if found is not None:
            yield found


def _rows(
    name: str, config: str | None, split: str, source: Path | None
) -> Iterator[tuple[str, Row]]:
    """Place and content of every row, as the rows arrive."""
    try:
        import datasets
        from huggingface_hub.utils import logging
    except ImportError as error:
        raise BadSet(missing("datasets") or str(error)) from None
    # the library would report every attempt to reach the hub
    logging.set_verbosity_error()
    try:
        path = name if source is None else str(source)
        loaded = datasets.load_dataset(path, config, split=split, streaming=True)
        for number, row in enumerate(loaded, 1):
            yield f"{name}, {split}, row {number}", row
    except Exception as error:  # datasets raises errors of any class
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        where = "the Hugging Face hub" if source is None else str(source)
        raise BadSet(f"{name} can't be read from {where}: {reason}.") from None
