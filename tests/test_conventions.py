"""What users of transformers and peft do with a model: it works, or a sentence says what to do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from types import SimpleNamespace

import pytest
import torch
from backbones import random_ids, tiny_backbone
from peft import IA3Config, LoraConfig, get_peft_model
from test_forms import SEGMENT, attached
from tiny import byte_tokenizer
from transformers import (
    BatchEncoding,
    DataCollatorForLanguageModeling,
    GenerationConfig,
    Trainer,
    TrainingArguments,
    pipeline,
)

from memformer import ChatSession, MemformerForCausalLM, MemoryConfig

GREEDY = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}


def lora():
    return LoraConfig(target_modules=["q_proj", "v_proj"], init_lora_weights=False)


# ---- generate and forward -----------------------------------------------------------------------


def test_a_generation_config_is_the_same_as_keywords():
    model = attached()
    memory, ids = model.memorize(random_ids(1, 21)), random_ids(1, 5)
    wanted = model.generate(ids, memory=memory, **GREEDY)
    config = GenerationConfig(**GREEDY)
    assert torch.equal(model.generate(ids, memory=memory, generation_config=config), wanted)
    longer = model.generate(ids, memory=memory, generation_config=config, max_new_tokens=7)
    assert longer.shape[1] == 12 and torch.equal(longer[:, :10], wanted)


@pytest.mark.parametrize("call", ["forward", "memorize", "generate"])
@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (BatchEncoding({"input_ids": torch.ones(1, 3).long()}), r"got BatchEncoding: .*\*\*inputs"),
        ({"input_ids": torch.ones(1, 3).long()}, r"got dict: .*\*\*inputs"),
        ([[1, 2, 3]], "got list: tokenize text first"),
        ("hello there", "got str: tokenize text first"),
    ],
)
def test_what_is_no_tensor_gets_a_sentence(call, given, sentence):
    with pytest.raises(ValueError, match=sentence):
        getattr(attached(), call)(given)


def test_a_batch_encoding_can_be_unpacked():
    model = attached(backbone={"vocab_size": 300})
    inputs = byte_tokenizer()(["hello there"], return_tensors="pt")
    memory = model.memorize(**inputs)
    assert model(**inputs, memory=memory).logits.shape[:2] == inputs.input_ids.shape
    assert model.generate(**inputs, memory=memory, **GREEDY).shape[1] > inputs.input_ids.shape[1]


@pytest.mark.parametrize("tokens", [5, 3 * SEGMENT + 2])
def test_hidden_states_come_back_for_text_of_any_length(tokens):
    model = attached()
    ids = random_ids(2, tokens)
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    with torch.no_grad():
        output = model(ids, attention_mask=mask, output_hidden_states=True)
        assert len(output.hidden_states) == 5
        last = model.backbone.lm_head(output.hidden_states[-1])
    real = mask.bool()
    torch.testing.assert_close(last[real], output.logits[real])
    assert all(layer.shape[:2] == ids.shape for layer in output.hidden_states)


def test_hidden_states_come_back_while_generating():
    model = attached()
    options = {"output_hidden_states": True, "return_dict_in_generate": True, "output_logits": True}
    output = model.generate(random_ids(1, 5), **GREEDY, **options)
    for step, logits in zip(output.hidden_states, output.logits, strict=True):
        assert len(step) == 5
        torch.testing.assert_close(model.backbone.lm_head(step[-1][:, -1]), logits)


def test_attentions_come_back_for_one_segment_and_are_refused_elsewhere():
    model = attached()
    model.backbone.set_attn_implementation("eager")
    output = model(random_ids(1, 5), output_attentions=True)
    assert [layer.shape for layer in output.attentions] == [(1, 4, 5, 5)] * 4
    for call in (
        lambda: model(random_ids(1, 20), output_attentions=True),
        lambda: model.generate(
            random_ids(1, 5), output_attentions=True, return_dict_in_generate=True, **GREEDY
        ),
    ):
        with pytest.raises(ValueError, match="output_attentions works for text of one segment"):
            call()


def test_memory_means_all_that_was_seen_or_nothing():
    model = attached()
    ids = random_ids(1, 20)
    with torch.no_grad():
        whole = model(ids).memory
        output = model(ids, use_cache=True)
        assert output.memory is None
        memory = model.memory_after(output.past_key_values)
        assert int(memory.occupied.sum()) == int(whole.occupied.sum()) == 20
        for name in ("token", "turn", "segment", "written_at"):
            assert torch.equal(getattr(memory, name), getattr(whole, name))
        # the loop may go on
        again = model(ids[:, :1], past_key_values=output.past_key_values, use_cache=True)
        assert int(model.memory_after(again.past_key_values).occupied.sum()) == 21


@pytest.mark.parametrize("tokens", [6, 20])
def test_logits_may_be_asked_for_by_place(tokens):
    model = attached()
    ids = random_ids(1, tokens)
    with torch.no_grad():
        whole = model(ids).logits
        for places in (torch.tensor([0, 3, 4]), torch.tensor([tokens - 1])):
            some = model(ids, logits_to_keep=places).logits
            torch.testing.assert_close(some, whole[:, places])
        torch.testing.assert_close(model(ids, logits_to_keep=3).logits, whole[:, -3:])


def test_positions_of_ones_own_are_for_one_segment():
    model = attached()
    ids = random_ids(1, 20)
    counted = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(model(ids, position_ids=counted).logits, model(ids).logits)
        model(ids[:, :5], position_ids=counted[:, 7:12])
        with pytest.raises(ValueError, match="position_ids can be given for text of one segment"):
            model(ids, position_ids=counted + 7)


def test_a_cache_of_another_kind_is_refused_where_it_was_asked_for():
    model = attached()
    ids = random_ids(1, 5)
    wanted = model.generate(ids, **GREEDY)
    with pytest.raises(ValueError, match="A memory brings its own cache; leave cache_implementat"):
        model.generate(ids, cache_implementation="static", **GREEDY)
    # a family's own preference is none of the caller's words
    model.generation_config.cache_implementation = "static"
    assert torch.equal(model.generate(ids, **GREEDY), wanted)


def test_what_a_memory_can_not_do_is_a_sentence():
    model = attached()
    for call in (model.generate_batch, model.init_continuous_batching):
        with pytest.raises(ValueError, match="Continuous batching can't carry a memory"):
            call(inputs=[[1, 2, 3]])
    for call in (model.add_adapter, model.load_adapter, model.set_adapter, model.disable_adapters):
        with pytest.raises(ValueError, match="An adapter goes on the backbone"):
            call(lora())


def test_a_text_from_which_nothing_can_be_learnt_is_refused_in_training():
    model = attached().train()
    short, long = random_ids(1, SEGMENT), random_ids(1, 2 * SEGMENT)
    with pytest.raises(ValueError, match="Nothing can be learnt from this text: it is one segment"):
        model(short, labels=short)
    with torch.no_grad():
        model(short, labels=short)
    model(long, labels=long).loss.backward()
    model.eval()(short, labels=short)


# ---- adapters and checkpoints -------------------------------------------------------------------


def test_adapters_that_a_checkpoint_can_not_hold_are_refused(tmp_path):
    config = MemoryConfig(memory_layers=(1,))
    model = MemformerForCausalLM.from_backbone(tiny_backbone(), config)
    model.backbone.add_adapter(lora())
    with pytest.raises(ValueError, match="added with add_adapter, which a checkpoint can't hold"):
        model.save_pretrained(tmp_path)
    for adapter, sentence in (
        (IA3Config(target_modules=["k_proj"], feedforward_modules=[]), r"has default \(IA3\)"),
        (LoraConfig(target_modules=["q_proj"], modules_to_save=["lm_head"]), "modules_to_save="),
    ):
        wrapped = get_peft_model(tiny_backbone(), adapter)
        with pytest.raises(ValueError, match=sentence):
            MemformerForCausalLM.from_backbone(wrapped, config)
        model = MemformerForCausalLM.from_backbone(tiny_backbone(), config)
        model.backbone = get_peft_model(model.backbone, adapter)
        with pytest.raises(ValueError, match=sentence):
            model.save_pretrained(tmp_path)
    two = get_peft_model(tiny_backbone(), lora())
    two.add_adapter("second", lora())
    with pytest.raises(ValueError, match="second"):
        MemformerForCausalLM.from_backbone(two, config)
    assert not any(tmp_path.iterdir())


def test_peft_around_the_whole_model_is_refused_before_it_is_trained():
    whole = get_peft_model(attached(), lora())
    with pytest.raises(ValueError, match="peft was put around the whole model.*wrap the backbone"):
        whole.train()


def trainer(model, tmp_path, **changes):
    tokenizer = byte_tokenizer()
    rows = [tokenizer("The cat sat on the mat and ate. " * n) for n in (2, 2, 3, 2)]
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=2,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        seed=0,
        save_steps=2,
        lr_scheduler_type="constant",
        **changes,
    )
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    return Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, data_collator=collator
    )


def adapted():
    model = attached(backbone={"vocab_size": 300})
    torch.manual_seed(4)
    model.backbone = get_peft_model(model.backbone, lora())
    return model


def trained_weights(model):
    return {name: one.clone() for name, one in model.named_parameters() if one.requires_grad}


def test_the_trainer_resumes_memory_and_adapter_without_alarm(tmp_path, caplog):
    wanted = trainer(adapted(), tmp_path / "whole", max_steps=4)
    wanted.train()
    first = trainer(adapted(), tmp_path / "parts", max_steps=2)
    first.train()
    after = trainer(adapted(), tmp_path / "parts", max_steps=4)
    after.train(resume_from_checkpoint=str(tmp_path / "parts" / "checkpoint-2"))
    for name, weight in trained_weights(wanted.model).items():
        torch.testing.assert_close(trained_weights(after.model)[name], weight)
    assert any("lora_" in name for name in trained_weights(after.model))
    assert "missing keys" not in caplog.text and "unexpected keys" not in caplog.text


def test_the_trainer_goes_back_to_its_best_model_whole(tmp_path):
    run = trainer(
        adapted(),
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # so that it is the first one, which differs from the last
    )
    run.train()
    best = MemformerForCausalLM.from_pretrained(run.state.best_model_checkpoint)
    there, here = best.state_dict(), run.model.state_dict()
    assert run.state.best_model_checkpoint.endswith("checkpoint-2")
    for name in trained_weights(run.model):
        assert torch.equal(there[name], here[name])


def test_a_resume_that_would_lose_a_trained_backbone_is_refused(tmp_path):
    def unfrozen():
        model = attached(backbone={"vocab_size": 300})
        model.backbone.requires_grad_(True)
        return model

    trainer(unfrozen(), tmp_path, max_steps=2).train()
    with pytest.raises(ValueError, match="leaves out 3. weights that are trained.*training.finet"):
        trainer(unfrozen(), tmp_path, max_steps=4).train(
            resume_from_checkpoint=str(tmp_path / "checkpoint-2")
        )
    opened = MemformerForCausalLM.from_pretrained(tmp_path / "checkpoint-2")
    assert not torch.equal(opened.backbone.lm_head.weight, unfrozen().backbone.lm_head.weight)


def test_trainable_parameters_are_counted_as_peft_does(capsys):
    model = attached()
    trained, total = model.get_nb_trainable_parameters()
    assert trained == sum(one.numel() for one in model.memory.parameters())
    assert total == trained + sum(one.numel() for one in model.backbone.parameters())
    model.print_trainable_parameters()
    said = capsys.readouterr().out
    assert said.startswith(f"trainable params: {trained:,} || all params: {total:,} || trainable%")


def test_without_its_memory_a_model_is_its_backbone():
    model = attached()
    memory, ids = model.memorize(random_ids(1, 21)), random_ids(1, 20)
    with torch.no_grad():
        remembered, plain = model(ids, memory=memory).logits, model.backbone(ids).logits
        said = model.backbone.generate(ids, **GREEDY)
        with model.memory_disabled():
            output = model(ids, memory=memory)
            assert torch.equal(output.logits, plain) and output.memory is memory
            assert torch.equal(model.generate(ids, memory=memory, **GREEDY), said)
            text, kept = model.generate(ids, memory=memory, return_memory=True, **GREEDY)
            assert torch.equal(text, said) and kept is memory
            assert model.memorize(ids, memory=memory) is memory
            # another thread has its memory
            seen = []

            @torch.no_grad()
            def elsewhere():
                seen.append(model(ids, memory=memory).logits)

            thread = threading.Thread(target=elsewhere)
            thread.start()
            thread.join()
        assert torch.equal(seen[0], remembered)
        assert torch.equal(model(ids, memory=memory).logits, remembered)
    assert not model.is_memory_disabled


def disabled(model):
    """A generator that yields where the memory is off."""
    with model.memory_disabled():
        yield


def test_the_memory_is_back_in_whatever_order_blocks_end():
    model, other = attached(), attached()
    first, second, third = disabled(model), disabled(model), disabled(other)
    for generator in (first, second, third):
        next(generator)
    first.close()
    assert model.is_memory_disabled and other.is_memory_disabled
    third.close()
    assert model.is_memory_disabled and not other.is_memory_disabled
    second.close()
    assert not model.is_memory_disabled
    assert not model.memorize(random_ids(1, 5)).is_empty


def test_a_block_may_end_in_another_context():
    model = attached()
    # begun there, ended here
    generator, context = disabled(model), contextvars.copy_context()
    context.run(next, generator)
    assert context.run(lambda: model.is_memory_disabled) and not model.is_memory_disabled
    generator.close()
    assert not context.run(lambda: model.is_memory_disabled) and not model.is_memory_disabled
    # begun here, ended there
    generator = disabled(model)
    next(generator)
    contextvars.copy_context().run(generator.close)
    assert not model.is_memory_disabled


def test_asyncio_ends_a_block_that_an_abandoned_generator_is_within():
    model = attached()

    async def answers():
        with model.memory_disabled():
            yield
            yield

    async def main():
        async for _ in answers():
            assert model.is_memory_disabled
            assert await asyncio.create_task(look())
            break
        gc.collect()
        while model.is_memory_disabled:  # the loop closes the generator in a task of its own
            await asyncio.sleep(0)

    async def look():
        return model.is_memory_disabled

    asyncio.run(asyncio.wait_for(main(), timeout=10))


def test_without_its_memory_a_model_decodes_as_its_backbone_does():
    model = attached()
    ids = random_ids(1, 20)
    with torch.no_grad():
        carried = model(ids, use_cache=True).past_key_values
        wanted = model.backbone(ids).logits
        embedded = model.get_input_embeddings()(ids)
        with model.memory_disabled():
            output = model(ids[:, :19], use_cache=True)
            after = model(ids[:, 19:], past_key_values=output.past_key_values)
            torch.testing.assert_close(after.logits[:, -1], wanted[:, -1])
            assert torch.equal(model(inputs_embeds=embedded).logits, wanted)
            said = model.backbone.generate(inputs_embeds=embedded, **GREEDY)
            assert torch.equal(model.generate(inputs_embeds=embedded, **GREEDY), said)
            for call in (model, model.generate):
                with pytest.raises(ValueError, match="This MemoryCache holds a memory, which memo"):
                    call(ids[:, :1], past_key_values=carried)


def test_an_unloaded_memory_is_missed_in_one_sentence():
    model = attached(backbone={"vocab_size": 300})
    ids = random_ids(1, 20)
    memory = model.memorize(ids)
    cache = model(ids, use_cache=True).past_key_values
    session = ChatSession(model, byte_tokenizer(), max_new_tokens=2)
    backbone = model.unload_memory()
    for call in (
        lambda: model(ids, memory=memory),
        lambda: model.memorize(ids),
        lambda: model.generate(ids, memory=memory, **GREEDY),
        lambda: model.memory_after(cache),
        lambda: session.say("hello"),
        lambda: session.remember("hello"),
        lambda: ChatSession(model, byte_tokenizer()).ask("hello"),
    ):
        with pytest.raises(ValueError, match="The memory was unloaded from this model; open the m"):
            call()
    with model.memory_disabled():
        assert torch.equal(model(ids).logits, backbone(ids).logits)


@pytest.mark.parametrize("call", ["forward", "memorize", "generate"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool])
def test_ids_that_are_no_whole_numbers_are_refused(call, dtype):
    with pytest.raises(ValueError, match=f"must be token ids in torch.int64; got {dtype}: convert"):
        getattr(attached(), call)(random_ids(1, 5).to(dtype))


def test_a_memory_needs_token_ids_beside_embeddings():
    model = attached()
    ids = random_ids(1, 5)
    embedded = model.get_input_embeddings()(ids)
    for call in (
        lambda: model(inputs_embeds=embedded),
        lambda: model(ids, inputs_embeds=embedded, use_cache=True),
        lambda: model.generate(inputs_embeds=embedded, **GREEDY),
        lambda: model.generate(ids, inputs_embeds=embedded, **GREEDY),
    ):
        with pytest.raises(ValueError, match="A memory needs input_ids, because it keeps which"):
            call()


# ---- the hub ------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_card", [False, True])
def test_what_is_pushed_has_a_model_card(monkeypatch, has_card):
    pushed = {}

    class Hub:
        def __init__(self, token=None):
            pushed["token"] = token

        def create_repo(self, repo_id, **options):
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def file_exists(self, repo_id, name, revision=None):
            return has_card

        def upload_folder(self, *, folder_path, ignore_patterns=None, **options):
            from pathlib import Path

            files = {path.name for path in Path(folder_path).iterdir()}
            card = (Path(folder_path) / "README.md").read_text()
            pushed.update(options, files=files, card=card, ignored=ignore_patterns)
            return SimpleNamespace(commit_url="there")

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    assert attached(memory_layers=(1, 3)).push_to_hub("mine", token="secret") == "there"
    assert pushed["repo_id"] == "me/mine" and pushed["token"] == "secret"
    assert {"README.md", "config.json", "model.safetensors"} <= pushed["files"]
    assert pushed["ignored"] == (["README.md"] if has_card else None)
    assert "library_name: memformer" in pushed["card"] and "layers 1, 3" in pushed["card"]


def test_a_card_is_not_written_over_and_names_no_folder_of_this_machine(tmp_path):
    tiny_backbone().save_pretrained(tmp_path / "base")
    config = MemoryConfig(memory_layers=(1,), num_slots=None)
    model = MemformerForCausalLM.from_pretrained(tmp_path / "base", memory_config=config)
    model.save_pretrained(tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "keeps every token" in card and str(tmp_path) not in card
    (tmp_path / "out" / "README.md").write_text("Mine.")
    model.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "README.md").read_text() == "Mine."


def test_a_pipeline_that_asks_for_the_memory_says_what_to_do():
    model = attached()
    made = pipeline("text-generation", model=model, tokenizer=byte_tokenizer())
    with pytest.raises(AttributeError, match="A pipeline can't pass a memory on"):
        made("hello", max_new_tokens=2, return_memory=True)
    ids = torch.tensor([[1, 2, 3]])
    found = model.generate(ids, max_new_tokens=2, return_memory=True)
    output, memory = found
    assert output is found.output and memory is found.memory
