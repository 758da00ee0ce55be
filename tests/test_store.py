"""MemoryStore: one file per user, private, locked, replaced in one step."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from memformer import IncompatibleMemory, MemformerForCausalLM, MemoryState, MemoryStore
from memformer.memory.file import FORMAT, VERSION
from memformer.store import MAX_USER_CHARACTERS, SALT, MemoryBusy
from tests.tiny import save_tiny

# takes a lock file, says so, and holds it until its standard input closes
HOLDER = """
import sys, filelock
with filelock.FileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MemformerForCausalLM:
    return MemformerForCausalLM.from_pretrained(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "store")


def written(model: MemformerForCausalLM, first: int, count: int = 11) -> MemoryState:
    return model.memorize(torch.arange(first, first + count)[None])


def tokens(memory: MemoryState) -> list[int]:
    return sorted(memory.token[memory.occupied].tolist())


def test_what_was_saved_is_loaded(model: MemformerForCausalLM, store: MemoryStore) -> None:
    memory = written(model, 20)
    store.save("alice", memory)
    loaded = store.load("alice", model)
    assert loaded is not None
    assert torch.equal(loaded.keys, memory.keys)
    assert torch.equal(loaded.token, memory.token)


@pytest.mark.skipif(sys.platform == "win32", reason="knows every home folder")
def test_a_home_folder_that_is_not_known_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "The store of memories should be in a home folder, but this one is not known"
    with pytest.raises(ValueError, match=sentence):
        MemoryStore("~nosuchuser/memories")

    def unknown(*_: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("MEMFORMER_STORE", raising=False)
    monkeypatch.setattr("memformer.store.platformdirs.user_data_dir", unknown)
    with pytest.raises(ValueError, match=f"{sentence}; set MEMFORMER_STORE to a full path"):
        MemoryStore()


def test_a_stranger_has_no_memory_and_asking_makes_no_folder(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    assert store.load("alice", model) is None
    assert not store.exists("alice")
    assert store.delete("alice") is False
    assert not store.root.exists()


def test_users_do_not_see_each_other(model: MemformerForCausalLM, store: MemoryStore) -> None:
    names = ["alice", "Alice", "alice ", "bob", "älice", "a" * MAX_USER_CHARACTERS]
    for number, name in enumerate(names):
        store.save(name, written(model, 20 + 12 * number))
    for number, name in enumerate(names):
        loaded = store.load(name, model)
        assert loaded is not None
        assert tokens(loaded) == list(range(20 + 12 * number, 31 + 12 * number))
    assert store.delete("alice") is True
    assert not store.exists("alice")
    assert store.exists("Alice") and store.exists("alice ")


@pytest.mark.parametrize(
    "name", ["../../outside", "/etc/passwd", "..", "a/b", "a\\b", "nul\0byte", "CON", "\ud800"]
)
def test_an_id_can_neither_leave_the_folder_nor_be_read_off_it(
    model: MemformerForCausalLM, store: MemoryStore, name: str
) -> None:
    before = set(store.root.parent.rglob("*"))
    store.save(name, written(model, 20))
    new = set(store.root.parent.rglob("*")) - before - {store.root, store.root / SALT}
    assert new and all(path.parent == store.root for path in new)
    assert all(len(path.stem) == 64 and set(path.stem) <= set("0123456789abcdef") for path in new)
    assert store.exists(name)


@pytest.mark.parametrize(
    "name", ["", " \n", "a" * (MAX_USER_CHARACTERS + 1), None, 7], ids=lambda name: repr(name)[:9]
)
def test_an_unusable_id_is_refused_everywhere(
    model: MemformerForCausalLM, store: MemoryStore, name: str
) -> None:
    expected = "A user id must be text of 1 to 256 characters"
    with pytest.raises(ValueError, match=expected):
        store.load(name, model)
    with pytest.raises(ValueError, match=expected):
        store.save(name, model.init_memory())
    with pytest.raises(ValueError, match=expected):
        store.delete(name)
    with pytest.raises(ValueError, match=expected):
        store.exists(name)
    with pytest.raises(ValueError, match=expected), store.lock(name):
        pass


@pytest.mark.skipif(sys.platform == "win32", reason="modes are a POSIX matter")
def test_folder_and_files_are_their_owners_only(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    store.save("alice", written(model, 20))
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700
    paths = list(store.root.iterdir())
    assert {path.suffix for path in paths} == {".safetensors", ".lock", ""}
    assert {stat.S_IMODE(path.stat().st_mode) for path in paths} == {0o600}


def test_another_process_that_holds_the_lock_is_one_clear_sentence(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    store.save("alice", written(model, 20))
    (lock,) = store.root.glob("*.lock")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(lock)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdin is not None and holder.stdout is not None
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MemoryBusy, match="'alice' is in use by another session; try again"):
            store.save("alice", written(model, 50))
        with pytest.raises(MemoryBusy), store.lock("alice", timeout=0.1):
            pass
        with pytest.raises(MemoryBusy):
            store.delete("alice")
        store.save("bob", written(model, 50))
        loaded = store.load("alice", model)
        holder.stdin.close()
    assert loaded is not None and tokens(loaded) == list(range(20, 31))
    store.save("alice", written(model, 50))


def test_the_holder_may_take_the_lock_again_and_another_thread_may_not(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    caught: list[Exception] = []

    def save() -> None:
        try:
            store.save("alice", model.init_memory())
        except MemoryBusy as error:
            caught.append(error)

    with store.lock("alice"), store.lock("alice"):
        store.save("alice", written(model, 20))
        thread = threading.Thread(target=save)
        thread.start()
        thread.join()
    assert len(caught) == 1
    save()
    assert len(caught) == 1


def test_a_failed_save_leaves_the_old_memory(
    model: MemformerForCausalLM, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("alice", written(model, 20))
    monkeypatch.setattr("os.replace", _full_disk)
    monkeypatch.setattr("pathlib.Path.replace", _full_disk)
    with pytest.raises(OSError, match="no space"):
        store.save("alice", written(model, 50))
    monkeypatch.undo()
    loaded = store.load("alice", model)
    assert loaded is not None and tokens(loaded) == list(range(20, 31))
    with store.lock("alice"):
        pass


def _full_disk(*_: object) -> None:
    raise OSError("no space left")


def test_a_damaged_file_is_refused(model: MemformerForCausalLM, store: MemoryStore) -> None:
    store.save("alice", written(model, 20))
    (path,) = store.root.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError):
        store.load("alice", model)


def test_another_models_memory_is_refused(
    model: MemformerForCausalLM, store: MemoryStore, tmp_path: Path
) -> None:
    other = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "other", hidden_size=40))
    store.save("alice", written(model, 20))
    with pytest.raises(IncompatibleMemory):
        store.load("alice", other)


def test_two_forms_of_one_name_are_one_user(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    store.save("Zo\u00eb", written(model, 20))
    assert store.exists("Zoe\u0308") and not store.exists("Zoe")
    assert store.delete("Zoe\u0308") and not store.exists("Zo\u00eb")


def test_names_of_files_say_nothing_without_the_salt(
    model: MemformerForCausalLM, store: MemoryStore, tmp_path: Path
) -> None:
    other = MemoryStore(tmp_path / "other")
    for place in (store, other):
        place.save("alice", written(model, 20))
    names = {path.stem for place in (store, other) for path in place.root.glob("*.safetensors")}
    assert len(names) == 2
    assert hashlib.sha256(b"alice").hexdigest() not in names
    for wrong in ("", "short", "x" * 64, "A" * 64, (store.root / SALT).read_text() + "\n"):
        (store.root / SALT).write_text(wrong)
        with pytest.raises(ValueError, match="which the names of all memories there depend on"):
            store.load("alice", model)


def test_a_lost_salt_is_not_replaced(model: MemformerForCausalLM, store: MemoryStore) -> None:
    store.save("alice", written(model, 20))
    (store.root / SALT).rename(store.root.parent / SALT)
    before = set(store.root.iterdir())
    sentence = "salt, which .* depend on, is gone; restore it from a copy, or move it and all files"
    calls: list[Callable[[], object]] = [
        lambda: store.exists("alice"),
        lambda: store.load("bob", model),
        lambda: store.version("alice"),
        lambda: store.save("bob", written(model, 20)),
        lambda: store.delete("alice"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=sentence):
            call()
    assert set(store.root.iterdir()) == before
    assert [one.user for one in store.memories()] == ["alice"]
    (store.root.parent / SALT).rename(store.root / SALT)
    assert store.exists("alice") and store.delete("alice")


@pytest.fixture
def alarm() -> Iterator[None]:
    """Fails a test that hangs."""

    def ring(*_: object) -> None:
        pytest.fail("it hangs")

    signal.signal(signal.SIGALRM, ring)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with a name")
@pytest.mark.parametrize("kind", ["pipe", "folder", "broken link"])
@pytest.mark.parametrize("place", ["memory", "salt"])
def test_a_pipe_or_a_folder_is_neither_a_memory_nor_a_salt(
    model: MemformerForCausalLM, store: MemoryStore, kind: str, place: str, alarm: None
) -> None:
    store.save("bob", written(model, 50))
    (his,) = store.root.glob("*.safetensors")
    store.save("alice", written(model, 20))
    (hers,) = set(store.root.glob("*.safetensors")) - {his}
    path = store.root / SALT if place == "salt" else hers
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(store.root / "nowhere")
    calls: list[Callable[[], object]] = [
        lambda: store.exists("alice"),
        lambda: store.read("alice"),
        lambda: store.version("alice"),
        lambda: store.save("alice", written(model, 20)),
        lambda: store.delete("alice"),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="is no regular file|salt, which .* is damaged"):
            call()
    if place == "memory":
        with pytest.warns(UserWarning, match="leaves a file out: .* is no regular file"):
            assert [one.user for one in store.memories()] == ["bob"]
        assert store.exists("bob")
    assert not path.is_file()


@pytest.mark.parametrize(
    "header", [{"fingerprint": []}, {"fingerprint": None}, {"fingerprint": "x"}, {"user": 5}]
)
def test_a_file_with_an_odd_header_does_not_hide_the_others(
    model: MemformerForCausalLM, store: MemoryStore, header: dict[str, object]
) -> None:
    store.save("alice", written(model, 20))
    odd = {"format": FORMAT, "version": VERSION, "fingerprint": {}, "user": "bob"} | header
    save_file({"x": torch.zeros(1)}, store.root / "odd.safetensors", {"memformer": json.dumps(odd)})
    with pytest.warns(UserWarning, match="odd.safetensors is damaged or not a memory"):
        assert [one.user for one in store.memories()] == ["alice"]


def test_what_an_older_version_saved_is_opened_and_gets_a_new_name(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    store.root.mkdir(mode=0o700)
    name = hashlib.sha256(b"alice").hexdigest()
    old = store.root / f"{name}.safetensors"
    written(model, 20).save(old)
    old.with_suffix(".lock").touch()
    left = store.root / f".{old.name}.q7_x"  # by a process that was killed
    left.write_bytes(old.read_bytes())
    memory = store.load("alice", model)
    assert memory is not None and tokens(memory) == list(range(20, 31))
    assert [one.user for one in store.memories()] == [None]
    store.save("alice", memory)
    assert not any(name in path.name for path in store.root.iterdir())
    memory = store.load("alice", model)
    assert memory is not None and tokens(memory) == list(range(20, 31))
    written(model, 20).save(old)
    left.touch()
    assert store.delete("alice")
    assert not store.exists("alice") and not any(store.root.glob(f"*{name}*"))


def test_one_users_file_under_anothers_name_is_refused(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    store.save("alice", written(model, 20))
    (hers,) = store.root.glob("*.safetensors")
    store.save("bob", written(model, 50))
    (his,) = set(store.root.glob("*.safetensors")) - {hers}
    his.write_bytes(hers.read_bytes())
    with pytest.raises(ValueError, match="not the memory of user 'bob': it was saved for 'alice'"):
        store.load("bob", model)
    # nor one that was saved for nobody
    written(model, 20).save(his)
    with pytest.raises(ValueError, match="not the memory of user 'bob'.*nobody in particular"):
        store.load("bob", model)
    assert store.load("alice", model) is not None
    # nor under the name that an older version would have given it
    his.unlink()
    shutil.copy(hers, store.root / f"{hashlib.sha256(b'bob').hexdigest()}.safetensors")
    with pytest.raises(ValueError, match="not the memory of user 'bob': it was saved for 'alice'"):
        store.load("bob", model)


def test_a_memory_of_two_rows_is_nobodys(model: MemformerForCausalLM, store: MemoryStore) -> None:
    two = model.memorize(torch.arange(20, 42).view(2, 11))
    with pytest.raises(ValueError, match=r"2 rows; pick one with memory.select\(\[row\]\)"):
        store.save("alice", two)
    assert not store.exists("alice")
    store.save("alice", two.select([1]))
    (path,) = store.root.glob("*.safetensors")
    two.save(path, user="alice")
    with pytest.raises(ValueError, match="has 2 rows instead of one"):
        store.load("alice", model)


def test_a_list_tells_whose_memories_there_are(
    model: MemformerForCausalLM, store: MemoryStore
) -> None:
    assert store.memories() == []
    for user in ("bob", "alice"):
        store.save(user, written(model, 20))
    (store.root / "other.safetensors").write_bytes(b"something else")
    with pytest.warns(UserWarning, match="leaves a file out: .*other.safetensors is damaged"):
        found = store.memories()
    assert [one.user for one in found] == ["alice", "bob"]
    assert all(one.nbytes == one.path.stat().st_size for one in found)
    assert "llama, memory layers 1,2" in found[0].architecture
    assert found[0].model.endswith("base")


def test_the_sentence_about_another_models_memory_names_the_user_and_a_command(
    model: MemformerForCausalLM, store: MemoryStore, tmp_path: Path
) -> None:
    other = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "other", seed=8))
    store.save("alice", written(model, 20))
    (path,) = store.root.glob("*.safetensors")
    with pytest.raises(IncompatibleMemory) as caught:
        store.load("alice", other)
    said = str(caught.value)
    assert "of user 'alice' was written by another model" in said
    assert "memformer memory delete --user 'alice'" in said
    assert path.stem not in said and str(tmp_path / "other" / "base") in said


@pytest.mark.skipif(sys.platform == "win32", reason="modes are a POSIX matter")
def test_a_folder_that_is_open_to_others_is_warned_about(tmp_path: Path) -> None:
    root = tmp_path / "open"
    root.mkdir()
    root.chmod(0o750)
    with pytest.warns(UserWarning, match="Other users of this machine can look into.*chmod 700"):
        MemoryStore(root)
    root.chmod(0o700)
    MemoryStore(root)


def test_a_store_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="must be a folder, but .*file is a file"):
        MemoryStore(tmp_path / "file")


def test_a_memory_that_is_deleted_while_it_is_opened_is_no_memory(
    model: MemformerForCausalLM, store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("alice", written(model, 20))
    read = Path.read_bytes

    def late(path: Path) -> bytes:
        path.unlink()
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", late)
    assert store.load("alice", model) is None


def test_no_file_is_left_of_a_user(model: MemformerForCausalLM, store: MemoryStore) -> None:
    with store.lock("alice"):  # as a session does that fails in its first turn
        pass
    store.save("bob", written(model, 20))
    assert store.delete("bob") and not store.delete("bob")
    assert [path.name for path in store.root.iterdir()] == [SALT]


KILLED = r"""
import os, sys, torch
from memformer import MemoryState, MemoryStore
torch.set_num_threads(1)
store, memory = MemoryStore(sys.argv[1]), MemoryState.load(sys.argv[2])

def save_and_die(number, moment):
    # memory of a turn of its own; killed at the given event, every call and return being one
    turn = torch.full_like(memory.turn, number).where(memory.occupied, -1)
    mine = memory.replaced(turn=turn, num_turns=torch.tensor([number + 1]))
    events = 0
    def count(*_):
        nonlocal events
        events += 1
        if events == moment:
            os.kill(os.getpid(), 9)
    sys.setprofile(count)
    store.save("alice", mine)
    sys.setprofile(None)
    os.write(1, f"{number} {events}\n".encode())
    os.kill(os.getpid(), 9)

for line in sys.stdin:
    if os.fork() == 0:
        save_and_die(*map(int, line.split()))
    os.wait()
    os.write(1, b"gone\n")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("kills", [60, pytest.param(1000, marks=pytest.mark.slow)])
def test_kills_inside_saves_lose_nothing_and_leave_nothing(
    model: MemformerForCausalLM, store: MemoryStore, tmp_path: Path, kills: int
) -> None:
    """Each save is killed at a random moment; whatever it said it saved is there."""
    store.save("alice", written(model, 20))
    first = store.load("alice", model)
    assert first is not None
    first.save(tmp_path / "memory")
    moments = random.Random(0)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(store.root), str(tmp_path / "memory")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None

    def save(number: int, moment: int) -> list[int] | None:
        """What the killed process said: its number and how many events a whole save has."""
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{number} {moment}\n")
        process.stdin.flush()
        said = process.stdout.readline()
        if said == "gone\n":
            return None
        assert process.stdout.readline() == "gone\n"
        return [int(part) for part in said.split()]

    left = lost = 0
    with process:
        whole = save(1, -1)
        assert whole is not None
        last = 1
        for number in range(2, kills + 2):
            acknowledged = save(number, moments.randrange(1, whole[1]))
            left += any(store.root.glob(".*"))
            memory = store.load("alice", model)
            assert memory is not None
            turn = int(memory.num_turns[0]) - 1
            # what was not acknowledged may be there or not, what was is there
            assert turn == number if acknowledged else turn in (last, number)
            lost += acknowledged is None
            last = turn
        process.stdin.close()
    assert lost > kills / 2 and left > 0, "hardly a save was killed in its midst"
    with store.lock("alice"):
        assert not any(store.root.glob(".*"))
    store.delete("alice")
    assert [path.name for path in store.root.iterdir()] == [SALT]


def test_root_is_the_argument_then_the_environment_then_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMFORMER_STORE", str(tmp_path / "named"))
    assert MemoryStore().root == tmp_path / "named"
    assert MemoryStore(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("MEMFORMER_STORE")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: str(tmp_path / name))
    assert MemoryStore().root == tmp_path / "memformer"
