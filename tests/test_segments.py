"""Segments: where they end, that a cut looks at nothing else, and what a tokenizer says of it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_forms import attached, in_order
from tiny import byte_tokenizer

from memformer.attach.backbone import Backbone
from memformer.attach.borders import border_table
from memformer.segments import cut, whole

# token 1 ends a sentence, token 2 a paragraph
BORDERS = torch.tensor([0, 1, 2, 0, 0], dtype=torch.uint8)
TEXTS = st.lists(st.sampled_from([0, 1, 2, 3, 3, 3, 3, 4]), min_size=1, max_size=60)


def lengths(ids, segment_tokens, borders=BORDERS):
    text = torch.tensor([ids], dtype=torch.long)
    segments = cut(text, torch.ones_like(text, dtype=torch.bool), segment_tokens, borders)
    assert torch.equal(segments.ids[segments.real], text[0])
    return segments.real[0].sum(-1).tolist(), segments.closes[0].tolist()


@pytest.mark.parametrize(
    ("ids", "expected", "closes"),
    [
        # a paragraph goes before a later sentence, the last of each counts
        ([3, 3, 3, 3, 2, 2, 1, 3, 3, 3], [6, 4], [True, False]),
        ([3, 3, 3, 3, 1, 3, 1, 3, 3, 3], [7, 3], [True, False]),
        # the first half does not count
        ([3, 3, 3, 2, 3, 3, 3, 3, 3], [8, 1], [True, False]),
        ([3, 3, 3, 2, 3, 1, 3, 3, 3], [6, 3], [True, False]),
        # text that fits into a segment is one; it is closed if no border could be better
        ([3, 3, 3, 3, 1, 3, 3, 3], [8], [False]),
        ([3, 3, 3, 3, 1, 3, 3, 1], [8], [True]),
        ([3, 3, 3, 3, 2, 3, 3, 1], [8], [False]),
        ([3, 3, 3, 3, 3, 3, 3, 3], [8], [True]),
        ([3, 3, 3, 3, 3, 2], [6], [False]),
    ],
)
def test_a_segment_ends_at_the_last_paragraph_or_sentence_of_its_second_half(ids, expected, closes):
    assert lengths(ids, 8) == (expected, closes)


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(2, 9), st.integers(0, 60))
def test_a_text_interrupted_anywhere_is_cut_as_in_one_go(ids, segment_tokens, place):
    found, closes = lengths(ids, segment_tokens)
    assert closes[:-1] == [True] * (len(closes) - 1)
    assert all(segment_tokens // 2 < length <= segment_tokens for length in found[:-1])
    assert found[-1] <= segment_tokens
    first, first_closes = lengths(ids[:place], segment_tokens) if ids[:place] else ([0], [False])
    done = [length for length, closed in zip(first, first_closes, strict=True) if closed]
    rest = ids[sum(done) :]
    assert done + (lengths(rest, segment_tokens)[0] if rest else []) == found
    # finished segments alone are the same segments, the last of which may still be open
    told = sum(found[:-1])
    assert not told or lengths(ids[:told], segment_tokens)[0] == found[:-1]
    # and those of the first tokens are known where text goes on
    if len(ids) > 2 * segment_tokens:
        size = whole(ids[: 2 * segment_tokens + 1], 2 * segment_tokens, segment_tokens, BORDERS)
        assert size in torch.tensor(found).cumsum(0).tolist() and size > segment_tokens


@settings(max_examples=100, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3), st.integers(2, 9), st.randoms())
def test_padding_and_other_rows_do_not_count(rows, segment_tokens, rng):
    columns = max(map(len, rows)) + 3
    ids = torch.full((len(rows), columns), 2)
    real = torch.zeros_like(ids, dtype=torch.bool)
    for row, text in enumerate(rows):
        places = sorted(rng.sample(range(columns), len(text)))
        ids[row, places] = torch.tensor(text)
        real[row, places] = True
    segments = cut(ids, real, segment_tokens, BORDERS)
    assert torch.equal(
        ids.gather(1, segments.column.flatten(1))[:, None].view_as(segments.ids)[segments.real],
        segments.ids[segments.real],
    )
    for row, text in enumerate(rows):
        found, closes = lengths(text, segment_tokens)
        held = segments.real[row].any(-1)
        assert segments.real[row].sum(-1)[held].tolist() == found
        assert segments.closes[row, held].tolist() == closes
        assert not segments.closes[row, ~held].any()


def test_tokens_that_the_table_does_not_know_end_nothing():
    assert lengths([9, 9, 9, 9, 1, 9, 9, 7, 9], 8)[0] == [5, 4]
    assert lengths([9] * 17, 8, torch.zeros(3, dtype=torch.uint8))[0] == [8, 8, 1]


def test_a_tokenizer_says_what_ends_a_sentence_or_a_paragraph():
    tokenizer = byte_tokenizer()
    backbone = Backbone.of(attached(backbone={"vocab_size": 300}).unload_memory())
    table = border_table(backbone, tokenizer)
    assert table.shape == (300,)
    kinds = {tokenizer.decode([number]): int(table[number]) for number in range(len(tokenizer))}
    assert {text for text, kind in kinds.items() if kind == 1} == {".", "!", "?"}
    # the end of a text or of a turn, and not its beginning
    assert {text for text, kind in kinds.items() if kind == 2} == {"\n", "<|end|>"}
    assert not border_table(backbone, None).any()


def test_quotes_and_brackets_may_follow_the_end_of_a_sentence():
    from memformer.attach.borders import _ending

    assert [_ending(text) for text in (".", '."', "!)", "…”", " .", "?'", "...", "。")] == [1] * 8
    assert [_ending(text) for text in ("\n", ".\n\n", "a\nb")] == [2] * 3
    assert [_ending(text) for text in ("", '"', ")", ",", ".a", " 3.5", ":")] == [0] * 7


def punctuated(batch, tokens, seed):
    """Random text in which tokens 1 to 4 end sentences, and token 5 ends a paragraph."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(1, 24, (batch, tokens), generator=generator)


