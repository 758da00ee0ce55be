"""Nothing that a model computes has changed since version 0.1.0: logits, memories, text, gradients.

On the processor and the torch that the figures were stored with, every bit is compared; elsewhere,
where kernels add in another order, the numbers.
"""

from __future__ import annotations

import json

import pytest
import torch
import unchanged
from safetensors.torch import load_file

from memformer import MemformerForCausalLM, MemoryState
from memformer.pretrained import DEFAULT_MODEL, local_path

STORED = json.loads((unchanged.ROOT / "tests/golden/unchanged.json").read_text())
SAME_MACHINE = STORED["processor"] == unchanged.processor()
real = [
    pytest.mark.real,
    pytest.mark.skipif(
        local_path(DEFAULT_MODEL) is None, reason="the default model is not fetched"
    ),
]


def is_close(now: dict, then: dict) -> bool:
    numbers = pytest.approx(then["numbers"], rel=1e-3, abs=1e-4)
    return now["shape"] == then["shape"] and now["numbers"] == numbers


def compare(name: str, now: object, then: object) -> None:
    if isinstance(then, list) and then and isinstance(then[0], dict):
        assert len(now) == len(then), name
        left = list(now)
        for number, wanted in enumerate(then):
            # elsewhere the order of numbers that are nearly alike may be another
            close = [one for one in left if is_close(one, wanted)] if not SAME_MACHINE else left
            assert close, f"{name} {number}"
            compare(f"{name} {number}", close[0], wanted)
            left.remove(close[0])
    elif not isinstance(then, dict):
        assert now == then, name
    else:
        assert now["shape"] == then["shape"], name
        assert is_close(now, then), name
        if SAME_MACHINE:
            assert now["bits"] == then["bits"], name


@pytest.mark.parametrize(
    "case", ["attached", "adapted", "families", pytest.param("trained", marks=real)]
)
def test_every_figure_is_the_stored_one(case):
    now, then = unchanged.figures(case), STORED["cases"][case]
    assert now.keys() == then.keys()
    for name in then:
        compare(name, now[name], then[name])


def test_a_memory_of_the_format_before_is_opened_as_it_was():
    model = MemformerForCausalLM.from_pretrained(unchanged.ATTACHED)
    opened = MemoryState.load(unchanged.ATTACHED / "memory_4.safetensors", model=model)
    stored = STORED["file"]
    assert unchanged.contents(opened).keys() == stored.keys()
    for part, value in unchanged.contents(opened).items():
        now = unchanged.figure(value)
        assert now["bits"] == stored[part]["bits"], part
        assert now["shape"] == stored[part]["shape"], part
    # and can be used and saved on
    after = model.memorize(torch.tensor([[5, 6, 7], [8, 9, 10]]), memory=opened)
    assert int(after.num_written[0]) == int(opened.num_written[0]) + 3


def test_weights_with_earlier_names_are_converted_by_from_pretrained_alone():
    earlier = load_file(unchanged.ATTACHED / "model.safetensors")
    model = MemformerForCausalLM.from_pretrained(unchanged.ATTACHED)
    assert torch.equal(model.memory.table.write_gate_weight, earlier["memory.0.write_gate_weight"])
    # a Trainer would load the optimizer's state next, whose order is another
    with pytest.raises(ValueError, match="names of an earlier memformer, such as memory.0."):
        model.load_state_dict(earlier, strict=False)


def test_a_changed_figure_is_noticed():
    then = unchanged.figure(torch.tensor([1.0, 2.0]))
    compare("same", then, then)
    with pytest.raises(AssertionError, match="other"):
        compare("other", unchanged.figure(torch.tensor([1.0, 2.1])), then)
    with pytest.raises(AssertionError, match="list"):
        compare("list", [then], [then, then])
