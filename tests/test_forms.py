"""Parallel and recurrent form, empty memories, independence of rows, reach of the gradient."""

from __future__ import annotations

import pytest
import torch
from backbones import FAMILIES, random_ids, tiny_backbone

from memformer import MemformerForCausalLM, MemoryConfig
from memformer.memory import memory_pass as passes
from memformer.memory.chunk import Chunk, Rules
from memformer.memory.gate import gate
from training.heads.inputs import lowest_inputs

SEGMENT = 8
# what `attached` takes beside its arguments; other files have the defaults
RULES: dict[str, int] = {}


@pytest.fixture(autouse=True)
def _short_passages(monkeypatch):
    """Many passages in little text, so that focus and gates have something to choose from."""
    for name, value in (("passage_tokens", 3), ("gate_reach", 1), ("least_age", 2)):
        monkeypatch.setitem(RULES, name, value)


def attached(
    model_type: str = "llama", *, selective: bool = False, dnc: bool = False, **config
) -> MemformerForCausalLM:
    """A tiny model with memory at every layer, its learned scalars away from neutral.

    Selective: its write gate keeps about half of the tokens out. DNC: it lets go of much, and reads
    along links.
    """
    if dnc:
        config |= {"erase": True, "free": True, "links": True}
    backbone = tiny_backbone(model_type, **config.pop("backbone", {}))
    settings = {
        "num_slots": None,
        "segment_tokens": SEGMENT,
        "memory_layers": "all",
        **RULES,
        **config,
    }
    model = MemformerForCausalLM.from_backbone(backbone, MemoryConfig(**settings))
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.memory.named_parameters():
            if "null_logit" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
        if selective:
            table = model.memory.table
            table.write_gate_bias.zero_()
            table.write_gate_weight.copy_(torch.randn_like(table.write_gate_weight))
        if dnc:
            release = model.memory.table.release
            for head in release.heads.values():
                head.gate_bias.fill_(-1.0)
                head.gate_weight.copy_(torch.randn_like(head.gate_weight))
                head.log_sharpness.fill_(1.5)
                head.threshold.fill_(0.5)
            for layer in model.memory_layers:
                layer.read_modes.copy_(torch.randn_like(layer.read_modes))
    return model


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_empty_memory_leaves_logits_bit_equal(family, kernel):
    if family == "gemma2" and kernel == "sdpa":
        pytest.skip("transformers has no sdpa kernel for gemma2")
    backbone = tiny_backbone(family, attn_implementation=kernel)
    ids = random_ids(3, SEGMENT - 1)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.no_grad():
        plain, padded = backbone(ids).logits, backbone(ids, attention_mask=mask).logits
    keys = set(backbone.state_dict())
    model = MemformerForCausalLM.from_backbone(
        backbone, MemoryConfig(segment_tokens=SEGMENT, memory_layers="all")
    )
    assert model.backbone.config._attn_implementation == kernel
    with torch.no_grad():
        assert torch.equal(model(ids).logits, plain)
        assert torch.equal(model(ids, memory=model.init_memory(3)).logits, plain)
        assert torch.equal(model(ids, attention_mask=mask).logits, padded)
        assert torch.equal(model.backbone(ids).logits, plain)
    assert set(model.backbone.state_dict()) == keys


