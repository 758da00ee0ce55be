"""ChatSession: turns are linked by the memory alone, and each is one locked step of the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from memformer import ChatSession, MemformerForCausalLM, MemoryStore
from memformer.chat import ACKNOWLEDGEMENT, PLAIN_STOP, chat_ids
from memformer.store import MemoryBusy
from tests.tiny import byte_tokenizer, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MemformerForCausalLM:
    return MemformerForCausalLM.from_pretrained(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "store")


def remembered(session: ChatSession) -> str:
    return "".join(row["text"] for row in session.inspect())


def test_a_turn_is_templated_answered_and_remembered_whole(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=5)
    reply = session.say("My name is Ines.")
    ids = session.memory.token[session.memory.occupied].tolist()
    prompt = chat_ids(tokenizer, [{"role": "user", "content": "My name is Ines."}], reply="")[0]
    assert ids[: len(prompt)] == prompt.tolist()
    said = ids[len(prompt) :]
    assert 1 <= len(said) <= 5
    assert tokenizer.decode(said, skip_special_tokens=True).strip() == reply


def test_the_memory_is_all_that_a_later_turn_sees(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=3)
    session.say("My name is Ines.")
    seen: dict[str, Any] = {}
    generate = model.generate

    def spy(ids: torch.Tensor, **options: Any) -> Any:
        seen.update(options, ids=ids)
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", spy)
    before = session.memory
    session.say("Who am I?")
    assert "Ines" not in tokenizer.decode(seen["ids"][0])
    assert seen["memory"] is before
    assert seen["do_sample"] is False


def test_remember_reads_a_text_as_the_users_and_reports_progress(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer)
    steps: list[tuple[int, int]] = []
    count = session.remember("x" * 150, progress=lambda done, total: steps.append((done, total)))
    text = remembered(session)
    assert "x" * 150 + "<|end|>" in text and ACKNOWLEDGEMENT in text
    assert count == int(session.memory.num_written[0])
    assert steps and steps[-1] == (count, count)
    assert steps == sorted(steps)


def test_a_stored_memory_is_there_in_the_next_session_and_not_for_others(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    ChatSession(model, tokenizer, store=store, user="alice").remember("Ines is six.")
    assert "Ines is six." in remembered(ChatSession(model, tokenizer, store=store, user="alice"))
    assert remembered(ChatSession(model, tokenizer, store=store, user="bob")) == ""


def test_a_session_without_a_store_leaves_nothing(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MEMFORMER_STORE", str(tmp_path / "store"))
    ChatSession(model, tokenizer).remember("Ines is six.")
    assert remembered(ChatSession(model, tokenizer)) == ""
    assert not (tmp_path / "store").exists()


def test_two_sessions_of_one_user_lose_no_turn(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    one = ChatSession(model, tokenizer, store=store, user="alice", max_new_tokens=2)
    two = ChatSession(model, tokenizer, store=store, user="alice", max_new_tokens=2)
    one.say("first")
    two.say("second")
    one.say("third")
    text = remembered(two)
    assert text.index("first") < text.index("second") < text.index("third")


def test_a_turn_while_another_session_writes_is_refused_and_saves_nothing(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    session = ChatSession(model, tokenizer, store=store, user="alice")
    session.remember("kept")

    class Busy(MemoryStore):
        def lock(self, user: str, timeout: float = 0.0) -> Any:
            raise MemoryBusy("in use")

    session.store = Busy(store.root)
    with pytest.raises(MemoryBusy):
        session.remember("lost")
    session.store = store
    assert "lost" not in remembered(session)


def test_a_turn_that_fails_saves_nothing(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    store: MemoryStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = ChatSession(model, tokenizer, store=store, user="alice")
    session.remember("kept")
    monkeypatch.setattr(model, "generate", _interrupted)
    with pytest.raises(KeyboardInterrupt):
        session.say("lost")
    assert "lost" not in remembered(session) and "kept" in remembered(session)
    with store.lock("alice"):
        pass


def _interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_forget_removes_a_turn_from_the_store_too(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    session = ChatSession(model, tokenizer, store=store, user="alice")
    session.remember("the first thing")
    session.remember("the second thing")
    turn = session.inspect()[0]["turn"]
    count = sum(row["turn"] == turn for row in session.inspect())
    assert session.forget(turn) == count > 0
    text = remembered(ChatSession(model, tokenizer, store=store, user="alice"))
    assert "first" not in text and "second" in text


def test_turns_are_readable_where_a_character_takes_several_tokens(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer)
    session.remember("Инес 🌍")
    session.remember("second")
    first, second = session.turns()
    assert first["text"] == f"user\nИнес 🌍\nassistant\n{ACKNOWLEDGEMENT}"
    assert second["text"] == f"user\nsecond\nassistant\n{ACKNOWLEDGEMENT}"
    assert (first["turn"], second["turn"]) == (0, 1)
    assert first["tokens"] + second["tokens"] == len(session.inspect())
    assert first["reads"] >= 0.0


def test_streamed_pieces_are_the_reply(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    class Pieces:
        def __init__(self) -> None:
            self.ids: list[int] = []
            self.ended = False

        def put(self, value: torch.Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None:
            self.ended = True

    pieces = Pieces()
    reply = ChatSession(model, tokenizer, max_new_tokens=6).say("hello", streamer=pieces)
    prompt = len(chat_ids(tokenizer, [{"role": "user", "content": "hello"}], reply="")[0])
    assert tokenizer.decode(pieces.ids[prompt:], skip_special_tokens=True).strip() == reply
    assert pieces.ended


def test_without_a_template_turns_are_plain_lines_and_end_at_the_users_next(
    model: MemformerForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = byte_tokenizer(chat_template=None)
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    assert plain.decode(chat_ids(plain, messages)[0]) == "User: Hi\nAssistant: Ho\n"
    assert plain.decode(chat_ids(plain, messages[:1], reply="")[0]) == "User: Hi\nAssistant:"
    begun = chat_ids(plain, messages[:1], reply="It is")
    assert plain.decode(begun[0]) == "User: Hi\nAssistant: It is"

    session = ChatSession(model, plain, max_new_tokens=4)
    session.say("Hi")
    assert remembered(session).startswith("User: Hi\nAssistant:")

    def rambling(ids: torch.Tensor, **options: Any) -> Any:
        assert options["stop_strings"] == [PLAIN_STOP]
        more = plain(f" Ho{PLAIN_STOP}", return_tensors="pt").input_ids
        return torch.cat([ids, more], 1), session.memory

    monkeypatch.setattr(model, "generate", rambling)
    assert session.say("Hi") == "Ho"


def test_a_begun_reply_follows_the_open_turn_of_the_template(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    ids = chat_ids(tokenizer, [{"role": "user", "content": "Hi"}], reply="It is")
    expected = "<|start|>user\nHi<|end|>\n<|start|>assistant\nIt is"
    assert tokenizer.decode(ids[0]) == expected


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_empty_text_is_refused(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, text: str
) -> None:
    session = ChatSession(model, tokenizer)
    with pytest.raises(ValueError, match="the text is empty"):
        session.say(text)
    with pytest.raises(ValueError, match="the text is empty"):
        session.remember(text)


def test_store_and_user_come_together(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    with pytest.raises(ValueError, match="got a store without a user"):
        ChatSession(model, tokenizer, store=store)
    with pytest.raises(ValueError, match="got a user without a store"):
        ChatSession(model, tokenizer, user="alice")
    with pytest.raises(ValueError, match="A user id must be text"):
        ChatSession(model, tokenizer, store=store, user="")
