"""The same training inside transformers' Trainer: a collator and a callback.

    collator = Collator(tokenizer, segment_tokens=64)
    trainer = Trainer(model, args, train_dataset=pool.documents, data_collator=collator,
                      callbacks=[HealthCallback()])

with `remove_unused_columns=False` and `prediction_loss_only=True` in its arguments. The model
handles memory and segments, so the Trainer's loop, accumulation and launchers work unchanged.
`training.finetuning.sources.pool` makes `pool`, and `training.finetuning.thaw.grouped` makes
parameter groups for `optimizers=`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from memformer.model import MemformerOutput
from training.finetuning.documents import Document
from training.finetuning.health import Health
from training.finetuning.rows import collate, with_asides


class Collator:
    """Documents with their questions as one batch.

    Args:
        tokenizer: has the padding token.
        segment_tokens: longest segment.
        text: also learn to predict the document, from its second segment on.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, segment_tokens: int, *, text: bool = False
    ) -> None:
        self.padding = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
        self.segment_tokens = segment_tokens
        self.text = text

    def __call__(self, documents: Sequence[Document]) -> dict[str, Tensor]:
        """The arguments of `MemformerForCausalLM.forward`, with labels."""
        rows = [
            with_asides(document, self.segment_tokens, text=self.text) for document in documents
        ]
        return collate(rows, self.padding)


class HealthCallback(TrainerCallback):
    """Adds the values of `health.py` to the Trainer's logs, and its warnings."""

    def __init__(self) -> None:
        self._seen: list[dict[str, float]] = []
        self._budget: float | None = None
        self._handle: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Begins to watch the model's outputs."""
        assert model is not None
        self._budget = getattr(model, "memory_config").write_budget  # noqa: B009 - not nn.Module's
        self._handle = model.register_forward_hook(self._look)

    def _look(self, _: nn.Module, __: Any, output: MemformerOutput) -> None:
        if output.written is None or output.memory is None:
            return
        self._seen.append(
            {
                "written": float(output.written.detach()),
                "slots": float(output.memory.occupied.sum(-1).float().mean()),
            }
        )
        if output.evidence is not None and output.entropy is not None and len(output.entropy):
            self._seen[-1]["evidence"] = float(output.evidence.mean())
            self._seen[-1]["entropy"] = float(output.entropy.mean())

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Adds the means since the last log to this one."""
        if logs is None or not self._seen:
            return
        found: dict[str, Any] = {}
        for name in ("written", "slots", "evidence", "entropy"):
            if values := [one[name] for one in self._seen if name in one]:
                found[name] = sum(values) / len(values)
        self._seen = []
        health = Health(
            found["written"], found["slots"], found.get("evidence"), found.get("entropy")
        )
        if warnings := health.warnings(self._budget):
            found["warnings"] = warnings
        # the history has its own copy of the logs
        for place in (logs, state.log_history[-1]):
            place |= found

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stops watching."""
        self._handle.remove()
