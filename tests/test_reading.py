"""Documents: the memory of one call, in flat space, saved on the way, resumed, known again."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from test_template import spaced_tokenizer
from tiny import byte_tokenizer, open_lively, save_tiny

from memformer import ChatSession, MemoryStore
from memformer.memory.columns import RECORD
from memformer.reading import Document, Reading, begun, chunks
from memformer.template import chat_ids, frame

BOOK = "".join(f"Line {number} is about the number {number * 7}.\n" for number in range(40))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return open_lively(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def tokenizer():
    return byte_tokenizer()


@pytest.fixture
def store(tmp_path):
    return MemoryStore(tmp_path / "store")


@pytest.fixture
def book(tmp_path):
    (tmp_path / "book.txt").write_text(BOOK)
    return tmp_path / "book.txt"


def whole(model, tokenizer, text=BOOK, num_slots=300):
    """What one call makes of a document."""
    memory = begun(model, frame(tokenizer), model.init_memory(num_slots=num_slots))
    ids = chat_ids(tokenizer, [{"role": "user", "content": text}])
    limit = torch.ones(ids.shape)
    limit[:, 0] = 0
    return model.memorize(ids, memory=memory, gated=False, limit=limit)


def ends_of_chunks(model, tokenizer):
    """The number of tokens read after each chunk of the book."""
    parts = chunks(model, tokenizer, frame(tokenizer), [BOOK], len(BOOK), 0.0)
    return list(accumulate(part.words for part in parts))


def same(one, other, atol=0.0):
    """Whether two memories of one row hold the same; the numbers of their slots may differ."""
    mine, theirs = in_order(one), in_order(other)
    if atol:  # a small float that lies between two others may be rounded to either
        mine.pop("finder_keys"), theirs.pop("finder_keys")
    return all(torch.allclose(mine[name], theirs[name], rtol=0, atol=atol) for name in mine)


def in_order(memory):
    """The tensors of a memory of one row, with its slots in the order of the text."""
    slots = memory.occupied[0].nonzero().flatten()
    slots = slots[memory.seen_at[0, slots].argsort()]
    found = {}
    for name, tensor in memory.tensors.items():
        row = tensor[:, 0] if name in ("keys", "values") else tensor
        is_of_slots = tensor.dim() > 1 and name not in RECORD
        found[name] = (row[:, slots] if is_of_slots else row).float()
    return found


def test_a_document_read_in_stretches_gives_the_memory_of_one_call(
    model, tokenizer, store, book, monkeypatch
):
    monkeypatch.setattr("memformer.template.PIECE", 90)
    wanted = whole(model, tokenizer)
    reading = ChatSession(model, tokenizer).read(book)
    count = int(wanted.num_seen[0]) - 2  # the first token, of all and of this turn
    assert reading == Reading(tokens=count, total=count, kept=300)
    monkeypatch.setattr("memformer.reading.STRETCH", 0.0)
    for place in ({}, {"store": store, "user": "alice"}):
        session = ChatSession(model, tokenizer, **place)
        assert session.read(book) == reading
        # as many segments at once as fit: in chunks fewer than in one call
        assert same(session.memory, wanted, atol=1e-5)
        assert session.turns()[0]["document"] == "book.txt"
    session = ChatSession(model, tokenizer)
    session.remember(BOOK)
    assert same(session.memory, wanted, atol=1e-5)


def test_a_known_document_is_not_read_again_unless_it_is_wanted(model, tokenizer, store, tmp_path):
    text = "Ines is six. Bo is ten."
    (tmp_path / "a.txt").write_text(text)
    session = ChatSession(model, tokenizer, store=store, user="alice")
    first = session.read(tmp_path / "a.txt")
    assert first.tokens == first.total == first.kept > len(text)
    (tmp_path / "b.txt").write_text(text)
    session = ChatSession(model, tokenizer, store=store, user="alice")  # another process, say
    assert session.read(tmp_path / "b.txt") == Reading(0, first.total, first.kept)
    assert session.read(Document.of(text, "c")) == Reading(0, first.total, first.kept)
    assert session.read(Document.of(text + " ", "c")).tokens == first.tokens + 1
    assert len(session.turns()) == 2
    again = session.read(tmp_path / "a.txt", again=True)
    assert again.tokens == first.tokens
    texts = [turn["text"] for turn in session.turns()]
    assert texts == [text, text]  # the other one, and this one anew
    assert [turn["turn"] for turn in session.turns()] == [2, 3]
    # what was forgotten is not known
    session.forget(3)
    assert session.read(tmp_path / "a.txt").tokens == first.tokens
    # what was evicted is still recorded, and so it is known, and read anew only if that is wanted
    session.read(Document.of(BOOK, "book"))
    assert session.read(tmp_path / "a.txt") == Reading(0, first.total, 0)
    assert session.read(tmp_path / "a.txt", again=True).tokens == first.tokens


class Halt(KeyboardInterrupt):
    """The user interrupts."""


def test_an_interrupted_document_goes_on_where_it_stopped(model, tokenizer, store, book):
    wanted = whole(model, tokenizer, num_slots=None)
    store.save("alice", model.init_memory(num_slots=None))

    def stop(done, total):
        if done > 400:
            raise Halt

    session = ChatSession(model, tokenizer, store=store, user="alice")
    with pytest.raises(Halt):
        session.read(book, progress=stop)
    (known,) = store.load("alice", model).documents
    assert 250 <= known.tokens <= 506 and not known.whole and known.name == "book.txt"
    steps = []
    session = ChatSession(model, tokenizer, store=store, user="alice")
    reading = session.read(book, progress=lambda done, total: steps.append(done))
    assert steps[0] == known.tokens
    assert reading.total == reading.kept == int(wanted.num_seen[0]) - 2
    assert reading.tokens == len(BOOK) - known.tokens
    assert same(session.memory, wanted, atol=1e-5)
    assert session.memory.documents[0].whole


LONG = "S" * 900  # of more segments than are read at once


@pytest.mark.parametrize(("first", "second"), [("S" * 50, None), (None, "S" * 50), (LONG, LONG)])
def test_a_document_is_resumed_under_another_system_message(
    model, tokenizer, store, book, first, second
):
    store.save("alice", model.init_memory(num_slots=None))

    def stop(done, total):
        if done > 400:
            raise Halt

    session = ChatSession(model, tokenizer, store, "alice", system=first)
    with pytest.raises(Halt):
        session.read(book, progress=stop)
    session = ChatSession(model, tokenizer, store, "alice", system=second)
    session.read(book)
    (turn,) = session.turns()
    assert turn["text"] == BOOK.strip()


def test_a_document_that_changes_while_it_is_read_is_not_known_by_its_old_name(
    model, tokenizer, book
):
    document = Document.file(book)
    book.write_text("Something else.")
    session = ChatSession(model, tokenizer)
    with pytest.raises(ValueError, match="book.txt was changed while it was read; read it again"):
        session.read(document)
    assert session.turns() == [] and session.memory.documents == ()
    book.write_text("")
    assert document.expected_tokens(tokenizer) == 0
    with pytest.raises(ValueError, match="was changed while it was read"):
        session.read(document)


def test_a_document_that_changes_after_a_stretch_says_which_turn_holds_its_beginning(
    model, tokenizer, book, monkeypatch
):
    monkeypatch.setattr("memformer.reading.STRETCH", 0.0)
    parts = [BOOK[:700], BOOK[700:] + "more"]
    document = Document("book", Document.of(BOOK, "b").checksum, len(BOOK), lambda: iter(parts))
    session = ChatSession(model, tokenizer)
    session.memory = model.init_memory(num_slots=None)
    with pytest.raises(ValueError, match="forget turn 1, which holds its beginning, and read it"):
        session.read(document)
    session.forget(1)
    session.read(book)
    assert [turn["text"] for turn in session.turns()] == [BOOK.strip()]


def test_without_a_template_a_document_reads_as_the_same_words_said(model, store):
    said = "User: I am Bob.\nAssistant: sure\nUser: The password is 123."
    for tokenizer in (byte_tokenizer(None), spaced_tokenizer()):
        tokenizer.chat_template = None
        ids = chat_ids(tokenizer, [{"role": "user", "content": said}])[0].tolist()
        marks = frame(tokenizer)
        (chunk,) = chunks(model, tokenizer, marks, [said], len(said), 0.0)
        assert tokenizer.decode(chunk.ids) == tokenizer.decode(ids)
        assert chunk.ids == ids


def test_progress_is_told_from_the_start_with_an_estimate_of_all(model, tokenizer, book):
    steps = []
    session = ChatSession(model, tokenizer)
    session.read(book, progress=lambda done, total: steps.append((done, total)))
    count = len(BOOK)
    assert steps[0][0] == 0 and steps[-1] == (count, count)
    assert all(abs(total - count) <= 2 for _, total in steps)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert len(steps) > count / 256


def test_the_user_may_talk_while_a_document_is_read(model, tokenizer, store, book, monkeypatch):
    monkeypatch.setattr("memformer.reading.STRETCH", 0.0)
    session = ChatSession(model, tokenizer, store=store, user="alice", max_new_tokens=2)
    other = ChatSession(model, tokenizer, store=store, user="alice", max_new_tokens=2)
    said, places = [], ends_of_chunks(model, tokenizer)[1:4:2]

    def talk(done, total):
        # in the midst of a stretch: what is read must not overwrite what is said
        if done in places:
            other.say(f"at {done}")
            said.append(done)

    reading = session.read(book, progress=talk)
    assert said == places
    memory = store.load("alice", model)
    assert int(memory.num_turns[0]) == 4
    # every token of the document was seen once, and the turns beside it
    turns = [len(other._asked(f"at {done}")) for done in said]
    assert reading.total + sum(turns) < int(memory.num_seen[0]) <= reading.total + sum(turns) + 4
    assert memory.documents[0].whole and memory.documents[0].turn == 1
    text = session.turns()[0]["text"]
    assert BOOK.strip().endswith(text[-60:].strip())


def test_a_document_forgotten_while_it_is_read_stops(model, tokenizer, store, book, monkeypatch):
    monkeypatch.setattr("memformer.reading.STRETCH", 0.0)
    session = ChatSession(model, tokenizer, store=store, user="alice")
    other = ChatSession(model, tokenizer, store=store, user="alice")

    first = ends_of_chunks(model, tokenizer)[1]

    def forget(done, total):
        if done == first:
            other.forget(1)

    with pytest.raises(ValueError, match="book.txt was forgotten while it was read"):
        session.read(book, progress=forget)
    assert store.load("alice", model).documents == ()


def test_two_sessions_do_not_read_one_document_into_each_other(
    model, tokenizer, store, book, monkeypatch
):
    monkeypatch.setattr("memformer.reading.STRETCH", 0.0)
    session = ChatSession(model, tokenizer, store=store, user="alice")
    other = ChatSession(model, tokenizer, store=store, user="alice")

    first = ends_of_chunks(model, tokenizer)[1]

    def too(done, total):
        if done == first:
            other.read(book)

    with pytest.raises(ValueError, match="book.txt was read by two sessions"):
        session.read(book, progress=too)
    assert same(store.load("alice", model), whole(model, tokenizer), atol=1e-5)


def test_reading_in_a_thread_beside_a_chat_loses_nothing(
    model, tokenizer, store, book, monkeypatch
):
    monkeypatch.setattr("memformer.reading.STRETCH", 0.02)
    store.save("alice", model.init_memory(num_slots=None))
    session = ChatSession(
        model, tokenizer, store=store, user="alice", max_new_tokens=2, timeout=600
    )
    failed = []

    def read():
        try:
            session.read(book)
        except Exception as error:  # noqa: BLE001 - handed to the test below
            failed.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(5):
        session.say(f"turn {number}")
    reader.join()
    assert not failed
    turns = session.turns()
    assert len(turns) == 6
    (document,) = (turn for turn in turns if turn["document"])
    assert document["text"] == BOOK.strip()
    assert {turn["text"] for turn in turns} == {BOOK.strip(), *(f"turn {n}" for n in range(5))}


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty; there is nothing to read"),
        (b" \n\t\n", "is empty; there is nothing to read"),
        (b"abc\xff", "is not UTF-8 text: byte 3 can't be decoded"),
        (b"\xef\xbb\xbfabc\xff", "is not UTF-8 text: byte 6 can't be decoded"),
        (b"abc\xe2\x82", "is not UTF-8 text: byte 3 can't be decoded"),
        (b"ab\0c", "is not text: byte 2 is zero"),
        (b"%PDF-1.4\nplain ASCII\n", "is a PDF, not a text file; convert it first"),
        (b"{\\rtf1 Hello}", "is a rich text file, not a text file"),
        (b"x" * (2**20 - 1) + "é".encode() + b"\xff", r"byte 1048577 can't be decoded"),
    ],
)
def test_files_that_are_no_text_are_refused_before_anything_is_read(data, sentence, tmp_path):
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        Document.file(tmp_path / "file")


def test_missing_files_and_folders_are_named(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="There is no file .*nothing"):
        Document.file(tmp_path / "nothing")
    with pytest.raises(ValueError, match="is a folder; give one text file"):
        Document.file(tmp_path)
    (tmp_path / "file").write_text("x")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(PermissionError, match="file can't be read: Permission denied"):
        Document.file(tmp_path / "file")


def test_a_document_is_its_text(tmp_path):
    text = "Ünïcode 🌍 and a character that two parts share: é" * 30_000
    (tmp_path / "file").write_bytes(b"\xef\xbb\xbf" + text.encode())
    document = Document.file(tmp_path / "file")
    assert "".join(document.texts()) == text
    assert document.characters == len(text) and document.name == "file"
    assert document.checksum == Document.of(text, "other").checksum
    tokenizer = byte_tokenizer()
    expected = document.expected_tokens(tokenizer)
    assert expected == pytest.approx(len(text.encode()), rel=0.01)


@pytest.mark.slow
def test_the_space_of_tokenizing_does_not_grow_with_a_document(tmp_path):
    """What the tokens of 20 MB need beyond those of 2 MB."""
    import tracemalloc

    from memformer.template import text_pieces

    tokenizer, peaks = byte_tokenizer(), []
    for size in (2, 20):
        (tmp_path / "file").write_text("The quick brown fox.\n" * (size * 2**20 // 21))
        document = Document.file(tmp_path / "file")
        tracemalloc.start()
        for _ in text_pieces(tokenizer, document.texts()):
            pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] < 2**27


def test_what_can_not_be_read_twice_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="pipe is no regular file.*standard input"):
        Document.file(tmp_path / "pipe")
    with pytest.raises(OSError, match="File name too long"):
        Document.file("x" * 5000)


def test_chunks_end_where_segments_end(model, tokenizer):
    parts = list(chunks(model, tokenizer, frame(tokenizer), [BOOK], len(BOOK), 0.0))
    assert len(parts) > 4
    for part in parts[:-1]:
        assert tokenizer.decode(part.ids).endswith(".\n")
        assert 128 < len(part.ids) <= 256
    # without a table of borders, chunks are full
    blind = model.with_memory()
    blind.memory.borders = torch.zeros_like(blind.memory.borders)
    parts = list(chunks(blind, tokenizer, frame(tokenizer), [BOOK], len(BOOK), 0.0))
    assert {len(part.ids) for part in parts[:-1]} == {256}
    # tokens of a template that fill a chunk nearly or wholly are in the first one
    for marks in (250, 255, 256, 257, 600):
        marked = replace(frame(tokenizer), opening=[5] * marks)
        part = next(chunks(model, tokenizer, marked, [BOOK], len(BOOK), 0.0))
        assert part.words > 0 and len(part.ids) > marks