def test_row_with_empty_memory_is_bit_equal_beside_a_row_that_remembers():
    model = attached()
    ids = random_ids(2, 7)
    with torch.no_grad():
        plain = model.backbone(ids).logits
        memory = model.init_memory(2).put(torch.tensor([1]), model.memorize(random_ids(1, 20)))
        logits = model(ids, memory=memory).logits
    assert torch.equal(logits[0], plain[0])
    assert (logits[1] - plain[1]).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("positions", "selective", "dnc"),
    [
        ("none", False, False),
        ("passage", False, False),
        ("passage", True, False),
        ("passage", False, True),
        ("passage", True, True),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_form_equals_recurrent_form(family, positions, selective, dnc):
    model = attached(family, key_positions=positions, selective=selective, dnc=dnc)
    ids = random_ids(2, 4 * SEGMENT + 3)
    start = model.memorize(random_ids(2, 13, seed=5))
    with torch.no_grad():
        recurrent = model(ids, memory=start, segments_per_chunk=1)
        parallel = model(ids, memory=start, segments_per_chunk=5)
    assert (recurrent.logits - parallel.logits).abs().max() < 1e-4
    for name, tensor in recurrent.memory.tensors.items():
        torch.testing.assert_close(tensor, getattr(parallel.memory, name), rtol=0, atol=1e-4)
    share = parallel.memory.closed().occupied.sum() / parallel.memory.num_seen.sum()
    assert 0.15 < share < 0.85 if selective else share == 1
    if dnc:
        closed = recurrent.memory.closed()
        assert 0 < closed.strength[closed.occupied].min() < 0.3
    # the memory matters: without it the last segment reads differently
    with torch.no_grad():
        alone = model.backbone(ids[:, -3:]).logits
    assert (alone - parallel.logits[:, -3:]).abs().max() > 1e-3


@pytest.mark.parametrize(("selective", "dnc"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("working_set", [1, 5, 11, 20])
def test_both_forms_read_the_same_working_set(working_set, selective, dnc):
    model = attached(selective=selective, dnc=dnc, working_set=working_set)
    ids = random_ids(2, 4 * SEGMENT + 3)
    mask = torch.ones_like(ids)
    mask[0, :13] = 0  # rows reach back to slots of other numbers
    start = model.memorize(random_ids(2, 29, seed=5), mask[:, :29])
    with torch.no_grad():
        recurrent = model(ids, mask, memory=start, segments_per_chunk=1)
        parallel = model(ids, mask, memory=start, segments_per_chunk=5)
        whole = model.with_memory(working_set=1000)(ids, mask, memory=start)
    assert (recurrent.logits - parallel.logits).abs().max() < 1e-4
    for name, tensor in recurrent.memory.tensors.items():
        torch.testing.assert_close(tensor, getattr(parallel.memory, name), rtol=0, atol=1e-4)
    assert (whole.logits - parallel.logits).abs().max() > 1e-5


def test_a_segment_reads_the_slots_that_were_written_last():
    """Forgetting all that is out of reach changes nothing; forgetting one slot more does."""
    model = attached(working_set=10)
    memory = model.memorize(random_ids(1, 2 * SEGMENT)).closed()
    memory = model.memorize(random_ids(1, SEGMENT, seed=2), memory=memory).closed()
    ids = random_ids(1, SEGMENT, seed=3)
    with torch.no_grad():
        wanted = model(ids, memory=memory)
        for left, same in ((10, True), (9, False)):
            near = memory.written_at >= int(memory.num_written[0]) - left
            nearer = memory.replaced(strength=memory.strength.where(near, 0.0))
            found = model.with_memory(working_set=1000)(ids, memory=nearer)
            assert ((found.logits - wanted.logits).abs().max() < 1e-5) == same
    # slots out of reach gain no reads
    before = dict(zip(memory.seen_at[0].tolist(), memory.reads[0].tolist(), strict=True))
    after = wanted.memory
    for at, reads in zip(after.seen_at[0].tolist(), after.reads[0].tolist(), strict=True):
        if at in before:
            assert (reads > before[at]) == (at >= 3 * SEGMENT - 10)


@pytest.mark.parametrize("num_slots", [12, 20, None])
def test_a_memory_no_larger_than_the_working_set_is_read_whole(num_slots):
    model = attached(num_slots=num_slots, working_set=num_slots or 60)
    ids = random_ids(2, 59)
    with torch.no_grad():
        one = model.memorize(ids)
        other = model.with_memory(working_set=1000).memorize(ids)
    for name, tensor in one.tensors.items():
        assert torch.equal(tensor, getattr(other, name)), name


def test_the_working_set_lets_the_gradient_through():
    model = attached(selective=True, working_set=6).train()
    ids = random_ids(2, 4 * SEGMENT)
    model(ids, labels=ids, memory=model.memorize(random_ids(2, 20, seed=2))).loss.backward()
    for name, parameter in model.memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("projection_rank", [3, None])
def test_every_segment_of_a_chunk_receives_gradient_and_none_beyond_a_detach(projection_rank):
    model = attached(projection_rank=projection_rank).train()
    embeddings = model.get_input_embeddings()
    seen = []
    embeddings.register_forward_hook(
        lambda module, args, out: seen.append(out.requires_grad_()) or None
    )
    first, second = random_ids(1, 2 * SEGMENT, seed=1), random_ids(1, 4 * SEGMENT, seed=2)
    labels = second.clone()
    labels[:, : 3 * SEGMENT + 1] = -100  # loss on the last segment only
    for detach in (False, True):
        seen.clear()
        memory = model.memorize(first)
        loss = model(second, labels=labels, memory=memory.detach() if detach else memory).loss
        before, chunk = torch.autograd.grad(loss, seen, allow_unused=True)
        assert (chunk.abs().amax((1, 2)) > 0).all()
        if detach:
            assert before is None
        else:
            assert (before.abs().amax((1, 2)) > 0).all()


def test_memorize_keeps_a_gradient_in_training_mode_only():
    model = attached()
    ids = random_ids(1, 2 * SEGMENT)
    assert not model.eval().memorize(ids).strength.requires_grad
    assert model.train().memorize(ids).strength.requires_grad
    with torch.no_grad():
        assert not model.memorize(ids).strength.requires_grad


@pytest.mark.parametrize("dnc", [False, True])
def test_every_memory_parameter_learns(dnc):
    model = attached(dnc=dnc).train()
    ids = random_ids(2, 4 * SEGMENT)
    model(ids, labels=ids).loss.backward()
    for name, parameter in model.memory.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.backbone.parameters())


@pytest.mark.parametrize("dnc", [False, True])
def test_gradient_checkpointing_changes_no_gradient(dnc):
    ids = random_ids(2, 3 * SEGMENT)
    grads = []
    for checkpointing in (False, True):
        model = attached(dnc=dnc).train()
        if checkpointing:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        model(ids, labels=ids).loss.backward()
        grads.append([parameter.grad for parameter in model.memory.parameters()])
    for plain, checkpointed in zip(*grads, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-7)


def test_loss_counts_every_target_once_across_segments_and_padding():
    model = attached()
    ids = random_ids(2, 21)
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    out = model(ids, attention_mask=mask, labels=ids)
    losses = torch.nn.functional.cross_entropy(
        out.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(2, 20)
    targets = mask[:, 1:].bool()
    torch.testing.assert_close(out.loss, losses[targets].mean())
    # one target a token, but for the first that padding does not hide
    assert int(targets.sum()) == 20 + 15
    counted = model(ids, attention_mask=mask, labels=ids, num_items_in_batch=7).loss
    torch.testing.assert_close(counted, losses[targets].sum() / 7)


@pytest.mark.parametrize("dnc", [False, True])
def test_rows_never_influence_one_another(dnc):
    model = attached(dnc=dnc)
    ids = random_ids(3, 29)
    mask = torch.ones_like(ids)
    mask[1, :11] = 0
    mask[2, 20:] = 0
    with torch.no_grad():
        together = model(ids, attention_mask=mask)
        memory = model.memorize(ids, attention_mask=mask)
        for row in range(3):
            real = mask[row].bool()
            alone = model(ids[row : row + 1, real])
            torch.testing.assert_close(
                together.logits[row : row + 1, real], alone.logits, rtol=0, atol=1e-5
            )
            own = model.memorize(ids[row : row + 1, real])
            slots = own.token.shape[1]
            picked = memory.select([row])
            assert torch.equal(picked.token[:, :slots], own.token)
            assert not picked.occupied[:, slots:].any()
            torch.testing.assert_close(picked.keys[:, :, :slots], own.keys, rtol=0, atol=1e-5)
        shuffled = model(ids[[2, 0, 1]], attention_mask=mask[[2, 0, 1]])
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(shuffled.logits, together.logits[order], rtol=0, atol=1e-5)


def test_padding_is_never_written():
    model = attached()
    ids = random_ids(2, 19)
    mask = torch.ones_like(ids)
    mask[0, 5:] = 0
    mask[1, :] = 0
    memory = model.memorize(ids, attention_mask=mask)
    assert memory.num_seen.tolist() == [5, 0]
    assert memory.occupied.sum(-1).tolist() == [5, 0]
    assert memory.num_turns.tolist() == [1, 0]


@pytest.mark.parametrize(("selective", "dnc"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("num_slots", [None, 12, 40])
@pytest.mark.parametrize("first", [1, 7, 8, 9, 23, 36])
def test_interrupted_document_gives_the_memory_of_one_pass(
    num_slots, first, selective, dnc, tmp_path
):
    model = attached(num_slots=num_slots, selective=selective, dnc=dnc)
    ids = random_ids(2, 37)
    with torch.no_grad():
        whole = model.memorize(ids)
        part = model.memorize(ids[:, :first])
        part.save(tmp_path / "part")
        part = type(part).load(tmp_path / "part", model=model)
        part = model.memorize(ids[:, first:], memory=part)
    question = random_ids(2, 6, seed=9)
    with torch.no_grad():
        torch.testing.assert_close(
            model(question, memory=part).logits,
            model(question, memory=whole).logits,
            rtol=0,
            atol=1e-4,
        )
    for row in range(2):
        # all but the turn: the two calls are two turns
        for name in (
            *("token", "seen_at", "written_at", "segment"),
            *("usage", "reads", "strength", "settled"),
        ):
            torch.testing.assert_close(
                in_order(part, name, row), in_order(whole, name, row), rtol=0, atol=1e-4
            )
    assert torch.equal(part.num_seen, whole.num_seen)
    assert torch.equal(part.num_written, whole.num_written)


def in_order(memory, name, row):
    """One column of the slot table in the order of writing; slot numbers may differ."""
    slots = memory.occupied[row].nonzero().flatten()
    slots = slots[memory.seen_at[row, slots].argsort()]
    return getattr(memory, name)[row, slots].float()


def test_long_text_needs_no_more_slots_than_allowed():
    model = attached(num_slots=20)
    memory = model.init_memory(2)
    for seed in range(6):
        memory = model.memorize(random_ids(2, 13, seed=seed), memory=memory)
        closed = memory.occupied & ~memory.is_open
        assert int(closed.sum(-1).max()) <= 20
        assert memory.token.shape[1] <= 20 + SEGMENT
    assert memory.num_seen.tolist() == [78, 78]
    assert memory.closed().occupied.sum(-1).tolist() == [20, 20]
    assert torch.isfinite(model(random_ids(2, 5), memory=memory).logits).all()


def test_a_closed_write_gate_keeps_a_token_out_once_its_segment_is_closed():
    model = attached(selective=True)
    ids = random_ids(2, 2 * SEGMENT + 3)
    with torch.no_grad():
        memory = model.memorize(ids)
        closed = memory.closed()
    # the open segment is all there, so that it can be continued
    assert memory.is_open.sum(-1).tolist() == [3, 3]
    assert int(memory.occupied.sum()) < ids.numel()
    assert (memory.strength[memory.occupied & ~memory.is_open] >= 0.5).all()
    assert (closed.strength[closed.occupied] >= 0.5).all()
    assert memory.num_seen.tolist() == closed.num_seen.tolist() == [19, 19]
    question = random_ids(2, 5, seed=9)
    with torch.no_grad():
        # what is kept out is read neither before nor after
        torch.testing.assert_close(
            model(question, memory=memory).logits, model(question, memory=closed).logits
        )
        assert model.memorize(random_ids(2, 4), memory=memory).num_seen.tolist() == [23, 23]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_write_gate_keeps_out_leaves_no_trace(family):
    model = attached(family, memory_layers=(0, 1, 2))
    ids = random_ids(1, 3 * SEGMENT + 4)
    parts = [ids[:, begin : begin + SEGMENT] for begin in range(0, ids.shape[1], SEGMENT)]
    gap = torch.full((1, SEGMENT), 7)
    # a gate that is open for the parts, and closed for the gap between them
    inputs = torch.cat([lowest_inputs(model, part[0].tolist()) for part in (*parts, gap)])
    wanted = torch.where(torch.arange(len(inputs)) < ids.shape[1], 4.0, -4.0)
    table = model.memory.table
    with torch.no_grad():
        table.write_gate_bias.zero_()
        table.write_gate_weight.copy_(torch.linalg.lstsq(inputs, wanted[:, None]).solution[:, 0])
    between = torch.cat([parts[0], gap, gap, parts[1], gap, parts[2], gap, parts[3]], 1)
    question = random_ids(1, 6, seed=9)
    with torch.no_grad():
        alone, among = (model.memorize(text).closed() for text in (ids, between))
        assert among.num_seen.item() == between.shape[1]
        assert alone.occupied.sum() == among.occupied.sum() == ids.shape[1]
        assert (
            in_order(alone, "written_at", 0).tolist() == in_order(among, "written_at", 0).tolist()
        )
        torch.testing.assert_close(
            model(question, memory=alone).logits,
            model(question, memory=among).logits,
            rtol=0,
            atol=1e-4,
        )


def test_ungated_text_is_written_whole_in_segments_of_its_own():
    model = attached(selective=True)
    before, text, after = (random_ids(2, tokens, seed=tokens) for tokens in (11, 21, 5))
    with torch.no_grad():
        told = model.memorize(before)
        memory = model.memorize(text, memory=told, gated=False)
        kept = told.closed().occupied.sum()
        assert 0 < kept < before.numel()
        assert memory.occupied.sum() == kept + text.numel()
        assert not memory.is_open.any()
        # what comes next is gated again, and takes nothing of it back
        assert memory.occupied.sum() < model.memorize(after, memory=memory).occupied.sum()
        written = (memory.turn == 1) & memory.occupied
        table = model.memory.table
        table.write_gate_weight.zero_()
        table.write_gate_bias.fill_(4.0)
        same = model.memorize(text, memory=told.closed()).closed()
    torch.testing.assert_close(memory.strength[written], same.strength[(same.turn == 1)])
    torch.testing.assert_close(memory.keys[:, written], same.keys[:, same.turn == 1])


def test_training_reaches_the_gates_of_tokens_that_were_kept_out():
    """Forward as without training, backward as if the gate were soft (straight-through)."""
    model = attached(selective=True)
    ids = random_ids(1, 3 * SEGMENT)
    labels = ids.clone()
    labels[:, : 2 * SEGMENT + 1] = -100
    gates = []

    def spy(state, chunk, logits, *rest):
        if logits.requires_grad:
            logits.retain_grad()
        writes = gate(state, chunk, logits, *rest)
        gates.append((logits, writes.kept.detach().view(3, SEGMENT)))
        return writes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "gate", spy)
        with torch.no_grad():
            expected = model(ids, labels=labels).loss
        model.train()
        gates.clear()
        loss = model(ids, labels=labels).loss
    torch.testing.assert_close(loss, expected)
    loss.backward()
    ((logits, kept),) = gates
    assert 0 < kept[:2].sum() < kept[:2].numel()
    # a gate is the mean of its neighbours: had closed ones no gradient, these would have none
    lonely = torch.nn.functional.max_pool1d(kept, 3, 1, 1) == 0
    assert lonely[:2].any()
    assert (logits.grad[:2] != 0).all()
    assert (logits.grad[2] == 0).all()


@pytest.mark.parametrize("tokens", [SEGMENT, 4 * SEGMENT])
def test_training_holds_the_write_gate_to_its_budget(tokens):
    ids = random_ids(4, tokens)
    shares = {}
    # in one segment nothing is read, so that without a budget there is nothing to train
    for budget in (None, 0.25)[tokens == SEGMENT :]:
        model = attached(selective=True, write_budget=budget).train()
        table = model.memory.table
        with torch.no_grad():
            table.write_gate_bias.fill_(3.0)
        optimizer = torch.optim.Adam([table.write_gate_weight, table.write_gate_bias], 0.05)
        before = model(ids, labels=ids).loss.item()
        with torch.no_grad():
            # a penalty of training alone
            plain = model.eval()(ids, labels=ids).loss.item()
        assert (before > plain + 0.1) == (budget is not None)
        model.train()
        for _ in range(300):
            optimizer.zero_grad()
            model(ids, labels=ids).loss.backward()
            optimizer.step()
        with torch.no_grad():
            memory = model.eval().memorize(ids).closed()
        shares[budget] = memory.occupied.sum().item() / ids.numel()
    assert abs(shares[0.25] - 0.25) < 0.1
    assert shares.get(None, 1.0) > 0.5


def test_a_gate_is_the_mean_over_its_neighbours_in_the_segment():
    real = torch.ones(2, 2, 5, dtype=torch.bool)
    real[0, 0, :2] = False
    real[1, 1, 3:] = False
    state = attached().init_memory(2)
    entries = real.any(-1).nonzero(as_tuple=True)
    logits = torch.randn(4, 5)
    writes = gate(state, Chunk.after(state, real, entries), logits, None, Rules(3, 2, 6, 2, 8.0))
    gates = writes.strength.view(2, 2, 5)
    for entry, (row, segment) in enumerate(zip(*entries, strict=True)):
        for token in range(5):
            near = [n for n in range(token - 2, token + 3) if 0 <= n < 5 and real[row, segment, n]]
            expected = logits[entry, near].mean().sigmoid() if real[row, segment, token] else 0.0
            torch.testing.assert_close(gates[row, segment, token], torch.as_tensor(expected))
