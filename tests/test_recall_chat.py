"""Recall and why in conversations, and `memformer recall`."""

from __future__ import annotations

import json

import pytest
from tiny import save_tiny

from memformer import ChatSession, MemformerForCausalLM, MemoryStore, Passage

FACTS = [
    "The cellar of the old mill is full of apples.",
    "My cousin Edda plays the cello in Bremen.",
    "We painted the gate green last summer.",
]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("recall"))


def opened(place, store=None, user=None, **switches):
    from transformers import AutoTokenizer

    model = MemformerForCausalLM.from_pretrained(place)
    if switches:
        model = model.with_memory(**switches)
    tokenizer = AutoTokenizer.from_pretrained(place.parent / "base")
    return ChatSession(model, tokenizer, store=store, user=user, max_new_tokens=4)


@pytest.mark.parametrize("working_set", [24, 4096])
def test_what_was_told_is_recalled_by_its_words_and_says_why(place, working_set):
    pytest.importorskip("bm25s")
    session = opened(place, working_set=working_set)
    for fact in FACTS:
        session.remember(fact)
    found = session.recall("My cousin Edda plays the cello", top_k=2)
    assert 1 <= len(found) <= 2 and isinstance(found[0], Passage)
    assert "cello" in found[0].text and "<|" not in found[0].text
    assert found[0].turn == 2
    before = session.memory
    with pytest.raises(ValueError, match="no reply yet"):
        session.why()
    session.say("Where does my cousin Edda play the cello?")
    why = session.why()
    assert "cello" in why[0].text
    # reasons are of the memory before the question
    assert max(one.turn for one in why) < int(session.memory.num_turns[0]) - 1
    assert session.memory is not before
    session.ask("What did we paint green?", "What is in the cellar of the old mill?")
    assert "apples" in session.why()[0].text


def test_what_was_told_right_before_and_after_has_its_words_until_it_is_forgotten(place):
    pytest.importorskip("bm25s")
    session = opened(place, working_set=24)
    for fact in FACTS:
        session.remember(fact)
    (found,) = session.recall("My cousin Edda plays the cello", top_k=1)
    assert found.before.text.endswith(FACTS[0][-9:]) and found.after.text.startswith(FACTS[2][:9])
    assert (found.before.turn, found.after.turn) == (1, 3)
    (first,) = session.recall("The cellar of the old mill", top_k=1)
    assert first.before is None  # nothing but the token that every text begins with
    assert "cello" in first.after.text
    session.say("Where does my cousin Edda play the cello?")
    session.forget(3)
    found = session.why()[0]
    assert "cello" in found.text and "mill" in found.before.text and found.after is None


def test_forgotten_turns_are_not_recalled(place):
    pytest.importorskip("bm25s")
    session = opened(place, working_set=24)
    for fact in FACTS:
        session.remember(fact)
    session.forget(2)
    assert all("cello" not in one.text for one in session.recall("Edda plays the cello"))


def test_why_does_not_show_what_was_forgotten_since(place, tmp_path):
    pytest.importorskip("bm25s")
    store = MemoryStore(tmp_path)
    session, other = opened(place, store, "ida"), opened(place, store, "ida")
    for fact in FACTS:
        session.remember(fact)
    session.say("Where does my cousin Edda play the cello?")
    assert any("cello" in one.text for one in session.why())
    other.forget(2)
    assert session.why() and all("cello" not in one.text for one in session.why())


def test_mistakes_are_answered_in_one_sentence(place):
    session = opened(place)
    assert session.recall("anything at all") == []
    with pytest.raises(ValueError, match="the text is empty"):
        session.recall("  ")
    with pytest.raises(ValueError, match="top_k must be a whole number"):
        session.recall("words", top_k=0)


def test_the_command_shows_passages(place, tmp_path, monkeypatch):
    pytest.importorskip("bm25s")
    from typer.testing import CliRunner

    from memformer.cli import main  # noqa: F401 - all commands are known to the app
    from memformer.cli.application import app

    monkeypatch.setenv("MEMFORMER_STORE", str(tmp_path))
    session = opened(place, MemoryStore(), "alice")
    for fact in FACTS:
        session.remember(fact)
    options = [
        "recall",
        "--user",
        "alice",
        "--model",
        str(place),
        "--backbone",
        str(place.parent / "base"),
    ]
    shown = CliRunner().invoke(app, [*options, "Edda plays the cello", "--json"])
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)["passages"]
    assert "cello" in found[0]["text"]
    assert "apples" in found[0]["before"]["text"] and "gate" in found[0]["after"]["text"]
    table = CliRunner().invoke(app, [*options, "Edda plays the cello", "--top-k", "1"])
    assert "cello" in table.stdout and "apples" not in table.stdout
    around = CliRunner().invoke(app, [*options, "Edda plays the cello", "--top-k", "1", "--around"])
    told = [around.stdout.index(word) for word in ("apples", "cello", "gate")]
    assert told == sorted(told)
