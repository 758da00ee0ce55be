"""The bAbI tasks as a machine sees them: a sentence a step, words as numbers, batches."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Generator, Tensor

from eval.corpora import stories as babi
from eval.corpora.stories import BadStory

NUM_TASKS = 20
# words of steps without a sentence: time to look things up, and time for one word of an answer
THINK, ANSWER = "<think>", "<answer>"
SILENT = -100  # target of a step without an answer


class Story(NamedTuple):
    """One story as steps, a sentence each.

    Attributes:
        sentences: words of each step; after a question come steps of `THINK`, then a step of
            `ANSWER` for each word of its answer.
        answers: the right word at a step of `ANSWER`, else None.
    """

    sentences: list[list[str]]
    answers: list[str | None]


def read_stories(path: Path, think: int) -> list[Story]:
    """The stories of one file, gzipped or not.

    Args:
        path: the file.
        think: steps between a question and its answer.

    Raises:
        BadStory: the file can't be read, a line is neither a sentence nor a question, or there is
            no question.
    """
    return [_in_steps(story, think) for story in babi.read_stories(path)]


def _in_steps(story: babi.Story, think: int) -> Story:
    steps = Story([], [])
    waiting = list(story.asked)
    for told in range(len(story.statements) + 1):
        while waiting and waiting[0].after == told:
            asked = waiting.pop(0)
            answer = asked.answer.lower().split(",")
            steps.sentences.append(_words(asked.question))
            steps.sentences.extend([[THINK]] * think + [[ANSWER]] * len(answer))
            steps.answers.extend([*[None] * (think + 1), *answer])
        if told < len(story.statements):
            steps.sentences.append(_words(story.statements[told]))
            steps.answers.append(None)
    return steps


def _words(sentence: str) -> list[str]:
    return re.findall(r"[a-z]+|[?]", sentence.lower())


def read_tasks(folder: Path, part: str, think: int) -> list[list[Story]]:
    """The stories of all twenty tasks, by task.

    Args:
        folder: holds `qa1_..._{part}...txt` to `qa20_...`, or the same with `.gz`.
        part: "train" or "test".
        think: steps between a question and its answer.

    Raises:
        BadStory: a task has no file, more than one, or a file that can't be read.
    """
    tasks = []
    for task in range(1, NUM_TASKS + 1):
        name = re.compile(rf"qa{task}_.*_{part}.*\.txt(\.gz)?")
        found = [path for path in sorted(folder.glob("*")) if name.fullmatch(path.name)]
        if len(found) != 1:
            raise BadStory(
                f"{folder} must hold one file qa{task}_*_{part}*.txt or .txt.gz, from the folder "
                f"en-10k of the bAbI release; it holds {len(found)}."
            )
        tasks.append(read_stories(found[0], think))
    return tasks


class Encoded(NamedTuple):
    """Stories as numbers, padded to the longest with word 0 and target `SILENT`."""

    words: Int[Tensor, "stories steps words"]
    targets: Int[Tensor, "stories steps"]


class Vocabulary:
    """All words of the training stories; other words can't be read.

    Args:
        stories: have the words.
    """

    def __init__(self, stories: Sequence[Story]) -> None:
        sentences = [sentence for story in stories for sentence in story.sentences]
        self.longest = max(map(len, sentences))
        words = {word for sentence in sentences for word in sentence}
        self.words = ["", *sorted(words | {word for s in stories for word in s.answers if word})]
        self.numbers = {word: number for number, word in enumerate(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    def encode(self, stories: Sequence[Story]) -> Encoded:
        """A batch of stories.

        Raises:
            BadStory: a word that no training story has, or a sentence longer than all of them.
        """
        try:
            words = [[[self.numbers[w] for w in words] for words in s.sentences] for s in stories]
            targets = [
                [SILENT if w is None else self.numbers[w] for w in s.answers] for s in stories
            ]
        except KeyError as error:
            raise BadStory(f"no training story has the word {error}.") from None
        steps = max(len(story) for story in words)
        width = max(len(sentence) for story in words for sentence in story)
        if width > self.longest:
            raise BadStory(
                f"a sentence has {width} words, and no training story over {self.longest}."
            )
        padded = torch.zeros(len(stories), steps, width, dtype=torch.long)
        asked = torch.full((len(stories), steps), SILENT)
        for row, (story, target) in enumerate(zip(words, targets, strict=True)):
            asked[row, : len(target)] = torch.tensor(target)
            for step, sentence in enumerate(story):
                padded[row, step, : len(sentence)] = torch.tensor(sentence)
        return Encoded(padded, asked)


def batches(stories: Sequence[Story], size: int, generator: Generator) -> list[list[int]]:
    """Every story once, in batches of about equal length and in random order."""
    noise = torch.rand(len(stories), generator=generator)
    lengths = torch.tensor([float(len(story.answers)) for story in stories])
    order = (lengths + noise).argsort().tolist()
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return [parts[at] for at in torch.randperm(len(parts), generator=generator).tolist()]
