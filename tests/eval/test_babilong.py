"""BABILong as a command: its rows, its report, and what is wrong with an option."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from eval.babilong import command as babilong
from eval.babilong.metric import HEADLINE
from eval.babilong.samples import FromStories
from eval.harness.cases import CaseLog, OtherRun
from eval.harness.prompts import Chat
from memformer.chat import chat_ids
from tests.eval.babi import save_data
from tests.eval.toy import said
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends an answer."""
    monkeypatch.setattr(babilong, "MAX_NEW_TOKENS", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def run(folder: Path, data: Path, out: Path, *options: str) -> Result:
    given = [str(folder), "--babi", str(data), "--books", str(data / "books"), "--out", str(out)]
    defaults = ["--tasks", "qa1", "--lengths", "0k,1k", "--cases", "3", "--threads", "1"]
    few = ["--systems", "full/plain,memformer/plain,nothing/plain"]
    return CliRunner().invoke(babilong.app, [*given, *defaults, *few, *options], terminal_width=300)


def test_the_report_holds_every_cell_and_says_how_it_came_about(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.1"
    result = run(folder, data, out, "--tasks", ",".join(HEADLINE))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "r.1.json").read_text())
    assert report["settings"]["seed"] == 0
    assert set(report["settings"]["files"]) == {
        *(f"{task}_some-task_test.txt" for task in HEADLINE),
        "rain.txt",
    }
    assert len(report["cells"]) == 5 * 2 * 3
    for cell in report["cells"]:
        exceeds = (cell["system"], cell["length"]) == ("full/plain", "1k")
        assert (cell["scores"] is None) is exceeds
        assert cell["questions"] == 3
        assert 0 <= cell["constant_score"] <= 1 and cell["constant"]
    assert len(report["means"]) == 2 * 3 - 1  # `full` has none at 1k
    page = (tmp_path / "r.1.md").read_text()
    for expected in ("## mean of qa1-qa5", "## task qa3", "GPT-2", "constant answer", "n/a"):
        assert expected in page


def test_every_answer_is_scored_by_the_metric(folder: Path, data: Path, tmp_path: Path) -> None:
    benchmark = babilong.babilong(byte_tokenizer(), data, None, "qa1,qa2", "0k", 3)
    assert [one.id.partition("/story")[0] for one in benchmark.documents] == (
        ["qa1/0k"] * 3 + ["qa2/0k"] * 3
    )
    for one in benchmark.documents:
        (question,) = one.questions
        assert benchmark.score(question, f"It is in the {question.answers[0]}.")["accuracy"] == 1
        assert benchmark.score(question, "kitchen, garden or office")["accuracy"] == 0
        assert question.answers[0] in " ".join(one.parts())


