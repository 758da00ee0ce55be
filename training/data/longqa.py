"""Questions about long documents, from local copies of four public sets.

Each function reads JSONL as it is described in its docstring and yields one record a document. All
questions are asked at its end.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from training.data.jsonl import BadRecord, field, items, rows
from training.data.records import Record, parse

# (A) an option of a multiple choice, up to the next one
OPTION = re.compile(r"\(([A-D])\)\s(.*?)(?=\s*\([A-D]\)\s|$)", re.DOTALL)
# sounds, pauses and the like in the transcripts of QMSum: {vocalsound}
SOUND = re.compile(r"\{[^}]*\}")


def squality(path: Path) -> Iterator[Record]:
    """SQuALITY: stories, each with five questions that take a paragraph to answer.

    A row is `{doc_id, document, questions: [{question, answers}]}`. Of the reference answers the
    shortest is taken: all were accepted, and the longer ones tell more than was asked.

    Raises:
        BadRecord: a row is of another form.
    """
    for place, row in rows(path):
        questions = []
        for where, asked in items(row, "questions", dict, place):
            answers = [tidy(answer) for _, answer in items(asked, "answers", str, where)]
            if not answers:
                raise BadRecord(f"{where}: there is no answer.")
            question = tidy(field(asked, "question", str, where))
            questions.append({"question": question, "answer": min(answers, key=len)})
        name = f"squality/{field(row, 'doc_id', str, place)}"
        story = tidy(field(row, "document", str, place))
        yield parse({"id": name, "document": story, "questions": questions}, place)


def quality(path: Path) -> Iterator[Record]:
    """QuALITY: stories with multiple choice; the question lists its options, the answer is one.

    A row is `{doc_id, document, questions: [{question, answer}]}` with the options (A) to (D) in
    the text of the question. Rows where `same_story_as_squality` names a story are left out: it may
    be one that SQuALITY tests with.

    Raises:
        BadRecord: a row is of another form.
    """
    for place, row in rows(path):
        if row.get("same_story_as_squality"):
            continue
        questions = []
        for where, asked in items(row, "questions", dict, place):
            text = field(asked, "question", str, where)
            options = {letter: tidy(option) for letter, option in OPTION.findall(text)}
            answer = OPTION.fullmatch(field(asked, "answer", str, where).strip())
            if answer is None or answer[1] not in options:
                raise BadRecord(
                    f"{where}: the answer must be one of the options of the question, (A) to (D); "
                    f"got {asked['answer'][:60]!r}."
                )
            question = choice(text[: text.index("(A)")], list(options.values()))
            questions.append({"question": question, "answer": options[answer[1]]})
        name = f"quality/{field(row, 'doc_id', str, place)}"
        story = tidy(field(row, "document", str, place))
        yield parse({"id": name, "document": story, "questions": questions}, place)


def qmsum(path: Path) -> Iterator[Record]:
    """QMSum: transcripts of meetings, a turn a line, with general and specific queries.

    A row is `{doc_id, meeting_transcripts: [{speaker, content}], general_query_list,
    specific_query_list}` with `{query, answer}` in the lists.

    Raises:
        BadRecord: a row is of another form.
    """
    for place, row in rows(path):
        turns = []
        for where, turn in items(row, "meeting_transcripts", dict, place):
            said = spoken(field(turn, "content", str, where))
            if said:
                turns.append(f"{field(turn, 'speaker', str, where)}: {said}")
        questions = [
            {
                "question": tidy(field(asked, "query", str, where)),
                "answer": spoken(field(asked, "answer", str, where)),
            }
            for name in ("general_query_list", "specific_query_list")
            for where, asked in items(row, name, dict, place)
        ]
        name = f"qmsum/{field(row, 'doc_id', str, place)}"
        yield parse({"id": name, "document": "\n".join(turns), "questions": questions}, place)


def nq(
    path: Path, documents: int, seed: int = 0, gold: int = 4, distractors: int = 12
) -> Iterator[Record]:
    """Natural Questions: passages of Wikipedia in random order; some are asked about.

    Args:
        path: rows are `{question, answers, title, text}`; the first answer is taken.
        documents: how many to make; no passage is asked about again before (nearly) all were.
        seed: draws the passages and their order.
        gold: how many passages of a document are asked about.
        distractors: how many are not.

    Raises:
        BadRecord: a row is of another form, or there are too few passages.
    """
    asked: dict[str, list[dict[str, str]]] = {}
    for place, row in rows(path):
        passage = f"{tidy(field(row, 'title', str, place))}\n{tidy(field(row, 'text', str, place))}"
        answers = [tidy(answer) for _, answer in items(row, "answers", str, place)]
        if not answers:
            raise BadRecord(f"{place}: there is no answer.")
        question = tidy(field(row, "question", str, place)).rstrip("? ")
        question = f"{question[:1].upper()}{question[1:]}?"
        asked.setdefault(passage, []).append({"question": question, "answer": answers[0]})
    if len(asked) < gold + distractors:
        raise BadRecord(
            f"{path} holds {len(asked)} passages, and a document takes {gold + distractors}."
        )
    rng = random.Random(seed)
    waiting: list[str] = []
    for number in range(documents):
        if len(waiting) < gold:
            waiting = rng.sample(list(asked), len(asked))
        chosen, waiting = waiting[:gold], waiting[gold:]
        others = [passage for passage in asked if passage not in chosen]
        passages = chosen + rng.sample(others, distractors)
        rng.shuffle(passages)
        questions = [question for passage in chosen for question in asked[passage]]
        document = "\n\n".join(passages)
        yield parse(
            {"id": f"nq/{number}", "document": document, "questions": questions}, f"nq/{number}"
        )


def choice(question: str, options: Sequence[str]) -> str:
    """A question with its options as it is asked, one option a line."""
    lines = [f"({letter}) {option}" for letter, option in zip("ABCDEFGH", options, strict=False)]
    return "\n".join([tidy(question), *lines])


def tidy(text: str) -> str:
    """A text without hard line breaks: paragraphs have an empty line between them."""
    paragraphs = (" ".join(part.split()) for part in re.split(r"\n\s*\n", text))
    return "\n\n".join(part for part in paragraphs if part)


def spoken(text: str) -> str:
    """A turn of a transcript without marks of sounds, and without spaces that no writer would set.

    May be empty: some turns are a cough.
    """
    text = " ".join(SOUND.sub(" ", text).split())
    text = re.sub(r" ([.,;:?!]|'(?:s|m|d|t|re|ve|ll)\b)", r"\1", text)
    return re.sub(r"(?<=\w) - (?=\w)", "-", text)
