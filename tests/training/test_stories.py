"""bAbI in its released format, and one machine trained on all of it."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
from frames import unframed
from typer.testing import CliRunner

from eval.corpora.stories import BadStory
from training import babi as command
from training.machines import babi
from training.machines.settings import BabiConfig
from training.machines.stories import (
    ANSWER,
    NUM_TASKS,
    SILENT,
    THINK,
    Vocabulary,
    batches,
    read_stories,
    read_tasks,
)
from training.setup.config import read_config

# the format of the release, in sentences of our own
TEXT = """\
1 Ada went to the cellar.
2 Ben walked to the attic.
3 Where is Ada? \tcellar\t1
4 Ada took the lantern.
5 What does Ada hold?\tlantern\t4
1 The barn is east of the well.
2 The well is north of the gate.
3 How do you go from the gate to the barn?\tn,e\t2 1
"""


def write_folder(folder, packed=True):
    for task in range(1, NUM_TASKS + 1):
        for part in ("train", "test"):
            name = folder / f"qa{task}_some-task_{part}.txt"
            if packed:
                name.with_suffix(".txt.gz").write_bytes(gzip.compress((TEXT * 12).encode()))
            else:
                name.write_text(TEXT * 12)
    return folder


def test_a_story_is_sentences_and_answers_word_by_word(tmp_path):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(TEXT)
    first, second = read_stories(path, think=2)
    assert first.sentences[2:6] == [["where", "is", "ada", "?"], [THINK], [THINK], [ANSWER]]
    assert first.answers == [None] * 5 + ["cellar"] + [None] * 4 + ["lantern"]
    assert second.answers[-2:] == ["n", "e"] and second.sentences[-2:] == [[ANSWER], [ANSWER]]
    vocabulary = Vocabulary([first, second])
    words, targets = vocabulary.encode([first, second])
    assert words.shape[:2] == targets.shape == (2, 11)
    assert [vocabulary.words[n] for n in words[1, 0].tolist()][:4] == "the barn is east".split()
    asked = targets[targets != SILENT].tolist()
    assert [vocabulary.words[number] for number in asked] == ["cellar", "lantern", "n", "e"]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("2 Ada left.\n", "line 1: expected a number and a sentence"),
        ("1 Ada left.\nBen left.\n", "line 2: expected a number and a sentence"),
        ("1 Where?\t\t1\n", "line 1: expected a number and a sentence"),
        ("", "holds no story with a question"),
        ("1 Ada left.\n", "holds no story with a question"),
    ],
)
def test_what_is_no_story_gets_a_sentence(tmp_path, text, sentence):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(text)
    with pytest.raises(BadStory, match=sentence):
        read_stories(path, 1)
    with pytest.raises(BadStory, match="can't be read"):
        read_stories(tmp_path / "nothing.txt", 1)
    packed = tmp_path / "broken.txt.gz"
    packed.write_bytes(b"no gzip")
    with pytest.raises(BadStory, match="can't be read"):
        read_stories(packed, 1)
    with pytest.raises(BadStory, match="no training story has the word"):
        path.write_text(TEXT)
        stories = read_stories(path, 1)
        Vocabulary(stories[:1]).encode(stories[1:])
    longer = stories[0]._replace(sentences=[["ada"] * 9, *stories[0].sentences[1:]])
    with pytest.raises(BadStory, match="a sentence has 9 words, and no training story over 5"):
        Vocabulary(stories[:1]).encode([longer])


@pytest.mark.parametrize("packed", [True, False])
def test_twenty_tasks_are_found_by_name(tmp_path, packed):
    assert [len(task) for task in read_tasks(write_folder(tmp_path, packed), "test", 1)] == [
        24
    ] * NUM_TASKS
    (tmp_path / "qa7_again_test.txt").write_text(TEXT)
    with pytest.raises(BadStory, match=r"one file qa7_\*_test.*it holds 2"):
        read_tasks(tmp_path, "test", 1)


def test_batches_hold_every_story_once_with_others_of_its_length(tmp_path):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(TEXT * 8)
    stories = read_stories(path, 1)
    drawn = batches(stories, 4, torch.Generator().manual_seed(0))
    assert sorted(sum(drawn, [])) == list(range(16))
    lengths = [{len(stories[row].answers) for row in rows} for rows in drawn]
    assert all(len(one) == 1 for one in lengths)


def test_an_answer_is_right_if_all_its_words_are(tmp_path, monkeypatch):
    path = tmp_path / "qa1_x_train.txt"
    path.write_text(TEXT)
    stories = read_stories(path, 1)
    vocabulary = Vocabulary(stories)

    class Says:
        """Answers n to every question, and e to the next word of it."""

        def __call__(self, words):
            told = torch.zeros(*words.shape[:2], len(vocabulary))
            told[:, :, vocabulary.numbers["n"]] = 1.0
            second = vocabulary.encode(stories).targets == vocabulary.numbers["e"]
            told[second[: len(words), : words.shape[1]]] = torch.nn.functional.one_hot(
                torch.tensor(vocabulary.numbers[self.word]), len(vocabulary)
            ).float()
            return told

    together = lambda stories, size, generator: [list(range(len(stories)))]  # noqa: E731
    monkeypatch.setattr(babi, "batches", together)
    reader = Says()
    for reader.word, error in (("e", 2 / 3), ("n", 1.0)):
        assert babi.task_error(reader, vocabulary, stories, 2) == pytest.approx(error)


def test_the_config_can_be_read_and_says_how_to_run_it():
    path = Path(__file__).parents[2] / "configs" / "classic" / "babi_dnc.yaml"
    config = read_config(BabiConfig, path, ["data=en-10k"])
    assert babi.Reader(30, 9, config.words, config.machine).machine.slots
    assert config.out == "reports/classic/babi_dnc"
    assert f"python -m training.babi configs/classic/{path.name} data=" in path.read_text()


def run(*arguments):
    return CliRunner().invoke(command.app, [str(argument) for argument in arguments])


def test_the_command_trains_and_reports_every_task(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "machine: {name: dnc, options: {slots: 6, width: 8, hidden: 24, links: false}}\n"
        "words: 16\ntrain: {batches: 120, batch_size: 8, lr: 0.01, report_every: 60}\n"
        f"data: {write_folder(tmp_path)}\nout: {tmp_path / 'out' / 'babi'}\n"
    )
    result = run(config)
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "babi.json").read_text())
    assert len(report["errors"]) == NUM_TASKS and [at for at, _, _ in report["curve"]] == [60, 120]
    # all tasks are the same three questions here, and a machine can learn them by heart
    assert report["mean_error"] < 0.4 and report["curve"][0][1] > report["curve"][1][1]
    assert report["failed"] == sum(error > 0.05 for error in report["errors"])
    assert (tmp_path / "out" / "babi.png").stat().st_size > 5000
    assert "mean" in result.output


def test_bad_folders_and_configs_get_a_sentence(tmp_path):
    config = tmp_path / "tiny.yaml"
    config.write_text("machine: {name: dnc}\ntrain: {batches: 1}\nout: x\n")
    assert "lacks data" in run(config).output
    result = run(config, f"data={tmp_path}")
    assert result.exit_code == 2
    assert "must hold one file qa1_*_train" in unframed(result.output)
    result = run(config, f"data={write_folder(tmp_path)}", "train.batch_size=900")
    assert result.exit_code == 2 and "must be between 1 and the 440 stories" in result.output
    result = run(config, f"data={tmp_path}", "machine.name=dmc")
    assert result.exit_code == 2 and "it must be one of dnc" in result.output
