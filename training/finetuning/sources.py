"""Where batches come from: sources of documents, drawn from as a function of the step alone.

Step `n` of a run draws the same documents however often the run was interrupted and on however
many machines it goes: nothing but the number of the step says where in the data it is. Only a
source that streams has a position of its own, which a checkpoint keeps.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from eval.corpora.jsonl import BadRecord
from training import missing
from training.data.records import Record, parse, read
from training.finetuning.documents import STYLES, Document, tokenised
from training.setup.config import BadConfig


@dataclass
class Source:
    """Documents to train on or to measure with.

    Attributes:
        path: a JSONL file of `training.data.records`.
        dataset: instead of it, any dataset of that form that `datasets.load_dataset` finds.
        subset: of the dataset.
        split: of the dataset.
        streaming: read the dataset from the beginning on, never all of it at once.
        style: how it is written down; see `training.finetuning.documents.STYLES`.
        weight: share of the batches, relative to the other sources.
        text: also learn to predict the document, from its second segment on.
        teacher: learn that from what the backbone predicts with everything in its window.
        limit: use only so many documents.
    """

    path: str = ""
    dataset: str = ""
    subset: str | None = None
    split: str = "train"
    streaming: bool = False
    style: str = "plain"
    weight: float = 1.0
    text: bool = False
    teacher: bool = False
    limit: int | None = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.path or self.dataset


def records(source: Source) -> list[Record]:
    """The records of a source that `check` let pass; of one that streams, none.

    Raises:
        BadConfig: it can't be loaded, or holds nothing.
        BadRecord: something in it is no record, or there is nothing to learn from it.
    """
    if source.streaming:
        return []
    found: list[Record] = []
    for record in _rows(source):
        if source.limit is not None and len(found) == source.limit:
            break
        if not (record.questions or source.text or source.teacher):
            raise BadRecord(
                f"{source.name}, document {len(found) + 1}: it has no questions, so there is "
                "nothing to learn from it; set text or teacher for this source."
            )
        found.append(record)
    if not found:
        raise BadConfig(f"{source.name} holds no documents.")
    return found


def _rows(source: Source) -> Iterator[Record]:
    if source.path:
        yield from read(Path(source.path))
        return
    for number, row in enumerate(_dataset(source), 1):
        yield parse(row, f"{source.name}, row {number}")


def check(source: Source) -> None:
    """Refuses options that no source can have.

    Raises:
        BadConfig: neither file nor dataset, or both, or a value out of range.
    """
    if bool(source.path) == bool(source.dataset):
        raise BadConfig(
            f"A source names either a path or a dataset; got path={source.path!r} and "
            f"dataset={source.dataset!r}."
        )
    if source.dataset and (lacks := missing("datasets")):
        raise BadConfig(f"dataset: {source.dataset}: {lacks}")
    if source.style not in STYLES:
        raise BadConfig(f"style must be one of {', '.join(STYLES)}; got {source.style!r}.")
    if source.limit is not None and source.limit < 1:
        raise BadConfig(f"limit of {source.name} must be 1 or more; got {source.limit}.")
    if source.weight <= 0:
        raise BadConfig(f"weight of {source.name} must be above 0; got {source.weight}.")
    if source.streaming and source.path:
        raise BadConfig(f"{source.path}: streaming is for datasets; load it with dataset: json.")


def _dataset(source: Source) -> Any:
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        return load_dataset(
            source.dataset, source.subset, split=source.split, streaming=source.streaming
        )
    except (OSError, ValueError, DatasetsError) as error:
        raise BadConfig(
            f"The dataset {source.dataset} can't be loaded: {' '.join(str(error).split())[:300]}"
        ) from None


@dataclass
class Pool:
    """The documents of one source, as tokens.

    Attributes:
        source: where they are from.
        documents: all of them; of a stream, none.
        stream: of a source that streams.
    """

    source: Source
    documents: list[Document] = field(default_factory=list)
    stream: Stream | None = None
    _sizes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def sizes(self, segment_tokens: int) -> list[tuple[int, int]]:
        """(segments, number) of every document there is something to learn from, shortest first."""
        if segment_tokens not in self._sizes:
            sizes = (
                (len(document.cut(segment_tokens)) - 1, number)
                for number, document in enumerate(self.documents)
            )
            self._sizes[segment_tokens] = sorted(
                (size, number) for size, number in sizes if _teaches(self.documents[number], size)
            )
        return self._sizes[segment_tokens]

    def check_taught(self, segment_tokens: int) -> None:
        """Refuses documents from which no memory can learn.

        Raises:
            BadConfig: there are no others.
        """
        if self.stream is None and not self.sizes(segment_tokens):
            raise BadConfig(
                f"All documents of {self.source.name} have one segment of {segment_tokens} tokens "
                "and no questions: nothing can be predicted from memory. Lower segment_tokens."
            )

    def check(self, segments: int, segment_tokens: int) -> int:
        """How many documents are too long for a stage.

        Raises:
            BadConfig: all are, or there is nothing to learn from them.
        """
        self.check_taught(segment_tokens)
        sizes = self.sizes(segment_tokens)
        long = sum(size > segments for size, _ in sizes)
        if sizes and long == len(sizes):
            raise BadConfig(
                f"All documents of {self.source.name} have more than {segments} segments of "
                f"{segment_tokens} tokens; raise segments, or make shorter documents."
            )
        return long

    def draw(
        self, count: int, segments: int, segment_tokens: int, rng: random.Random
    ) -> list[Document]:
        """Documents of about one length, which is drawn from 1 to `segments` segments."""
        if self.stream is not None:
            return [self.stream.next(segments, segment_tokens) for _ in range(count)]
        sizes = [entry for entry in self.sizes(segment_tokens) if entry[0] <= segments]
        wanted = rng.randint(1, segments)
        nearest = min((abs(size - wanted), size) for size, _ in sizes)[1]
        alike = [number for size, number in sizes if size == nearest]
        if len(alike) < count:  # too few to make a batch of: those around them too
            around = sorted(sizes, key=lambda entry: (abs(entry[0] - nearest), entry))
            alike = [number for _, number in around[: 4 * count]]
        chosen = rng.sample(alike, count) if len(alike) >= count else rng.choices(alike, k=count)
        return [self.documents[number] for number in chosen]


def _teaches(document: Document, segments: int) -> bool:
    """Whether memory has a part in it: the first segment has nothing to read."""
    return bool(document.asides) or segments > 1


class Stream:
    """A dataset that is read on and on; at its end it begins again."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._begin()

    def _begin(self) -> None:
        # opened anew: one that was resumed would begin where it was resumed
        self.dataset = _dataset(self.source)
        self.rows: Iterator[Mapping[str, Any]] = iter(self.dataset)
        self.taken = 0

    def next(self, segments: int, segment_tokens: int) -> Document:
        """The next document that is not too long and that there is something to learn from.

        Raises:
            BadRecord: a row is no record.
            BadConfig: all documents are too long.
        """
        skipped = begun = 0
        while begun < 2:
            for row in self.rows:
                self.taken += 1
                record = parse(row, f"{self.source.name}, row {self.taken}")
                document = tokenised(record, self.tokenizer, self.source.style)
                size = len(document.cut(segment_tokens)) - 1
                if size <= segments and _teaches(document, size):
                    return document
                skipped += 1
            begun += 1
            self._begin()
        raise BadConfig(
            f"All {skipped} documents of {self.source.name} have more than {segments} segments of "
            f"{segment_tokens} tokens, or one and no questions; set segments otherwise."
        )

    def state(self) -> dict[str, Any]:
        """Where it is, as JSON."""
        return {"taken": self.taken, "dataset": self.dataset.state_dict()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state` was."""
        self.taken = int(state["taken"])
        self.dataset.load_state_dict(state["dataset"])
        self.rows = iter(self.dataset)


def pool(
    source: Source,
    found: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    tell: Callable[[str], None] = lambda _: None,
) -> Pool:
    """The documents of a source as tokens; a source that streams is opened.

    Args:
        source: where the records are from.
        found: what `records` returned.
        tokenizer: of the model.
        tell: called with a line that says how many there are.

    Raises:
        BadConfig: a stream can't be opened.
    """
    if source.streaming:
        return Pool(source, stream=Stream(source, tokenizer))
    tell(f"{source.name}: {len(found)} documents")
    return Pool(source, [tokenised(record, tokenizer, source.style) for record in found])


def batch(
    pools: Sequence[Pool],
    weights: Sequence[float],
    count: int,
    segments: int,
    segment_tokens: int,
    seed: str,
) -> tuple[Pool, list[Document]]:
    """The documents of one step: all of one source.

    Args:
        pools: the sources.
        weights: how often each is drawn, relative to the others.
        count: so many documents.
        segments: none longer than this.
        segment_tokens: tokens a segment.
        seed: of this step.
    """
    rng = random.Random(seed)
    pool = rng.choices(pools, weights)[0]
    return pool, pool.draw(count, segments, segment_tokens, rng)
