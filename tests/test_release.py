"""What new text lets go of, and reads along the order of writing."""

from __future__ import annotations

import pytest
import torch
from backbones import random_ids, tiny_backbone
from hypothesis import given, settings
from hypothesis import strategies as st

from memformer import IncompatibleMemory, MemformerForCausalLM, MemoryConfig
from memformer.attach.heads import ADDRESS_WIDTH, ReleaseHeads
from memformer.classic.addressing import forward_weights, link_after, precedence_after
from memformer.memory.addressing import matches
from memformer.memory.links import Links, linked, neighbours
from memformer.memory.read import content_read, prepare_slots

SEGMENT = 8


def attached(**config) -> MemformerForCausalLM:
    """A tiny model whose erase gate is wide open, and whose address is the token."""
    settings = {"num_slots": None, "segment_tokens": SEGMENT, "memory_layers": (0, 2)}
    settings |= {"least_age": 4}
    model = MemformerForCausalLM.from_backbone(
        tiny_backbone(), MemoryConfig(**{**settings, "erase": True, **config})
    )
    release = model.memory.table.release
    if release is not None:
        hidden = release.address_weight.shape[1] // 2
        with torch.no_grad():
            # layer 0 sees the embeddings alone: equal tokens have equal addresses
            release.address_weight[:, hidden:].zero_()
            for head in release.heads.values():
                head.gate_bias.fill_(0.0)
                head.log_sharpness.fill_(5.0)
                head.threshold.fill_(0.95)
    return model


def strengths(memory):
    order = memory.seen_at[0].argsort()
    return memory.strength[0, order].detach(), memory.token[0, order]


def test_a_token_weakens_the_older_slots_that_it_matches_and_no_other():
    model = attached()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 7, 13, 14, 15]])
    with torch.no_grad():
        strength, token = strengths(model.memorize(ids))
    written = strength[-1]
    weakened = (strength < 0.9 * written).nonzero().flatten().tolist()
    assert [(place, int(token[place])) for place in weakened] == [(2, 7)]
    # gate one half, match nearly one
    torch.testing.assert_close(strength[2] / written, torch.tensor(0.5), rtol=0, atol=0.02)


def test_a_token_spares_what_was_written_just_before_it():
    model = attached()
    with torch.no_grad():
        near, _ = strengths(model.memorize(torch.tensor([[5, 7, 6, 8, 7, 9]])))
        far, _ = strengths(model.memorize(torch.tensor([[5, 7, 6, 8, 10, 7, 9]])))
    assert (near == near[0]).all()
    assert far[1] < 0.6 * far[0]


def test_a_token_that_is_not_written_lets_go_of_nothing():
    model = attached()
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 7, 13, 14, 15]])
    table = model.memory.table
    with torch.no_grad():
        table.write_gate_bias.fill_(-4.0)
        memory = model.memorize(ids[:, 8:], memory=attached().memorize(ids[:, :8]).closed())
        # whatever another model wrote
        assert (memory.strength[0, :8] > 0.9).all()


def test_what_is_let_go_is_evicted_first():
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 7, 13, 14, 15, 16, 17, 18, 19]])
    with torch.no_grad():
        memory = attached(num_slots=15).memorize(ids).closed()
        plain = attached(num_slots=15, erase=False).memorize(ids).closed()
    assert (memory.token == 7).sum() == 1
    assert (plain.token == 7).sum() == 2
    assert memory.token.shape == (1, 15)


def test_the_free_head_has_keys_of_its_own():
    model = attached(erase=False, free=True)
    release = model.memory.table.release
    embedding = model.get_input_embeddings().weight
    with torch.no_grad():
        # token 20 frees token 7: its key is the other's address
        layer = model.backbone.model.layers[0].input_layernorm
        seen, wanted = layer(embedding[20]), layer(embedding[7])
        address = release.address_weight[:, : len(seen)] @ wanted
        head = release.head("free")
        head.key_weight.zero_()
        head.key_weight[:, : len(seen)] = address[:, None] * seen / seen.square().sum()
        head.gate_bias.fill_(-20.0)
        head.gate_weight.copy_(40.0 * seen / seen.square().sum())
        strength, token = strengths(
            model.memorize(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12, 20, 13]]))
        )
    weakened = strength < 0.5 * strength[0]
    assert weakened.nonzero().flatten().tolist() == [2] and token[2] == 7


def test_forgetting_an_update_that_is_still_open_gives_the_old_fact_its_strength_back():
    model = attached()
    with torch.no_grad():
        memory = model.memorize(torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])).closed()
        before = memory.strength.clone()
        memory = model.memorize(torch.tensor([[7, 13]]), memory=memory)
        assert memory.strength[0, 2] < 0.6
        assert memory.forget(1) == 2
        memory = model.memorize(torch.tensor([[14, 15]]), memory=memory)
    torch.testing.assert_close(memory.strength[:, :8], before)


