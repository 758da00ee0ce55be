"""What is measured, so that no row of training data repeats it.

A row is left out if more than 2 % of its sequences of twelve words stand in a measured document,
or if one of its questions is a measured question. Sequences are kept as 64-bit numbers in one
sorted array, so that millions of them take seconds and little memory.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corpora.jsonl import BadRecord
from eval.corpora.people import KINDS, NAMES

WORDS = 12  # words of a sequence
MOST = 0.02  # share of a row's sequences that may stand in a measured document
# the files of a folder with one folder a set that `eval` measures with, or may
MEASURED = (
    "squad/*", "nq_oracle/*", "quality/*", "squality/*", "qmsum/*", "locomo/*", "bamboo_*/*",
    "leval_*/*", "clapnq_dev/*", "personamem/*", "babi/**/*_test*",
)  # fmt: skip
READ = (".jsonl", ".json", ".txt")
ASKED = ("question", "query")  # names of fields that hold questions
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def sequences(text: str) -> NDArray[np.uint64]:
    """A number for every sequence of twelve words of a text; none if the text is shorter."""
    numbers = np.array([hash(word) for word in words(text)], dtype=np.int64).view(np.uint64)
    count = len(numbers) - WORDS + 1
    found = np.zeros(max(count, 0), dtype=np.uint64)
    if count > 0:
        for place in range(WORDS):
            found = found * _FACTOR + numbers[place : place + count]
    return found


def normal(question: str) -> str:
    """A question as it is compared: its words, without the options of a multiple choice."""
    return " ".join(words(re.split(r"\n|\(A\)", question.strip())[0]))


@dataclass(frozen=True)
class Measured:
    """Everything that is measured.

    Attributes:
        sequences: a number for every sequence of twelve words, sorted.
        questions: the questions, as `normal` writes them.
    """

    sequences: NDArray[np.uint64]
    questions: frozenset[str]

    @classmethod
    def of(cls, paths: Iterable[Path], held_out: Iterable[Path] = ()) -> Measured:
        """What some files hold, and the questions of `eval.recall` and `eval.dialogue`.

        Args:
            paths: files, or folders; in a folder with one folder a set, the files of `MEASURED`
                are taken, and in any other folder all files.
            held_out: files whose texts count and whose questions do not, because sets ask some
                questions about many texts.

        Raises:
            BadRecord: a path holds no file, or a file can't be read.
        """
        found = [np.zeros(0, dtype=np.uint64)]
        asked = {normal(kind.question.format(name=name)) for kind in KINDS for name in NAMES}
        for path in itertools.chain.from_iterable(map(files, paths)):
            for field, text in texts(path):
                if field in ASKED:
                    asked.add(normal(text))
                else:
                    found.append(sequences(text))
        for path in held_out:
            found += [sequences(text) for field, text in texts(path) if field not in ASKED]
        return cls(np.unique(np.concatenate(found)), frozenset(asked - {""}))

    def share(self, text: str) -> float:
        """The share of a text's sequences of twelve words that stand in what is measured."""
        mine = np.unique(sequences(text))
        if not len(mine) or not len(self.sequences):
            return 0.0
        places = np.searchsorted(self.sequences, mine).clip(max=len(self.sequences) - 1)
        return float((self.sequences[places] == mine).mean())

    def reason(self, text: str, questions: Iterable[str]) -> str | None:
        """Why a row is to be left out: "text" or "question"; None if it may stay."""
        if self.share(text) > MOST:
            return "text"
        if any(normal(question) in self.questions for question in questions):
            return "question"
        return None


def files(path: Path) -> list[Path]:
    """The measured files of a path; see `Measured.of`.

    Raises:
        BadRecord: there is none.
    """
    if not path.is_dir():
        return [path]
    found = {one for pattern in MEASURED for one in path.glob(pattern)} or set(path.rglob("*"))
    kept = [one for one in sorted(found) if _ending(one) in READ]
    if not kept:
        raise BadRecord(f"{path} holds no {', '.join(READ)} file, gzipped or not.")
    return kept


def _ending(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix


def texts(path: Path) -> Iterator[tuple[str, str]]:
    """Every text of a file, with the name of the field it stands in; "" for plain text.

    Raises:
        BadRecord: the file can't be read, or is no JSON where its name says so.
    """
    try:
        raw = path.read_bytes()
        whole = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
        match _ending(path):
            case ".jsonl":
                values = [json.loads(line) for line in whole.split("\n") if line.strip()]
            case ".json":
                values = [json.loads(whole)]
            case _:
                values = [whole]
    except (OSError, EOFError, ValueError) as error:
        raise BadRecord(f"{path} can't be read: {error}.") from None
    yield from _within("", values)


def _within(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """The texts inside a JSON value."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from _within(name, one)
    elif isinstance(value, list):
        for one in value:
            yield from _within(field, one)
