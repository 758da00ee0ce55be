"""Finding: passages of a record, votes of finder heads, and the working set that a turn reads."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from backbones import random_ids
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forms import attached

from memformer import MemoryConfig, MemoryState
from memformer.attach.words import CONTROL, NO_WORD, word_table
from memformer.engine import begin_turn
from memformer.memory import finding
from memformer.memory.finding import Asking, loud, scores, votes
from memformer.memory.passages import WIDEST, stretches
from memformer.memory.record import to_bits
from memformer.recollection import Passage, is_large, places, reading, recollect, within
from memformer.words import content, word_scores


def finds(working_set=24, **settings):
    """A tiny model whose memories are soon too large to be read whole."""
    settings = {"num_slots": None, "passage_tokens": 8} | settings
    return attached(working_set=working_set, **settings)


def told_to(model, tokens=160, batch=1, seed=3):
    ids = random_ids(batch, tokens, seed=seed)
    return ids, model.memorize(ids).closed()


def asked(model, memory, ids, top_k=4):
    return model.recall(ids, memory, top_k=top_k)


# ---- passages --------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(0, 2)), min_size=1, max_size=12),
    st.sets(st.integers(0, 300), max_size=4),
    st.integers(4, 64),
)
def test_every_recorded_token_is_in_one_passage_of_its_own_turn_and_segment(runs, gaps, size):
    turn = torch.cat([torch.full((n,), i) for i, (n, _) in enumerate(runs)])
    kinds = torch.zeros_like(turn)
    kinds[torch.tensor([n for n, _ in runs]).cumsum(0) - 1] = torch.tensor([k for _, k in runs])
    told = torch.arange(len(turn))
    told[[gap for gap in gaps if gap < len(told)]] = -1
    cut = stretches(told, turn, turn // 2, kinds, size)
    seen = [place for b, e in zip(cut.begins, cut.ends, strict=True) for place in range(b, e)]
    assert seen == (told >= 0).nonzero().flatten().tolist()
    assert torch.equal(cut.passage >= 0, told >= 0)
    for number, (begin, end) in enumerate(zip(cut.begins, cut.ends, strict=True)):
        assert len(set(turn[begin:end].tolist())) == 1
        assert end - begin < 2 * size + 90
        assert set(cut.passage[begin:end].tolist()) == {number}
    for begin, end in cut.spans:
        assert len(set(turn[begin:end].tolist())) == 1
        assert bool((told[begin:end] >= 0).all())
        assert end - begin <= max(WIDEST, 2 * size + 90)


def test_a_passage_ends_with_a_sentence_and_a_paragraph_ends_both():
    kinds = torch.zeros(100, dtype=torch.long)
    kinds[[9, 29, 49]] = 1
    kinds[69] = 2
    nothing = torch.zeros(100, dtype=torch.long)
    cut = stretches(torch.arange(100), nothing, nothing, kinds, 16)
    assert cut.ends == [30, 50, 70, 100]
    assert cut.paragraph == [0, 0, 0, 1]
    assert cut.spans == [(0, 70), (70, 100)]


def test_the_short_rest_of_a_paragraph_does_not_run_into_the_next_paragraph():
    kinds = torch.zeros(120, dtype=torch.long)
    kinds[[39, 44]] = 1
    kinds[[49, 53, 57, 99]] = 2  # a paragraph, two lines of talk, another paragraph
    nothing = torch.zeros(120, dtype=torch.long)
    cut = stretches(torch.arange(120), nothing, nothing, kinds, 32)
    assert list(zip(cut.begins, cut.ends, strict=True)) == [(0, 50), (50, 100), (100, 120)]
    assert cut.paragraph == [0, 1, 2]


# ---- votes -----------------------------------------------------------------------------------


def question(tokens=5, finders=3, width=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(tokens, finders, width, generator=generator)
    return Asking(queries, torch.tensor([0, 1, 1]), torch.tensor([1.0, 0.0, 2.0]))


def small_keys(told=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return to_bits(torch.randn(told, 2, 8, generator=generator) * 2)


@pytest.mark.parametrize("block", [finding.BLOCK, 35])
def test_votes_are_the_read_weights_of_one_softmax_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(finding, "BLOCK", block)
    asking, keys = question(), small_keys()
    passage = torch.arange(40) // 7
    passage[13:16] = -1
    unheard = torch.zeros(3, 40, dtype=torch.bool)
    unheard[1, 20] = True
    found = votes(asking, keys, passage, 6, unheard)
    floats = keys.view(torch.float8_e4m3fn).float()
    for finder, pair in enumerate([0, 1, 1]):
        logits = asking.queries[:, finder] @ floats[:, pair].T
        logits[:, (passage < 0) | unheard[finder]] = -torch.inf
        nothing = asking.null_logit[finder].expand(5, 1)
        weights = torch.cat([logits, nothing], 1).softmax(-1)[:, :-1].sum(0)
        wanted = torch.zeros(6).scatter_add(0, passage.clamp_min(0), weights)
        torch.testing.assert_close(found[finder], wanted)


def test_a_token_that_a_question_without_content_matches_is_loud():
    keys = torch.zeros(10, 2, 8)
    nothing = question(2)._replace(null_logit=torch.full((3,), 5.0))
    keys[4, 0] = nothing.queries[1, 0] * 9  # only the first finder head matches the first key
    keys[7, 1] = nothing.queries[0, 1] * 9
    marked = loud(nothing, to_bits(keys))
    assert marked[0].nonzero().flatten().tolist() == [4]
    assert 7 in marked[1].nonzero().flatten()


def test_a_score_needs_votes_beyond_those_of_a_question_without_content():
    asked_votes = torch.tensor([[3.0, 3.0, 1.0], [2.0, 2.0, 1.0]])
    nothing = torch.tensor([[3.0, 0.0, 1.0], [2.0, 0.0, 1.0]])
    score = scores(asked_votes, nothing, torch.tensor([4, 4, 4]))
    assert score.argmax() == 1
    torch.testing.assert_close(score.sum(), torch.tensor(0.0), atol=1e-5, rtol=0)
    # a long passage has more votes by chance
    asked_votes[:, 0] += 1.0
    assert scores(asked_votes, nothing, torch.tensor([4, 4, 4])).argmax() == 1
    assert scores(asked_votes, nothing, torch.tensor([4, 400, 4])).argmax() == 0


# ---- words -----------------------------------------------------------------------------------


def test_words_are_compared_whatever_their_case_and_control_tokens_are_none():
    from tiny import byte_tokenizer

    tokenizer = byte_tokenizer()
    words = word_table(len(tokenizer), tokenizer)
    small, large, comma = (tokenizer(text).input_ids[0] for text in "aA,")
    assert words[small] == words[large] >= 0
    assert words[comma] == NO_WORD
    assert words[tokenizer.eos_token_id] == CONTROL
    ids = tokenizer("<|start|>user\nwho is it<|end|>\n<|start|>", return_tensors="pt").input_ids[0]
    assert tokenizer.decode(content(ids, words)) == "user\nwho is it"
    assert torch.equal(content(ids[:2], words), ids[:2])


def test_the_text_with_the_words_of_the_question_scores_highest():
    pytest.importorskip("bm25s")
    words = torch.arange(50)
    texts = [torch.arange(begin, begin + 6) for begin in (0, 10, 20, 30)]
    score = word_scores(torch.tensor([22, 23, 47]), texts, words)
    assert score.argmax() == 2
    assert float(word_scores(torch.tensor([48, 49]), texts, words).abs().max()) == 0


# ---- recall ----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3", "gemma3_text"])
def test_a_question_in_the_words_of_a_passage_finds_it(family):
    pytest.importorskip("bm25s")
    model = finds(model_type=family)
    ids, memory = told_to(model)
    assert memory.finder_keys.shape[2] == len(model.memory.finders.keys) > 0
    found = asked(model, memory, ids[:, 90:98])[0]
    best = found[0]
    assert best.start <= 97 and best.end > 90
    assert list(best.token_ids) == ids[0, best.start : best.end].tolist()
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert best.turn == 0 and best.segment == int(memory.told_segment[0, best.start])
    assert -1 <= found.evidence <= 1 and found.margin >= 0


def test_a_passage_knows_its_neighbours_in_its_row_over_what_was_forgotten():
    model = finds()
    memory = model.init_memory(batch_size=2)
    for turn in range(4):
        memory = model.memorize(random_ids(2, 24, seed=turn), memory=memory).closed()
    memory.forget(1)
    for row, found in enumerate(asked(model, memory, random_ids(2, 6, seed=9), top_k=99)):
        assert {one.turn for one in found} == {0, 2, 3}
        told = sorted(found, key=lambda one: one.start)
        alone = [dataclasses.replace(one, before=None, after=None) for one in told]
        assert [one.before for one in told] == [None, *alone[:-1]]
        assert [one.after for one in told] == [*alone[1:], None]
        ids = [token for one in told for token in one.token_ids]
        assert ids == memory.told[row][memory.is_told[row]].tolist()


def test_rows_and_padding_change_no_recollection():
    model = finds()
    ids, memory = told_to(model, batch=2)
    questions = random_ids(2, 7, seed=9)
    questions[1, :3] = 0
    mask = torch.ones_like(questions)
    mask[1, :3] = 0
    together = model.recall(questions, memory, 3, attention_mask=mask)
    alone = model.recall(questions[1:, 3:], memory.select([1]), 3)
    assert [p.start for p in together[1]] == [p.start for p in alone[0]]
    assert together[1][0].score == pytest.approx(alone[0][0].score, abs=1e-3)
    assert len(model.recall(questions[:1], memory.select([0]), 3)[0]) == 3


def test_what_was_forgotten_is_not_found_and_what_was_evicted_is():
    pytest.importorskip("bm25s")
    model = finds(num_slots=32)
    first, memory = told_to(model, tokens=64)
    second = random_ids(1, 100, seed=8)
    memory = model.memorize(second, memory=memory).closed()
    assert int(memory.occupied.sum()) == 32
    found = asked(model, memory, first[:, 20:30])[0]
    assert found[0].turn == 0
    assert memory.forget(0) == 64
    assert not memory.finder_keys[0, :64].any()
    assert {one.turn for one in asked(model, memory, first[:, 20:30])[0]} == {1}


def test_the_votes_without_content_are_kept_for_the_next_question():
    model = finds()
    ids, memory = told_to(model, batch=2)
    question = ids[:, 90:98]
    first = asked(model, memory, question)
    kept = dict(memory.calm)
    assert kept.keys() == {0, 1}
    assert asked(model, memory, question) == first
    assert all(memory.calm[row] is kept[row] for row in kept)
    # they are used: other votes in their place change the row that they are of
    memory.calm[0] = kept[0]._replace(votes=kept[0].votes.roll(1, 1) * 9)
    changed = asked(model, memory, question)
    assert changed[0] != first[0] and changed[1] == first[1]


def test_a_generation_keeps_the_votes_without_content_for_the_memory_it_was_given():
    model = finds()
    ids, memory = told_to(model)
    options = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
    model.generate(ids[:, :5], memory=memory, **options)
    assert memory.calm.keys() == {0}


def test_what_is_kept_goes_when_the_record_changes_and_is_not_saved(tmp_path):
    model = finds()
    ids, memory = told_to(model, tokens=64)
    memory = model.memorize(random_ids(1, 40, seed=8), memory=memory).closed()
    question = ids[:, 20:30]
    asked(model, memory, question)
    assert not model.memorize(question, memory=memory).calm
    assert not memory.select([0]).calm
    memory.save(tmp_path / "memory")
    saved = (tmp_path / "memory").read_bytes()
    assert not MemoryState.load(tmp_path / "memory", model=model).calm
    memory.clone().save(tmp_path / "memory")
    assert (tmp_path / "memory").read_bytes() == saved
    memory.forget(0)
    assert not memory.calm
    assert asked(model, memory, question) == asked(model, memory.clone(), question)
    memory.reset()
    assert not memory.calm


def test_what_is_kept_is_of_the_weights_and_the_passages_that_ask():
    model = finds()
    ids, memory = told_to(model)
    question = ids[:, 90:98]
    first = asked(model, memory, question)
    view, real = model.with_memory(passage_tokens=4).engine(), torch.ones_like(question).bool()
    short = [recollect(view, question, real, one, 4) for one in (memory, memory.clone())]
    assert short[0] == short[1] != first
    with torch.no_grad():
        for layer in model.memory_layers:
            layer.null_logit -= 3.0
    assert asked(model, memory, question) == asked(model, memory.clone(), question) != first


def test_nothing_is_found_in_an_empty_memory():
    model = finds()
    found = asked(model, model.init_memory(), random_ids(1, 5))
    assert found == [[]] and found[0].evidence == 0


def test_mistakes_are_answered_in_one_sentence():
    model = finds()
    ids, memory = told_to(model)
    for wrong in (0, -1, True, 1.5):
        with pytest.raises(ValueError, match="top_k must be a whole number of at least 1"):
            model.recall(ids[:, :5], memory, wrong)
    with pytest.raises(ValueError, match="question is empty"):
        model.recall(ids[:, :5], memory, attention_mask=torch.zeros(1, 5))
    with pytest.raises(ValueError, match="no heads that find"):
        blind = finds(finders=0)
        blind.recall(ids[:, :5], told_to(blind)[1])
    with pytest.raises(ValueError, match="can't change finders"):
        model.with_memory(finders=2)
    with pytest.raises(ValueError, match="finders must be a whole number >= 0"):
        MemoryConfig(finders=-1)


def test_finders_are_saved_and_a_memory_without_keys_gets_those_of_its_slots(tmp_path):
    model = finds()
    _, memory = told_to(model)
    model.save_pretrained(tmp_path / "model")
    again = type(model).from_pretrained(tmp_path / "model")
    assert again.memory.finders.chosen == model.memory.finders.chosen
    bare = memory.replaced(finder_keys=memory.finder_keys[:, :, :0])
    bare.save(tmp_path / "memory")
    opened = MemoryState.load(tmp_path / "memory", model=model)
    assert torch.equal(opened.finder_keys, memory.finder_keys)


# ---- the working set -------------------------------------------------------------------------


def test_what_finders_learned_changes_what_is_found_and_nothing_that_is_read(tmp_path):
    model, whole = finds(), finds(working_set=1000)
    ids, memory = told_to(model)
    few = ids[:, 40:46]
    plain = model.memory.ask_as_attached(few[0]).queries
    assert torch.equal(model.memory.ask(few[0]).queries, plain)
    with torch.inference_mode():
        found, read = asked(model, memory, few)[0], whole(ids, memory=memory).logits
    # each head matches what it did not
    for one in (model, whole):
        match = one.memory.finders.match
        match.copy_(-3 * torch.eye(match.shape[-1]).expand_as(match))
    assert torch.allclose(model.memory.ask(few[0]).queries, -2 * plain)
    with torch.inference_mode():
        other = asked(model, memory, few)[0]
        assert [one.start for one in other] != [one.start for one in found]
        assert torch.equal(whole(ids, memory=memory).logits, read)
    model.memory.finders.match.fill_(0.25)
    model.save_pretrained(tmp_path)
    opened = type(model).from_pretrained(tmp_path)
    assert bool((opened.memory.finders.match == 0.25).all())
    opened.choose_finders(None)
    assert not bool(opened.memory.finders.match.any())


def passage(start, end, score):
    return Passage(tuple(range(start, end)), score, 0, 0, start)


def test_passages_are_read_as_long_as_they_are_nearly_as_good_and_fit():
    best, near, far = passage(0, 10, 5.0), passage(20, 30, 4.0), passage(40, 44, 1.0)
    assert within([best, near, far], 100) == [best, near]
    assert within([best, near, far], 15) == [best]
    assert within([best], 5) == []


def test_a_memory_that_is_no_larger_than_the_working_set_is_read_whole():
    model = finds(working_set=200)
    ids, memory = told_to(model)
    engine = model.engine()
    assert not is_large(engine, memory).any()
    nothing = torch.zeros_like(memory.is_told)
    assert reading(engine, memory, nothing, torch.tensor([False])) is memory
    # words that are read again stand for the whole memory
    read = reading(engine, memory, nothing, torch.tensor([True]))
    assert int(read.occupied.sum()) == 8  # those of the newest segment of this turn
    whole = model.with_memory(working_set=10**6)
    options = {"memory": memory, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(model.generate(ids[:, :9], **options), whole.generate(ids[:, :9], **options))


def test_a_turn_reads_the_passages_recalled_and_nothing_else():
    model = finds()
    ids, memory = told_to(model)
    engine = model.engine()
    recalled = [[passage(40, 56, 2.0)]]
    begun, _ = begin_turn(memory, torch.ones(1, 1, dtype=torch.bool))
    small = reading(engine, begun, places(engine, recalled, begun), torch.tensor([False]))
    assert sorted(small.seen_at[0].tolist()) == list(range(40, 56))
    slots = [int((memory.seen_at[0] == place).nonzero()) for place in small.seen_at[0].tolist()]
    assert torch.equal(small.keys[:, 0], memory.keys[:, 0, slots])
    # what was not recalled can be anything
    other = dataclasses.replace(memory, values=memory.values.clone())
    hidden = (memory.seen_at[0] < 40) | (memory.seen_at[0] >= 56)
    other.values[:, 0, hidden] = 9.0
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, "recalled": recalled}
    said = model.generate(ids[:, :4], memory=memory, **options)
    assert torch.equal(said, model.generate(ids[:, :4], memory=other, **options))
    elsewhere = model.generate(
        ids[:, :4], memory=other, **options | {"recalled": [[passage(64, 80, 2.0)]]}
    )
    assert not torch.equal(said, elsewhere)


def test_generation_finds_by_its_prompt_with_beams_and_beyond_a_segment():
    model = finds()
    ids, memory = told_to(model, batch=2)
    options = {"max_new_tokens": 30, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    prompt = ids[:, 60:70]
    said, after = model.generate(prompt, memory=memory, return_memory=True, **options)
    assert said.shape == (2, 40)
    found = recollect(model.engine(), prompt, torch.ones_like(prompt).bool(), memory, 64)
    given = model.generate(prompt, memory=memory, recalled=found, **options | {"max_new_tokens": 4})
    assert torch.equal(given, said[:, :14])
    assert int(after.num_seen[0]) == 200
    beams = model.generate(prompt, memory=memory, num_beams=2, **options)
    alone = model.generate(prompt[:1], memory=memory.select([0]), num_beams=2, **options)
    assert torch.equal(beams[:1], alone)


def test_a_passage_that_lost_its_slots_is_encoded_again():
    model = finds(num_slots=40)
    first = random_ids(1, 16, seed=4)
    alone = model.memorize(first).closed()
    memory = model.memorize(random_ids(1, 120, seed=8), memory=alone).closed()
    begun, _ = begin_turn(memory, torch.ones(1, 1, dtype=torch.bool))
    begun = begun.without(begun.turn == 0, torch.zeros_like(begun.is_told))
    engine = model.engine()
    read = reading(
        engine, begun, places(engine, [[passage(0, 8, 2.0)]], begun), torch.tensor([False])
    )
    order = read.seen_at[0].argsort()
    assert read.seen_at[0, order].tolist() == list(range(8))
    slots = alone.seen_at[0].argsort()[:8]
    torch.testing.assert_close(read.keys[:, 0, order], alone.keys[:, 0, slots])
    torch.testing.assert_close(read.values[:, 0, order], alone.values[:, 0, slots])
    assert int(begun.occupied.sum()) == 40  # the memory itself is as it was


def test_what_is_recalled_is_used():
    model = finds(num_slots=64)
    ids, memory = told_to(model, tokens=100)
    slots = memory.seen_at[0][memory.occupied[0]].sort().values[:8].tolist()
    recalled = [[passage(slots[0], slots[-1] + 1, 2.0)]]
    options = {"max_new_tokens": 2, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    options |= {"memory": memory, "return_memory": True}
    _, after = model.generate(ids[:, :4], recalled=recalled, **options)
    for place in slots:
        slot = (after.seen_at[0] == place).nonzero()
        assert float(after.usage[0, slot]) == pytest.approx(float(after.strength[0, slot]))
    _, other = model.generate(ids[:, :4], recalled=[[]], **options)
    assert float(other.usage[0, other.seen_at[0] == slots[0]]) < 0.9


def test_forward_and_generation_without_cache_read_what_was_recalled():
    model = finds()
    ids, memory = told_to(model)
    recalled = [[passage(40, 56, 2.0)]]
    other = memory.replaced(values=memory.values.clone())
    other.values[:, 0, (memory.seen_at[0] < 40) | (memory.seen_at[0] >= 56)] = 9.0
    asked = ids[:, :4]
    one = model(asked, memory=memory, recalled=recalled).logits
    assert torch.equal(one, model(asked, memory=other, recalled=recalled).logits)
    assert not torch.equal(one, model(asked, memory=memory).logits)
    options = {"max_new_tokens": 3, "do_sample": False, "pad_token_id": 0, "recalled": recalled}
    cached = model.generate(asked, memory=memory, **options)
    assert torch.equal(cached, model.generate(asked, memory=memory, use_cache=False, **options))
    step = model(asked, memory=memory, recalled=recalled, use_cache=True)
    torch.testing.assert_close(step.logits, one)


def test_an_aside_finds_by_its_question_and_knows_only_what_was_told_before():
    pytest.importorskip("bm25s")
    model = finds()
    text = random_ids(1, 96, seed=5)
    question = text[:, 40:46]  # a question in the words of the sixth segment
    row = torch.cat([text[:, :64], question, text[:, 64:]], 1)
    segment_ids = torch.cat(
        [torch.arange(64) // 8, torch.full((6,), 50), 60 + torch.arange(32) // 8]
    )
    remembered = (segment_ids != 50)[None]
    labels = torch.full_like(row, -100)
    labels[0, 69] = row[0, 69]  # the last token of the aside is the answer
    options = {"segment_ids": segment_ids[None], "remembered": remembered, "labels": labels}
    logits = model(row, **options).logits
    # later text changes nothing, nor does text that is not found
    later = row.clone()
    later[0, 70:] = random_ids(1, 32, seed=6)
    torch.testing.assert_close(model(later, **options).logits, logits)
    memory = model.memorize(text[:, :64]).closed()
    found = recollect(model.engine(), question[:, :5], torch.ones(1, 5).bool(), memory, 64)
    assert found[0][0].start <= 44 and found[0][0].end > 40
    wanted = model(question, memory=memory, recalled=found).logits[:, 4]
    torch.testing.assert_close(logits, wanted, atol=1e-4, rtol=1e-4)
    chunks = model(row, chunks=3, **options).logits
    torch.testing.assert_close(chunks, logits, atol=1e-4, rtol=1e-4)


def test_layers_with_a_sliding_window_neither_find_nor_are_chosen_to_read():
    from backbones import tiny_backbone

    from memformer import MemformerForCausalLM

    backbone = tiny_backbone("gemma3_text")
    kinds = backbone.config.layer_types
    if "sliding_attention" not in kinds:
        backbone.config.layer_types = kinds = ["sliding_attention", "full_attention"] * 2
    whole = {number for number, kind in enumerate(kinds) if kind == "full_attention"}
    model = MemformerForCausalLM.from_backbone(backbone, MemoryConfig(finders=3))
    assert {layer.layer for layer in model.memory_layers} <= whole
    assert {layer for layer, _ in model.memory.finders.chosen} <= whole
