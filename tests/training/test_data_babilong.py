"""bAbI training stories in book text: whose stories, which places, and no test story ever."""

from __future__ import annotations

import random
import re
from itertools import islice
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.corpora.stories import BadStory, read_stories
from training.data.babilong import babilong, by_words, check
from training.data.build import app

PROSE = "Nobody in the long street had ever seen the old keeper of the lighthouse smile. " * 40
ROOMS = ("attic", "cellar", "garden", "harbour", "mill")


def stories(count: int, seed: int) -> str:
    """In the released format, two questions each."""
    rng = random.Random(seed)
    lines = []
    for _ in range(count):
        rooms = [rng.choice(ROOMS) for _ in range(6)]
        lines += [f"{at} Ada went to the {room}." for at, room in enumerate(rooms[:3], 1)]
        lines.append(f"4 Where is Ada? \t{rooms[2]}\t3")
        lines += [f"{at} Ben went to the {room}." for at, room in enumerate(rooms[3:], 5)]
        lines.append(f"8 Where is Ben? \t{rooms[5]}\t7")
    return "\n".join(lines) + "\n"


@pytest.fixture
def babi(tmp_path) -> Path:
    folder = tmp_path / "babi"
    folder.mkdir()
    # a fifth of the training stories are test stories too
    shared = stories(20, seed=9)
    (folder / "qa1_rooms_train.txt").write_text(stories(80, seed=1) + shared)
    (folder / "qa1_rooms_test.txt").write_text(shared + stories(10, seed=3))
    books = tmp_path / "books"
    books.mkdir()
    (books / "street.txt").write_text(PROSE)
    return folder


def told(record) -> tuple[str, ...]:
    """The statements of a record's story."""
    return tuple(re.findall(r"(?:Ada|Ben) went to the \w+\.", record.document))


def test_every_question_comes_after_the_statements_before_it_in_the_file(babi):
    for record in islice(babilong(babi, [], ["qa1"]), 20):
        assert [one.question for one in record.questions] == ["Where is Ada?", "Where is Ben?"]
        for question in record.questions:
            before = record.document[: question.after]
            assert before.endswith(f"to the {question.answer}.")
        assert record.questions[1].after == len(record.document)


def test_stories_are_strewn_in_about_as_much_of_the_book_as_asked_for(babi):
    books = [babi.parent / "books" / "street.txt"]
    alone = list(babilong(babi, [], ["qa1"], documents=10))
    for length in (50, 400):
        for plain, one in zip(
            alone, babilong(babi, books, ["qa1"], [length], documents=10), strict=True
        ):
            assert told(one) == told(plain)
            added = by_words(one.document) - by_words(plain.document)
            assert length * 0.8 <= added <= length * 1.1


def test_no_test_story_is_in_it_and_a_build_with_one_fails(babi):
    tests = {one.statements for one in read_stories(babi / "qa1_rooms_test.txt")}
    for validation in (False, True):
        for record in babilong(babi, [], ["qa1"], documents=200, validation=validation):
            assert told(record) not in tests
    story = read_stories(babi / "qa1_rooms_test.txt")[0]
    with pytest.raises(BadStory, match="A test story must not be trained on"):
        check(story, {"\n".join(story.statements).lower()})


def test_validation_stories_are_not_trained_on(babi):
    training, validation = (
        {told(record) for record in babilong(babi, [], ["qa1"], documents=200, validation=part)}
        for part in (False, True)
    )
    assert training and validation and not training & validation


def test_the_command_builds_the_same_file_again(babi, tmp_path):
    outs = [tmp_path / name for name in ("one.jsonl.gz", "two.jsonl.gz")]
    arguments = ["--babi", babi, "--books", tmp_path / "books", "--tasks", "qa1"]
    for out in outs:
        all_ = ["babilong", out, *arguments, "--lengths", "0,60", "--documents", 5]
        result = CliRunner().invoke(app, [str(one) for one in all_])
        assert result.exit_code == 0 and "5 documents with 10 questions" in result.output
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_stories_alone_need_no_books(babi, tmp_path):
    arguments = ["babilong", tmp_path / "out.jsonl", "--babi", babi, "--tasks", "qa1"]
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exit_code == 0, result.output
    more = [*arguments[:1], tmp_path / "more.jsonl", *arguments[2:], "--lengths", "0,60"]
    result = CliRunner().invoke(app, [str(one) for one in more])
    assert result.exit_code == 2 and "--lengths other than 0 need --books" in result.output
    assert not (tmp_path / "more.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (["--tasks", "qa2"], "must hold one file qa2_*_test*"),
        (["--lengths", "4k"], "--lengths takes whole numbers"),
        (["--books", "nowhere"], "holds no .txt"),
    ],
)
def test_bad_options_get_a_sentence(babi, tmp_path, change, sentence):
    arguments = ["--babi", str(babi), "--books", str(tmp_path / "books"), "--tasks", "qa1"]
    result = CliRunner().invoke(
        app, ["babilong", str(tmp_path / "out.jsonl"), *arguments, *change], env={"COLUMNS": "200"}
    )
    assert result.exit_code == 2
    assert sentence in " ".join(result.output.replace("│", " ").split())
    assert not (tmp_path / "out.jsonl").exists()


def test_made_up_stories_need_no_training_file_and_are_others_for_validation(babi):
    (babi / "qa4_maps_test.txt").write_text(stories(3, seed=5))
    arguments = {"tasks": ["qa1", "qa4"], "documents": 10, "anew": ["qa4"]}
    made = list(babilong(babi, [], **arguments))
    assert [record.id for record in made[:2]] == ["qa1/0", "qa4/0"] and len(made) == 20
    assert told(made[0]) and not told(made[1])
    assert made == list(babilong(babi, [], **arguments))
    held_out = {record.document for record in babilong(babi, [], validation=True, **arguments)}
    assert not held_out & {record.document for record in made}


def test_a_task_that_can_not_be_made_up_is_named(babi):
    out = babi / "out.jsonl"
    arguments = ["babilong", str(out), "--babi", str(babi), "--tasks", "qa5", "--anew", "qa5"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and not out.exists()
    assert "Stories of qa5 can't be made up; those of qa1, qa2, qa3, qa4 can." in result.output


def test_a_task_that_is_made_up_and_not_wanted_is_named(babi):
    with pytest.raises(BadStory, match="Stories of qa4 are to be made up, but the tasks are qa1."):
        list(babilong(babi, [], ["qa1"], anew=["qa4"]))
