"""The real model: SmolLM2-135M-Instruct, attached and calibrated, nothing trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from memformer import MemformerForCausalLM, MemoryConfig, MemoryState
from memformer.chat import chat_ids
from memformer.pretrained import DEFAULT_MODEL, local_path

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        local_path(DEFAULT_MODEL) is None, reason="the default model is not fetched"
    ),
]

TOLD = (
    "Harold lives in Boston. Martha works as a gardener. Edith has a pet rabbit. "
    "Clifford plays the harp. Agnes likes to eat pears. Rupert was born in Geneva."
)
ASKED = (
    ("Where does Harold live?", "Harold lives in", "Boston"),
    ("What does Martha do?", "Martha works as a", "gardener"),
    ("What pet does Edith have?", "Edith has a pet", "rabbit"),
    ("What does Clifford play?", "Clifford plays the", "harp"),
    ("What does Agnes like to eat?", "Agnes likes to eat", "pears"),
    ("Where was Rupert born?", "Rupert was born in", "Geneva"),
)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(local_path(DEFAULT_MODEL))


@pytest.fixture(scope="module")
def model():
    return MemformerForCausalLM.from_pretrained(
        DEFAULT_MODEL, memory_config=MemoryConfig(num_slots=1024, segment_tokens=128)
    )


def test_attaching_measures_the_upper_layers(model):
    layers = model.memory_config.memory_layers
    assert layers[-1] == 29 and 4 <= layers[0] <= 12


def test_facts_are_recalled_from_memory_and_not_without_it(model, tokenizer, tmp_path):
    told = [
        {"role": "user", "content": TOLD},
        {"role": "assistant", "content": "I will remember that."},
    ]
    model.memorize(chat_ids(tokenizer, told)).save(tmp_path / "memory")
    memory = MemoryState.load(tmp_path / "memory", model=model)
    recalled = guessed = 0
    for question, begun, value in ASKED:
        ids = chat_ids(tokenizer, [{"role": "user", "content": question}], reply=begun)
        for known in (memory, None):
            said = model.generate(ids, memory=known, max_new_tokens=3, do_sample=False)
            right = value in tokenizer.decode(said[0, ids.shape[1] :])
            recalled += right and known is not None
            guessed += right and known is None
    assert recalled >= 4 and guessed <= 1


def test_facts_behind_a_long_text_are_found_first_and_then_read(model, tokenizer):
    told = [{"role": "user", "content": TOLD}]
    book = (Path(__file__).parents[1] / "eval/data/thursday.txt").read_text(encoding="utf-8")
    ids = tokenizer(book[:20_000], return_tensors="pt").input_ids[:, :2048]
    memory = model.init_memory(num_slots=None)
    memory = model.memorize(chat_ids(tokenizer, told), memory=memory)
    memory = model.memorize(ids, memory=memory).closed()
    whole = model.with_memory(focus=0.0, working_set=10**6)
    right = {"found": 0, "all at once": 0}
    for question, begun, value in ASKED:
        asked = chat_ids(
            tokenizer, [{"role": "user", "content": question}], reply=begun + " " + value
        )
        end = asked[0, -len(tokenizer(" " + value, add_special_tokens=False).input_ids) :]
        found = model.recall(tokenizer(question, return_tensors="pt").input_ids, memory, 8)
        with torch.no_grad():
            for name, view in (("found", model), ("all at once", whole)):
                logits = view(asked, memory=memory, recalled=found).logits
                right[name] += torch.equal(logits[0, :-1].argmax(-1)[-len(end) :], end)
    assert right["found"] >= 3 and right["all at once"] < right["found"], right


def test_empty_memory_changes_no_bit(model, tokenizer):
    ids = tokenizer("The river was low that summer, and the boats", return_tensors="pt").input_ids
    with torch.no_grad():
        assert torch.equal(model(ids).logits, model.backbone(ids).logits)


def test_parallel_form_equals_recurrent_form(model, tokenizer):
    ids = tokenizer(TOLD * 6, return_tensors="pt").input_ids[:, :300]
    with torch.no_grad():
        recurrent, parallel = (model(ids, segments_per_chunk=n).logits for n in (1, 3))
    assert (recurrent - parallel).abs().max() < 2e-3  # logits of size 20 after 30 layers


def test_streamed_generation_is_fluent_after_a_long_document(model, tokenizer):
    ids = tokenizer(TOLD * 20, return_tensors="pt").input_ids[:, :700]
    memory = model.memorize(ids)
    question = chat_ids(tokenizer, [{"role": "user", "content": "Say hello."}], reply="")
    said, after = model.generate(
        question, memory=memory, max_new_tokens=8, do_sample=False, return_memory=True
    )
    assert after.num_seen.item() == ids.shape[1] + said.shape[1]
