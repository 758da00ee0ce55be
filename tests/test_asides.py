"""Documents with asides in one forward: the same as reading, asking, reading on."""

from __future__ import annotations

import pytest
import torch
from backbones import FAMILIES, random_ids
from test_forms import SEGMENT, _short_passages, attached  # noqa: F401 - a fixture

from memformer.segments import arrange

IGNORED = -100


def with_asides(lengths: list[tuple[str, int]], width: int, seed: int) -> dict[str, torch.Tensor]:
    """One row: parts ("told" or "asked", tokens), padded on the right to a width."""
    ids = torch.zeros(1, width, dtype=torch.long)
    mask, segment_ids = torch.zeros_like(ids), torch.full_like(ids, -1)
    remembered, labels = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, IGNORED)
    begin = 0
    for number, (kind, tokens) in enumerate(lengths):
        part = slice(begin, begin + tokens)
        ids[:, part] = random_ids(1, tokens, seed=seed + number)
        mask[:, part], segment_ids[:, part] = 1, number
        if kind == "told":
            remembered[:, part] = True
        else:
            labels[:, begin + 1 : begin + tokens] = ids[:, begin + 1 : begin + tokens]
        begin += tokens
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "segment_ids": segment_ids,
        "remembered": remembered,
        "labels": labels,
    }


ROWS = (
    [("told", 8), ("asked", 4), ("told", 5), ("told", 8), ("asked", 6), ("told", 3), ("asked", 5)],
    [("asked", 3), ("told", 6), ("asked", 5)],
)


def batch() -> dict[str, torch.Tensor]:
    rows = [with_asides(row, 40, 50 * number) for number, row in enumerate(ROWS)]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def one_by_one(model, inputs, row: int) -> list[torch.Tensor]:
    """Logits of the labels of each aside: what was told before is memorized, then it is read."""
    memory, begin, found = model.init_memory(1), 0, []
    for kind, tokens in ROWS[row]:
        ids = inputs["input_ids"][row : row + 1, begin : begin + tokens]
        if kind == "told":
            memory = model.memorize(ids, memory=memory).closed()
        else:
            found.append(model(ids, memory=memory).logits[0, :-1])
        begin += tokens
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_asides_read_the_memory_as_it_is_where_they_stand(family):
    model = attached(family, selective=True).eval()
    inputs = batch()
    with torch.no_grad():
        output = model(**inputs)
        expected = [logits for row in (0, 1) for logits in one_by_one(model, inputs, row)]
    torch.testing.assert_close(output.logits, torch.cat(expected), rtol=1e-4, atol=1e-4)
    targets = inputs["labels"][:, 1:][inputs["labels"][:, 1:] != IGNORED]
    loss = torch.nn.functional.cross_entropy(output.logits, targets)
    torch.testing.assert_close(output.loss, loss)


def test_links_are_those_of_the_moment():
    model = attached(links=True).eval()
    inputs = batch()
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = [one for row in (0, 1) for one in one_by_one(model, inputs, row)]
    torch.testing.assert_close(logits, torch.cat(expected), rtol=1e-4, atol=1e-4)


def test_what_is_told_is_remembered_and_asides_are_not():
    model = attached().eval()
    inputs = batch()
    with torch.no_grad():
        memory = model(**inputs).memory
    for row in (0, 1):
        told = inputs["input_ids"][row][inputs["remembered"][row]]
        slots = memory.occupied[row].nonzero().flatten()
        order = memory.seen_at[row, slots].argsort()
        assert torch.equal(memory.token[row, slots][order], told)
    assert memory.num_segments.tolist() == [4, 1]
    assert not memory.is_open.any()


def test_labels_of_the_document_itself_are_predicted_across_segments():
    model = attached().eval()
    inputs = batch()
    inputs["labels"] = inputs["input_ids"].masked_fill(~inputs["remembered"], IGNORED)
    alone = {name: value[1:, 3:9] for name, value in inputs.items()}  # one segment, nothing else
    with torch.no_grad():
        logits = model(**inputs).logits
        expected = model(alone["input_ids"]).logits[0, :-1]
    # the token before the first of row 2's document is an aside's
    torch.testing.assert_close(logits[-5:], expected, rtol=1e-4, atol=1e-4)


