"""The checkpoint that comes with the package: small, and good for what it was trained for."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from memformer import MemformerForCausalLM
from memformer.chat import ChatSession
from memformer.pretrained import DEFAULT_MODEL, TRAINED, local_path

FILES = [path for path in TRAINED.rglob("*") if path.is_file()]
# own words, in the manner of what it was trained on
STORY = (
    "Mary went to the kitchen. John travelled to the office. Mary picked up the apple there. "
    "Sandra moved to the garden. Mary journeyed to the bathroom. John went to the hallway."
)
QUESTIONS = [
    ("Where is Mary?", "bathroom"),
    ("Where is John?", "hallway"),
    ("Where is Sandra?", "garden"),
    ("Where is the apple?", "bathroom"),
]


def test_it_is_small_and_holds_nothing_but_plain_files():
    assert sum(path.stat().st_size for path in FILES) < 12 * 2**20
    assert {path.suffix for path in FILES} == {".json", ".safetensors", ".md", ".png"}
    for path in FILES:
        if path.suffix == ".safetensors":
            weights = load_file(path)
            learned = [weight for weight in weights.values() if weight.is_floating_point()]
            assert {weight.dtype for weight in learned} == {torch.bfloat16}


def test_it_names_its_backbone_and_no_machine():
    config = json.loads((TRAINED / "config.json").read_text())
    assert config["backbone"]["name"] == DEFAULT_MODEL
    assert config["memory_config"]["num_slots"] == 4096
    adapter = json.loads((TRAINED / "adapter" / "adapter_config.json").read_text())
    assert adapter["base_model_name_or_path"] == DEFAULT_MODEL
    texts = [path.read_text() for path in FILES if path.suffix in (".json", ".md")]
    assert not any("/tmp/" in text or "/work/" in text for text in texts)


def test_it_knows_what_ends_a_sentence():
    borders = load_file(TRAINED / "model.safetensors")["memory.borders"]
    tokenizer = AutoTokenizer.from_pretrained(TRAINED)
    kinds = {text: borders[tokenizer.convert_tokens_to_ids(text)] for text in (".", "Ċ", "the")}
    assert kinds == {".": 1, "Ċ": 2, "the": 0}
    assert borders[tokenizer.eos_token_id] == 2


real = pytest.mark.skipif(
    local_path(DEFAULT_MODEL) is None, reason="the default model is not fetched"
)


@pytest.fixture(scope="module")
def model():
    return MemformerForCausalLM.from_pretrained(TRAINED)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(local_path(DEFAULT_MODEL))


@real
@pytest.mark.real
def test_it_follows_a_story_in_a_book(model, tokenizer):
    book = (TRAINED.parents[2] / "eval" / "data" / "thursday.txt").read_text()[:2500]
    halves = STORY[: STORY.index("Sandra")], STORY[STORY.index("Sandra") :]
    ids = tokenizer(halves[0] + book + halves[1], add_special_tokens=False).input_ids
    with torch.no_grad():
        memory = model.memorize(torch.tensor([ids])).closed()
        # the book is left out, the story is not
        assert memory.occupied.sum() < 0.4 * len(ids)
        right = 0
        for question, answer in QUESTIONS:
            asked = tokenizer(f"Question: {question}\nAnswer:", return_tensors="pt").input_ids
            said = model.generate(asked, memory=memory, max_new_tokens=4, do_sample=False)
            right += tokenizer.decode(said[0, asked.shape[1] :]).strip().startswith(answer)
    assert right >= 3


@real
@pytest.mark.real
def test_it_is_still_good_for_a_chat(model, tokenizer):
    chat = ChatSession(model, tokenizer, max_new_tokens=30)
    chat.remember("Ines is a nurse in Porto. Ines plays the cello.")
    assert "cello" in chat.say("What does Ines play?")


@real
@pytest.mark.real
def test_its_memory_path_alone_leaves_the_released_model_as_it_is(model, tokenizer):
    released = AutoModelForCausalLM.from_pretrained(local_path(DEFAULT_MODEL), dtype=torch.float32)
    text = tokenizer("A keeper of bees walked home along the canal.", return_tensors="pt").input_ids
    story = tokenizer(STORY, return_tensors="pt").input_ids
    with torch.no_grad(), model.backbone.disable_adapter():
        expected = released(text).logits
        assert torch.equal(model(text).logits, expected)
        full = model(text, memory=model.memorize(story).closed()).logits
    assert not torch.equal(full, expected)


@real
@pytest.mark.real
def test_it_still_talks(model, tokenizer):
    chat = ChatSession(model, tokenizer, max_new_tokens=40)
    chat.say("My sister Clara lives in Madrid.")
    assert len(chat.say("Write one sentence about the sea.").split()) > 4


def test_transformers_own_tools_open_it_by_its_path() -> None:
    from transformers import AutoTokenizer, pipeline

    tokenizer = AutoTokenizer.from_pretrained(TRAINED)
    theirs = AutoTokenizer.from_pretrained(local_path(DEFAULT_MODEL))
    text = "Ines is a nurse in Porto. <|im_start|>"
    assert tokenizer(text).input_ids == theirs(text).input_ids
    assert tokenizer.chat_template == theirs.chat_template
    speak = pipeline("text-generation", model=str(TRAINED), device="cpu")
    asked = [{"role": "user", "content": "Who wrote Hamlet?"}]
    said = speak(asked, max_new_tokens=12, do_sample=False)[0]["generated_text"][-1]
    assert "Shakespeare" in said["content"]
