"""bAbI stories strewn in book text: the parts of BABILong samples.

A story's statements keep their order; each is put between two sentences of the book, at places
drawn uniformly (Kuratov et al. 2024, arXiv:2406.10149, section 2). `eval.babilong`
(test stories) and `training.data.babilong` (training stories) choose stories, books and questions.
"""

from __future__ import annotations

import gzip
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.corpora.book import read_book

# tokens of the shortest sentence of a book; shorter ones are dropped, as in BABILong
LEAST_SENTENCE = 10
# a sentence ends in one of these, perhaps quoted, before a capital letter
SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’)]*\s+(?=[\"'“‘(]*[A-Z])")

Count = Callable[[str], int]


class BadStory(ValueError):
    """A file that does not hold bAbI stories; the message names the place and the reason."""


@dataclass(frozen=True)
class Asked:
    """One question of a story.

    Attributes:
        after: the number of statements before the question.
        question: the text in the file.
        answer: the text in the file; several words have commas between them.
    """

    after: int
    question: str
    answer: str


@dataclass(frozen=True)
class Story:
    """One story: its statements, and its questions in the order in which they are asked."""

    statements: tuple[str, ...]
    asked: tuple[Asked, ...]


def read_stories(path: Path) -> list[Story]:
    """The stories of one bAbI file, gzipped or not, in their original spelling.

        1 Mary moved to the bathroom.
        2 Where is Mary?<TAB>bathroom<TAB>1

    A line numbered 1 begins a new story; a line with TABs is a question, its answer words (with
    commas between them) and the numbers of the lines that support it. Source: J. Weston et al.
    2015, arXiv:1502.05698.

    Raises:
        BadStory: the file can't be read, or a line is neither a statement nor a question.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadStory(f"{path} can't be read: {error}.") from None
    stories: list[tuple[list[str], list[Asked]]] = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = re.fullmatch(r"(\d+) ([^\t]+)(?:\t([^\t]+)(?:\t[\d ]*)?)?", line)
        if parts is None or (parts[1] != "1" and not stories):
            raise BadStory(
                f"{path}, line {number}: expected a number and a sentence, with TAB and answer "
                f"if it is a question; got {line[:60]!r}."
            )
        if parts[1] == "1":
            stories.append(([], []))
        statements, asked = stories[-1]
        if parts[3]:
            asked.append(Asked(len(statements), parts[2].strip(), parts[3].strip()))
        else:
            statements.append(parts[2].strip())
    found = [Story(tuple(statements), tuple(asked)) for statements, asked in stories]
    if not any(story.asked for story in found):
        raise BadStory(f"{path} holds no story with a question; it may have been cut off.")
    return found


def story_file(folder: Path, task: str, split: str) -> Path:
    """The file of one task in a folder of bAbI: `qa1_*_train*` for ("qa1", "train").

    Raises:
        BadStory: there is no such file, or more than one.
    """
    found = sorted(folder.glob(f"{task}_*_{split}*"))
    if len(found) != 1:
        raise BadStory(
            f"{folder} must hold one file {task}_*_{split}* of bAbI; it holds {len(found)}."
        )
    return found[0]


class Background:
    """Books as sentences: texts from any place in a book.

    Args:
        paths: text files, gzipped where their name ends in `.gz`.
        count: counts the tokens of a text.
    """

    def __init__(self, paths: Sequence[Path], count: Count) -> None:
        self.count = count
        self.books: list[list[str]] = []
        self.lengths: list[list[int]] = []
        # all books are read before the first is counted
        for path, text in [(path, read_book(path)) for path in paths]:
            sentences = SENTENCE_END.split(" ".join(text.split()))
            sized = [(sentence, count(f" {sentence}")) for sentence in sentences]
            sized = [(sentence, size) for sentence, size in sized if size >= LEAST_SENTENCE]
            if not sized:
                raise ValueError(
                    f"{path} holds no sentence of {LEAST_SENTENCE} tokens; --books takes prose."
                )
            self.books.append([sentence for sentence, _ in sized])
            self.lengths.append([size for _, size in sized])

    def sentences(self, tokens: int, rng: random.Random) -> list[str]:
        """`tokens` tokens of one book from a random place; the last sentence is cut to fit.

        After the end of the book its beginning follows.
        """
        book = rng.randrange(len(self.books))
        texts, lengths = self.books[book], self.lengths[book]
        place = rng.randrange(len(texts))
        taken: list[str] = []
        while tokens > 0:
            sentence = texts[place]
            if lengths[place] > tokens:
                words = sentence.split()
                while words and self.count(f" {' '.join(words)}") > tokens:
                    words.pop()
                sentence = " ".join(words)
            tokens -= lengths[place]
            if sentence:
                taken.append(sentence)
            place = (place + 1) % len(texts)
        return taken


def strewn(
    statements: Sequence[str], between: Sequence[str], rng: random.Random
) -> tuple[str, list[int]]:
    """A story strewn in other text.

    Args:
        statements: the statements of the story, which keep their order; all places between two
            other sentences are equally likely.
        between: the other sentences, perhaps none.
        rng: draws the places.

    Returns:
        The text, and for every statement the number of characters up to its end.
    """
    places = sorted(rng.randint(0, len(between)) for _ in statements)
    pieces: list[str] = []
    ends: list[int] = []
    length = told = 0
    for place in range(len(between) + 1):
        while told < len(statements) and places[told] == place:
            pieces.append(statements[told])
            length += len(statements[told]) + 1
            ends.append(length - 1)
            told += 1
        if place < len(between):
            pieces.append(between[place])
            length += len(between[place]) + 1
    return " ".join(pieces), ends