def test_rows_do_not_disturb_one_another():
    model = attached().eval()
    inputs = batch()
    with torch.no_grad():
        together = model(**inputs).logits
        apart = [
            model(**{name: value[row : row + 1] for name, value in inputs.items()}).logits
            for row in (0, 1)
        ]
    torch.testing.assert_close(together, torch.cat(apart), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(("chunks", "reached"), [(1, {0, 1, 2}), (2, {1, 2}), (3, {2})])
def test_the_gradient_reaches_exactly_the_segments_of_its_chunk(chunks, reached, checkpointing):
    model = attached().train()
    if checkpointing:
        model.gradient_checkpointing_enable()
    inputs = with_asides([("told", 6), ("told", 8), ("told", 5), ("asked", 5)], 24, 0)
    embeddings = []

    def keep(_, __, output):
        embeddings.append(output.requires_grad_())
        output.retain_grad()

    handle = model.get_input_embeddings().register_forward_hook(keep)
    model(**inputs, chunks=chunks).loss.backward()
    handle.remove()
    *told, asked = embeddings
    touched = [bool(one.any()) for part in told if part.grad is not None for one in part.grad]
    missing = sum(len(part) for part in told if part.grad is None)
    assert {missing + number for number, any_ in enumerate(touched) if any_} == reached
    assert asked.grad.any()


def test_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = attached("llama", selective=True, dnc=True).train()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(**batch()).loss.backward()
        gradients.append({name: p.grad for name, p in model.memory.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_every_parameter_of_the_memory_gets_a_gradient():
    model = attached(selective=True, dnc=True).train()
    model(**batch()).loss.backward()
    assert [name for name, p in model.memory.named_parameters() if p.grad is None] == []


def test_the_budget_holds_the_share_that_is_written():
    model = attached(selective=True, write_budget=0.1).train()
    inputs = batch()
    output = model(**inputs)
    model.eval()
    plain = model(**inputs)
    assert 0.1 < output.written.item() < 1.0
    penalty = (output.written - 0.1).square()
    torch.testing.assert_close(output.loss, plain.loss + penalty)


def test_evidence_and_entropy_are_of_the_asides():
    model = attached().eval()
    with torch.no_grad():
        output = model(**batch())
    assert output.evidence.shape == output.entropy.shape == (5,)
    # asides in the order of their number, not of their row: row 2 asks before anything is told
    assert (output.evidence == 0).sum() == 1
    assert (output.evidence <= 1).all() and (output.entropy >= 0).all()


def test_the_memory_before_it_is_read_too():
    model = attached().eval()
    earlier = random_ids(1, 7, seed=90)
    inputs = with_asides([("told", 6), ("asked", 5)], 11, 0)
    with torch.no_grad():
        memory = model.memorize(earlier)
        found = model(**inputs, memory=memory).logits
        memory = model.memorize(inputs["input_ids"][:, :6], memory=memory.closed()).closed()
        expected = model(inputs["input_ids"][:, 6:], memory=memory).logits[0, :-1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_arrange_takes_any_ids_and_padding_anywhere():
    real = torch.tensor([[False, True, True, False, True, True, True]])
    segment_ids = torch.tensor([[0, 7, 7, 9, 7, 3, 3]])
    ids = torch.arange(7)[None]
    segments = arrange(ids, real, segment_ids)
    assert segments.ids.tolist() == [[[1, 2, 4], [5, 6, 0]]]
    assert segments.real.tolist() == [[[True] * 3, [True, True, False]]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"remembered": torch.ones(1, 3, dtype=torch.bool)}, "remembered must have the shape"),
        ({"segment_ids": torch.zeros(1, 2)}, "segment_ids must have the shape"),
        ({"chunks": 0}, "chunks must be at least 1"),
        ({"segment_ids": torch.zeros(1, 24, dtype=torch.long)}, "is remembered in part"),
        ({"attention_mask": torch.zeros(1, 24)}, "There is no text"),
        ({"labels": torch.full((1, 24), IGNORED)}, "nothing to predict"),
    ],
)
def test_layouts_that_can_not_be_get_a_sentence(change, sentence):
    inputs = with_asides([("told", 6), ("told", 8), ("asked", 5)], 24, 0)
    with pytest.raises(ValueError, match=sentence):
        attached()(**(inputs | change))


def test_a_segment_that_is_too_long_gets_a_sentence():
    with pytest.raises(ValueError, match=f"A segment of 9 tokens is too long.*is {SEGMENT}"):
        attached()(**with_asides([("told", 9), ("asked", 5)], 24, 0))
