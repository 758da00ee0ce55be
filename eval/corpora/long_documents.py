"""Documents with questions: local copies of five public sets, each in its own form, and your own.

Sets of one shared form are read by `prose.py` and `talk.py`. `eval.longqa` decides how questions
are asked and scored; `training.data.longqa` makes training data from the same files. This file
knows no model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from eval.corpora import records
from eval.corpora.jsonl import BadRecord, Row, field, items, rows

# an option of a multiple choice, (A) up to the next option
OPTION = re.compile(r"\(([A-D])\)\s(.*?)(?=\s*\([A-D]\)\s|$)", re.DOTALL)
# marks of sounds and pauses in the transcripts of QMSum, such as {vocalsound}
SOUND = re.compile(r"\{[^}]*\}")


@dataclass(frozen=True)
class Asked:
    """One question.

    Attributes:
        question: the text of the question, without options.
        answers: all answers that the set takes for right; with options, the right option.
        options: the options of a multiple choice.
        general: whether the question asks for a summary of the whole document.
        impossible: whether the document does not answer it; `answers` then say so.
    """

    question: str
    answers: tuple[str, ...]
    options: tuple[str, ...] = ()
    general: bool = False
    impossible: bool = False


@dataclass(frozen=True)
class LongDocument:
    """One document and its questions.

    Attributes:
        id: the name in the set.
        text: paragraphs with an empty line between them, or one turn of a conversation a line.
        asked: at least one question.
        place: the place in the file, for messages.
        also: the name of the same story in SQuALITY, whose test may contain it.
        source: the name of the document of which this is the beginning; empty: it stands alone.
        title: its heading, where it is a paragraph of an article.
    """

    id: str
    text: str
    asked: tuple[Asked, ...]
    place: str
    also: str | None = None
    source: str = ""
    title: str = ""


def squality(path: Path) -> Iterator[LongDocument]:
    """SQuALITY: stories, each with questions that take a paragraph to answer, several answers each.

    A row is `{doc_id, document, questions: [{question, answers}]}`; the first question asks for
    the plot.

    Raises:
        BadRecord: a row has another form.
    """
    for place, row in rows(path):
        asked: list[Asked] = []
        for where, one in items(row, "questions", dict, place):
            answers = tuple(tidy(answer) for _, answer in items(one, "answers", str, where))
            if not answers:
                raise BadRecord(f"{where}: there is no answer.")
            question = tidy(field(one, "question", str, where))
            asked.append(Asked(question, answers, general=not asked))
        yield _document(row, place, tidy(field(row, "document", str, place)), asked)


def quality(path: Path) -> Iterator[LongDocument]:
    """QuALITY: stories with multiple choice.

    A row is `{doc_id, document, questions: [{question, answer}]}` with the options (A) to (D) in
    the text of the question; `same_story_as_squality` names a story that is in both sets.

    Raises:
        BadRecord: a row has another form.
    """
    for place, row in rows(path):
        asked = []
        for where, one in items(row, "questions", dict, place):
            text = field(one, "question", str, where)
            options = {letter: tidy(option) for letter, option in OPTION.findall(text)}
            answer = OPTION.fullmatch(field(one, "answer", str, where).strip())
            if answer is None or answer[1] not in options:
                raise BadRecord(
                    f"{where}: the answer must be one of the options of the question, (A) to (D); "
                    f"got {one['answer'][:60]!r}."
                )
            question = tidy(text[: text.index("(A)")])
            right = options[answer[1]]
            asked.append(Asked(question, (right,), tuple(options.values())))
        story = tidy(field(row, "document", str, place))
        yield _document(row, place, story, asked, row.get("same_story_as_squality"))


def qmsum(path: Path) -> Iterator[LongDocument]:
    """QMSum: transcripts of meetings, one turn a line, with general and specific queries.

    A row is `{doc_id, meeting_transcripts: [{speaker, content}], general_query_list,
    specific_query_list}` with `{query, answer}` in the lists.

    Raises:
        BadRecord: a row has another form.
    """
    for place, row in rows(path):
        turns = []
        for where, turn in items(row, "meeting_transcripts", dict, place):
            said = spoken(field(turn, "content", str, where))
            if said:
                turns.append(f"{field(turn, 'speaker', str, where)}: {said}")
        asked = [
            Asked(
                tidy(field(one, "query", str, where)),
                (spoken(field(one, "answer", str, where)),),
                general=name.startswith("general"),
            )
            for name in ("general_query_list", "specific_query_list")
            for where, one in items(row, name, dict, place)
        ]
        yield _document(row, place, "\n".join(turns), asked)


def nq(
    path: Path, documents: int, seed: int = 0, gold: int = 4, distractors: int = 12
) -> Iterator[LongDocument]:
    """Natural Questions: passages of Wikipedia in random order, with questions about some of them.

    Args:
        path: rows are `{question, answers, title, text}`.
        documents: the number of documents; (nearly) all passages are asked about before one is
            asked about again.
        seed: draws the passages and their order.
        gold: the number of passages in a document that are asked about.
        distractors: the number of the other passages in a document.

    Raises:
        BadRecord: a row has another form, or there are too few passages.
    """
    about: dict[str, list[Asked]] = {}
    for place, row in rows(path):
        passage = f"{tidy(field(row, 'title', str, place))}\n{tidy(field(row, 'text', str, place))}"
        answers = tuple(tidy(answer) for _, answer in items(row, "answers", str, place))
        if not answers:
            raise BadRecord(f"{place}: there is no answer.")
        question = tidy(field(row, "question", str, place)).rstrip("? ")
        question = f"{question[:1].upper()}{question[1:]}?"
        about.setdefault(passage, []).append(Asked(question, answers))
    if len(about) < gold + distractors:
        raise BadRecord(
            f"{path} holds {len(about)} passages, and a document takes {gold + distractors}."
        )
    rng = random.Random(seed)
    waiting: list[str] = []
    for number in range(documents):
        if len(waiting) < gold:
            waiting = rng.sample(list(about), len(about))
        chosen, waiting = waiting[:gold], waiting[gold:]
        others = [passage for passage in about if passage not in chosen]
        passages = chosen + rng.sample(others, distractors)
        rng.shuffle(passages)
        asked = tuple(one for passage in chosen for one in about[passage])
        yield LongDocument(str(number), "\n\n".join(passages), asked, f"document {number}")


def squad(path: Path) -> Iterator[LongDocument]:
    """SQuAD: paragraphs of Wikipedia, each a document of its own, with answers found in them.

    A row is `{doc_id, title, paragraphs: [{context, qas: [{question, answers: [{text}]}]}]}`.

    Raises:
        BadRecord: a row has another form.
    """
    for place, row in rows(path):
        name, title = field(row, "doc_id", str, place), str(row.get("title") or "")
        heading = tidy(title.replace("_", " "))
        for number, (where, one) in enumerate(items(row, "paragraphs", dict, place)):
            asked = []
            for at, qa in items(one, "qas", dict, where):
                found = [field(each, "text", str, x) for x, each in items(qa, "answers", dict, at)]
                if not found:
                    raise BadRecord(f"{at}: there is no answer.")
                asked.append(Asked(tidy(field(qa, "question", str, at)), tuple(map(tidy, found))))
            text = tidy(field(one, "context", str, where))
            yield LongDocument(f"{name}/{number}", text, tuple(asked), where, title=heading)


def own(
    path: Path, documents: int | None = None, questions: int | None = None
) -> Iterator[LongDocument]:
    """Documents in the form of training data (`records.py`), each cut where its questions stand.

    The `after` of a question says which beginning of the document is read before it: a document
    with questions at several places is read up to each place. A conversation has a line for each
    message. Documents without questions are left out.

    Args:
        path: a file with one JSON object a line.
        documents: the number of documents, from the first; None: all.
        questions: the most questions about a document, from the first; None: all.

    Raises:
        BadRecord: a line has another form.
    """
    asked_about = (one for one in records.read(path) if one.questions)
    for number, record in enumerate(islice(asked_about, documents), 1):
        name = f"{number}/{record.id}" if record.id else str(number)
        place = f"{path}, document {number}"
        yield from _beginnings(name, record, record.questions[:questions], place)


def _beginnings(
    name: str, record: records.Record, asked: Sequence[records.Question], place: str
) -> Iterator[LongDocument]:
    for after in sorted({one.after for one in asked}):
        mine = [Asked(one.question, (one.answer,)) for one in asked if one.after == after]
        whole = after == len(record.text)
        here = name if whole else f"{name}@{after}"
        yield LongDocument(here, _told(record, after), tuple(mine), place, source=name)


def _told(record: records.Record, after: int) -> str:
    """The first `after` characters of a document; in a conversation, only contents count."""
    if isinstance(record.document, str):
        return record.document[:after]
    lines = []
    for role, content in record.document:
        if after <= 0:
            break
        lines.append(f"{role.capitalize()}: {content[:after]}")
        after -= len(content)
    return "\n".join(lines)


def _document(
    row: Row, place: str, text: str, asked: Sequence[Asked], also: str | None = None
) -> LongDocument:
    return LongDocument(field(row, "doc_id", str, place), text, tuple(asked), place, also)


def choice(question: str, options: Sequence[str]) -> str:
    """The text of a question with its options, one option a line."""
    lines = [f"({letter}) {option}" for letter, option in zip("ABCDEFGH", options, strict=False)]
    return "\n".join([tidy(question), *lines])


def tidy(text: str) -> str:
    """A text without hard line breaks, and with an empty line between paragraphs."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if part)


def spoken(text: str) -> str:
    """A turn of a transcript without marks of sounds and without spaces before punctuation.

    The result may be empty: some turns hold sounds only.
    """
    text = " ".join(SOUND.sub(" ", text).split())
    text = re.sub(r" ([.,;:?!]|'(?:s|m|d|t|re|ve|ll)\b)", r"\1", text)
    return re.sub(r"(?<=\w) - (?=\w)", "-", text)
