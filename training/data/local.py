"""Local copies of public sets with short answers, as passages with questions.

The copies are in one folder with a folder for each set, which holds `train.jsonl.gz` and
`dev.jsonl.gz` (or several of each, such as `reddit_train.jsonl.gz`). A row is
`{doc_id, title, context, questions: [{question, answers, answer_starts?, impossible?}]}`, with
`sessions: [{turns: [{speaker, text}]}]` or `turns` in place of `context` where it is talk. Some
sets are for evaluation only, and are refused.
"""

from __future__ import annotations

import fnmatch
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from eval.corpora.jsonl import BadRecord, Row, items, rows
from eval.corpora.jsonl import field as value_of
from eval.corpora.long_documents import spoken, tidy
from training.data.overlap import Measured
from training.data.passages import Asked, Passage, Words, sentence_at
from training.data.records import Span

PARAGRAPHS = ("squadshifts", "squad_train_part", "covidqa", "policyqa", "nq_swap", "qed")
STORIES = ("fairytaleqa",)
TALKS = ("friendsqa", "molweni", "realmem")
EVALUATION_ONLY = ("bamboo_*", "clapnq*", "leval_*", "personamem*", "locomo*")
MOST_WORDS = 12  # longest answer
_TABLE = re.compile(r"</?(?:table|tr|th|td|ul|ol|li|dl|dd|dt)\b", re.IGNORECASE)
_MARK = re.compile(r"</?P>", re.IGNORECASE)


@dataclass
class Left:
    """How many rows of a set were left out, and why.

    Attributes:
        rows: the rows read, by set.
        out: the rows left out, by set and reason: "text" or "question", as in `Measured.reason`.
    """

    rows: Counter[str] = field(default_factory=Counter)
    out: Counter[tuple[str, str]] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """A sentence for each set."""
        return [
            f"{name}: {self.out[name, 'text'] + self.out[name, 'question']} of {count} rows left "
            f"out: {self.out[name, 'text']} share text with what is measured, "
            f"{self.out[name, 'question']} ask a measured question"
            for name, count in self.rows.items()
        ]


def check_set(name: str, allowed: tuple[str, ...]) -> None:
    """Refuses a set.

    Raises:
        BadRecord: the set is for evaluation only, or is not one that can be read.
    """
    if any(fnmatch.fnmatch(name.lower(), one) for one in EVALUATION_ONLY):
        raise BadRecord(
            f"{name} is for evaluation only: no model may be trained on it, so that it can "
            "measure one."
        )
    if name not in allowed:
        raise BadRecord(f"There is no set {name} here; there are {', '.join(allowed)}.")


def files_of(folder: Path, name: str, split: str) -> list[Path]:
    """The files of one part of a set."""
    return sorted((folder / name).glob(f"*{split}.jsonl*"))


def kept(
    folder: Path, name: str, split: str, measured: Measured, left: Left
) -> Iterator[tuple[str, Row]]:
    """Place and object of the rows of a set that repeat nothing that is measured.

    Args:
        folder: has a folder for each set.
        name: the set.
        split: "train" or "dev".
        measured: what is measured.
        left: is told what was left out.

    Raises:
        BadRecord: there is no file, or a row has another form.
    """
    found = files_of(folder, name, split)
    if not found:
        raise BadRecord(f"{folder / name} holds no file *{split}.jsonl or *{split}.jsonl.gz.")
    for path in found:
        for place, row in rows(path):
            source = f"{name}/{path.name.partition('.')[0]}"
            left.rows[source] += 1
            asked = [value_of(one, "question", str, at) for at, one in questions(row, place)]
            if reason := measured.reason(_said(row), asked):
                left.out[source, reason] += 1
            else:
                yield place, row


