"""BABILong's samples: a document, a question about it, and its target.

Both sources are a `Source`: `FromStories` makes samples from bAbI's *test* files and books on this
machine, `FromHub` takes the published samples. This file knows no model; it only counts tokens.
"""

from __future__ import annotations

import importlib
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from eval.corpora.stories import Asked, Background, Count, Story, read_stories, story_file, strewn
from eval.reporting.extras import missing

HUB_NAME = "RMT-team/babilong"
# nominal lengths in tokens; a document of 0k is the story without book text
LENGTHS = {
    "0k": 0,
    **{f"{thousands}k": 1000 * thousands for thousands in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)},
    "1M": 1_000_000,
    "10M": 10_000_000,
}
# tokens of a nominal length that are left to the prompt around the document
PROMPT_TOKENS = 300
# samples with more than one statement in so many tokens are dropped
TOKENS_PER_FACT = 8


class NoSamples(ValueError):
    """The samples can't be had; the message says why."""


class Case(NamedTuple):
    """The question of one case; its document is made when it is read.

    Attributes:
        source: the place in the data, such as `story 12, question 3`, both counted from 0.
        question: the text of the question.
        target: the right answer.
    """

    source: str
    question: str
    target: str


class Source(Protocol):
    """A source of samples. The same arguments give the same sample; cases count from 0."""

    def count(self, task: str, length: str) -> int:
        """The number of samples, at most the number that was asked for."""

    def case(self, task: str, length: str, case: int) -> Case:
        """The question of a sample."""

    def document(self, task: str, length: str, case: int) -> str:
        """The document of a sample: statements in their order, perhaps strewn in book text."""


class FromStories:
    """Samples made from bAbI's test files by the rules of the official generator.

    Every question is one sample: all earlier statements are kept, earlier questions are dropped.
    Cases come from different stories as long as there are stories. A smaller number of cases is the
    beginning of a greater number. All lengths have the same questions, except that a length drops
    questions with too many statements before them.

    Args:
        folder: holds one file `qa1_*_test*` for each task, gzipped or not.
        tasks: `qa1` to `qa20`.
        cases: the number of samples of each task at each length.
        seed: draws the cases, the book text and the places of the statements.
        count: counts the tokens of a text.

    Attributes:
        background: the book text; None suffices for `0k`.

    Raises:
        BadStory: a file is missing, or is no bAbI file.
    """

    def __init__(
        self,
        folder: Path,
        tasks: Sequence[str],
        cases: int,
        seed: int,
        count: Count,
    ) -> None:
        self.cases = cases
        self.seed = seed
        self.background: Background | None = None
        self.tokens = count
        self.stories = {task: read_stories(story_file(folder, task, "test")) for task in tasks}
        self._chosen: dict[tuple[str, str], list[tuple[int, int]]] = {}

    def count(self, task: str, length: str) -> int:
        """The number of samples, at most the number that was asked for."""
        return len(self.chosen(task, length))

    def chosen(self, task: str, length: str) -> list[tuple[int, int]]:
        """The numbers of story and question of every case."""
        if (task, length) not in self._chosen:
            pairs = [
                (story, question)
                for story, one in enumerate(self.stories[task])
                for question in range(len(one.asked))
            ]
            # shuffled before any pair is dropped, so that all lengths share the order
            random.Random(f"{self.seed}/{task}").shuffle(pairs)
            pairs = [
                (story, question)
                for story, question in pairs
                if _fits(self.stories[task][story].asked[question], LENGTHS[length])
            ]
            seen: Counter[int] = Counter()
            turns = []
            for story, _ in pairs:
                turns.append(seen[story])
                seen[story] += 1
            order = sorted(range(len(pairs)), key=lambda place: turns[place])
            self._chosen[task, length] = [pairs[place] for place in order[: self.cases]]
        return self._chosen[task, length]

    def case(self, task: str, length: str, case: int) -> Case:
        """The question of a sample."""
        number, question = self.chosen(task, length)[case]
        asked = self.stories[task][number].asked[question]
        return Case(f"story {number}, question {question}", asked.question, asked.answer)

    def document(self, task: str, length: str, case: int) -> str:
        """A text of the nominal length less `PROMPT_TOKENS`."""
        number, question = self.chosen(task, length)[case]
        story: Story = self.stories[task][number]
        statements = story.statements[: story.asked[question].after]
        rng = random.Random(f"{self.seed}/{task}/{length}/{number}/{question}")
        between: list[str] = []
        if LENGTHS[length] and self.background is not None:
            told = sum(self.tokens(f" {statement}") for statement in statements)
            between = self.background.sentences(LENGTHS[length] - PROMPT_TOKENS - told, rng)
        return strewn(statements, between, rng)[0]


def _fits(asked: Asked, nominal: int) -> bool:
    """Whether the statements before a question fit into a document; the question counts as one."""
    most = (nominal - PROMPT_TOKENS) // TOKENS_PER_FACT
    return 0 < asked.after and (nominal == 0 or asked.after + 1 <= most)


class FromHub:
    """The published samples, `RMT-team/babilong`: 100 of each task at each length.

    Args:
        tasks: `qa1` to `qa20`.
        lengths: keys of `LENGTHS`.
        cases: the number of samples of each task at each length.
        seed: draws the samples.

    Raises:
        NoSamples: the hub can't be reached or lacks samples, or `datasets` is not installed.
    """

    def __init__(self, tasks: Sequence[str], lengths: Sequence[str], cases: int, seed: int) -> None:
        if sentence := missing(f"reading {HUB_NAME} from the hub", "datasets"):
            raise NoSamples(f"{sentence.removesuffix('.')}, or give --babi and --books.")
        # imported by name, because only this source needs the package
        datasets = importlib.import_module("datasets")
        self._rows: dict[tuple[str, str], Any] = {}
        self._order: dict[tuple[str, str], list[int]] = {}
        for task in tasks:
            for length in lengths:
                try:
                    rows = datasets.load_dataset(HUB_NAME, length, split=task)
                except (OSError, ValueError) as error:
                    reason = " ".join(str(error).split()).rstrip(".")
                    raise NoSamples(
                        f"{HUB_NAME}, {length}, {task}, can't be had from the hub: {reason}. Give "
                        "--babi and --books to make samples from files on this machine."
                    ) from None
                order = list(range(len(rows)))
                random.Random(f"{seed}/{task}").shuffle(order)
                self._rows[task, length] = rows
                self._order[task, length] = order[:cases]

    def count(self, task: str, length: str) -> int:
        """The number of samples, at most the number that was asked for."""
        return len(self._order[task, length])

    def case(self, task: str, length: str, case: int) -> Case:
        """The question of a sample."""
        number, row = self._row(task, length, case)
        return Case(f"row {number}", row["question"], row["target"])

    def document(self, task: str, length: str, case: int) -> str:
        """The published text of a sample."""
        text: str = self._row(task, length, case)[1]["input"]
        return text

    def _row(self, task: str, length: str, case: int) -> tuple[int, Any]:
        number = self._order[task, length][case]
        return number, self._rows[task, length][number]
