"""Chats of ten turns: what is told, what counts as an answer, and a report for each way."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval import chats
from eval.corpora.people import KINDS, NAMES, THANKS_FOR_FACTS
from eval.corpora.training_facts import KINDS as DEVELOPMENT_KINDS
from eval.corpora.training_facts import NAMES as DEVELOPMENT_NAMES
from memformer import ChatSession, MemformerForCausalLM
from tests.tiny import byte_tokenizer, save_tiny


def test_a_chat_tells_six_facts_and_asks_about_two_in_between() -> None:
    chat = chats.conversation(random.Random(1), NAMES, KINDS)
    assert len(chat.turns) == chats.TURNS
    told = [fact for turn in chat.turns for fact in chat.told if turn.endswith(fact.sentence)]
    assert told == list(chat.told) and len(told) == chats.TOLD
    # a question stands after the turn that tells its answer
    for place, fact in ((3, chat.told[0]), (6, chat.told[2])):
        assert chat.turns[place] == fact.question
        assert any(turn.endswith(fact.sentence) for turn in chat.turns[:place])
    assert {fact.name for fact in chat.never} < {fact.name for fact in chat.told}
    assert not any(fact.sentence in turn for fact in chat.never for turn in chat.turns)


def test_what_is_chosen_on_is_not_what_is_tested_on() -> None:
    assert not set(NAMES) & set(DEVELOPMENT_NAMES)
    questions = {kind.question for kind in KINDS}
    assert not questions & {kind.question for kind in DEVELOPMENT_KINDS}


@pytest.mark.parametrize(
    ("reply", "is_loop"),
    [
        ("so it goes on " * 3, True),
        ("so it goes on " * 2, False),
        (THANKS_FOR_FACTS, False),
        ("", False),
    ],
)
def test_a_loop_says_four_words_three_times(reply: str, is_loop: bool) -> None:
    assert chats.loops(reply) == is_loop


def test_answers_are_counted_by_what_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "tiny"))
    chat = chats.conversation(random.Random(1), NAMES, KINDS)
    other = next(one for one in chat.told[1].kind.values if one != chat.told[1].value)
    answers = [chat.told[0].value, other, "", "", "", "", "I don't know.", chat.never[1].value]
    monkeypatch.setattr(ChatSession, "say", lambda *_, **__: "As an AI model, I can't say.")
    monkeypatch.setattr(ChatSession, "ask", lambda *_, **__: answers)
    found = chats.measure(ChatSession(model, byte_tokenizer()), chat)
    assert found == {
        "told": 6, "right": 1, "other": 1, "never": 2, "refused": 1,
        "replies": 10, "loops": 0, "itself": 10,
    }  # fmt: skip


def test_the_old_way_remembers_the_reply_and_the_new_one_does_not(tmp_path: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "tiny"))
    for way, is_kept in ((chats.Whole, True), (ChatSession, False)):
        session = way(model, byte_tokenizer(), max_new_tokens=5)
        reply = session.say("Hello.")
        assert reply
        (turn,) = session.turns()
        assert turn["text"] == "Hello." and (turn["reply"] == reply) == is_kept


def test_each_way_is_a_row_of_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chats, "REPLY_TOKENS", 2)
    monkeypatch.setattr(chats, "ANSWER_TOKENS", 2)
    model, out = str(save_tiny(tmp_path / "tiny")), tmp_path / "chats"
    options = ["--conversations", "1", "--reply-limits", "1,0", "--out", str(out)]
    result = CliRunner().invoke(chats.app, [model, *options])
    assert result.exit_code == 0, result.output
    ways = json.loads(out.with_suffix(".json").read_text())["ways"]
    assert list(ways) == [
        "everything", "no system message, replies 1", "no system message, replies 0"
    ]  # fmt: skip
    assert all(row["told"] == 6 and row["never"] == 2 for row in ways.values())
    assert all(name in out.with_suffix(".md").read_text() for name in ways)
    wrong = CliRunner().invoke(chats.app, [model, "--reply-limits", "much"])
    assert wrong.exit_code == 2 and "is no list of numbers" in wrong.output
