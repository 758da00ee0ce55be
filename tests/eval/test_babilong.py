"""BABILong: every rule and quirk of its metric, its samples, its rows, and runs that go on."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import Result
from typer.testing import CliRunner

from eval import babilong, babilong_rows
from eval.babilong_metric import HEADLINE, LABELS, average, floor, score
from eval.babilong_rows import WINDOW, Bench, Chat, Plain
from eval.babilong_samples import LENGTHS, FromHub, FromStories, NoSamples, Sample
from eval.cases import CaseLog, OtherRun
from eval.recall import WindowExceeded, wilson_interval
from eval.stories import Background
from memformer.chat import ACKNOWLEDGEMENT
from tests.tiny import byte_tokenizer, open_lively, save_tiny

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


# a random model never ends an answer
FEW = 5


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(babilong_rows, "MAX_NEW_TOKENS", FEW)


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


@pytest.fixture
def bench(folder: Path) -> Bench:
    model = open_lively(folder)
    tokenizer = byte_tokenizer()
    return Bench(model, tokenizer, Plain(tokenizer), num_slots=150)


def stories(data: Path, cases: int = 100, seed: int = 0) -> FromStories:
    """Samples counted in characters."""
    books = Background(sorted((data / "books").iterdir()), len)
    return FromStories(data, ["qa1", "qa2"], cases, seed, books, len)


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


def test_an_average_weighs_tasks_the_same_and_joins_their_intervals() -> None:
    mean, (low, high) = average({"qa1": (5, 10), "qa2": (20, 20)})
    assert mean == 0.75
    first, second = wilson_interval(5, 10), wilson_interval(20, 20)
    down = ((0.5 - first[0]) ** 2 + (1 - second[0]) ** 2) ** 0.5
    up = ((first[1] - 0.5) ** 2 + (second[1] - 1) ** 2) ** 0.5
    assert (low, high) == pytest.approx((0.75 - down / 2, 0.75 + up / 2))
    # one task's is Wilson's
    assert average({"qa1": (5, 10)})[1] == pytest.approx(first)


def test_qa7_is_in_no_average() -> None:
    with pytest.raises(ValueError, match="qa7 can't be averaged: the metric looks for 'one'"):
        average({"qa1": (5, 10), "qa7": (10, 10)})


# ---- samples -------------------------------------------------------------------------------


def test_a_sample_at_0k_is_all_earlier_statements_and_no_earlier_question(data: Path) -> None:
    source = stories(data)
    assert source.count("qa1", "0k") == 12
    samples = {
        (one.question, one.target): one.document
        for one in (source.sample("qa1", "0k", case) for case in range(12))
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
    sample = stories(data).sample("qa1", length, 3)
    # every sentence is counted with the space before it; the last one is cut at a word
    assert LENGTHS[length] - 300 - 12 <= len(sample.document) <= LENGTHS[length] - 300


def test_facts_keep_their_order_among_book_text(data: Path) -> None:
    source = stories(data)
    told = source.sample("qa1", "0k", 0).document.split(". ")
    texts = [source.sample("qa1", length, 0).document for length in ("1k", "2k", "4k")]
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
    first = stories(data).sample("qa1", "1k", 2)
    assert stories(data).sample("qa1", "1k", 2) == first
    assert stories(data, seed=1).sample("qa1", "1k", 2) != first
    assert stories(data).sample("qa1", "1k", 1) != first


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
    samples = [source.sample("qa1", "0k", case) for case in range(source.count("qa1", "0k"))]
    assert len({sample.source for sample in samples}) == 5
    number = samples[0].source.removeprefix("row ")
    assert samples[0] == Sample(f"row {number}", f"t{number}", f"q{number}", f"a{number}")
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


# ---- rows ----------------------------------------------------------------------------------

SAMPLE = Sample("here", "Ada ran up to the kitchen.", "Where is Ada?", "kitchen")


def test_plain_style_is_text_without_special_tokens() -> None:
    tokenizer = byte_tokenizer()
    style = Plain(tokenizer)
    assert tokenizer.decode(style.document(SAMPLE)) == SAMPLE.document
    assert tokenizer.decode(style.question(SAMPLE)) == "Question: Where is Ada?\nAnswer:"
    together = tokenizer.decode(style.together(SAMPLE))
    assert together == f"{SAMPLE.document}\nQuestion: Where is Ada?\nAnswer:"


def test_chat_style_is_the_turns_of_a_session() -> None:
    tokenizer = byte_tokenizer()
    style = Chat(tokenizer)
    document, question = style.document(SAMPLE), style.question(SAMPLE)
    assert tokenizer.decode(document) == (
        f"<|start|>user\n{SAMPLE.document}<|end|>\n<|start|>assistant\n{ACKNOWLEDGEMENT}<|end|>\n"
    )
    asked = tokenizer.decode(question)
    assert asked.startswith("<|start|>user\n") and asked.endswith("<|start|>assistant\n")
    assert SAMPLE.question in asked and "one word" in asked
    assert style.together(SAMPLE) == document + question


@pytest.mark.parametrize("length", ["0k", "1k"])
@pytest.mark.parametrize("row", ["memformer", "truncated", "full", "nothing"])
def test_answers_do_not_depend_on_the_batch(
    bench: Bench, data: Path, row: str, length: str
) -> None:
    bench.model.backbone.config.max_position_embeddings = 2000
    source = stories(data)
    samples = [source.sample("qa1", length, case) for case in range(6)]
    together = bench.answers(row, samples)
    assert together == [bench.answers(row, [sample])[0] for sample in samples]


def test_memformer_equals_memorize_and_generate(bench: Bench, data: Path) -> None:
    sample = stories(data).sample("qa1", "1k", 0)
    memory = bench.model.init_memory(num_slots=150)
    memory = bench.model.memorize(torch.tensor([bench.style.document(sample)]), memory=memory)
    ids = torch.tensor([bench.style.question(sample)])
    made = bench.model.generate(ids, memory=memory, max_new_tokens=FEW, do_sample=False)
    text = bench.tokenizer.decode(made[0, ids.shape[1] :]).partition("<|")[0].strip()
    assert bench.answers("memformer", [sample]) == [text]


def test_truncated_and_nothing_see_no_more_than_they_say(bench: Bench, data: Path) -> None:
    source = stories(data)
    first = source.sample("qa1", "1k", 0)
    last = first.document[-WINDOW:]
    far = Sample("", "Something else. " * 30 + last, first.question, first.target)
    assert bench.answers("truncated", [first]) == bench.answers("truncated", [far])
    other = Sample("", "Something else.", first.question, first.target)
    assert bench.answers("nothing", [first]) == bench.answers("nothing", [other])


def test_full_refuses_what_is_longer_than_the_window_of_the_model(bench: Bench, data: Path) -> None:
    with pytest.raises(WindowExceeded, match="the window has 512"):
        bench.answers("full", [stories(data).sample("qa1", "1k", 0)])


# ---- the command ---------------------------------------------------------------------------


def run(folder: Path, data: Path, out: Path, *options: str) -> Result:
    given = [str(folder), "--babi", str(data), "--books", str(data / "books"), "--out", str(out)]
    defaults = ["--tasks", "qa1", "--lengths", "0k,1k", "--cases", "3"]
    return CliRunner().invoke(babilong.app, [*given, *defaults, *options])


def cells(out: Path) -> list[dict[str, Any]]:
    """Of the report, without what differs from run to run."""
    found: list[dict[str, Any]] = json.loads(out.with_name(out.name + ".json").read_text())["cells"]
    for cell in found:
        cell.pop("seconds", None)
    return found


def test_the_report_holds_every_cell_and_says_how_it_came_about(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "r.1"
    result = run(folder, data, out, "--tasks", ",".join(HEADLINE), "--threads", "1")
    assert result.exit_code == 0, result.output
    names = ["r.1.cases.jsonl", "r.1.json", "r.1.md", "r.1.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    report = json.loads((tmp_path / "r.1.json").read_text())
    assert report["finished"] and report["settings"]["seed"] == 0
    assert set(report["settings"]["files"]) == {
        *(f"{task}_some-task_test.txt" for task in HEADLINE),
        "rain.txt",
    }
    assert len(report["cells"]) == 5 * 2 * 4
    for cell in report["cells"]:
        if (cell["row"], cell["length"]) == ("full", "1k"):
            assert cell["accuracy"] is None and cell["reason"].startswith("n/a: exceeds window")
        else:
            assert cell["cases"] == len(cell["predictions"]) == 3
            low, high = cell["interval"]
            assert low <= cell["accuracy"] <= high
            assert 0 <= cell["floor"] <= 1 and cell["constant"]
    assert len(report["means"]) == 2 * 4 - 1  # `full` has none at 1k
    assert all(mean["tasks"] == list(HEADLINE) for mean in report["means"])
    page = (tmp_path / "r.1.md").read_text()
    assert page.strip() in result.output
    for expected in ("Mean of qa1-qa5", "| full | ", "| n/a |", "GPT-2", "constant answer"):
        assert expected in page
    assert (tmp_path / "r.1.png").read_bytes().startswith(b"\x89PNG")


def test_qa7_is_left_out_of_the_mean_with_a_reason(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    for name in data.iterdir():
        if name.is_file():
            (tmp_path / name.name.replace("qa3", "qa7")).write_bytes(name.read_bytes())
    options = ("--lengths", "0k", "--rows", "nothing", "--tasks", "qa1,qa7,qa2")
    assert run(folder, tmp_path, tmp_path / "r", *options, "--books", str(data)).exit_code == 0
    report = json.loads((tmp_path / "r.json").read_text())
    assert [mean["tasks"] for mean in report["means"]] == [["qa1", "qa2"]]
    assert "qa7 is in no mean: the metric looks for" in (tmp_path / "r.md").read_text()


def test_it_runs_in_bfloat16_and_says_so(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.dtype] = []
    answers = Bench.answers

    def watched(bench: Bench, row: str, samples: list[Sample]) -> list[str]:
        seen.append(bench.model.dtype)
        return answers(bench, row, samples)

    monkeypatch.setattr(Bench, "answers", watched)
    out = tmp_path / "half"
    result = run(folder, data, out, "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert set(seen) == {torch.bfloat16}
    report = json.loads((tmp_path / "half.json").read_text())
    assert report["settings"]["dtype"] == "bfloat16"
    assert "; bfloat16; memory of" in (tmp_path / "half.md").read_text()
    # a run in float32 does not go on with these cases
    assert run(folder, data, out).exit_code == 2


def test_an_adapter_is_merged_before_anything_is_asked(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    from memformer import MemformerForCausalLM

    model = MemformerForCausalLM.from_pretrained(folder)
    chosen = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    model.backbone = get_peft_model(model.backbone, chosen)
    monkeypatch.setattr(babilong, "open_model", lambda *_: (model.eval(), byte_tokenizer()))
    before = model(torch.tensor([[5, 6, 7]])).logits
    out = tmp_path / "merged"
    assert run(folder, data, out, "--rows", "memformer").exit_code == 0
    assert (
        len(model.backbone.base_model.model.model.layers[0].self_attn.q_proj.merged_adapters) == 1
    )
    torch.testing.assert_close(model(torch.tensor([[5, 6, 7]])).logits, before)


def test_an_interrupted_run_goes_on_and_reports_the_same(
    folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(babilong, "BATCH_CASES", 2)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(folder, data, whole).exit_code == 0
    count = len((tmp_path / "whole.cases.jsonl").read_text().splitlines())
    answers, calls = Bench.answers, iter(range(1000))

    def interrupted(bench: Bench, row: str, samples: list[Sample]) -> list[str]:
        if next(calls) % 5 == 4:
            raise KeyboardInterrupt
        return answers(bench, row, samples)

    monkeypatch.setattr(Bench, "answers", interrupted)
    exits = [run(folder, data, parts).exit_code]
    log = tmp_path / "parts.cases.jsonl"
    # killed in the midst of a line
    log.write_bytes(log.read_bytes()[:-30])
    while exits[-1] != 0 and len(exits) < 20:
        exits.append(run(folder, data, parts).exit_code)
    assert 2 < len(exits) < 20
    assert cells(parts) == cells(whole)
    assert len(log.read_text().splitlines()) == count
    # and once more: nothing is asked again
    monkeypatch.setattr(Bench, "answers", lambda *_: pytest.fail("asked again"))
    assert run(folder, data, parts).exit_code == 0
    assert cells(parts) == cells(whole)


def test_other_settings_are_refused_unless_it_starts_over(
    folder: Path, data: Path, tmp_path: Path
) -> None:
    few = ("--lengths", "0k", "--rows", "nothing")
    assert run(folder, data, tmp_path / "r", *few).exit_code == 0
    other = run(folder, data, tmp_path / "r", *few, "--seed", "4", "--cases", "2")
    assert other.exit_code == 2
    assert "other settings (cases, seed); give --again" in said(other)
    again = run(folder, data, tmp_path / "r", *few, "--seed", "4", "--cases", "2", "--again")
    assert again.exit_code == 0 and cells(tmp_path / "r")[0]["cases"] == 2


@pytest.mark.parametrize("text", ["A diary.\n", "A diary.", "[1, 2]\n"])
def test_a_file_that_is_no_record_is_not_overwritten(tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.cases.jsonl"
    path.write_text(text)
    with pytest.raises(OtherRun, match="is no record of cases"):
        CaseLog(path, {"seed": 0}, again=False)
    assert path.read_text() == text
    assert CaseLog(path, {"seed": 0}, again=True).results == []


def said(result: Result) -> str:
    assert "Traceback" not in result.output
    return " ".join(result.output.replace("│", " ").split())


def wrong(data: Path, nothing: Path) -> Iterator[tuple[str, list[str]]]:
    yield "does not exist", ["--babi", str(nothing / "none")]
    yield "must hold one file qa1_*_test*", ["--babi", str(nothing)]
    yield "takes a folder of .txt or .txt.gz", ["--books", str(nothing)]
    yield "--tasks knows qa1, qa2", ["--tasks", "qa1,qa21"]
    yield "--tasks names something twice", ["--tasks", "qa1,qa1"]
    yield "--lengths knows 0k, 1k", ["--lengths", "0k,3k"]
    yield "--rows knows memformer", ["--rows", "magic"]
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
        result = CliRunner().invoke(babilong.app, [str(folder), *options, *out])
        assert result.exit_code == 2
        assert sentence in said(result)
    assert list(tmp_path.iterdir()) == []