def test_addresses_are_part_of_what_memory_and_model_must_share():
    model, plain = attached(), attached(erase=False)
    assert model.init_memory(1).addresses.shape == (1, 0, ADDRESS_WIDTH)
    assert plain.init_memory(1).addresses.shape == (1, 0, 0)
    with pytest.raises(IncompatibleMemory, match=f"addresses of width {ADDRESS_WIDTH}"):
        model(random_ids(1, 4), memory=plain.memorize(random_ids(1, 4)))


@pytest.mark.parametrize("heads", [("erase",), ("free",), ("erase", "free")])
def test_heads_that_are_not_trained_let_go_of_next_to_nothing(heads):
    model = MemformerForCausalLM.from_backbone(
        tiny_backbone(), MemoryConfig(segment_tokens=SEGMENT, **dict.fromkeys(heads, True))
    )
    assert tuple(ReleaseHeads(24, heads, 6).heads) == heads
    memory = model.memorize(random_ids(2, 3 * SEGMENT)).closed()
    assert memory.strength.min() > 0.95 * memory.strength.max()


@settings(deadline=None)
@given(seed=st.integers(0, 99), threshold=st.floats(-1, 1), factor=st.floats(1, 100))
def test_matches_know_the_direction_alone_and_each_slot_by_itself(seed, threshold, factor):
    generator = torch.Generator().manual_seed(seed)
    memory, keys = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (6, 3))
    sharp, at = torch.tensor(20.0), torch.tensor(threshold)
    found = matches(memory, keys, sharp, at)
    assert ((found >= 0) & (found <= 1)).all()
    torch.testing.assert_close(matches(memory, factor * keys, sharp, at), found, rtol=0, atol=1e-3)
    torch.testing.assert_close(matches(memory[2:4], keys, sharp, at), found[:, 2:4])


# ---- links -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 99), slots=st.integers(2, 9))
def test_lists_of_links_are_the_link_matrix_of_writes_to_free_slots(seed, slots):
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(slots, generator=generator)
    count = int(torch.randint(2, slots + 1, (), generator=generator))
    link = torch.zeros(1, slots, slots, dtype=torch.float64)
    precedence = torch.zeros(1, slots, dtype=torch.float64)
    seen_at = torch.full((1, slots), -1)
    for clock, slot in enumerate(order[:count].tolist()):
        write = torch.nn.functional.one_hot(torch.tensor([slot]), slots).double()
        link = link_after(link, precedence, write)
        precedence = precedence_after(precedence, write)
        seen_at[0, slot] = clock
    weights = torch.rand(1, 3, slots, generator=generator, dtype=torch.float64)
    values = torch.randn(1, slots, 1, 5, generator=generator, dtype=torch.float64)
    for step, directed in ((1, link), (-1, link.mT)):
        lists = neighbours(seen_at, seen_at >= 0, step)
        dense = forward_weights(directed, weights) @ values[:, :, 0]
        torch.testing.assert_close(weights @ linked(values, lists)[:, :, 0], dense)


def test_a_read_along_links_is_the_read_of_the_neighbours_values():
    queries, keys, values = torch.randn(1, 3, 4, 6), *torch.randn(2, 1, 9, 2, 6)
    rest = (torch.ones(1, 9), torch.zeros(1, 9), torch.zeros(4), torch.zeros(4))
    seen_at = torch.randperm(9)[None]
    steps = [neighbours(seen_at, seen_at >= 0, step) for step in (-1, 1)]
    modes = torch.rand(4, 3).softmax(-1)
    read, evidence, _ = content_read(
        queries, prepare_slots(keys, values, *rest, links=Links(*steps, modes))
    )
    parts = [
        content_read(queries, prepare_slots(keys, one, *rest))
        for one in (linked(values, steps[0]), values, linked(values, steps[1]))
    ]
    expected = sum(modes[:, mode, None] * part[0] for mode, part in enumerate(parts))
    torch.testing.assert_close(read, expected)
    torch.testing.assert_close(evidence, parts[1][1])


def test_links_pass_over_tokens_that_were_not_written():
    model = attached(erase=False, links=True)
    memory = model.memorize(random_ids(1, 3 * SEGMENT)).closed()
    memory.forget(lambda entry: entry["slot"] in (3, 4, 5))
    assert memory.next_slot[0, 2] == 6 and memory.prev_slot[0, 6] == 2
    assert memory.next_slot[0, 3] == -1
