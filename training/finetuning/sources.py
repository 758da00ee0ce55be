"""Sources of documents; the documents of a batch are a function of the step alone.

Step `n` of a run draws the same documents after any interruption and on any number of machines,
because the number of the step alone decides. Only a source that streams has a position, which a
checkpoint keeps.
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
from training.finetuning.rereading import asked_again
from training.setup.config import BadConfig


@dataclass
class Source:
    """Documents to train on or to measure with.

    Attributes:
        path: a JSONL file of `training.data.records`.
        dataset: instead of `path`, a dataset of that form that `datasets.load_dataset` finds.
        subset: subset of the dataset.
        split: split of the dataset.
        streaming: read the dataset row by row, never all of it at once.
        style: the format of documents and questions; see `training.finetuning.documents.STYLES`.
        weight: share of the batches, relative to the other sources.
        text: also learn to predict the document, from its second segment on.
        teacher: learn the document from the backbone's predictions, which see the whole text.
        limit: use only so many documents.
        reread: ask each question alone, after the words of at most so many tokens that a memory of
            the document would read again; None: the document is read, and asked about.
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
    reread: int | None = None

    @property
    def name(self) -> str:
        """The name of the source in messages."""
        return self.path or self.dataset


def records(source: Source) -> list[Record]:
    """The records of a source that passed `check`; none if the source streams.

    Raises:
        BadConfig: the source can't be loaded, or is empty.
        BadRecord: a row is no record, or there is nothing to learn from a record.
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
        BadConfig: the source has neither file nor dataset, or both, or a value is out of range.
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
    if source.reread is not None and (
        source.reread < 1 or source.text or source.teacher or source.streaming
    ):
        raise BadConfig(
            f"reread of {source.name} must be 1 or more, without text, teacher and streaming: the "
            f"document itself is not read; got {source.reread}."
        )
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
        source: the source of the documents.
        documents: all documents; empty if the source streams.
        stream: the stream of a source that streams.
    """

    source: Source
    documents: list[Document] = field(default_factory=list)
    stream: Stream | None = None
    _sizes: dict[int, list[tuple[int, int]]] = field(default_factory=dict)

    def leave_out(self, most: int) -> int:
        """Leaves out documents with a question longer than a segment may be; returns how many.

        Raises:
            BadConfig: all documents have one.
        """
        short = [one for one in self.documents if all(len(a.ids) <= most for a in one.asides)]
        long = len(self.documents) - len(short)
        if long and not short:
            raise BadConfig(
                f"All documents of {self.source.name} have a question that takes more than {most} "
                "tokens with its answer; set model.memory.segment_tokens, or lower reread."
            )
        self.documents = short
        return long

    def sizes(self, segment_tokens: int) -> list[tuple[int, int]]:
        """(segments, number) of every document that teaches something, shortest first."""
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
        """Refuses a source from which no memory can learn.

        Raises:
            BadConfig: no document has a question or a second segment.
        """
        if self.stream is None and not self.sizes(segment_tokens):
            raise BadConfig(
                f"All documents of {self.source.name} have one segment of {segment_tokens} tokens "
                "and no questions: nothing can be predicted from memory. Lower segment_tokens."
            )

    def check(self, segments: int, segment_tokens: int) -> int:
        """The number of documents that are too long for a stage.

        Raises:
            BadConfig: all documents are too long, or teach nothing.
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
        """Draws a length from 1 to `segments` segments, then documents of about that length."""
        if self.stream is not None:
            return [self.stream.next(segments, segment_tokens) for _ in range(count)]
        sizes = [entry for entry in self.sizes(segment_tokens) if entry[0] <= segments]
        wanted = rng.randint(1, segments)
        nearest = min((abs(size - wanted), size) for size, _ in sizes)[1]
        alike = [number for size, number in sizes if size == nearest]
        if len(alike) < count:  # too few for a batch: also take documents of nearby lengths
            around = sorted(sizes, key=lambda entry: (abs(entry[0] - nearest), entry))
            alike = [number for _, number in around[: 4 * count]]
        chosen = rng.sample(alike, count) if len(alike) >= count else rng.choices(alike, k=count)
        return [self.documents[number] for number in chosen]


def _teaches(document: Document, segments: int) -> bool:
    """Whether memory can help: the first segment has nothing to read from it."""
    return bool(document.asides) or segments > 1


class Stream:
    """Reads a dataset row by row; begins again at its end."""

    def __init__(self, source: Source, tokenizer: PreTrainedTokenizerBase) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self._begin()

    def _begin(self) -> None:
        # a dataset that was resumed would begin where it was resumed
        self.dataset = _dataset(self.source)
        self.rows: Iterator[Mapping[str, Any]] = iter(self.dataset)
        self.taken = 0

    def next(self, segments: int, segment_tokens: int) -> Document:
        """The next document that is not too long and teaches something.

        Raises:
            BadRecord: a row is no record.
            BadConfig: no document is short enough and teaches something.
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
        """The position in the dataset, as JSON."""
        return {"taken": self.taken, "dataset": self.dataset.state_dict()}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Goes on at a position that `state` returned."""
        self.taken = int(state["taken"])
        self.dataset.load_state_dict(state["dataset"])
        self.rows = iter(self.dataset)


def pool(
    source: Source,
    found: Sequence[Record],
    tokenizer: PreTrainedTokenizerBase,
    tell: Callable[[str], None] = lambda _: None,
) -> Pool:
    """The documents of a source as tokens; opens a source that streams.

    Args:
        source: the source of the records.
        found: the result of `records`.
        tokenizer: the tokenizer of the model.
        tell: is called with a line that gives the number of documents.

    Raises:
        BadConfig: a stream can't be opened.
    """
    if source.streaming:
        return Pool(source, stream=Stream(source, tokenizer))
    tell(f"{source.name}: {len(found)} documents")
    if source.reread is None:
        return Pool(source, [tokenised(record, tokenizer, source.style) for record in found])
    asked = [
        one for each in found for one in asked_again(each, tokenizer, source.style, source.reread)
    ]
    if not asked:
        raise BadConfig(
            f"{source.name}: no answer stands within {source.reread} tokens; raise reread."
        )
    return Pool(source, asked)


def batch(
    pools: Sequence[Pool],
    weights: Sequence[float],
    count: int,
    segments: int,
    segment_tokens: int,
    seed: str,
) -> tuple[Pool, list[Document]]:
    """The documents of one step, all from one source.

    Args:
        pools: the sources.
        weights: how often each source is drawn, relative to the others.
        count: number of documents.
        segments: most segments of a document.
        segment_tokens: longest segment.
        seed: the seed of this step.
    """
    rng = random.Random(seed)
    pool = rng.choices(pools, weights)[0]
    return pool, pool.draw(count, segments, segment_tokens, rng)
