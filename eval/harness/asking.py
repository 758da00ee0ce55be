"""Asking a model many questions at once: padding, greedy answers, and a progress bar."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


@dataclass
class Asker:
    """A model and its tokenizer."""

    model: Any
    tokenizer: Any

    @property
    def _pad_id(self) -> int:
        known = (self.tokenizer.pad_token_id, self.tokenizer.eos_token_id)
        return next((token for token in known if token is not None), 0)

    def padded(self, rows: Sequence[list[int]], left: bool = False) -> tuple[Any, Any]:
        """Rows of ids as one batch, and the attention mask of the batch."""
        width = max(map(len, rows))
        ids, mask = [], []
        for row in rows:
            pad, real = [self._pad_id] * (width - len(row)), [1] * len(row)
            ids.append(pad + row if left else row + pad)
            mask.append([0] * len(pad) + real if left else real + [0] * len(pad))
        return (
            torch.tensor(ids, device=self.model.device),
            torch.tensor(mask, device=self.model.device),
        )

    def said(self, model: Any, ids: Any, mask: Any, most: int, **kwargs: Any) -> list[str]:
        """Greedy continuations of prompts padded on the left, up to the first special token.

        Args:
            model: the model with its memory, or its backbone alone.
            ids: the prompts.
            mask: the attention mask of the prompts.
            most: the most new tokens.
            **kwargs: arguments of `generate`.
        """
        made = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=most,
            do_sample=False,
            pad_token_id=self._pad_id,
            **kwargs,
        )
        special = set(self.tokenizer.all_special_ids)
        texts = []
        for row in made[:, ids.shape[1] :].tolist():
            end = next((place for place, token in enumerate(row) if token in special), len(row))
            texts.append(self.tokenizer.decode(row[:end]))
        return texts


def progress_bar(console: Console) -> Progress:
    """A bar for runs of hours: share done, time elapsed and time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        speed_estimate_period=600,
    )