def test_a_sample_is_made_when_it_is_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cell of 10M tokens must not lie in memory before it is asked."""
    monkeypatch.setattr(FromStories, "document", lambda *_: pytest.fail("made too soon"))
    tokenizer = byte_tokenizer()
    made = babilong.babilong(tokenizer, data, data / "books", "qa1", "0k,10M", 3)
    assert [one.tokens for one in made.documents[::3]] == [30, 10_000_030]


PROMPTS = """
SHARED = "never looked at"
DEFAULT_PROMPTS = {
    'qa1': {
        'instruction': 'Say where people are '
                       'now.',
        'examples': '<example>Al ran off. Where is Al? Off.</example>',
        'post_prompt': 'Name the place.',
    },
}
"""


def test_the_official_prompts_are_read_from_their_file_and_frame_the_text(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    file = tmp_path / "prompts.py"
    file.write_text(PROMPTS)
    tokenizer = byte_tokenizer(CHAT_TEMPLATE)
    options = {"babi": data, "books": data / "books", "tasks": "qa1", "lengths": "1k", "cases": 1}
    benchmark = babilong.babilong(tokenizer, prompts=file, seed=0, **options)
    (document,) = benchmark.documents
    (question,) = document.questions
    chat = Chat(tokenizer, benchmark.instruction, benchmark.marks)
    (text,) = document.parts()
    before = "Say where people are now.\n\n<example>Al ran off. Where is Al? Off.</example>\n\n"
    before += "Name the place.\n\n"
    whole = f"{before}<context>\n{text}\n</context>\n\nQuestion: {question.text}"
    turn = chat_ids(tokenizer, [{"role": "user", "content": whole}], reply="")[0].tolist()
    asked = chat.asked(question, alone=False)
    assert chat.head(question) + chat.text([text]) + asked == turn
    alone = [{"role": "user", "content": f"{before}Question: {question.text}"}]
    assert chat.asked(question, alone=True) == chat_ids(tokenizer, alone, reply="")[0].tolist()
    plain = babilong.babilong(tokenizer, seed=0, **options)
    assert plain.settings["prompts"] is None and benchmark.settings["prompts"]
    assert plain.documents[0].questions[0].lead == ""
    few = ["--prompts", str(file), "--lengths", "0k", "--cases", "2", "--systems", "full,attached"]
    result = run(folder, data, tmp_path / "r", *few)
    assert result.exit_code == 0, result.output
    assert "official words" in (tmp_path / "r.md").read_text()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("DEFAULT_PROMPTS = {", "it is no Python"),
        ("PROMPTS = {}", "it must assign DEFAULT_PROMPTS once"),
        ("DEFAULT_PROMPTS = {'qa2': {}}", "DEFAULT_PROMPTS has no 'qa1'"),
        ("DEFAULT_PROMPTS = {'qa1': {'instruction': 'x'}}", "DEFAULT_PROMPTS has no 'examples'"),
        ("DEFAULT_PROMPTS = {'qa1': open('x')}", "must hold texts"),
        ("DEFAULT_PROMPTS = ['qa1']", "must hold texts"),
        ("DEFAULT_PROMPTS = {'qa1': {'instruction': 1, 'examples': 2, 'post_prompt': 3}}", "must"),
    ],
)
def test_another_file_than_the_official_prompts_is_one_sentence(
    folder: Path, data: Path, tmp_path: Path, text: str, sentence: str
) -> None:
    file = tmp_path / "prompts.py"
    file.write_text(text)
    result = run(folder, data, tmp_path / "r", "--prompts", str(file), "--tasks", "qa1")
    assert result.exit_code == 2
    message = said(result)
    assert "is not BABILong's prompts.py" in message and sentence in message
    assert sorted(tmp_path.iterdir()) == [file]


def test_qa7_is_left_out_of_the_mean_with_a_reason(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    for name in data.iterdir():
        if name.is_file():
            (tmp_path / name.name.replace("qa3", "qa7")).write_bytes(name.read_bytes())
    options = ("--lengths", "0k", "--systems", "nothing", "--tasks", "qa1,qa7,qa2")
    assert run(folder, tmp_path, tmp_path / "r", *options, "--books", str(data)).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [mean["title"] for mean in report["means"]] == ["mean of qa1, qa2"]
    assert "qa7 is in no mean: the metric looks for" in (tmp_path / "r.md").read_text()


def test_it_runs_in_bfloat16_and_says_so(folder: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    assert run(folder, data, out, "--dtype", "bfloat16").exit_code == 0
    report = json.loads((tmp_path / "half.json").read_text())
    assert report["settings"]["dtype"] == "bfloat16"
    assert "; bfloat16." in (tmp_path / "half.md").read_text()
    # memory in half of the bytes: it did run so
    assert run(folder, data, tmp_path / "whole").exit_code == 0
    half, whole = (
        json.loads((tmp_path / f"{name}.json").read_text())["overall"][1]["state_bytes"]
        for name in ("half", "whole")
    )
    assert half < 0.8 * whole
    # a run in float32 does not go on with these cases
    assert run(folder, data, out).exit_code == 2


@pytest.mark.parametrize("text", ["A diary.\n", "A diary.", "[1, 2]\n"])
def test_a_file_that_is_no_record_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.cases.jsonl"
    path.write_text(text)
    with pytest.raises(OtherRun, match="is no record of cases"):
        CaseLog(path, {"seed": 0}, {}, again=False)
    assert path.read_text() == text
    assert CaseLog(path, {"seed": 0}, {}, again=True).results == []


def wrong(data: Path, nothing: Path) -> Iterator[tuple[str, list[str]]]:
    yield "does not exist", ["--babi", str(nothing / "none")]
    yield "must hold one file qa1_*_test*", ["--babi", str(nothing)]
    yield "takes a folder of .txt or .txt.gz", ["--books", str(nothing)]
    yield "--tasks knows qa1, qa2", ["--tasks", "qa1,qa21"]
    yield "--tasks names something twice", ["--tasks", "qa1,qa1"]
    yield "--lengths knows 0k, 1k", ["--lengths", "0k,3k"]
    yield "--cases", ["--cases", "0"]
    yield "'plain', 'chat'", ["--style", "loud"]


def test_a_wrong_option_is_one_sentence_and_writes_nothing(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    nothing = tmp_path / "nothing"
    nothing.mkdir()
    for sentence, options in wrong(data, nothing):
        result = run(folder, data, tmp_path / "r", *options)
        assert result.exit_code == 2, options
        assert sentence in said(result)
    assert list(tmp_path.iterdir()) == [nothing]


def test_samples_need_both_folders_or_the_hub(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    out = ["--out", str(tmp_path / "r"), "--tasks", "qa1"]
    for sentence, options in {
        "--babi needs --books too": ["--babi", str(data)],
        "--books needs --babi too": ["--books", str(data / "books")],
        "package datasets, which is not installed": [],
    }.items():
        result = CliRunner().invoke(babilong.app, [str(folder), *options, *out], terminal_width=300)
        assert result.exit_code == 2
        assert sentence in said(result)
    assert list(tmp_path.iterdir()) == []
