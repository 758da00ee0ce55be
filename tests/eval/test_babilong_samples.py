"""BABILong's samples: made of stories and books, or read from the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from eval.babilong.samples import LENGTHS, FromHub, FromStories, NoSamples
from eval.corpora.stories import Background
from tests.eval.babi import save_data


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_data(tmp_path_factory.mktemp("data"))


def stories(data: Path, cases: int = 100, seed: int = 0) -> FromStories:
    """Samples counted in characters."""
    found = FromStories(data, ["qa1", "qa2"], cases, seed, len)
    found.background = Background(sorted((data / "books").iterdir()), len)
    return found


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
    source = FromStories(tmp_path, ["qa3"], 10, 0, len)
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
