"""Reading again: the words of what was found stand before the question, and are not written."""

from __future__ import annotations

import pytest
import torch
from tiny import save_tiny

from memformer import ChatSession, MemformerForCausalLM, MemoryConfig, MemoryStore, recollection
from memformer.recalling import for_replies
from memformer.recollection import Passage, Recollection, places
from memformer.rereading import reread, with_words
from memformer.template import chat_ids, frame, text_ids

FACTS = [
    "The cellar of the old mill is full of apples.",
    "My cousin Edda plays the cello in Bremen.",
    "We painted the gate green last summer.",
]
ASKED = "Where does my cousin Edda play the cello?"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("reread"))


@pytest.fixture(autouse=True)
def _evidence(monkeypatch):
    """Heads of random weights find by chance, and have no evidence."""
    monkeypatch.setattr(recollection, "EVIDENCE", -1.0)


def opened(place, store=None, **switches):
    from transformers import AutoTokenizer

    model = MemformerForCausalLM.from_pretrained(place)
    model = model.with_memory(
        **{"working_set": 80, "reread_tokens": 200, "segment_tokens": 400} | switches
    )
    tokenizer = AutoTokenizer.from_pretrained(place.parent / "base")
    user = None if store is None else "ida"
    session = ChatSession(model, tokenizer, store=store, user=user, max_new_tokens=4)
    for fact in FACTS:
        session.remember(fact)
    return session


def found_for(session, asked=ASKED):
    return for_replies(session.model, session.tokenizer, session.memory, [asked])[0]


def prompt(session, recalled, asked=ASKED):
    ids = chat_ids(session.tokenizer, [{"role": "user", "content": asked}], reply="")[0].tolist()
    marks, memory = frame(session.tokenizer), session.memory
    return ids, reread(session.model, session.tokenizer, marks, ids, asked, recalled, memory)


def test_words_stand_before_the_question_in_the_order_in_which_they_were_told(place):
    pytest.importorskip("bm25s")
    session = opened(place)
    recalled = Recollection(
        Passage(tuple(text_ids(session.tokenizer, FACTS[number])), score, number, 0, 100 * number)
        for number, score in ((2, 3.0), (1, 2.9), (0, 0.1))
    )
    ids, again = prompt(session, recalled)
    text = session.tokenizer.decode(again.ids)
    said = f"{FACTS[1]}\n\n{FACTS[2]}\n\n{ASKED}"
    assert said in text and FACTS[0] not in text
    assert [one.reread for one in again.recalled] == [True, True, False]
    kept = [token for token, twice in zip(again.ids, again.mask, strict=True) if not twice]
    assert kept == ids and sum(again.mask) == len(again.ids) - len(ids) > 0


@pytest.mark.parametrize("tokens", [0, 30, 60, 100, 400])
def test_no_more_is_read_again_than_may_be_and_than_fits_into_a_segment(place, tokens):
    session = opened(place, reread_tokens=tokens)
    told = tuple(range(40, 80))
    recalled = Recollection(Passage(told, 1.0, 0, 0, 40 * number) for number in range(9))
    ids, again = prompt(session, recalled)
    marked = sum(one.reread for one in again.recalled)
    segment = session.model.memory_config.segment_tokens
    assert marked == max(0, min(tokens, segment - len(ids))) // 40
    assert len(again.recalled) == 9
    if not tokens:
        assert again.ids == ids and not any(again.mask)


def test_a_passage_gets_the_short_first_line_of_its_turn(place):
    pytest.importorskip("bm25s")
    session = opened(place, working_set=40)
    session.remember("9 June 2023\nTim sold a boat.\n\nUrsula bakes rye bread in Malta.")
    asked = "Where does Ursula bake rye bread?"
    found = [one for one in found_for(session, asked) if one.turn == 4]
    late = next(one for one in found if "Tim" not in session.tokenizer.decode(list(one.token_ids)))
    text = session.tokenizer.decode(prompt(session, Recollection([late]), asked)[1].ids)
    assert f"9 June 2023\nUrsula bakes rye bread in Malta.\n\n{asked}" in text
    early = next(one for one in found if one is not late)
    text = session.tokenizer.decode(prompt(session, Recollection([early]), asked)[1].ids)
    assert text.count("9 June 2023") == 1
    # a sentence without a line break is no such line
    text = session.tokenizer.decode(prompt(session, found_for(session))[1].ids)
    assert text.count("My cousin Edda") == 1


@pytest.mark.parametrize("working_set", [80, 4096])
def test_nothing_is_read_again_without_evidence_or_where_it_is_off(place, working_set, monkeypatch):
    off = opened(place, working_set=working_set, reread_tokens=0)
    assert bool(found_for(off)) == (working_set == 80)
    ids, again = prompt(off, found_for(off))
    assert again.ids == ids
    session = opened(place, working_set=working_set)
    found = found_for(session)
    assert prompt(session, found)[1].ids != ids
    # plain text has no turn for words
    parts = session.model, session.tokenizer, None, session.memory
    assert with_words(*parts, [ASKED], [ids])[0].ids == ids
    monkeypatch.setattr(recollection, "EVIDENCE", 2.0)
    assert not found.is_about
    assert bool(found_for(session)) == (working_set == 80)
    assert prompt(session, found)[1].ids == ids


