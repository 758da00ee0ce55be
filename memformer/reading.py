"""Reading documents of any length into a memory: flat in space, saved on the way, resumed.

A document is cut into text pieces, tokens and chunks of whole segments as it is read; nothing holds
all of it. After each stretch the memory is offered to whoever keeps it (`chat.py`); where somebody
changed that memory meanwhile, the stretch is read again on top of the change.
"""

from __future__ import annotations

import codecs
import hashlib
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from memformer.memory.state import MemoryState, ReadDocument
from memformer.template import PIECE, Frame, text_ids, text_pieces

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# segments read in one call
SEGMENTS = 4
# seconds between two moments at which a memory is saved and free for others
STRETCH = 60.0
BYTES = 2**20
# formats that would pass as text and hold none that a person would recognise
NOT_TEXT = {b"%PDF-": "a PDF", b"{\\rtf": "a rich text file", b"%!PS": "a PostScript file"}


@dataclass(frozen=True)
class Document:
    """A text that can be read from the beginning, any number of times.

    Args:
        name: what a person calls it.
        checksum: of the text.
        characters: how long it is.
        texts: gives the text in parts of any size.
    """

    name: str
    checksum: str
    characters: int
    texts: Callable[[], Iterator[str]]

    @classmethod
    def of(cls, text: str, name: str) -> Document:
        """A text that is there already.

        Raises:
            ValueError: there is nothing in it, or half a character.
        """
        if not text.strip():
            raise ValueError(f"{name} is empty; there is nothing to read.")
        checksum = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return cls(name, checksum, len(text), lambda: iter([text]))

    @classmethod
    def file(cls, path: str | Path) -> Document:
        """A file of UTF-8 text, checked to its end before any of it is read into memory.

        Raises:
            FileNotFoundError: there is no such file.
            OSError: it can't be read.
            ValueError: it is no text, or there is nothing in it.
        """
        path = Path(path)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            raise FileNotFoundError(f"There is no file {path}.") from None
        if stat.S_ISDIR(mode):
            raise ValueError(f"{path} is a folder; give one text file.")
        if not stat.S_ISREG(mode):
            raise ValueError(
                f"{path} is no regular file, and can't be read twice; give a file, or hand the "
                "text over on standard input."
            )
        digest, characters, blank = hashlib.sha256(), 0, True
        try:
            for text in _decoded(path):
                digest.update(text.encode())
                characters += len(text)
                blank = blank and not text.strip()
        except OSError as error:
            raise type(error)(f"{path} can't be read: {error.strerror}.") from error
        if blank:
            raise ValueError(f"{path} is empty; there is nothing to read.")
        return cls(path.name, digest.hexdigest(), characters, lambda: _decoded(path))

    def expected_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        """About how many tokens it has, told from its beginning."""
        begin = ""
        for text in self.texts():
            begin += text[:PIECE]
            if len(begin) >= PIECE:
                break
        begin = begin[:PIECE]
        return round(len(text_ids(tokenizer, begin)) / max(len(begin), 1) * self.characters)


@dataclass(frozen=True)
class Reading:
    """How a reading went.

    Attributes:
        tokens: read by this call; 0 where the document was in memory already.
        total: tokens of the document, as a turn of the user.
        kept: how many of them the memory holds now.
    """

    tokens: int
    total: int
    kept: int


@dataclass(frozen=True)
class Chunk:
    """Some segments of what is read: the words of a user, and the thanks for them.

    Attributes:
        ids: token ids.
        unwritten: how many at the beginning are context, and not written.
        thanks: how many at the end are a reply.
        words: how many are of the text, and not of what the template writes around it.
        expected: about how many words there are in all.
        is_last: nothing follows.
    """

    ids: list[int]
    unwritten: int
    thanks: int
    words: int
    expected: int
    is_last: bool

    def write(
        self,
        model: MemformerForCausalLM,
        memory: MemoryState,
        turn: int | None,
        reply_limit: float,
    ) -> MemoryState:
        """The memory after the chunk, all of which belongs to one turn."""
        ids = torch.tensor([self.ids], device=model.device)
        limit = torch.ones_like(ids, dtype=torch.float32)
        limit[:, : self.unwritten] = 0
        limit[:, len(self.ids) - self.thanks :] = reply_limit
        return model.memorize(ids, memory=memory, gated=False, limit=limit, turn=turn)


