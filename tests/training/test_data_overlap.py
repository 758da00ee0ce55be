"""What is measured is found again in training data, and nothing else is."""

from __future__ import annotations

import gzip
import json

import pytest

from eval.corpora.jsonl import BadRecord
from eval.corpora.people import KINDS, NAMES
from training.data.overlap import Measured, files, normal

TEXT = " ".join(f"word{number}" for number in range(400))


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = (value if isinstance(value, str) else json.dumps(value)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def test_a_text_that_shares_more_than_two_percent_is_found(tmp_path):
    row = {"doc_id": "1", "paragraphs": [{"context": TEXT, "qas": [{"question": "Who Won?"}]}]}
    known = Measured.of([save(tmp_path / "set.jsonl.gz", row)])
    assert known.share(TEXT.upper().replace(" ", ", ")) == 1.0
    other = " ".join(f"other{number}" for number in range(489))
    some = " ".join(TEXT.split()[:20])
    # 9 of 498 sequences are measured, then 10 of 499
    assert known.share(f"{other} {some}") == pytest.approx(9 / 498)
    assert known.reason(f"{other} {some}", ["Who lost?"]) is None
    assert known.reason(f"{other} {' '.join(TEXT.split()[:21])}", []) == "text"
    assert known.share("too short") == 0.0


def test_a_measured_question_is_found_without_its_options(tmp_path):
    row = {"qa": [{"question": "Who won, then?\n(A) Ada\n(B) Ben"}, {"query": "Sum it up."}]}
    known = Measured.of([save(tmp_path / "set.json", [row])])
    for question in ("who won then", "Who won, then?", "Sum it up!"):
        assert known.reason("", ["Why?", question]) == "question"
    assert known.reason("", ["Who won?"]) is None
    # the questions of eval.recall and eval.dialogue, which no file holds
    assert known.reason("", [KINDS[0].question.format(name=NAMES[3])]) == "question"
    assert normal("What came? (A) Oil (B) Mud") == "what came"


def test_of_a_folder_of_sets_only_those_that_measure_are_taken(tmp_path):
    inside = [
        save(tmp_path / "sets" / name, "[]")
        for name in ("squad/a.jsonl.gz", "leval_x/eval.jsonl", "babi/en/qa1_test.txt.gz")
    ]
    for name in ("squadshifts/a.jsonl", "babi/en/qa1_train.txt", "squad/README.md"):
        save(tmp_path / "sets" / name, "[]")
    assert files(tmp_path / "sets") == sorted(inside)
    assert files(tmp_path / "sets" / "squadshifts") == [tmp_path / "sets/squadshifts/a.jsonl"]
    (tmp_path / "none").mkdir()
    with pytest.raises(BadRecord, match="holds no .jsonl, .json, .txt file"):
        files(tmp_path / "none")
    with pytest.raises(BadRecord, match=r"set.json can't be read"):
        Measured.of([save(tmp_path / "set.json", "{")])
