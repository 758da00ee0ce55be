"""`python -m training.gate`: the write gate learns what is read, and keeps its budget."""

from __future__ import annotations

import dataclasses
import json
import random

import pytest
import torch
from frames import unframed
from tiny import byte_tokenizer, save_tiny
from typer.testing import CliRunner

from eval.corpora import people
from eval.corpora.book import BOOK
from eval.corpora.haystack import Haystack
from eval.corpora.people import make_documents
from eval.corpora.stories import Background
from eval.corpora.training_facts import KINDS, NAMES
from eval.harness.asking import Asker
from eval.harness.interview import Interview
from memformer import MemformerForCausalLM, MemoryConfig
from training import gate as gate_command
from training.data.records import parse, write
from training.heads import command, gate
from training.heads.gate import Example, fit, observe, shares, strew
from training.heads.kinds import MORE_KINDS


def examples(count: int, seed: int = 0) -> list[Example]:
    """Ten tokens that are read, then ninety that are not; one direction of the input tells them."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        inputs = torch.randn(100, 6, generator=generator)
        told = torch.arange(100) < 10
        inputs[told, 2] += 4.0
        # only some of the tokens that matter are read themselves
        read = torch.where(told & (torch.arange(100) % 3 == 0), 2.0, 0.01)
        made.append(Example(inputs, read, told, ~told, 8))
    return made


@pytest.mark.parametrize("budget", [0.02, 0.1])
def test_a_fitted_gate_keeps_its_budget_and_writes_what_is_read(budget):
    found = fit([examples(20)], budget)
    kept = shares(found, examples(20, seed=1))
    assert abs(kept["book"] - budget) < 0.02
    assert kept["facts"] > 0.8 and kept["read"] > 0.8
    (example,) = examples(1, seed=1)
    logits = gate.around(example.inputs, 8) @ found.weight + found.bias
    assert 3 < logits[example.told].median() < 5
    with pytest.raises(ValueError, match="read nothing from memory"):
        fit([[dataclasses.replace(example, read=0 * example.read)]], budget)


def test_a_source_counts_as_much_as_another_however_long_it_is():
    """Its facts point another way than those of one with two hundred times its tokens."""
    rare = [
        dataclasses.replace(example, inputs=example.inputs.roll(1, 1))
        for example in examples(2, seed=2)
    ]
    many = examples(400)
    alike, as_one = fit([many, rare], 0.1), fit([[*many, *rare]], 0.1)
    unseen = [
        dataclasses.replace(example, inputs=example.inputs.roll(1, 1))
        for example in examples(20, seed=3)
    ]
    assert shares(alike, unseen)["facts"] > 0.9 > 0.5 > shares(as_one, unseen)["facts"]
    assert shares(alike, examples(20, seed=4))["facts"] > 0.8


def test_no_kind_of_fact_is_trained_with_that_recall_is_measured_with():
    measured = {kind.statement for kind in people.KINDS}
    trained = [kind.statement for kind in (*KINDS, *MORE_KINDS)]
    assert not measured & set(trained)
    assert len(set(trained)) == len(trained)
    assert not set(people.NAMES) & set(NAMES)
    assert command.BOOK.read_text() not in BOOK.read_text()


def test_a_gate_is_fitted_with_the_reach_of_its_model(folder):
    model = MemformerForCausalLM.from_pretrained(folder / "wide").eval().with_memory(gate_reach=1)
    tokenizer = byte_tokenizer()
    bench = Interview(model, tokenizer, Haystack(tokenizer))
    (document,) = make_documents(6, 6, 1, NAMES, KINDS)
    assert observe(bench, document).reach == 1
    alone = torch.tensor([0.0, 0.0, 3.0, 0.0, 0.0])
    assert gate.around(alone, 1).tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
    assert gate.around(alone, 0).equal(alone)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny(path)
    settings = MemoryConfig(segment_tokens=900, memory_layers=(1, 2))
    model = MemformerForCausalLM.from_pretrained(path / "base", memory_config=settings)
    model.save_pretrained(path / "wide")
    byte_tokenizer().save_pretrained(path / "wide")
    return path


def test_an_example_has_what_each_token_was_and_how_much_it_was_read(folder):
    model = MemformerForCausalLM.from_pretrained(folder / "wide").eval()
    tokenizer = byte_tokenizer()
    bench = Interview(model, tokenizer, Haystack(tokenizer))
    (document,) = make_documents(6, 6, 1, NAMES, KINDS)
    example = observe(bench, document)
    assert len(example.inputs) == len(example.read) == len(example.told) == 900
    assert example.told.sum() == len(bench.chat.facts(document))
    assert example.told[: example.told.sum()].all()
    assert (example.read >= 0).all()
    assert example.read.sum() > 0
    model.memory_config = dataclasses.replace(model.memory_config, segment_tokens=64)
    with pytest.raises(ValueError, match="a segment has 64; attach with a larger segment_tokens"):
        observe(bench, document)


def test_the_command_changes_the_gate_alone_and_saves_a_checkpoint(folder, tmp_path):
    out = tmp_path / "gated"
    arguments = [str(out), "--model", str(folder / "wide"), "--documents", "5", "--budget", "0.1"]
    result = CliRunner().invoke(gate_command.app, arguments)
    assert result.exit_code == 0, result.output
    before = MemformerForCausalLM.from_pretrained(folder / "wide").memory.state_dict()
    model = MemformerForCausalLM.from_pretrained(out)
    changed = {
        name for name, value in model.memory.state_dict().items() if not value.equal(before[name])
    }
    assert changed == {"table.write_gate_weight", "table.write_gate_bias"}
    report = json.loads((out / "gate.json").read_text())
    assert report["settings"]["budget"] == 0.1
    assert abs(report["trained_on"]["people"]["book"] - 0.1) < 0.01
    text = torch.randint(3, 200, (1, 1800))
    assert 0 < model.memorize(text).occupied.sum() < 1800
    again = CliRunner().invoke(gate_command.app, arguments)
    assert again.exit_code == 2
    said = unframed(again.output)
    assert "is not empty; name a new folder." in said


def test_training_data_teaches_the_gate_too(folder, tmp_path):
    model = MemformerForCausalLM.from_pretrained(folder / "wide").eval()
    tokenizer = byte_tokenizer()
    text = "Ada left for Porto. It was a long way. Bert stayed at home."
    questions = [{"question": "Who is at home?", "answer": "Bert"}]
    story = parse({"document": text, "questions": questions}, "here")
    said = {"document": [{"role": "user", "content": text}], "questions": questions}
    bench = Asker(model, tokenizer)
    book = Background([command.BOOK], len)
    example = strew(bench, story, book, random.Random(1))
    # one byte is one token here: the sentences of the story, and nothing else, are marked
    assert len(example.inputs) == len(example.told) > 450
    assert int(example.told.sum()) == len(text) - 2
    near = torch.nn.functional.max_pool1d(example.told[None].float(), 17, 1, 8)[0] > 0
    assert torch.equal(example.plain, ~near)
    assert (example.read[example.told] == gate.MOST_READ).all()
    talk = strew(bench, parse(said, "here"), book, random.Random(1))
    assert talk.told.all() and not talk.plain.any() and len(talk.told) > len(text)

    file, out = tmp_path / "data.jsonl", tmp_path / "gated"
    write(file, [story, parse(said, "here")] * 4)
    arguments = ["--model", str(folder / "wide"), "--documents", "5", "--data", str(file)]
    result = CliRunner().invoke(gate_command.app, [str(out), *arguments])
    assert result.exit_code == 0, result.output
    report = json.loads((out / "gate.json").read_text())
    assert report["settings"]["data"] == ["data.jsonl"]
    assert report["held_out"].keys() == report["trained_on"].keys() == {"people", "data.jsonl"}
    assert report["held_out"]["data.jsonl"].keys() == {"facts", "book", "read"}
    write(file, [story])
    result = CliRunner().invoke(gate_command.app, [str(tmp_path / "other"), *arguments])
    assert result.exit_code == 2 and "has 1 records" in unframed(result.output)
    file.write_text('{"document": "Ada"')
    result = CliRunner().invoke(gate_command.app, [str(tmp_path / "other"), *arguments])
    assert result.exit_code == 2 and "data.jsonl, line 1" in unframed(result.output)
    assert not (tmp_path / "other").exists()


def test_a_mistake_in_the_data_is_told_before_the_model_is_looked_for(tmp_path):
    data = tmp_path / "none.jsonl"
    arguments = [str(tmp_path / "new"), "--model", "nowhere/at-all", "--data", str(data)]
    result = CliRunner().invoke(gate_command.app, arguments)
    assert result.exit_code == 2
    assert "none.jsonl can't be read" in unframed(result.output)
