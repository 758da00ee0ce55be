"""`python -m training.finder`: what the finder heads match is learned, and nothing else changes."""

from __future__ import annotations

import json
import random

import pytest
import torch
from frames import unframed
from safetensors.torch import load_file
from tiny import byte_tokenizer, open_lively, save_tiny
from typer.testing import CliRunner

from training import finder
from training.data.records import Question, Record, parse, read, write

pytest.importorskip("bm25s")

THINGS = "violin kettle lantern basket umbrella camera ladder trumpet".split()
PLACES = "cellar attic garden harbour kitchen chapel tower stable".split()


def record(number):
    """Four paragraphs, each with a question that shares one word with it."""
    rng = random.Random(number)
    things = rng.sample(THINGS, 4)
    parts = [
        f"The old {one} was kept in the {rng.choice(PLACES)}, out of the rain." for one in things
    ]
    text, questions, begin = "\n\n".join(parts), [], 0
    for thing, part in zip(things, parts, strict=True):
        span = (begin, begin + len(part))
        questions.append(Question(f"Where was the {thing}?", "there", len(text), passage=span))
        begin += len(part) + 2
    questions.append(Question("Who drums?", "I don't know.", len(text)))
    return Record(f"own/{number}", text, tuple(questions))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("finder")
    folder = save_tiny(place)
    open_lively(folder).save_pretrained(place / "lively")
    byte_tokenizer().save_pretrained(place / "lively")
    write(place / "data.jsonl.gz", [record(number) for number in range(6)])
    talk = [{"role": "user", "content": "I play the harp."}] * 2
    asked = {"question": "What do I play?", "answer": "the harp", "passage": [16, 32]}
    talks = [parse({"id": str(n), "document": talk, "questions": [asked]}, "") for n in range(3)]
    write(place / "talk.jsonl.gz", talks)
    write(place / "dev.jsonl.gz", [record(number) for number in range(50, 52)])
    write(place / "none.jsonl.gz", [Record("a", "Nothing is asked here.", ())])
    return place


def run(place, out, *more, data="data.jsonl.gz", checkpoint="lively"):
    files = ["--data", str(place / data), "--dev", str(place / "dev.jsonl.gz")]
    return CliRunner().invoke(
        finder.app, [str(place / checkpoint), str(place / out), *files, "--tokens", "500", *more]
    )


def test_scores_are_those_by_which_passages_are_recalled(place):
    model, tokenizer = open_lively(place / "memory"), byte_tokenizer()
    with torch.no_grad():
        (told,) = finder.memories(model, tokenizer, [record(3)], 9000, finder.Console())
        nothing = torch.tensor(model.memory.finders.question_without_content)
        found = finder.totals(model, told, told.asked, model.memory.ask_as_attached(nothing))
    assert len(told.asked) == 4 and found.shape == (4, len(told.cut.spans))
    memory = finder.begun(model, finder.frame(tokenizer), model.init_memory(num_slots=1024))
    document = finder.tokenised(record(3), tokenizer, "plain")
    memory = model.memorize(torch.tensor([document.ids]), memory=memory, gated=False)
    ids = torch.tensor([finder.text_ids(tokenizer, record(3).questions[0].question)])
    recalled = model.recall(ids, memory, top_k=len(told.cut.spans))[0]
    _, fused, right = finder.both(found, told.asked)
    spans = [told.cut.spans[number] for number in fused[0].argsort(descending=True)]
    assert [(one.start, one.end) for one in recalled] == spans
    # the right paragraph of each question holds its thing
    for one, asked in zip(record(3).questions, told.asked, strict=False):
        begin, end = told.cut.spans[int(asked.right.nonzero()[0])]
        text = tokenizer.decode(memory.told[0, begin:end].tolist())
        assert asked.right.any() and one.question.split()[-1].strip("?") in text


def test_each_conversation_has_a_memory_of_its_own(place):
    model, tokenizer = open_lively(place / "memory"), byte_tokenizer()
    talks = list(read(place / "talk.jsonl.gz"))
    with torch.no_grad():
        told = list(finder.memories(model, tokenizer, talks, 9000, finder.Console()))
    assert [len(one.asked) for one in told] == [1, 1, 1]
    # the newest turn is the right one
    assert all(one.asked[0].right.tolist()[-1] for one in told)


def test_the_loss_falls_and_only_the_match_changes(place):
    more = ["--data", str(place / "talk.jsonl.gz")]
    result = run(place, "out", "--steps", "60", "--rate", "0.01", *more)
    assert result.exit_code == 0, result.output
    curve = json.loads((place / "out/finder.json").read_text())["curve"]
    assert curve[0]["step"] == 0 and curve[-1]["step"] == 60
    assert min(point["loss"] for point in curve[1:]) < curve[0]["loss"]
    assert all(0 <= value <= 1 for name, value in curve[-1].items() if "recall" in name)
    before, after = (load_file(place / name / "model.safetensors") for name in ("lively", "out"))
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {finder.MATCH} and before.keys() == after.keys()
    # learning again begins with what was learned
    again = run(place, "again", "--steps", "1", "--rate", "0", checkpoint="out")
    assert again.exit_code == 0, again.output
    first = json.loads((place / "again/finder.json").read_text())["curve"][0]
    assert first["loss"] == min(point["loss"] for point in curve)


def test_the_same_seed_learns_the_same(place):
    matches = []
    for name in ("one", "other"):
        assert run(place, name, "--steps", "3").exit_code == 0
        matches.append(load_file(place / name / "model.safetensors")[finder.MATCH])
    assert torch.equal(*matches)


def test_mistakes_are_told_before_anything_is_read(place):
    (place / "full").mkdir(exist_ok=True)
    (place / "full/file").write_text("")
    taken = run(place, "full")
    assert taken.exit_code == 2 and "is not empty" in unframed(taken.output)
    none = run(place, "new", data="none.jsonl.gz")
    assert none.exit_code == 2 and "where its answer stands" in unframed(none.output)
    missing = run(place, "new", data="missing.jsonl")
    assert missing.exit_code == 2 and "missing.jsonl" in unframed(missing.output)
    assert not (place / "new").exists()
