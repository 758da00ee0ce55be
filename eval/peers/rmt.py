"""Recurrent Memory Transformer, the form for decoders (Bulatov et al. 2022, arXiv:2207.06881).

A baseline for evaluation. Memory tokens stand before and after each segment: the segment reads the
tokens before it, and the states of the tokens after it are the memory of the next segment.
Gradients go back through all segments (section 3.2; 2023, arXiv:2304.11062, section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class RMT(nn.Module):
    """A decoder with memory tokens.

    Args:
        backbone: a decoder of transformers, with or without an adapter.
        tokens: the number of memory tokens; 16 in the papers' runs on BABILong.
    """

    def __init__(self, backbone: Any, tokens: int = 16) -> None:
        super().__init__()
        self.backbone = backbone
        embeddings = backbone.get_input_embeddings().weight.detach().float()
        drawn = torch.randn(1, tokens, embeddings.shape[1]) * embeddings.std().cpu()
        self.memory = nn.Parameter(drawn.to(embeddings.device))

    def empty(self, rows: int = 1) -> Tensor:
        """The memory before anything was read (rows, memory tokens, width)."""
        return self.memory.expand(rows, -1, -1)

    def rows(self, memory: Tensor, chosen: Sequence[int]) -> Tensor:
        """The memories of some rows, in this order."""
        return memory[list(chosen)]

    def read(self, ids: Tensor, there: Tensor, memory: Tensor) -> Tensor:
        """The memory after one more segment.

        Args:
            ids: (rows, tokens), padded on the right.
            there: which ids are text; every row has some.
            memory: the memory of each row.
        """
        text = self.backbone.get_input_embeddings()(ids)
        memory = memory.to(text.dtype)
        always = there.new_ones(memory.shape[:2])
        mask = torch.cat([always, there, always], 1)
        output = self.backbone.get_decoder()(
            inputs_embeds=torch.cat([memory, text, memory], 1),
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=False,
        )
        states: Tensor = output.last_hidden_state[:, -memory.shape[1] :]
        return states

    def logits(
        self, ids: Tensor, memory: Tensor, cache: Any = None, at: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token after the ids (rows, tokens) of a segment that is not written.

        Args:
            ids: padded on the right.
            memory: the memory of each row.
            cache: keys and values of this segment so far; the call extends it, and an empty cache
                begins the segment.
            at: the places whose logits are returned; None: all places.
        """
        inputs = self.backbone.get_input_embeddings()(ids)
        if cache is None or cache.get_seq_length() == 0:
            inputs = torch.cat([memory.to(inputs.dtype), inputs], 1)
        at = torch.arange(ids.shape[1], device=ids.device) if at is None else at
        output = self.backbone(
            inputs_embeds=inputs,
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=at + inputs.shape[1] - ids.shape[1],
        )
        logits: Tensor = output.logits
        return logits