def test_a_small_memory_is_read_whole_or_through_the_words_alone(place):
    session = opened(place, working_set=4096)
    options = {"max_new_tokens": 3, "do_sample": False, "memory": session.memory}
    ids, again = prompt(session, found_for(session))
    words = torch.tensor([again.ids])
    model = session.model
    alone = model.generate(words, recalled=[again.recalled], **options, output_logits=True,
                           return_dict_in_generate=True).logits  # fmt: skip
    nothing = options | {"memory": model.init_memory(1)}
    without = model.generate(words, **nothing, output_logits=True,
                             return_dict_in_generate=True).logits  # fmt: skip
    whole = model.generate(words, **options, output_logits=True,
                           return_dict_in_generate=True).logits  # fmt: skip
    assert torch.allclose(alone[0], without[0], atol=1e-5)
    assert not torch.allclose(alone[0], whole[0], atol=1e-5)


def test_the_slots_of_what_is_read_again_are_not_read_but_renewed(place):
    pytest.importorskip("bm25s")
    session = opened(place)
    _, again = prompt(session, found_for(session))
    first = again.recalled[0]
    assert first.reread and "cello" in session.tokenizer.decode(list(first.token_ids))
    engine = session.model.engine()
    read = places(engine, [again.recalled], session.memory)[0]
    assert not read[first.start : first.end].any()
    kept = places(engine, [again.recalled], session.memory, reread=True)[0]
    assert kept[first.start : first.end].all()
    session.say(ASKED)
    after = session.memory
    mine = (after.seen_at[0] >= first.start) & (after.seen_at[0] < first.end) & after.occupied[0]
    assert mine.any()
    torch.testing.assert_close(after.usage[0][mine], after.strength[0][mine])
    others = (after.seen_at[0] > 0) & (after.seen_at[0] < first.start) & after.occupied[0]
    assert bool((after.usage[0][others] < after.strength[0][others]).any())


@pytest.mark.parametrize("reply_limit", [0.0, 1.0])
def test_what_is_read_again_is_neither_written_nor_seen_by_what_is_written(place, reply_limit):
    pytest.importorskip("bm25s")
    session = opened(place)
    model = session.model
    ids, again = prompt(session, found_for(session))
    mask = torch.tensor([again.mask])
    said, memory = model.generate(
        torch.tensor([again.ids]),
        memory=session.memory,
        recalled=[again.recalled],
        reread=mask,
        reply_limit=reply_limit,
        return_memory=True,
        max_new_tokens=4,
        do_sample=False,
    )
    reply = said[0, len(again.ids) :].tolist() if reply_limit else []
    alone = model.memorize(torch.tensor([ids + reply]), memory=session.memory.closed())
    assert torch.equal(memory.told, alone.told)
    assert torch.equal(memory.token, alone.token)
    for mine, plain in zip(memory.keys, alone.keys, strict=True):
        assert torch.allclose(mine, plain, atol=1e-5)


def test_a_conversation_reads_again_and_remembers_what_was_said_once(place, tmp_path, monkeypatch):
    pytest.importorskip("bm25s")
    session = opened(place, MemoryStore(tmp_path))
    seen = []
    generate = MemformerForCausalLM.generate

    def watched(self, inputs, **kwargs):
        seen.append(self_text(session, inputs))
        return generate(self, inputs, **kwargs)

    monkeypatch.setattr(MemformerForCausalLM, "generate", watched)
    session.say(ASKED)
    assert f"{FACTS[1]}\n\n{ASKED}" in seen[0]
    told = session.memory.told[0]
    told = session.tokenizer.decode(told[told >= 0].tolist())
    assert told.count(FACTS[1]) == 1 and told.count(ASKED) == 1
    assert "cello" in session.why()[0].text
    session.ask("What did we paint green last summer?", ASKED)
    assert FACTS[2] in seen[1] and FACTS[1] in seen[1]
    session.forget(2)
    session.ask(ASKED)
    assert FACTS[1] not in seen[2]


def self_text(session, inputs):
    return "".join(session.tokenizer.decode(row) for row in inputs)


def test_a_question_that_was_asked_before_is_not_read_again(place):
    pytest.importorskip("bm25s")
    session = opened(place)
    session.remember(ASKED)
    found = found_for(session)
    texts = [session.tokenizer.decode(list(one.token_ids)) for one in found]
    assert ASKED in texts[0]  # nothing fits the question as well
    text = session.tokenizer.decode(prompt(session, found)[1].ids)
    assert f"{FACTS[1]}\n\n{ASKED}" in text and text.count(ASKED) == 1
    # its slots are not read either
    assert found[0].start not in {one.start for one in prompt(session, found)[1].recalled}
    # a passage without words is not read again, and does not stand for the memory
    marks = frame(session.tokenizer)
    mute = Recollection([Passage(tuple(marks.begin), 9.0, 0, 0, 0)])
    ids, again = prompt(session, mute)
    assert again.ids == ids and again.recalled == []


def test_mistakes_are_answered_in_one_sentence(place):
    with pytest.raises(ValueError, match="reread_tokens must be a whole number >= 0; got -1"):
        MemoryConfig(reread_tokens=-1)
    session = opened(place)
    ids = torch.tensor([[5, 6, 7]])
    with pytest.raises(ValueError, match=r"reread must have the shape of the prompt, \(1, 3\)"):
        session.model.generate(ids, reread=torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(ValueError, match="recalled can't be chosen"):
        session.say("Hello", recalled=[])
