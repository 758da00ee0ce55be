"""Training of the erase head and of the read modes, each alone."""

from __future__ import annotations

import json
import random

import pytest
import torch
from tiny import byte_tokenizer, save_tiny
from typer.testing import CliRunner

from eval.corpora import people
from eval.corpora.haystack import Haystack
from eval.corpora.people import Chat, Fact
from eval.corpora.training_facts import KINDS, NAMES
from memformer import MemformerForCausalLM
from memformer.attach.heads import ReleaseHeads
from memformer.memory.chunk import Rules
from training import links as links_command
from training import overwrite as overwrite_command
from training.heads import links, overwrite
from training.heads.inputs import lowest_inputs
from training.heads.kinds import MANY_KINDS, MORE_KINDS, MORE_NAMES
from training.heads.overwrite import Example, kept, observe, same, shares, told

HIDDEN = 48
RULES = Rules(passage_tokens=64, gate_reach=8, address_reach=6, least_age=16, focus=8.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save_tiny(path)
    return path


def example(draws: random.Random, generator: torch.Generator) -> Example:
    """Facts of three tokens each: a person, a kind, a value that has seen both."""

    def text(facts):
        rows = []
        for person, kind in facts:
            for part in ((person,), (kind,), (person, kind)):
                row = 0.3 * torch.randn(HIDDEN, generator=generator)
                row[list(part)] += 4.0
                row[-1] += 4.0 * (len(part) == 2)
                rows.append(row)
        return torch.stack(rows)

    facts = [(person, 12 + kind) for person in draws.sample(range(12), 3) for kind in (0, 1)]
    filler = [(30, 31)] * 6  # what lies between
    changed = draws.sample(facts, 2)
    later = [*changed, (facts[0][0], 14 + draws.randrange(8))]
    at = [(fact, place % 3 == 2) for fact in later for place in range(3)]
    before = [(fact, place % 3 == 2) for fact in facts + filler for place in range(3)]
    pairs = torch.tensor([[one == other and one[1] for other in before] for one in at])
    return Example(
        text(facts + filler), text(later), torch.tensor([value for _, value in at]), pairs, RULES
    )


def test_a_trained_head_lets_go_of_what_is_replaced_and_of_little_else():
    draws, generator = random.Random(0), torch.Generator().manual_seed(0)
    examples = [example(draws, generator) for _ in range(150)]
    heads = ReleaseHeads(HIDDEN, ("erase",), RULES.address_reach)
    before = shares(heads, examples)
    assert before == {"replaced": 0.0, "others": 0.0}
    overwrite.train(heads, examples[:120], seed=0)
    after = shares(heads, examples[120:])
    assert after["replaced"] > 0.8
    assert after["others"] < 0.05
    left = kept(heads, examples[120])
    assert ((left >= 0) & (left <= 1)).all()


def test_a_turn_knows_which_tokens_are_values():
    chat = Chat(byte_tokenizer())
    facts = [Fact("Ada", KINDS[0], "Oslo"), Fact("Ben", KINDS[2], "red")]
    ids, values = told(chat, facts, ["", "Now "])
    assert len(ids) == len(values)
    shown = chat.tokenizer.decode(ids)
    assert "Ada lives in Oslo. Now the favorite color of Ben is red." in shown
    parts = [[i for i, v in zip(ids, values, strict=True) if v == n] for n in (0, 1)]
    assert [chat.tokenizer.decode(part) for part in parts] == [" Oslo.", " red."]
    assert ids == chat.told(chat.encode(shown[shown.index("Ada") : shown.index("red.") + 4]))


def test_examples_mark_the_values_that_later_text_replaces(folder):
    model = MemformerForCausalLM.from_pretrained(folder / "memory").eval()
    chat = Chat(byte_tokenizer())
    haystack = Haystack(chat.tokenizer)
    update, question, page = observe(model, chat, haystack, NAMES, list(KINDS), "1")
    assert update.older.shape == question.older.shape == page.older.shape
    assert update.pairs.shape == (len(update.later), len(update.older))
    assert update.replaced.any() and not question.replaced.any() and not page.replaced.any()
    assert update.tells.any() and not question.tells.any() and not page.tells.any()
    # every value that is replaced was told, and three of six are
    assert update.pairs.any(1).sum() < update.tells.sum()
    assert same(Fact("Ada", KINDS[0], "Oslo"), Fact("Ada", KINDS[0], "Lima"))
    assert not same(Fact("Ada", KINDS[0], "Oslo"), Fact("Ben", KINDS[0], "Oslo"))


def test_what_the_lowest_layer_sees_does_not_depend_on_the_memory(folder):
    model = MemformerForCausalLM.from_pretrained(folder / "memory").eval()
    seen = lowest_inputs(model, [5, 6, 7])
    assert seen.shape == (3, 24)
    torch.testing.assert_close(lowest_inputs(model, [5, 6, 7, 8])[:3], seen)


def test_parts_are_added_without_touching_what_is_there(folder):
    model = MemformerForCausalLM.from_pretrained(folder / "memory").eval()
    weights = {name: weight.clone() for name, weight in model.memory.state_dict().items()}
    kernel = model.backbone.config._attn_implementation
    more = model.with_memory(erase=True, links=True)
    assert more.backbone.config._attn_implementation == kernel
    assert not more.training
    found = more.memory.state_dict()
    assert set(found) > set(weights)
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())
    assert set(more.with_memory(erase=False, links=False).memory.state_dict()) == set(weights)


