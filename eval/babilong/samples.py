"""BABILong's samples: a document, a question about it, and its target.

Two sources with one face: `FromStories` makes samples from bAbI's *test* files and books on this
machine, `FromHub` takes the published ones. It knows nothing of models but a tokenizer's count.
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
# nominal lengths in tokens; 0k is the story alone
LENGTHS = {
    "0k": 0,
    **{f"{thousands}k": 1000 * thousands for thousands in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)},
    "1M": 1_000_000,
    "10M": 10_000_000,
}
# of a nominal length, what is left to the prompt around the document
PROMPT_TOKENS = 300
# samples with more statements than one in so many tokens are dropped
TOKENS_PER_FACT = 8


class NoSamples(ValueError):
    """Samples that can't be had; the message says why."""


class Case(NamedTuple):
    """What is asked in one case; its document is made when it is read.

    Attributes:
        source: where it is in the data, such as `story 12, question 3`, both from 0.
        question: as it is asked.
        target: the right answer.
    """

    source: str
    question: str
    target: str


class Source(Protocol):
    """Where samples come from. The same arguments give the same sample; cases count from 0."""

    def count(self, task: str, length: str) -> int:
        """How many samples there are, at most as many as were wanted."""

    def case(self, task: str, length: str, case: int) -> Case:
        """What one of them asks."""

    def document(self, task: str, length: str, case: int) -> str:
        """Its statements in their order, perhaps in book text."""


class FromStories:
    """Samples made from bAbI's test files, in the way of the official generator.

    Every question is one sample: all earlier statements are kept, earlier questions are dropped.
    Cases are of different stories as long as there are stories; a smaller number of cases is the
    beginning of a greater one, and the same questions are asked at all lengths, but where a length
    drops those with too many statements.

    Args:
        folder: holds one file `qa1_*_test*` for each task, gzipped or not.
        tasks: `qa1` to `qa20`.
        cases: how many are wanted of each task at each length.
        seed: draws the cases, the book text and the places of the statements.
        count: how long a text is, in tokens.

    Attributes:
        background: the book text; None will do for `0k`.

    Raises:
        BadStory: a file is not there, or is no bAbI.
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
        """How many samples there are, at most as many as were wanted."""
        return len(self.chosen(task, length))

    def chosen(self, task: str, length: str) -> list[tuple[int, int]]:
        """The numbers of story and question of every case."""
        if (task, length) not in self._chosen:
            pairs = [
                (story, question)
                for story, one in enumerate(self.stories[task])
                for question in range(len(one.asked))
            ]
            # before any is dropped: the order is that of all lengths
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
        """What one of the samples asks."""
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
    """Whether so many statements may stand in a document; the question counts as one of them."""
    most = (nominal - PROMPT_TOKENS) // TOKENS_PER_FACT
    return 0 < asked.after and (nominal == 0 or asked.after + 1 <= most)


class FromHub:
    """The published samples, `RMT-team/babilong`: 100 of each task at each length.

    Args:
        tasks: `qa1` to `qa20`.
        lengths: keys of `LENGTHS`.
        cases: how many are wanted of each task at each length.
        seed: draws them.

    Raises:
        NoSamples: the hub can't be reached, lacks them, or `datasets` is not installed.
    """

    def __init__(self, tasks: Sequence[str], lengths: Sequence[str], cases: int, seed: int) -> None:
        if sentence := missing(f"reading {HUB_NAME} from the hub", "datasets"):
            raise NoSamples(f"{sentence.removesuffix('.')}, or give --babi and --books.")
        # by name: only this source needs the package
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
        """How many samples there are, at most as many as were wanted."""
        return len(self._order[task, length])

    def case(self, task: str, length: str, case: int) -> Case:
        """What one of the samples asks."""
        number, row = self._row(task, length, case)
        return Case(f"row {number}", row["question"], row["target"])

    def document(self, task: str, length: str, case: int) -> str:
        """Its text as published."""
        text: str = self._row(task, length, case)[1]["input"]
        return text

    def _row(self, task: str, length: str, case: int) -> tuple[int, Any]:
        number = self._order[task, length][case]
        return number, self._rows[task, length][number]
