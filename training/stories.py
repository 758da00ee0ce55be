"""The bAbI tasks in their released format: stories, questions, and what a machine sees of them.

    1 Mary moved to the bathroom.
    2 Where is Mary?<TAB>bathroom<TAB>1

A line numbered 1 begins a new story; a line with TABs is a question, its answer words (with commas
between them) and the numbers of the lines that support it. Source: J. Weston et al. 2015,
arXiv:1502.05698.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Generator, Tensor

NUM_TASKS = 20
# the words of steps on which nothing is read: time to look things up, and to give one answer word
THINK, ANSWER = "<think>", "<answer>"
SILENT = -100  # nothing is asked at this step


class BadStories(ValueError):
    """Files that are not bAbI; the message says where and why."""


class Story(NamedTuple):
    """One story as steps, a sentence each.

    Attributes:
        sentences: words of each step; a question is followed by steps of `THINK`, then by a step
            of `ANSWER` for each word of its answer.
        answers: at a step of `ANSWER` the word that is right, else None.
    """

    sentences: list[list[str]]
    answers: list[str | None]


def read_stories(path: Path, think: int) -> list[Story]:
    """The stories of one file, gzipped or not.

    Args:
        path: the file.
        think: steps between a question and its answer.

    Raises:
        BadStories: it can't be read, a line is neither a sentence nor a question, or nothing
            is asked.
    """
    try:
        raw = path.read_bytes()
        text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BadStories(f"{path} can't be read: {error}.") from None
    stories: list[Story] = []
    for number, line in enumerate(text.splitlines(), 1):
        parts = re.fullmatch(r"(\d+) ([^\t]+)(?:\t([^\t]+)(?:\t[\d ]*)?)?", line)
        if parts is None or (parts[1] != "1" and not stories):
            raise BadStories(
                f"{path}, line {number}: expected a number and a sentence, with TAB and answer "
                f"if it is a question; got {line[:60]!r}."
            )
        if parts[1] == "1":
            stories.append(Story([], []))
        sentences, answers = stories[-1]
        sentences.append(re.findall(r"[a-z]+|[?]", parts[2].lower()))
        answers.append(None)
        if parts[3]:
            words = parts[3].strip().lower().split(",")
            sentences.extend([[THINK]] * think + [[ANSWER]] * len(words))
            answers.extend([None] * think)
            answers.extend(words)
    if not any(word for story in stories for word in story.answers):
        raise BadStories(f"{path} holds no story with a question; it may have been cut off.")
    return stories


def read_tasks(folder: Path, part: str, think: int) -> list[list[Story]]:
    """The stories of all twenty tasks, by task.

    Args:
        folder: holds `qa1_..._{part}...txt` to `qa20_...`, or the same with `.gz`.
        part: "train" or "test".
        think: steps between a question and its answer.

    Raises:
        BadStories: a task has no file, or more than one, or an unreadable one.
    """
    tasks = []
    for task in range(1, NUM_TASKS + 1):
        name = re.compile(rf"qa{task}_.*_{part}.*\.txt(\.gz)?")
        found = [path for path in sorted(folder.glob("*")) if name.fullmatch(path.name)]
        if len(found) != 1:
            raise BadStories(
                f"{folder} must hold one file qa{task}_*_{part}*.txt or .txt.gz, from the folder "
                f"en-10k of the bAbI release; it holds {len(found)}."
            )
        tasks.append(read_stories(found[0], think))
    return tasks


class Encoded(NamedTuple):
    """Stories as numbers, padded to the longest: word 0 and target `SILENT` are nothing."""

    words: Int[Tensor, "stories steps words"]
    targets: Int[Tensor, "stories steps"]


class Vocabulary:
    """All words of the training stories; others can't be read.

    Args:
        stories: where the words come from.
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
            BadStories: a word that no training story has, or a sentence longer than all of them.
        """
        try:
            words = [[[self.numbers[w] for w in words] for words in s.sentences] for s in stories]
            targets = [
                [SILENT if w is None else self.numbers[w] for w in s.answers] for s in stories
            ]
        except KeyError as error:
            raise BadStories(f"no training story has the word {error}.") from None
        steps = max(len(story) for story in words)
        width = max(len(sentence) for story in words for sentence in story)
        if width > self.longest:
            raise BadStories(
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
    """All stories once, in batches of about equal length and random order."""
    noise = torch.rand(len(stories), generator=generator)
    lengths = torch.tensor([float(len(story.answers)) for story in stories])
    order = (lengths + noise).argsort().tolist()
    parts = [order[at : at + size] for at in range(0, len(order), size)]
    return [parts[at] for at in torch.randperm(len(parts), generator=generator).tolist()]
