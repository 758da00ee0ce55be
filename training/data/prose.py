"""Paragraphs and stories with short answers: one memory of many passages, asked about some.

`paragraphs` strews paragraphs of several articles together; half of the documents hold several
paragraphs of one article, which are hard to tell apart. `stories` tells a tale up to some place.
A fifth of the questions are about paragraphs that were left out, of the same article where it has
more, or about what the story tells later; their answer is `drills.UNKNOWN`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

from eval.corpora.jsonl import BadRecord
from training.data.passages import Asked, Chosen, Passage, Told, Words, document
from training.data.records import Record

PARAGRAPHS = (8, 30)  # in a document
HARD = 0.5  # share of the documents with several paragraphs of one article
LEAST_ALIKE = 3  # paragraphs of that article
ABSENT_FROM = 60  # left-out passages that are looked through for questions
STORY_WORDS = (400, 2500)  # told of a story


def strewn(
    passages: Sequence[Passage],
    name: str,
    documents: int | None = None,
    seed: int = 0,
    size: tuple[int, int] = PARAGRAPHS,
) -> Iterator[Record]:
    """Documents of passages in random order; each passage is told once before any is told again.

    Args:
        passages: the passages of all sets.
        name: the beginning of the ids of the documents.
        documents: the number of documents; None: as many as tell each passage once.
        seed: draws everything.
        size: least and most passages of a document.

    Raises:
        BadRecord: there are too few passages, or nothing can be asked about them.
    """
    if len(passages) <= size[0]:
        raise BadRecord(
            f"A document takes {size[0]} passages or more, and others to ask about; there are "
            f"{len(passages)}."
        )
    rng = random.Random(seed)
    words = Words(passages)
    alike: dict[str, list[Passage]] = {}
    for passage in passages:
        alike.setdefault(passage.article, []).append(passage)
    made = silent = 0
    while documents is None or made < documents:
        before = made
        for told in _groups(passages, rng, size):
            if made == documents:
                return
            record = _asked(f"{name}/{made}", told, passages, alike, words, rng)
            silent += record is None
            if record is not None:
                made += 1
                yield record
        if documents is None:
            return
        if made == before:
            raise BadRecord(f"No question about {silent} documents could have one answer only.")


def _groups(
    passages: Sequence[Passage], rng: random.Random, size: tuple[int, int]
) -> Iterator[list[Passage]]:
    """All passages in groups, in random order; half of the groups with several of one article."""
    left: dict[int, Passage] = dict(enumerate(passages))
    articles: dict[str, list[int]] = {}
    for number, passage in left.items():
        articles.setdefault(passage.article, []).append(number)
    many = [mine for mine in articles.values() if len(mine) >= LEAST_ALIKE]
    order = rng.sample(range(len(passages)), len(passages))
    while len(left) >= size[0]:
        count = rng.randint(*size)
        chosen: list[int] = []
        if many and rng.random() < HARD:
            # a paragraph stands for its article, so long articles are drawn as often as they need
            mine = rng.choices(many, [len(one) for one in many])[0]
            rest = [number for number in mine if number in left]
            most = min(len(rest), max(LEAST_ALIKE, count // 2))
            chosen = rng.sample(rest, most)
        taken = set(chosen)
        while order and len(chosen) < count:
            number = order.pop()
            if number in left and number not in taken:
                chosen.append(number)
        group = [left.pop(number) for number in chosen]
        rng.shuffle(group)
        yield group


def _asked(
    name: str,
    group: Sequence[Passage],
    passages: Sequence[Passage],
    alike: dict[str, list[Passage]],
    words: Words,
    rng: random.Random,
) -> Record | None:
    """A document of a group of passages, with questions; None if no question can be asked."""
    told = Told(group)
    texts = [passage.text for passage in group]
    answered: list[Chosen] = []
    absent: list[Asked] = []
    for number, passage in enumerate(group):
        others = [*texts[:number], *texts[number + 1 :]]
        for one in passage.asked:
            if not words.asks_for(one, passage.text, others):
                continue
            if one.answer:
                answered.append((one, number))
            else:
                absent.append(one)
    more = [one for passage in group for one in alike[passage.article] if one.text not in texts]
    more = rng.sample(more, min(len(more), ABSENT_FROM))
    kind = group[0].article.partition("/")[0]
    strangers = [one for one in rng.sample(list(passages), min(len(passages), ABSENT_FROM))]
    far = [one for one in strangers if one.article.startswith(kind) and one.text not in texts]
    close = _missing(more, texts, words)
    absent += close if close else _missing(far, texts, words)
    others_asked = [one for passage in more for one in passage.asked]
    return document(name, told, answered, absent, others_asked, rng)


def _missing(left_out: Sequence[Passage], texts: Sequence[str], words: Words) -> list[Asked]:
    """Questions about passages that were left out, which nothing in memory answers."""
    return [
        one
        for passage in left_out
        for one in passage.asked
        if one.answer and words.asks_for(one, passage.text, texts)
    ]


def stories(
    found: Sequence[Sequence[Passage]],
    documents: int | None = None,
    seed: int = 0,
    length: tuple[int, int] = STORY_WORDS,
) -> Iterator[Record]:
    """Tales with questions, each told from its beginning up to some paragraph.

    Args:
        found: the paragraphs of each story.
        documents: the number of documents; None: one for each story.
        seed: draws the order, the lengths and the questions.
        length: least and most words that are told of a story.

    Raises:
        BadRecord: there is no story.
    """
    if not found:
        raise BadRecord("There is no story to tell.")
    rng = random.Random(seed)
    words = Words(passage for story in found for passage in story)
    waiting: list[Sequence[Passage]] = []
    made = 0
    while made < (len(found) if documents is None else documents):
        waiting = waiting or rng.sample(list(found), len(found))
        story = waiting.pop()
        other = rng.choice(found)
        record = _tale(f"stories/{made}", story, other, words, rng, length)
        made += 1
        if record is not None:
            yield record


def _tale(
    name: str,
    story: Sequence[Passage],
    other: Sequence[Passage],
    words: Words,
    rng: random.Random,
    length: tuple[int, int],
) -> Record | None:
    """A story up to some paragraph; what it tells later, or another story tells, has no answer."""
    sizes = [len(passage.text.split()) for passage in story]
    most = min(sum(sizes), length[1])
    wanted = rng.randint(min(most, length[0]), most)
    count, total = 0, 0
    while count < len(story) and (not count or total + sizes[count] <= wanted):
        total += sizes[count]
        count += 1
    told = Told(story[:count])
    texts = [passage.text for passage in told.passages]
    answered = [(one, n) for n, passage in enumerate(told.passages) for one in passage.asked]
    absent = _missing(story[count:], texts, words)
    if not absent and other is not story:
        absent = _missing(other, texts, words)
    return document(name, told, answered, absent, [], rng)
