"""Plain text as documents without questions, for a general stage of training."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.corpora.book import read_book
from training.data.records import Record


def passages(
    books: Sequence[Path], documents: int, words: tuple[int, int] = (100, 1000), seed: int = 0
) -> Iterator[Record]:
    """Passages of books, each from the beginning of a paragraph.

    Args:
        books: text files, gzipped where their name ends in `.gz`; paragraphs are lines.
        documents: the number of passages.
        words: shortest and longest passage; each draws its own length.
        seed: draws books, places and lengths.

    Raises:
        FileNotFoundError, ValueError: a book is missing or empty.
    """
    texts = [
        (
            path.name.partition(".")[0],
            [line for line in read_book(path).splitlines() if line.strip()],
        )
        for path in books
    ]
    rng = random.Random(seed)
    for number in range(documents):
        name, paragraphs = rng.choice(texts)
        wanted = rng.randint(*words)
        place = rng.randrange(len(paragraphs))
        taken: list[str] = []
        while wanted > 0:
            found = paragraphs[place].split()[:wanted]
            taken.append(" ".join(found))
            wanted -= len(found)
            place = (place + 1) % len(paragraphs)
        yield Record(f"{name}/{number}", "\n".join(taken), ())