def questions(row: Row, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Place and object of the questions of a row."""
    return items(row, "questions", dict, place)


def _said(row: Row) -> str:
    """Everything that a row tells."""
    if "context" in row:
        return str(row["context"])
    return " ".join(str(turn["text"]) for one in row.get("sessions", ()) for turn in one["turns"])


def untokenised(text: str) -> str:
    """A text without the spaces that a tokenizer of English puts around signs."""
    text = spoken(text).replace("`` ", '"').replace(" ''", '"').replace("''", '"')
    text = re.sub(r"(\w) n't\b", r"\1n't", text)
    text = re.sub(r"\b([Gg]on|[Ww]an|[Gg]ot) (na|ta)\b", r"\1\2", text)
    text = re.sub(r'(^|\s)" ([^"]*?) ?"(?=\W|$)', r'\1"\2"', text)
    text = re.sub(r"([(\[]) ", r"\1", text)
    return re.sub(r" ([)\]])", r"\1", text)


def short(answers: list[str]) -> str:
    """The answer that most people gave, else the shortest; "" if all are too long."""
    found = [answer for answer in answers if 0 < len(answer.split()) <= MOST_WORDS]
    counts = Counter(answer.lower() for answer in found)
    best = sorted(found, key=lambda answer: (-counts[answer.lower()], len(answer)))
    return best[0] if best else ""


# ---- paragraphs ------------------------------------------------------------------------------


def paragraphs(name: str, found: Iterable[tuple[str, Row]]) -> list[Passage]:
    """The paragraphs of a set in SQuAD's form; tables and lists in HTML are left out.

    The paragraphs of every other article begin with its title, on a line of its own, because a
    document may be told in either form.

    Args:
        name: the set.
        found: its rows.

    Raises:
        BadRecord: a row has another form.
    """
    wordy = untokenised if name in ("qed", "nq_swap") else tidy
    passages = []
    for place, row in found:
        text = _MARK.sub(" ", value_of(row, "context", str, place))
        text = " ".join(wordy(text).split())
        if not text or _TABLE.search(text):
            continue
        article = value_of(row, "doc_id", str, place)
        title = tidy(str(row.get("title") or "")) if crc32(article.encode()) % 2 else ""
        lead = f"{title}\n" if title else ""
        asked = [_extracted(one, text, len(lead), wordy) for _, one in questions(row, place)]
        passages.append(Passage(article, lead + text, tuple(one for one in asked if one)))
    return passages


def _extracted(one: Mapping[str, Any], text: str, lead: int, wordy: Any) -> Asked | None:
    """A question whose answer stands in the text; None if the answer is too long or not there."""
    question = wordy(str(one["question"])).rstrip("? ")
    question = f"{question[:1].upper()}{question[1:]}?"
    if one.get("impossible"):
        return Asked(question, "")
    answers = [wordy(str(answer)) for answer in one["answers"]]
    answer = short([answer for answer in answers if places(text, answer)])
    if not answer:
        return None
    hint = dict(zip(answers, one.get("answer_starts") or (), strict=False)).get(answer, 0)
    # the text has other spaces than the copy, so the place in the copy is about right
    begin = min(places(text, answer), key=lambda place: abs(place - hint))
    first, last = sentence_at(text, begin, begin + len(answer))
    return Asked(question, answer.strip(" ,;:"), (lead + first, lead + last))


def places(text: str, answer: str) -> list[int]:
    """Where an answer begins in a text, as whole words."""
    found = re.finditer(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE)
    return [match.start() for match in found if answer]


# ---- stories ---------------------------------------------------------------------------------

LEAST_PARAGRAPH = 40  # words; shorter paragraphs are joined with what follows


def stories(found: Iterable[tuple[str, Row]]) -> list[list[Passage]]:
    """FairytaleQA: each story as its paragraphs in order, with the questions of each.

    A question names sections of the story. Its passage is the paragraph of these sections that
    holds the answer word for word or, failing that, the one that has most words in common with
    question and answer; that is a silver label.

    Raises:
        BadRecord: a row has another form.
    """
    whole = []
    for place, row in found:
        text, starts = value_of(row, "context", str, place), list(row["section_starts"])
        cut: list[tuple[str, str]] = []  # section and paragraph
        for name, begin, end in zip(
            row["section_ids"], starts, [*starts[1:], len(text)], strict=True
        ):
            cut += [(name, part) for part in _joined(tidy(text[begin:end]))]
        words = Words(Passage("", part) for _, part in cut)
        asked: list[list[Asked]] = [[] for _ in cut]
        for _, one in questions(row, place):
            inside = [number for number, (name, _) in enumerate(cut) if name in one["sections"]]
            if inside and (answer := short([tidy(str(each)) for each in one["answers"]])):
                number, mine = _placed(tidy(str(one["question"])), answer, cut, inside, words)
                asked[number].append(mine)
        whole.append(
            [
                Passage(value_of(row, "doc_id", str, place), part, tuple(mine))
                for (_, part), mine in zip(cut, asked, strict=True)
            ]
        )
    return whole


def _joined(section: str) -> list[str]:
    """The paragraphs of a section, short ones joined with the next."""
    found: list[str] = []
    for part in section.split("\n\n"):
        if found and len(found[-1].split()) < LEAST_PARAGRAPH:
            found[-1] += f" {part}"
        elif part:
            found.append(part)
    return found


def _placed(
    question: str, answer: str, cut: list[tuple[str, str]], inside: list[int], words: Words
) -> tuple[int, Asked]:
    """The number of the paragraph that answers a question, and the question with its place."""
    said = f"{question} {answer}"
    literal = [n for n in inside if places(cut[n][1], answer)]
    number = max(literal or inside, key=lambda n: words.overlap(said, cut[n][1]))
    text = cut[number][1]
    sentence = best_sentence(said, text, words)
    if literal:
        begins = places(text, answer)
        spans = [sentence_at(text, begin, begin + len(answer)) for begin in begins]
        sentence = max(spans, key=lambda span: words.overlap(said, text[slice(*span)]))
    return number, Asked(question, answer, sentence, silver=not literal)


def best_sentence(said: str, text: str, words: Words) -> Span:
    """The sentence of a text that has most words in common with what is said."""
    spans, begin = [], 0
    while begin < len(text):
        spans.append(sentence_at(text, begin, begin + 1))
        begin = spans[-1][1]
        begin += len(text[begin:]) - len(text[begin:].lstrip())
    return max(spans, key=lambda span: words.overlap(said, text[slice(*span)]))
