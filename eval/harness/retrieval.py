"""Searches for the passages that a question is about: the usual alternative to a memory.

Both searches are a `Finder`: `bm25` compares words, `Dense` compares vectors of a small encoder.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch

from eval.harness.metrics import stemmer
from eval.reporting.extras import missing

# packages that each system needs
PACKAGES = {"bm25": ("bm25s", "nltk"), "dense": ("faiss",)}
# the most tokens of a passage: a few sentences
PASSAGE_TOKENS = 128
# a line or a sentence: passages end after one of them
_UNIT = re.compile(r"[^\n]*?(?:\n+|[.!?][\"'”’)]*(?:\s+|$))|[^\n]+$")

Count = Callable[[str], int]
# takes a question and a count; returns the numbers of the best passages, best first
Search = Callable[[str, int], list[int]]
Finder = Callable[[Sequence[str]], Search]


class NoRetrieval(ValueError):
    """A search can't be opened; the message says why."""


def passages(parts: Sequence[str], count: Count) -> list[str]:
    """Cuts texts at ends of sentences and lines into pieces of at most `PASSAGE_TOKENS`.

    A sentence longer than that is a passage of its own; no passage runs over two parts.
    """
    found = []
    for part in parts:
        text, tokens = "", 0
        for unit in _UNIT.findall(part):
            more = count(unit)
            if text and tokens + more > PASSAGE_TOKENS:
                found.append(text.strip())
                text, tokens = "", 0
            text, tokens = text + unit, tokens + more
        if text.strip():
            found.append(text.strip())
    return found


def bm25(texts: Sequence[str]) -> Search:
    """A search by stemmed words: BM25 (Robertson and Zaragoza 2009) with the usual settings.

    Raises:
        NoRetrieval: the packages are not installed.
    """
    check_packages("bm25")
    engine: Any = importlib.import_module("bm25s")
    words = stemmer()

    def tokens(some: Sequence[str]) -> Any:
        return engine.tokenize(
            list(some),
            stopwords="en",
            stemmer=lambda vocabulary: [words(word) for word in vocabulary],
            return_ids=False,
            show_progress=False,
        )

    index = engine.BM25()
    index.index(tokens(texts), show_progress=False)

    def search(question: str, most: int) -> list[int]:
        scores = index.get_scores(tokens([question])[0])
        # the order is stable where scores are equal
        return sorted(range(len(texts)), key=lambda number: (-scores[number], number))[:most]

    return search


class Dense:
    """A search by the vectors of an encoder: means of its last states, scaled to length 1.

    Args:
        name: hub id or folder of an encoder that was trained for such means, such as an encoder
            of sentence-transformers.
        device: the device of the encoder.

    Raises:
        NoRetrieval: the encoder can't be opened, or faiss is not installed.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        from transformers import AutoModel, AutoTokenizer

        check_packages("dense")
        self.faiss: Any = importlib.import_module("faiss")
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(name)
            self.encoder = AutoModel.from_pretrained(name).eval().to(torch.device(device))
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise NoRetrieval(
                f"the encoder {name!r} can't be opened: {reason} --encoder takes a hub id or a "
                "folder."
            ) from None

    def __call__(self, texts: Sequence[str]) -> Search:
        """Makes passages searchable."""
        vectors = self._vectors(texts)
        index = self.faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)

        def search(question: str, most: int) -> list[int]:
            _, numbers = index.search(self._vectors([question]), most)
            return [int(number) for number in numbers[0]]

        return search

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[str]) -> Any:
        found = []
        for begin in range(0, len(texts), 32):
            batch = self.tokenizer(
                list(texts[begin : begin + 32]), padding=True, truncation=True, return_tensors="pt"
            ).to(self.encoder.device)
            states = self.encoder(**batch).last_hidden_state
            mask = batch["attention_mask"][..., None].to(states.dtype)
            mean = (states * mask).sum(1) / mask.sum(1)
            found.append(torch.nn.functional.normalize(mean, dim=-1).float().cpu())
        return torch.cat(found).numpy()


def check_packages(system: str) -> None:
    """Checks that the packages of a search are installed; other systems need none.

    Raises:
        NoRetrieval: a package is not installed.
    """
    if sentence := missing(f"the system {system}", *PACKAGES.get(system, ())):
        raise NoRetrieval(f"{sentence.removesuffix('.')}, or leave {system} out of --systems.")
