"""Reading text of any length into a memory: flat in space, saved on the way, resumed.

A text is cut into pieces, tokens and chunks of whole segments while it is read; nothing holds all
of it. `read_text` reads a text in one go. `read_document` saves the memory after each stretch of
time; where another session changed the saved memory meanwhile, the stretch is read again on top of
that change. This file is long because the two ways to read share their chunks.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memformer.documents import Document
from memformer.memory.state import MemoryState, ReadDocument
from memformer.segments import whole
from memformer.template import Frame, text_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# full segments in one chunk; shorter ones may be more
SEGMENTS = 4
# seconds of reading between two saves, when other sessions get their turn
STRETCH = 60.0

# called with the tokens of the text that are read, and an estimate of the number in all
Progress = Callable[[int, int], None]
# returns a memory, and a mark that every change of it replaces
Load = Callable[[], tuple[MemoryState, Any]]
# saves a memory where the saved one still has the mark; returns whether it did, and the new mark
Commit = Callable[[MemoryState, Any], tuple[bool, Any]]


@dataclass(frozen=True)
class Reading:
    """The result of reading a document.

    Attributes:
        tokens: tokens read by this call; 0 where the document was in memory already.
        total: tokens of the document, as a turn of the user.
        kept: how many of these tokens the memory holds now.
    """

    tokens: int
    total: int
    kept: int


@dataclass(frozen=True)
class Chunk:
    """Some segments of a turn: the words of a user, and the thanks for them.

    Attributes:
        ids: token ids.
        unwritten: tokens at the beginning that are context only, and are not written.
        thanks: tokens at the end that are a reply.
        words: tokens of the text itself, without the tokens of the template around it.
        expected: an estimate of the number of words in all chunks.
        is_last: whether the turn ends with this chunk.
    """

    ids: list[int]
    unwritten: int
    thanks: int
    words: int
    expected: int
    is_last: bool

    def write(
        self, model: MemformerForCausalLM, memory: MemoryState, turn: int | None, reply_limit: float
    ) -> MemoryState:
        """Reads the chunk into a memory; `turn` is None where a new turn begins."""
        ids = torch.tensor([self.ids], device=model.device)
        limit = write_limit(ids, self.unwritten, self.thanks, reply_limit)
        return model.memorize(ids, memory=memory, gated=False, limit=limit, turn=turn)


def write_limit(ids: Tensor, unwritten: int, reply: int, reply_limit: float) -> Tensor:
    """How firmly each token of a turn is remembered at most, in [0, 1].

    Args:
        ids: the token ids of the turn.
        unwritten: tokens at the beginning that are not written.
        reply: tokens at the end that belong to a reply.
        reply_limit: the limit for the tokens of the reply.
    """
    limit = torch.ones_like(ids, dtype=torch.float32)
    limit[:, :unwritten] = 0
    limit[:, ids.shape[1] - reply :] = reply_limit
    return limit


def begun(model: MemformerForCausalLM, frame: Frame, memory: MemoryState) -> MemoryState:
    """The memory with the token that every text begins with in each row; see `Frame.first`.

    The token is turn 0, and the first turn of the user is turn 1.

    Args:
        model: the model that writes the token.
        frame: the template, which knows the token.
        memory: a memory whose rows all have the token, or all lack it.
    """
    if bool(((memory.token == frame.first) & (memory.turn == 0)).any()):
        return memory
    first = torch.full((memory.batch_size, 1), frame.first, device=model.device)
    turn = 0 if int(memory.num_turns[0]) else None
    return model.memorize(first, memory=memory, gated=False, turn=turn)


def chunks(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    frame: Frame,
    texts: Iterable[str],
    characters: int,
    reply_limit: float,
    read: int = 0,
) -> Iterator[Chunk]:
    """Cuts a turn of the user into chunks; all but the last consist of whole segments.

    The turn ends with thanks where replies are remembered.

    Args:
        model: the model, which knows how long a segment is.
        tokenizer: its tokenizer.
        frame: what its chat template writes around the text.
        texts: the text in parts.
        characters: about how many characters the text has.
        reply_limit: how firmly the thanks are remembered at most.
        read: tokens of the text that are in memory already; the chunks go on after them.
    """
    tokens = model.memory_config.segment_tokens
    size = SEGMENTS * tokens
    end = frame.end(reply_limit > 0)
    waiting: list[int] = [] if read else frame.begin
    # tokens of `waiting` that the template wrote: they stand at the beginning
    marks, skipped = len(waiting), 0
    unwritten = frame.unwritten if waiting else 0
    room = size * (1 + (marks + tokens) // size)  # the first chunk holds all of them
    seen = made = 0
    for ids, length in text_pieces(tokenizer, chain([frame.lead], texts)):
        seen, made = seen + length, made + len(ids)
        expected = round(made / max(seen, 1) * max(characters, seen))
        skip = min(read - skipped, len(ids))
        skipped += skip
        waiting += ids[skip:]
        # the last chunk holds all tokens that follow the text
        while len(waiting) > room + len(end):
            cut = whole(waiting[: room + tokens + 1], room, tokens, model.memory.borders)
            yield Chunk(waiting[:cut], unwritten, 0, cut - marks, expected, is_last=False)
            waiting, room, unwritten, marks = waiting[cut:], size, 0, 0
    words, thanks = len(waiting) - marks, len(end) - len(frame.after)
    yield Chunk([*waiting, *end], unwritten, thanks, words, made, is_last=True)


def read_text(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    frame: Frame,
    text: str,
    memory: MemoryState,
    reply_limit: float,
    progress: Progress | None = None,
) -> tuple[int, MemoryState]:
    """Reads a text as one turn of the user.

    Args:
        model: the model that reads.
        tokenizer: its tokenizer.
        frame: what its chat template writes around a turn.
        text: the text.
        memory: the memory before the turn.
        reply_limit: how firmly the thanks at the end are remembered at most.
        progress: see `Progress`.

    Returns:
        The number of tokens of the text, and the memory after the turn.
    """
    turn, done = None, 0
    memory = begun(model, frame, memory)
    for chunk in chunks(model, tokenizer, frame, [text], len(text), reply_limit):
        memory = chunk.write(model, memory, turn, reply_limit)
        turn, done = int(memory.num_turns[0]) - 1, done + chunk.words
        if progress is not None:
            progress(done, max(done, chunk.expected))
    return done, memory


def read_document(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    frame: Frame,
    document: Document,
    *,
    load: Load,
    commit: Commit,
    reply_limit: float,
    again: bool = False,
    progress: Progress | None = None,
) -> Reading:
    """Reads a document as one turn of the user, or goes on where an earlier call stopped.

    Args:
        model: the model that reads.
        tokenizer: its tokenizer.
        frame: what its chat template writes around a turn.
        document: the document.
        load: see `Load`.
        commit: see `Commit`.
        reply_limit: how firmly the thanks at the end are remembered at most.
        again: whether to forget an earlier reading first.
        progress: see `Progress`.

    Raises:
        ValueError: the document was forgotten or changed while it was read, or another session
            reads it too.
    """
    # tokens that are written of the turn beside the text
    marks = len(frame.begin) + len(frame.end(reply_limit > 0)) - frame.unwritten
    memory, mark = load()
    known = memory.document(document.checksum)
    if known is not None and again:
        memory = memory.clone()
        memory.forget(known.turn)
        known = None
    if known is not None and known.whole:
        return Reading(0, known.tokens + marks, memory.kept_of(known.turn))
    memory = begun(model, frame, memory)
    reader = _DocumentReader(model, frame, document, reply_limit, load, commit, memory, mark)
    before = reader.done
    try:
        reader.read(tokenizer, progress)
    except KeyboardInterrupt:
        # the text read so far is kept, unless another session changed the memory meanwhile
        if reader.pending:
            commit(reader.memory, reader.mark)
        raise
    assert reader.turn is not None
    total, kept = reader.done + marks, reader.memory.kept_of(reader.turn)
    return Reading(reader.done - before if before else total, total, kept)


class _DocumentReader:
    """A document on its way into a memory.

    Attributes:
        memory: the memory with all chunks that were read so far.
        mark: the mark of the saved memory that `memory` was made from.
        turn: the turn of the document; None until its first chunk is written.
        done: tokens of the text in `memory`.
        committed: tokens of the text in the saved memory.
        pending: the chunks that are in `memory` and not saved.
    """

    def __init__(
        self,
        model: MemformerForCausalLM,
        frame: Frame,
        document: Document,
        reply_limit: float,
        load: Load,
        commit: Commit,
        memory: MemoryState,
        mark: Any,
    ) -> None:
        self.model, self.frame, self.document = model, frame, document
        self.reply_limit, self.load, self.commit = reply_limit, load, commit
        self.memory, self.mark = memory, mark
        known = memory.document(document.checksum)
        self.turn = None if known is None else known.turn
        self.done = self.committed = 0 if known is None else known.tokens
        self.pending: list[Chunk] = []
        self.digest = hashlib.sha256()
        self.stretch, self.since = STRETCH, time.monotonic()

    def read(self, tokenizer: PreTrainedTokenizerBase, progress: Progress | None) -> None:
        """Reads to the end of the document, and saves after each stretch."""
        before, characters = self.done, self.document.characters
        for chunk in chunks(
            self.model, tokenizer, self.frame, self._texts(), characters, self.reply_limit, before
        ):
            if progress is not None and not self.pending and self.done == before:
                progress(self.done, max(self.done, chunk.expected))
            if chunk.is_last:
                self._check_unchanged()
            self._write(chunk)
            self.pending.append(chunk)
            if progress is not None:
                progress(self.done, max(self.done, chunk.expected))
            if chunk.is_last or time.monotonic() - self.since > self.stretch:
                self._save()

    def _texts(self) -> Iterator[str]:
        for text in self.document.texts():
            self.digest.update(text.encode("utf-8", "surrogatepass"))
            yield text

    def _check_unchanged(self) -> None:
        if self.digest.hexdigest() == self.document.checksum:
            return
        todo = ""
        if self.committed:
            todo = f"forget turn {self.turn}, which holds its beginning, and "
        raise ValueError(
            f"{self.document.name} was changed while it was read; {todo}read it again."
        )

    def _write(self, chunk: Chunk) -> None:
        after = chunk.write(self.model, self.memory, self.turn, self.reply_limit)
        self.turn = int(after.num_turns[0]) - 1 if self.turn is None else self.turn
        self.done += chunk.words
        checksum, name = self.document.checksum, self.document.name
        self.memory = after.with_document(
            ReadDocument(checksum, name, self.turn, self.done, chunk.is_last)
        )

    def _save(self) -> None:
        """Commits the pending chunks, on top of the changes of other sessions."""
        while True:
            kept, self.mark = self.commit(self.memory, self.mark)
            if kept:
                break
            # short stretches while another session is busy with this memory
            self.stretch = max(1.0, self.stretch / 4)
            self._reload()
        self.committed = self.done
        self.pending.clear()
        self.stretch, self.since = min(STRETCH, self.stretch * 2), time.monotonic()

    def _reload(self) -> None:
        """Reads the pending chunks again, into the memory that is saved now."""
        self.memory, self.mark = self.load()
        self.memory = begun(self.model, self.frame, self.memory)
        known = self.memory.document(self.document.checksum)
        if (0 if known is None else known.tokens) != self.committed:
            how = "forgotten while it was read" if known is None else "read by two sessions"
            raise ValueError(f"{self.document.name} was {how}; read it again.")
        self.turn, self.done = None if known is None else known.turn, self.committed
        for chunk in self.pending:
            self._write(chunk)


__all__ = ["Chunk", "Document", "Reading", "begun", "chunks", "read_document", "read_text"]
