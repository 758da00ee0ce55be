"""ChatSession: turns are linked by the memory alone, and each is one locked step of the store."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from memformer import ChatSession, MemformerForCausalLM, MemoryStore
from memformer.chat import ACKNOWLEDGEMENT, PLAIN_STOP, chat_ids
from memformer.store import MemoryBusy
from memformer.template import frame
from tests.tiny import CHAT_TEMPLATE, byte_tokenizer, save_tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MemformerForCausalLM:
    return MemformerForCausalLM.from_pretrained(save_tiny(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return byte_tokenizer()


@pytest.fixture
def store(tmp_path: Path) -> MemoryStore:
    return MemoryStore(tmp_path / "store")


@pytest.fixture(params=[False, True])
def place(request: pytest.FixtureRequest, store: MemoryStore) -> dict[str, Any]:
    """The options of a session: without a store, and with one."""
    return {"store": store, "user": "alice"} if request.param else {}


def remembered(session: ChatSession) -> str:
    return "".join(row["text"] for row in session.inspect())


def test_a_turn_is_templated_answered_and_remembered_whole(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=5, reply_limit=1.0)
    reply = session.say("My name is Ines.")
    ids = session.memory.token[session.memory.occupied].tolist()
    prompt = chat_ids(tokenizer, [{"role": "user", "content": "My name is Ines."}], reply="")[0]
    # the token that every text begins with is there once, before all turns
    assert ids[: len(prompt)] == prompt.tolist()
    assert session.memory.turn[session.memory.occupied][:3].tolist() == [0, 1, 1]
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
    assert remembered(session) == f"<|start|>user\n{'x' * 150}<|end|>\n"
    assert count == 150 and steps[-1] == (150, 150)
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
    turn = session.turns()[0]["turn"]
    count = sum(row["turn"] == turn for row in session.inspect())
    assert session.forget(turn) == count > 0
    text = remembered(ChatSession(model, tokenizer, store=store, user="alice"))
    assert "first" not in text and "second" in text


def test_turns_are_readable_where_a_character_takes_several_tokens(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer, reply_limit=1.0)
    session.remember("Инес 🌍")
    session.remember("second")
    first, second = session.turns()
    assert (first["text"], first["reply"]) == ("Инес 🌍", ACKNOWLEDGEMENT)
    assert (second["text"], second["reply"]) == ("second", ACKNOWLEDGEMENT)
    assert (first["turn"], second["turn"]) == (1, 2)
    assert 1 + first["tokens"] + second["tokens"] == len(session.inspect())
    assert first["document"] is None


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None])
def test_the_system_message_is_seen_and_not_remembered(
    model: MemformerForCausalLM, template: str | None
) -> None:
    tokenizer = byte_tokenizer(template)
    session = ChatSession(model, tokenizer, system="Be a pirate.", max_new_tokens=4)
    session.say("My name is Ines.")
    session.remember("I am six.")
    text = remembered(session)
    assert "pirate" not in text and "system" not in text.lower()
    assert "My name is Ines." in text and "I am six." in text
    assert [turn["text"] for turn in session.turns()] == ["My name is Ines.", "I am six."]
    # it was seen: what is remembered was encoded after it
    other = ChatSession(model, tokenizer, max_new_tokens=4)
    other.say("My name is Ines.")
    mine, theirs = session.memory.keys[:, 0], other.memory.keys[:, 0]
    assert not torch.allclose(mine[:, 5], theirs[:, 5])


def test_the_first_token_of_all_texts_is_remembered_once(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    first = frame(tokenizer).first
    for system in (None, "Be a pirate."):
        session = ChatSession(model, tokenizer, system=system, max_new_tokens=2)
        for number in range(3):
            session.say(f"turn {number}")
            session.remember(f"text {number}")
        memory = session.memory
        headers = 6 if system else 0  # each turn begins with the token too, after the opening
        assert int((memory.token == first).sum()) == 1 + headers
        assert memory.turn[memory.occupied].unique().tolist() == list(range(7))
        assert [turn["turn"] for turn in session.turns()] == list(range(1, 7))
        # forgetting turns does not take it away, and it comes back if it is taken away
        session.forget(range(1, 7))
        assert memory.token.shape[1] and session.turns() == []
        session.forget(0)
        session.say("again")
        assert session.memory.turn[session.memory.occupied].unique().tolist() == [0, 7]
        assert [turn["text"] for turn in session.turns()] == ["again"]


def test_replies_are_remembered_as_firmly_as_the_limit_says(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    sessions = {
        limit: ChatSession(model, tokenizer, reply_limit=limit, max_new_tokens=6)
        for limit in (0.0, 0.25, 1.0)
    }
    replies = {session.say("Hello there.") for session in sessions.values()}
    (reply,) = replies
    assert reply
    assert remembered(sessions[0.0]) == "<|start|>user\nHello there.<|end|>\n"
    assert ChatSession(model, tokenizer).reply_limit == 0.0
    said = len(sessions[0.0].inspect())
    for limit in (0.25, 1.0):
        rows = sessions[limit].inspect()
        assert len(rows) > said and sessions[limit].turns()[0]["reply"] == reply
        for row in rows[said:]:
            assert row["strength"] == pytest.approx(limit * rows[0]["strength"])
    assert sessions[0.0].turns()[0]["reply"] == ""
    with pytest.raises(ValueError, match="reply_limit must be a number between 0 and 1; got 2"):
        ChatSession(model, tokenizer, reply_limit=2.0)


def test_options_of_the_session_and_of_a_turn_reach_generate(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[dict[str, Any]] = []
    generate = model.generate

    def spy(ids: torch.Tensor, **options: Any) -> Any:
        seen.append(options)
        return generate(ids, **options)

    monkeypatch.setattr(model, "generate", spy)
    session = ChatSession(model, tokenizer, max_new_tokens=3, repetition_penalty=1.5)
    session.say("one")
    session.say("two", max_new_tokens=2, temperature=0.5)
    assert seen[0]["max_new_tokens"] == 3 and seen[0]["repetition_penalty"] == 1.5
    assert seen[0]["do_sample"] is False
    assert seen[1]["max_new_tokens"] == 2 and seen[1]["repetition_penalty"] == 1.5
    assert seen[1]["do_sample"] is True
    before = session.memory
    with pytest.raises(ValueError, match="temprature"):
        session.say("three", temprature=0.5)
    assert session.memory is before


def test_questions_are_answered_side_by_side_and_not_remembered(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    session = ChatSession(model, tokenizer, store=store, user="alice", max_new_tokens=5)
    session.remember("Ines is six. Bo is ten.")
    before = session.inspect()
    questions = ("How old is Ines?", "And Bo?", "x" * 80)
    answers = session.ask(*questions)
    assert session.inspect() == before
    for question, answer in zip(questions, answers, strict=True):
        twin = ChatSession(model, tokenizer, max_new_tokens=5)
        twin.memory = session.memory
        assert twin.say(question) == answer == session.ask(question)[0]
    with pytest.raises(ValueError, match="no question"):
        session.ask()
    with pytest.raises(ValueError, match="the text is empty"):
        session.ask("How old is Ines?", " ")


def test_threads_that_share_a_session_lose_no_turn(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, place: dict[str, Any]
) -> None:
    if place:
        place["store"].save("alice", model.init_memory(num_slots=None))
    session = ChatSession(model, tokenizer, max_new_tokens=2, timeout=600, **place)
    if not place:
        session.memory = model.init_memory(num_slots=None)
    failed: list[Exception] = []

    def talk(thread: int) -> None:
        try:
            for number in range(4):
                session.say(f"<{thread}.{number}>")
                session.remember(f"<{thread}/{number}>")
                session.turns()
        except Exception as error:  # noqa: BLE001 - handed to the test below
            failed.append(error)

    threads = [threading.Thread(target=talk, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    texts = [turn["text"] for turn in session.turns()]
    wanted = {f"<{thread}{kind}{n}>" for thread in range(3) for n in range(4) for kind in "./"}
    assert len(texts) == 24 and set(texts) == wanted


def test_a_busy_user_is_waited_for_and_then_refused(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, place: dict[str, Any]
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=2, **place)
    assert session.timeout == 5.0
    inside, leave = threading.Event(), threading.Event()

    def hold() -> None:
        with session._held(0.0):
            inside.set()
            leave.wait()

    holder = threading.Thread(target=hold)
    holder.start()
    inside.wait()
    session.timeout = 0.05
    with pytest.raises(MemoryBusy, match="session"):
        session.say("now")
    session.timeout = 600.0
    threading.Timer(0.2, leave.set).start()
    session.say("later")
    holder.join()
    assert [turn["text"] for turn in session.turns()] == ["later"]


def test_a_session_and_a_memory_say_what_they_are(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    session = ChatSession(model, tokenizer, store=store, user="alice")
    session.remember("Ines is six.")
    count = len(session.inspect())
    assert repr(session) == f"ChatSession(the memory of 'alice', {session.memory!r})"
    said = repr(session.memory)
    seen = int(session.memory.num_seen[0])
    assert said.startswith(f"MemoryState({count} tokens kept of {seen} read, 300 slots, 0.0 MiB")
    assert "\n" not in said and said.endswith("torch.float32 on cpu)")
    assert "a temporary memory" in repr(ChatSession(model, tokenizer))
    assert repr(model.init_memory(3)).startswith("MemoryState(3 rows, each 0 to 0 tokens kept")


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
    assert remembered(session) == "User: Hi\n"

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


def test_a_turn_within_a_turn_is_kept_and_the_outer_one_says_so(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, store: MemoryStore
) -> None:
    for kept in ({}, {"store": store, "user": "alice"}):
        session = ChatSession(model, tokenizer, max_new_tokens=3, **kept)
        inner = ChatSession(model, tokenizer, max_new_tokens=3, **kept) if kept else session

        class Talker:
            def put(self, value: torch.Tensor, inner: ChatSession = inner) -> None:
                if not inner.turns():
                    inner.say("inner")

            def end(self) -> None:
                pass

        with pytest.raises(MemoryBusy, match="another turn of the same user was held within it"):
            session.say("outer", streamer=Talker())
        assert [turn["text"] for turn in session.turns()] == ["inner"]
        session.say("after")
        assert [turn["text"] for turn in session.turns()] == ["inner", "after"]


@pytest.mark.parametrize(
    "option",
    [
        {"num_return_sequences": 2, "do_sample": True},
        {"return_dict_in_generate": True},
        {"return_memory": True},
        {"memory": None},
        {"reply_limit": 1.0},
    ],
)
def test_options_that_a_session_can_not_take_change_nothing(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast, option: dict[str, Any]
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=3)
    session.say("one")
    for call in (session.say, session.ask):
        with pytest.raises(ValueError, match="session"):
            call("two", **option)
    session.say("three")
    assert [turn["text"] for turn in session.turns()] == ["one", "three"]


def test_many_questions_are_answered_in_groups(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=4)
    session.say("My name is Ines.")
    questions = [f"Question {'x' * number}?" for number in range(5)]
    wanted = session.ask(*questions)
    monkeypatch.setattr("memformer.chat.ASKED_AT_ONCE", 2)
    assert session.ask(*questions) == wanted


def test_what_is_no_text_and_a_memory_that_is_off_are_sentences(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerFast
) -> None:
    session = ChatSession(model, tokenizer, max_new_tokens=3)
    for call in (session.say, session.ask, session.remember):
        with pytest.raises(ValueError, match="There must be a text .* got None"):
            call(None)  # type: ignore[arg-type]
    with model.memory_disabled():
        for call in (session.remember, session.read):
            with pytest.raises(ValueError, match="memory is off"):
                call("a text")
    with pytest.raises(AttributeError):
        session.system = "Be rude."  # type: ignore[misc]
    with pytest.raises(ValueError, match="reply_limit must be a number"):
        ChatSession(model, tokenizer, reply_limit="1")  # type: ignore[arg-type]


def test_a_session_goes_on_when_its_model_is_converted(tmp_path: Path) -> None:
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "tiny"))
    session = ChatSession(model, byte_tokenizer(), max_new_tokens=3)
    session.say("one")
    model.to(torch.float64)
    session.say("two")
    assert session.memory.dtype == torch.float64
    assert [turn["text"] for turn in session.turns()] == ["one", "two"]
