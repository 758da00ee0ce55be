"""`python -m training.replies`: a model's own replies, in chats that tell facts too."""

from __future__ import annotations

import pytest
import torch
from frames import unframed
from tiny import byte_tokenizer, save_tiny
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from eval.corpora.people import KINDS, NAMES
from memformer.chat import chat_ids
from training import replies
from training.data import records


class Scripted:
    """Stands in for a decoder: says "ok" and ends, or never ends, by what it was asked last."""

    def generate(self, ids, attention_mask, max_new_tokens, **_):
        tokenizer = byte_tokenizer()
        rows = []
        for row, mask in zip(ids, attention_mask, strict=True):
            asked = tokenizer.decode(row[mask.bool()])
            ends = "Hello" in asked
            said = tokenizer(" ok").input_ids + [tokenizer.eos_token_id] if ends else []
            filler = tokenizer("x").input_ids * max_new_tokens
            rows.append([*row.tolist(), *(said + filler)[:max_new_tokens]])
        return torch.tensor(rows)


def test_a_reply_without_an_end_is_no_reply():
    said = replies.replies(Scripted(), byte_tokenizer(), ["Hello!", "Good morning.", "Hello there"])
    assert said == ["ok", None, "ok"]


def test_padding_changes_no_reply(tmp_path):
    save_tiny(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = "B"  # a byte that this random model comes to, so that replies end
    asked = ["Hello!", "Write one sentence about the sea.", "Thank you."]
    together = replies.replies(model, tokenizer, asked)
    assert len(set(together)) == 3 and None not in together
    assert together == [replies.replies(model, tokenizer, [one])[0] for one in asked]


def test_chats_hold_facts_replies_and_questions_about_both():
    said = {request: f"Reply to {request}" for request in replies.requests()[:40]}
    made = list(replies.conversations(said, 20, seed=3))
    assert len(made) == 20
    assert made == list(replies.conversations(said, 20, seed=3))
    assert made != list(replies.conversations(said, 20, seed=4))
    for record in made:
        ordinary, facts = record.questions[:4], record.questions[4:]
        right = said | replies.known()
        assert all(right[one.question] == one.answer and one.alone for one in ordinary)
        assert len({one.question for one in ordinary}) == len(ordinary) == 4
        assert not any(one.alone for one in facts)
        assert len({one.question for one in facts}) == len(facts) == 4
        assert all(one.answer in record.text and one.question not in said for one in facts)
        told = [content for role, content in record.document if role == "user"]
        assert not {one.question for one in ordinary} & set(told)
    text = " ".join(record.text for record in made)
    assert not any(f"{name} " in text for name in NAMES)
    assert not any(kind.statement.replace("{name}", "").strip() in text for kind in KINDS)
    known = [one for record in made for one in record.questions if one.question in replies.known()]
    assert 15 < len(known) < 40  # a third of 80


def test_every_request_is_another_one():
    asked = [*replies.requests(), *replies.known()]
    assert len(set(asked)) == len(asked) > 600
    assert replies.known()["What is the capital of Spain?"] == "The capital of Spain is Madrid."
    assert replies.known()["What do pandas eat?"] == "Most of the time they eat bamboo."
    assert not {"What is the capital of France?", "Who wrote Hamlet?"} & set(asked)  # tests ask
    tokenizer = byte_tokenizer()
    assert chat_ids(tokenizer, [{"role": "user", "content": replies.requests()[0]}]).shape[0] == 1


def test_the_command_writes_records_or_says_why_not(tmp_path, monkeypatch):
    save_tiny(tmp_path)
    monkeypatch.setattr(replies, "ABOUT", ["tea"])
    monkeypatch.setattr(
        replies, "replies", lambda model, tokenizer, asked: [f"Yes, {one}" for one in asked]
    )
    out = tmp_path / "replies.jsonl.gz"
    arguments = [str(out), "--model", str(tmp_path / "base"), "--documents", "3"]
    result = CliRunner().invoke(replies.app, arguments)
    assert result.exit_code == 0, result.output
    assert len(list(records.read(out))) == 3
    monkeypatch.setattr(replies, "replies", lambda model, tokenizer, asked: [None for _ in asked])
    result = CliRunner().invoke(replies.app, [str(tmp_path / "none.jsonl"), *arguments[1:]])
    assert result.exit_code == 2 and "of no use here" in result.output
    assert not (tmp_path / "none.jsonl").exists()
    missing = CliRunner().invoke(replies.app, [str(out), "--model", str(tmp_path / "nowhere")])
    assert missing.exit_code == 2 and "can't be opened" in unframed(missing.output)
    place = CliRunner().invoke(replies.app, [str(tmp_path), "--model", "nowhere/at-all"])
    assert place.exit_code == 2 and "is a folder, and a file" in unframed(place.output)


@pytest.mark.parametrize("form", replies.ASKED)
def test_forms_take_one_thing(form):
    assert form.count("{}") == 1
