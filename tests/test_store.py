"""MemoryStore: one file per user, private, locked, replaced in one step."""

from __future__ import annotations

import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from memformer import IncompatibleMemory, MemformerForCausalLM, MemoryState, MemoryStore
from memformer.store import MAX_USER_CHARACTERS, MemoryBusy
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
    new = set(store.root.parent.rglob("*")) - before - {store.root}
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
    (path,) = store.root.glob("*.safetensors")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


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


def test_root_is_the_argument_then_the_environment_then_the_platforms(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMFORMER_STORE", str(tmp_path / "named"))
    assert MemoryStore().root == tmp_path / "named"
    assert MemoryStore(tmp_path / "given").root == tmp_path / "given"
    monkeypatch.delenv("MEMFORMER_STORE")
    monkeypatch.setattr("platformdirs.user_data_dir", lambda name: str(tmp_path / name))
    assert MemoryStore().root == tmp_path / "memformer"