def with_borders(**config):
    model = attached(**config)
    model.memory.borders[1:5] = 1
    model.memory.borders[5] = 2
    return model


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 45), st.integers(0, 9), st.booleans())
def test_a_text_interrupted_anywhere_gives_the_memory_of_one_pass(place, seed, selective):
    model = with_borders(selective=selective, passage_tokens=3, gate_reach=1, least_age=2)
    ids = punctuated(2, 46, seed)
    with torch.no_grad():
        wanted = model.memorize(ids)
        memory = model.memorize(ids[:, place:], memory=model.memorize(ids[:, :place]))
        recurrent = model.memorize(ids, segments_per_chunk=1)
    lengths = torch.unique(wanted.segment[wanted.occupied], return_counts=True)[1]
    assert len(set(lengths.tolist())) > 2
    for one in (memory, recurrent):
        for row in range(2):
            for name in ("token", "segment", "seen_at", "written_at", "usage", "reads", "strength"):
                torch.testing.assert_close(
                    in_order(one, name, row), in_order(wanted, name, row), rtol=0, atol=1e-4
                )
        assert torch.equal(one.num_segments, wanted.num_segments)


def test_forward_and_memorize_cut_alike():
    model = with_borders()
    for tokens in (5, 8, 9, 30):
        ids = punctuated(2, tokens, seed=tokens)
        with torch.no_grad():
            one, other = model(ids).memory, model.memorize(ids)
        for name, tensor in one.tensors.items():
            torch.testing.assert_close(tensor, getattr(other, name), rtol=0, atol=1e-4)


def test_views_and_copies_of_weights_have_the_borders():
    model = with_borders()
    assert model.with_memory(focus=0.0).memory.borders is model.memory.borders
    fresh = attached()
    fresh.memory.load_state_dict(model.memory.state_dict())
    assert torch.equal(fresh.memory.borders, model.memory.borders)
    # weights of a version without borders
    earlier = model.memory.state_dict()
    del earlier["borders"]
    fresh = attached()
    fresh.memory.load_state_dict(earlier)
    assert not fresh.memory.borders.any()
