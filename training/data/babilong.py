"""Training samples in the manner of BABILong: bAbI training stories strewn in book text.

A story of the released training files becomes one document in book text. The document has all
questions of the story, each at its place in the story. Stories that are also test stories are left
out, and a build fails if it would hold one of them. One training story in twenty is kept for
validation. Stories can be made up where a training file is missing or too small.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from eval.corpora.stories import Background, BadStory, Story, read_stories, story_file, strewn
from training.data.journeys import ASK, journey
from training.data.maps import room_map
from training.data.records import Question, Record

# for English prose, in the tokenizers in use
TOKENS_PER_WORD = 1.33
VALIDATION = 20
MADE_UP: dict[str, Callable[[random.Random], Story]] = {
    **{task: partial(journey, task) for task in ASK},
    "qa4": room_map,
}


def by_words(text: str) -> int:
    """Estimates the number of tokens of a text."""
    return round(TOKENS_PER_WORD * len(text.split()))


def babilong(
    babi: Path,
    books: Sequence[Path],
    tasks: Sequence[str] = ("qa1", "qa2", "qa3", "qa4", "qa5"),
    lengths: Sequence[int] = (0,),
    documents: int = 2000,
    seed: int = 0,
    regenerated: Path | None = None,
    validation: bool = False,
    anew: Sequence[str] = (),
) -> Iterator[Record]:
    """Documents of all tasks in turn.

    Args:
        babi: folder with `qa1_*_train*` and `qa1_*_test*` files; the latter are only compared with.
        books: text files; their sentences stand between those of a story.
        tasks: names of the tasks, as in the files.
        lengths: approximate tokens of book text; each document draws one length.
        documents: number for each task; if there are fewer stories, they come again in other text.
        seed: draws the order, the lengths, the books and the places.
        regenerated: another folder for tasks whose training file `babi` lacks.
        validation: take the stories that are kept for validation instead of all others.
        anew: tasks whose stories are made up (`training.data.journeys` and `training.data.maps`)
            instead of read from a file.

    Raises:
        BadStory: a file is missing or is not in the format of bAbI, or `anew` names a task that
            can't be made up or is not among `tasks`.
    """
    _check_made_up(anew, tasks)
    background = Background(books, by_words) if any(lengths) else None
    rng = random.Random(seed)
    made = random.Random(f"{seed} {validation}")
    stories: dict[str, list[Story]] = {}
    taken = {
        _essence(story) for task in tasks for story in read_stories(story_file(babi, task, "test"))
    }
    for task in [task for task in tasks if task not in anew]:
        stories[task] = _released(task, babi, regenerated, taken, validation)
        rng.shuffle(stories[task])
    for number in range(documents):
        for task in tasks:
            if task in anew:
                story = MADE_UP[task](made)
            else:
                story = stories[task][number % len(stories[task])]
            check(story, taken)
            length = rng.choice(lengths)
            between = background.sentences(length, rng) if background and length else []
            yield _record(f"{task}/{number}", story, between, rng)


def _check_made_up(anew: Sequence[str], tasks: Sequence[str]) -> None:
    """Refuses tasks to be made up that are not wanted, or that can't be made up.

    Raises:
        BadStory: there is such a task.
    """
    for task in anew:
        if task not in tasks:
            raise BadStory(
                f"Stories of {task} are to be made up, but the tasks are {', '.join(tasks)}."
            )
        if task not in MADE_UP:
            raise BadStory(
                f"Stories of {task} can't be made up; those of {', '.join(MADE_UP)} can."
            )


def _released(
    task: str, babi: Path, regenerated: Path | None, taken: set[str], validation: bool
) -> list[Story]:
    """The training stories of a task, or those kept for validation, each of them once.

    Raises:
        BadStory: there is no file, or it has too few stories that are no test stories.
    """
    try:
        path = story_file(babi, task, "train")
    except BadStory:
        if regenerated is None:
            raise
        path = story_file(regenerated, task, "train")
    # each story once, so that no story is in both parts
    left = sorted({one for one in read_stories(path) if _essence(one) not in taken}, key=_essence)
    random.Random(task).shuffle(left)
    kept = len(left) // VALIDATION
    stories = left[:kept] if validation else left[kept:]
    if not stories:
        raise BadStory(f"{path} has too few stories that are not test stories too.")
    return stories


def _record(name: str, story: Story, between: list[str], rng: random.Random) -> Record:
    """A story strewn in book text, with each question at its place in the story."""
    text, ends = strewn(story.statements, between, rng)
    questions = tuple(
        Question(asked.question, asked.answer, ends[asked.after - 1]) for asked in story.asked
    )
    return Record(name, text, questions)


def check(story: Story, tests: set[str]) -> None:
    """Refuses a story that is among the test stories.

    Args:
        story: to be trained on.
        tests: the essences of the test stories.

    Raises:
        BadStory: the story is a test story.
    """
    if _essence(story) in tests:
        raise BadStory(f"A test story must not be trained on: {story.statements[0]} ...")


def _essence(story: Story) -> str:
    """The text that two equal stories share, whatever their case."""
    return "\n".join(statement.lower() for statement in story.statements)