def begun(model: MemformerForCausalLM, frame: Frame, memory: MemoryState) -> MemoryState:
    """A memory in which each row has the token that every text begins with; see `Frame.first`.

    It is turn 0, so that what is said begins with turn 1.

    Args:
        model: writes it.
        frame: says which token it is.
        memory: rows that all begin alike.
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
    """What is read as a user's turn, in chunks of whole segments but for the last.

    Thanks follow, unless replies are not remembered.

    Args:
        model: says how long a segment is.
        tokenizer: of the model.
        frame: what its template writes around the text.
        texts: the text in parts.
        characters: how many there are, about.
        reply_limit: how firmly thanks are remembered at most.
        read: so many tokens of the text are in memory already; the rest is read on from there.
    """
    size = SEGMENTS * model.memory_config.segment_tokens
    end = frame.end(reply_limit > 0)
    waiting: list[int] = [] if read else frame.begin
    # tokens of `waiting` that are no words of the text: all at the beginning
    marks, skipped = len(waiting), 0
    unwritten = frame.unwritten if waiting else 0
    room = size * (1 + marks // size)  # what is not written stands in the first chunk
    seen = made = 0
    for ids, length in text_pieces(tokenizer, chain([frame.lead], texts)):
        seen, made = seen + length, made + len(ids)
        expected = round(made / max(seen, 1) * max(characters, seen))
        skip = min(read - skipped, len(ids))
        skipped += skip
        waiting += ids[skip:]
        # the last chunk holds all that comes after the text
        while len(waiting) > room + len(end):
            yield Chunk(waiting[:room], unwritten, 0, room - marks, expected, is_last=False)
            waiting, room, unwritten, marks = waiting[room:], size, 0, 0
    words, thanks = len(waiting) - marks, len(end) - len(frame.after)
    yield Chunk([*waiting, *end], unwritten, thanks, words, made, is_last=True)


def read_document(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    frame: Frame,
    document: Document,
    *,
    load: Callable[[], tuple[MemoryState, Any]],
    commit: Callable[[MemoryState, Any], tuple[bool, Any]],
    reply_limit: float,
    again: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Reading:
    """See `ChatSession.read`.

    Args:
        model: reads.
        tokenizer: its tokenizer.
        frame: what its chat template writes around a turn.
        document: what is read.
        load: gives the memory, and a mark that differs once somebody else changes it.
        commit: keeps a memory made from the one of a mark; says whether it did, which it does not
            where that one was changed, and gives the new mark.
        reply_limit: how firmly the thanks at the end are remembered at most.
        again: read anew what is known.
        progress: called with the tokens read so far, and about how many there are.

    Raises:
        ValueError: it was forgotten or changed while it was read, or another session reads it too.
    """
    # what is written of a turn beside the text
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
    # tokens of the text in memory, those of them that are saved, those that were before this call
    done = committed = before = 0 if known is None else known.tokens
    turn = None if known is None else known.turn
    stretch, since, pending = STRETCH, time.monotonic(), list[Chunk]()
    digest = hashlib.sha256()

    def texts() -> Iterator[str]:
        for text in document.texts():
            digest.update(text.encode("utf-8", "surrogatepass"))
            yield text

    def write(chunk: Chunk) -> None:
        nonlocal memory, turn, done
        after = chunk.write(model, memory, turn, reply_limit)
        turn = int(after.num_turns[0]) - 1 if turn is None else turn
        done += chunk.words
        read = ReadDocument(document.checksum, document.name, turn, done, chunk.is_last)
        memory = after.with_document(read)

    def offer() -> None:
        """Commits what is pending, on top of whatever others did."""
        nonlocal memory, mark, turn, done, committed, stretch, since
        while True:
            kept, mark = commit(memory, mark)
            if kept:
                break
            # read a little at a time while somebody else is busy with this memory
            stretch = max(1.0, stretch / 4)
            memory, mark = load()
            memory = begun(model, frame, memory)
            known = memory.document(document.checksum)
            if (0 if known is None else known.tokens) != committed:
                how = "forgotten while it was read" if known is None else "read by two sessions"
                raise ValueError(f"{document.name} was {how}; read it again.")
            turn, done = None if known is None else known.turn, committed
            for chunk in pending:
                write(chunk)
        committed = done
        pending.clear()
        stretch, since = min(STRETCH, stretch * 2), time.monotonic()

    try:
        for chunk in chunks(
            model, tokenizer, frame, texts(), document.characters, reply_limit, before
        ):
            if progress is not None and not pending and done == before:
                progress(done, max(done, chunk.expected))
            if chunk.is_last and digest.hexdigest() != document.checksum:
                todo = f"forget turn {turn}, which holds its beginning, and " if committed else ""
                raise ValueError(
                    f"{document.name} was changed while it was read; {todo}read it again."
                )
            write(chunk)
            pending.append(chunk)
            if progress is not None:
                progress(done, max(done, chunk.expected))
            if chunk.is_last or time.monotonic() - since > stretch:
                offer()
    except KeyboardInterrupt:
        # what was read until now is kept, if nobody changed the memory meanwhile
        if pending:
            commit(memory, mark)
        raise
    assert turn is not None
    total = done + marks
    return Reading(done - before if before else total, total, memory.kept_of(turn))


def _decoded(path: Path) -> Iterator[str]:
    """The text of a file in parts.

    Raises:
        ValueError: it is not UTF-8 text.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    offset = 0
    with path.open("rb") as file:
        while data := file.read(BYTES):
            if offset == 0:
                for begin, kind in NOT_TEXT.items():
                    if data.startswith(begin):
                        raise ValueError(f"{path} is {kind}, not a text file; convert it first.")
                data = data.removeprefix(codecs.BOM_UTF8)
                offset = file.tell() - len(data)
            if (place := data.find(b"\0")) >= 0:
                raise ValueError(
                    f"{path} is not text: byte {offset + place} is zero; give a text file."
                )
            waiting = len(decoder.getstate()[0])
            try:
                text = decoder.decode(data)
            except UnicodeDecodeError as error:
                raise _not_utf8(path, offset - waiting + error.start) from None
            offset += len(data)
            yield text
    waiting = len(decoder.getstate()[0])
    if waiting:
        raise _not_utf8(path, offset - waiting)


def _not_utf8(path: Path, place: int) -> ValueError:
    return ValueError(f"{path} is not UTF-8 text: byte {place} can't be decoded; convert it first.")
