"""BABILong: every rule and quirk of its metric, its samples, its rows, and runs that go on."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import Result
from typer.testing import CliRunner

from eval import babilong, babilong_score
from eval.babilong import averages
from eval.babilong_metric import HEADLINE, LABELS, score
from eval.babilong_samples import LENGTHS, FromHub, FromStories, NoSamples
from eval.cases import CaseLog, OtherRun
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.prompts import Chat
from eval.harness.summary import summarize
from eval.stories import Background
from memformer.chat import chat_ids
from tests.eval.test_harness import said
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, save_tiny

# in the format of bAbI, in sentences of our own
STORY = """\
1 {who} ran up to the kitchen.
2 Otto sat down in the garden.
3 Where is {who}? \tkitchen\t1
4 {who} ran on to the office.
5 Where is {who}? \toffice\t4
6 Where is Otto? \tgarden\t2
"""
NAMES = ("Ada", "Ben", "Cleo", "Dora")
PROSE = "The rain of {} days had made the old road soft. Nobody came up from the sea that year."


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model never ends an answer."""
    monkeypatch.setattr(babilong, "MAX_NEW_TOKENS", 5)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for task in HEADLINE:
        text = "".join(STORY.format(who=name) for name in NAMES)
        (folder / f"{task}_some-task_test.txt").write_text(text)
    (folder / "books").mkdir()
    (folder / "books" / "rain.txt").write_text("\n".join(PROSE.format(n) for n in range(40)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


def stories(data: Path, cases: int = 100, seed: int = 0) -> FromStories:
    """Samples counted in characters."""
    books = Background(sorted((data / "books").iterdir()), len)
    return FromStories(data, ["qa1", "qa2"], cases, seed, books, len)


def floor(task: str, asked: Sequence[tuple[str, str]]) -> tuple[str, float]:
    """The best constant answer to pairs of target and question, and its share."""
    questions = [
        Question(str(n), text, (target,), {"task": task, "length": "0k"})
        for n, (target, text) in enumerate(asked)
    ]
    document = Document.of("a", ["x"], questions)
    axes = {"task": [task], "length": ["0k"]}
    benchmark = Benchmark(
        "B", axes, [document], babilong.official, ("accuracy",), "", 5, {}, averages={}
    )
    (cell,) = summarize(benchmark, ["s"], {})["cells"]
    return cell["constant"], cell["constant_score"]


# ---- the metric ----------------------------------------------------------------------------

WHERE = "Where is Otto?"


@pytest.mark.parametrize(
    ("output", "right"),
    [
        ("kitchen", True),
        ("Otto is in the KITCHEN.", True),
        ("In the kitchen. Before, in the garden.", True),  # cut at the first full stop
        ("In the garden. No, in the kitchen.", False),
        ("The kitchen <context> The garden", True),
        ("The kitchen <example> The garden", True),
        ("kitchen or garden", False),  # several labels
        ("kitchen\nQuestion: Where is the garden?", False),  # the cut at "Question" does nothing
        ("kitchen\nanswer: kitchen", True),
        ("kitchens", True),  # substrings count
        ("attic", False),
        ("", False),
        (". kitchen", False),
    ],
)
def test_the_first_sentence_must_name_the_target_and_no_other_label(
    output: str, right: bool
) -> None:
    assert score("qa1", output, "kitchen", WHERE) is right


def test_labels_of_the_question_do_not_count() -> None:
    asked = "What is north of the Garden?"
    assert score("qa4", "North of the garden is the office", "office", asked)
    assert not score("qa4", "garden", "garden", asked)
    assert score("qa5", "Fred gave Bill the milk", "milk", "What did Fred give to Bill?")
    assert score("qa5", "It was jeff", "Jeff", "Who gave the apple to Fred?")


@pytest.mark.parametrize(
    ("output", "target", "right"),
    [
        ("the milk and the apple", "apple,milk", True),  # in any order
        ("apple,milk", "apple,milk", True),
        ("the milk", "apple,milk", False),
        ("apple, milk, football", "apple,milk", False),
        ("milk", "milk", True),
        ("milk and apple", "milk", False),
        ("nothing", "nothing", True),
    ],
)
def test_a_pair_of_qa8_needs_both_and_no_third(output: str, target: str, right: bool) -> None:
    assert score("qa8", output, target, "What is Ada carrying?") is right


def test_two_directions_are_one_label() -> None:
    assert len(LABELS["qa19"]) == 12
    asked = "How do you go from the office to the park?"
    assert score("qa19", "s,e", "s,e", asked)
    assert not score("qa19", "e,s", "s,e", asked)
    # three directions hold two labels
    assert not score("qa19", "s,e,n", "s,e", asked)


def test_no_is_inside_know_and_nothing() -> None:
    assert score("qa6", "I do not know", "no", "Is Ada in the park?")


def test_no_answer_to_qa7_is_right_where_none_is() -> None:
    asked = [("none", "How many?"), ("none", "How many?"), ("one", "How many?"), ("two", "How?")]
    assert [
        score("qa7", target, *case) for case, (target, _) in zip(asked, asked, strict=True)
    ] == [
        False,
        False,
        True,
        True,
    ]
    assert floor("qa7", asked) == ("one", 0.25)


def test_every_other_label_is_right_when_it_is_the_target() -> None:
    for task in LABELS.keys() - {"qa7"}:
        for label in LABELS[task]:
            assert score(task, label, label, "?")
    assert list(LABELS) == [f"qa{number}" for number in range(1, 21)]


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(ValueError, match="no task 'qa21'; the tasks are qa1 to qa20"):
        score("qa21", "yes", "yes", "?")


def test_the_floor_is_the_best_constant_answer() -> None:
    asked = [("kitchen", WHERE), ("garden", WHERE), ("kitchen", WHERE), ("office", WHERE)]
    assert floor("qa1", asked) == ("kitchen", 0.5)
    # a pair may be the best constant of lists
    asked = [("apple,milk", "?"), ("apple,milk", "?"), ("nothing", "?")]
    assert floor("qa8", asked) == ("apple,milk", pytest.approx(2 / 3))
    # and one that a question names earns nothing there
    asked = [("Fred", "What did Bill give?"), ("Bill", "Who was it, Fred?"), ("milk", "Fred?")]
    assert floor("qa5", asked)[1] == pytest.approx(1 / 3)


def test_the_leaderboard_averages_five_tasks_and_qa7_is_in_no_average() -> None:
    assert averages([*HEADLINE]) == {"mean of qa1-qa5": list(HEADLINE)}
    assert averages(["qa1", "qa7", "qa2"]) == {"mean of qa1, qa2": ["qa1", "qa2"]}
    assert averages(["qa7", "qa1"]) == {}
    assert list(averages([*HEADLINE, "qa6", "qa7"]).values()) == [
        list(HEADLINE), [*HEADLINE, "qa6"],
    ]  # fmt: skip


# ---- samples -------------------------------------------------------------------------------


def test_a_sample_at_0k_is_all_earlier_statements_and_no_earlier_question(data: Path) -> None:
    source = stories(data)
    assert source.count("qa1", "0k") == 12
    samples = {
        source.case("qa1", "0k", case)[1:]: source.document("qa1", "0k", case) for case in range(12)
    }
    assert samples["Where is Ada?", "kitchen"] == (
        "Ada ran up to the kitchen. Otto sat down in the garden."
    )
    assert samples["Where is Ada?", "office"] == (
        "Ada ran up to the kitchen. Otto sat down in the garden. Ada ran on to the office."
    )
    assert "Where" not in " ".join(samples.values())


@pytest.mark.parametrize("length", ["1k", "4k", "64k"])
def test_a_document_has_its_nominal_length_less_300(data: Path, length: str) -> None:
    document = stories(data).document("qa1", length, 3)
    # every sentence is counted with the space before it; the last one is cut at a word
    assert LENGTHS[length] - 300 - 12 <= len(document) <= LENGTHS[length] - 300


def test_facts_keep_their_order_among_book_text(data: Path) -> None:
    source = stories(data)
    told = source.document("qa1", "0k", 0).split(". ")
    texts = [source.document("qa1", length, 0) for length in ("1k", "2k", "4k")]
    for text in texts:
        places = [text.index(statement) for statement in told]
        assert places == sorted(places)
        assert "the old road" in text
    assert len({text.index(told[0]) for text in texts}) > 1


def test_cases_are_of_different_stories_first_and_the_same_at_every_length(data: Path) -> None:
    source = stories(data)
    chosen = source.chosen("qa1", "0k")
    for begin in (0, 4, 8):
        assert {story for story, _ in chosen[begin : begin + 4]} == {0, 1, 2, 3}
    assert len(set(chosen)) == 12
    assert source.chosen("qa1", "1k") == chosen
    assert stories(data, cases=5).chosen("qa1", "0k") == chosen[:5]
    assert stories(data, seed=1).chosen("qa1", "0k") != chosen


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(data: Path) -> None:
    first = stories(data).document("qa1", "1k", 2)
    assert stories(data).document("qa1", "1k", 2) == first
    assert stories(data, seed=1).document("qa1", "1k", 2) != first
    assert stories(data).document("qa1", "1k", 1) != first


def test_questions_with_too_many_statements_are_dropped(tmp_path: Path) -> None:
    # of 700 tokens, 87 sentences may be statements and question
    lines = [f"{number} Otto ran on to the hill." for number in range(1, 88)]
    for at in (87, 86):
        lines.insert(at, f"{at + 1} Where is Otto? \tgarden\t1")
    numbered = [f"{n} {line.split(' ', 1)[1]}" for n, line in enumerate(lines, 1)]
    (tmp_path / "qa3_some_test.txt").write_text("\n".join(numbered) + "\n")
    source = FromStories(tmp_path, ["qa3"], 10, 0, None, len)
    assert [len(source.chosen("qa3", length)) for length in ("0k", "1k", "2k")] == [2, 1, 2]


class Rows(list[dict[str, str]]):
    """What `datasets` returns of one cell."""


def test_the_hub_is_read_by_task_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def load(name: str, config: str, split: str) -> Rows:
        asked.append((name, config, split))
        return Rows({"input": f"t{n}", "question": f"q{n}", "target": f"a{n}"} for n in range(7))

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    source = FromHub(["qa1"], ["0k", "1M"], 5, seed=0)
    assert asked == [("RMT-team/babilong", "0k", "qa1"), ("RMT-team/babilong", "1M", "qa1")]
    cases = [source.case("qa1", "0k", case) for case in range(source.count("qa1", "0k"))]
    assert len({case.source for case in cases}) == 5
    number = cases[0].source.removeprefix("row ")
    assert cases[0] == (f"row {number}", f"q{number}", f"a{number}")
    assert source.document("qa1", "0k", 0) == f"t{number}"
    assert FromHub(["qa1"], ["0k"], 100, seed=0).count("qa1", "0k") == 7


def test_a_hub_out_of_reach_or_no_datasets_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: str, **__: str) -> Rows:
        raise ConnectionError("Couldn't reach\n'RMT-team/babilong'.")

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    with pytest.raises(NoSamples, match=r"0k, qa1, can't be had from the hub: Couldn't reach '"):
        FromHub(["qa1"], ["0k"], 5, seed=0)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(NoSamples, match="package datasets, which is not installed"):
        FromHub(["qa1"], ["0k"], 5, seed=0)


# ---- the command ---------------------------------------------------------------------------


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
        CaseLog(path, {"seed": 0}, again=False)
    assert path.read_text() == text
    assert CaseLog(path, {"seed": 0}, again=True).results == []


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


# ---- stored answers ------------------------------------------------------------------------


def stored(folder: Path, name: str, *rows: tuple[str, str, str]) -> Path:
    lines = [("", "target", "output", "question"), *((str(n), *row) for n, row in enumerate(rows))]
    with (folder / name).open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    return folder / name


def test_stored_answers_are_scored_to_two_decimals(tmp_path: Path) -> None:
    rows = [
        ("kitchen", "In the kitchen. Or in the garden.", WHERE),
        ("kitchen", "kitchen or\ngarden", WHERE),
        ("garden", "", WHERE),
    ]
    for number in range(1, 6):
        stored(tmp_path, f"qa{number}_0k_instruction_yes.csv", *rows[: 1 + number % 3])
    stored(tmp_path, "qa1_16k.csv", rows[0])
    stored(tmp_path, "qa6_0k_examples_no.csv", ("no", "I do not know", "Is Ada here?"))
    stored(tmp_path, "notes_0k.csv", rows[1])
    found = babilong_score.scored(tmp_path)
    assert {key: round(value, 2) for key, value in found.items()} == {
        ("qa1", "0k"): 50.0, ("qa2", "0k"): 33.33, ("qa3", "0k"): 100.0, ("qa4", "0k"): 50.0,
        ("qa5", "0k"): 0.0, ("qa1", "16k"): 100.0, ("qa6", "0k"): 100.0,
    }  # fmt: skip
    result = CliRunner().invoke(babilong_score.app, [str(tmp_path)], terminal_width=200)
    assert result.exit_code == 0
    for shown in ("33.33", "46.67", "mean of qa1, qa2, qa3, qa4, qa5"):
        assert shown in result.output


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([("none", "none", "How many?")], ["--mean", "qa1,qa7"], "qa7 can't be averaged: the met"),
        ([], [], "holds no answers"),
        (None, [], "holds no file such as qa1_0k_*.csv"),
    ],
)
def test_stored_answers_that_cant_be_scored_are_one_sentence(
    tmp_path: Path, rows: list[tuple[str, str, str]] | None, options: list[str], message: str
) -> None:
    if rows is not None:
        stored(tmp_path, "qa7_0k_x.csv", *rows)
    arguments = [str(tmp_path), *options]
    result = CliRunner().invoke(babilong_score.app, arguments, terminal_width=300)
    assert result.exit_code == 2
    assert message in said(result)
    (tmp_path / "qa2_1k_x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(babilong_score.BadPredictions, match="has no column target; it has a, b"):
        babilong_score.accuracy(tmp_path / "qa2_1k_x.csv", "qa2")