def test_no_name_kind_or_wording_is_trained_with_that_is_measured_with():
    trained = [kind.statement for kind in (*KINDS, *MORE_KINDS, *MANY_KINDS)]
    assert len(set(trained)) == len(trained)
    assert not {kind.statement for kind in people.KINDS} & set(trained)
    assert not set(people.NAMES) & {*NAMES, *MORE_NAMES}
    assert len({*NAMES, *MORE_NAMES}) == len(NAMES) + len(MORE_NAMES)
    assert not any("went" in first for first, *_ in links.WORDINGS)


@pytest.mark.parametrize(
    ("command", "module", "switch", "report"),
    [
        (overwrite_command, overwrite, "erase", "overwrite.json"),
        (links_command, links, "links", "links.json"),
    ],
)
def test_the_commands_make_a_checkpoint_with_the_part(
    command, module, switch, report, folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(module, "STEPS", 2)
    few = ["--documents", "5"] if module is overwrite else ["--held-out", "1"]
    arguments = [str(tmp_path / "out"), "--model", str(folder / "memory"), *few]
    result = CliRunner().invoke(command.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((tmp_path / "out" / report).read_text())
    assert found["settings"]["seed"] and found["seconds"] >= 0
    model = MemformerForCausalLM.from_pretrained(tmp_path / "out")
    assert getattr(model.memory_config, switch)
    before = MemformerForCausalLM.from_pretrained(folder / "memory")
    for name, weight in before.memory.state_dict().items():
        assert torch.equal(model.memory.state_dict()[name], weight), name
    if module is links:
        modes = torch.stack([layer.read_modes for layer in model.memory_layers])
        assert (modes != torch.tensor([0.0, 4.0, 0.0])).any()
    again = CliRunner().invoke(command.app, arguments)
    said = " ".join(again.output.replace("│", " ").split())
    assert again.exit_code == 2 and "is not empty; name a new folder." in said


def test_parts_can_be_switched_on_beside_one_another(tmp_path):
    """What one head has learned stays its own when the other is added."""
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path))
    freeing = model.with_memory(free=True)
    torch.nn.init.normal_(freeing.memory.table.release.head("free").gate_weight)
    learned = freeing.memory.table.release.head("free").gate_weight.clone()
    both = freeing.with_memory(erase=True, links=True)
    release = both.memory.table.release
    assert set(release.heads) == {"erase", "free"}
    assert torch.equal(release.head("free").gate_weight, learned)
    assert not release.head("erase").gate_weight.any()
    erasing = both.with_memory(free=False, write_budget=0.5)
    assert set(erasing.memory.table.release.heads) == {"erase"}
    assert erasing.memory_config.write_budget == 0.5
