"""transformers' Trainer with documents, questions and memory; and when it warns."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import save_tiny
from transformers import AutoTokenizer, Trainer, TrainingArguments

from memformer import MemformerForCausalLM
from training.data.records import Question, Record
from training.finetuning.documents import tokenised
from training.finetuning.health import Health
from training.finetuning.trainer import Collator, HealthCallback


@pytest.fixture
def tiny(tmp_path):
    folder = save_tiny(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    places = ("Porto", "Cork", "Turku")
    documents = [
        tokenised(
            Record(
                str(number),
                f"Ada is in {place}. " + "It rains there. " * (number % 5),
                (Question("Where is Ada?", place, len(f"Ada is in {place}.")),),
            ),
            tokenizer,
            "plain",
        )
        for number in range(12)
        for place in [places[number % 3]]
    ]
    return MemformerForCausalLM.from_pretrained(folder), tokenizer, documents


def arguments(tmp_path, **changes) -> TrainingArguments:
    return TrainingArguments(
        output_dir=str(tmp_path / "run"),
        per_device_train_batch_size=4,
        remove_unused_columns=False,
        prediction_loss_only=True,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
        **changes,
    )


def test_the_trainer_learns_to_answer_and_logs_what_the_memory_does(tiny, tmp_path):
    model, tokenizer, documents = tiny
    trainer = Trainer(
        model,
        arguments(tmp_path, max_steps=20, logging_steps=5, learning_rate=0.01),
        train_dataset=documents,
        eval_dataset=documents,
        data_collator=Collator(tokenizer, 32),
        callbacks=[callback := HealthCallback()],
    )
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 4
    for entry in logged:
        assert (
            0 < entry["evidence"] <= 1
            and entry["written"] == pytest.approx(1.0)
            and entry["slots"] > 10
        )
    assert callback._seen == [] and not model._forward_hooks


def test_micro_batches_of_the_trainer_make_no_difference(tiny, tmp_path):
    _, tokenizer, documents = tiny
    found = []
    for size, parts in ((4, 1), (2, 2)):
        model = MemformerForCausalLM.from_pretrained(tmp_path / "memory")
        changed = arguments(tmp_path, max_steps=3, gradient_accumulation_steps=parts)
        changed.per_device_train_batch_size = size
        Trainer(
            model, changed, train_dataset=documents, data_collator=Collator(tokenizer, 32)
        ).train()
        found.append({name: p.detach() for name, p in model.memory.named_parameters()})
    for name, weight in found[0].items():
        torch.testing.assert_close(found[1][name], weight, rtol=0, atol=1e-5)


FINE = Health(written=0.3, evidence=0.4, entropy=2.0, slots=100)


@pytest.mark.parametrize(
    ("health", "budget", "sentence"),
    [
        (FINE, 0.1, None),
        (Health(0.0, 100, 0.4, 2.0), 0.1, "write gate is dead"),
        (Health(1.0, 100, 0.4, 2.0), 0.1, "does not close"),
        (Health(1.0, 100, 0.4, 2.0), None, None),
        (Health(1.0, 100, None, None), None, None),
        (Health(0.3, 100, 0.001, 2.0), None, "read 0.1% from memory"),
        (Health(0.3, 100, 0.4, math.log(100) * 0.99), None, "Reads have collapsed"),
    ],
)
def test_warnings_name_what_is_wrong(health, budget, sentence):
    found = health.warnings(budget)
    assert found == [] if sentence is None else len(found) == 1 and sentence in found[0]
