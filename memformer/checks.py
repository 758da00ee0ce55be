"""Checks of the arguments of a model: token ids, masks, memories, limits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.state import MemoryState

NO_TOKEN_IDS = (
    "A memory needs input_ids, because it keeps which tokens it was written from; give these "
    "instead of inputs_embeds, or call the model within memory_disabled()."
)


def check_ids(ids: Any, vocabulary: int) -> None:
    """Refuses values that can't be token ids of a batch.

    Raises:
        ValueError: `ids` is no tensor, has another shape or dtype, or holds an id out of range.
    """
    if not isinstance(ids, Tensor):
        kind = type(ids).__name__
        how = (
            "unpack it, as in model.generate(**inputs)"
            if isinstance(ids, Mapping)
            else ("tokenize text first, with tokenizer(text, return_tensors='pt')")
        )
        raise ValueError(f"input_ids must be a tensor of token ids; got {kind}: {how}.")
    if ids.dim() != 2 or ids.numel() == 0:
        raise ValueError(
            "input_ids must be of shape [batch, tokens] with at least one row and one token; "
            f"got {tuple(ids.shape)}."
        )
    if ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"input_ids must be token ids in torch.int64; got {ids.dtype}: convert them with "
            "input_ids.long()."
        )
    # no check in a decoding step, where the model chose the token itself
    if ids.shape[1] > 1 and not (0 <= int(ids.min()) and int(ids.max()) < vocabulary):
        wrong = ids[(ids < 0) | (ids >= vocabulary)][0]
        raise ValueError(
            f"Token id {int(wrong)} is out of range: the backbone's vocabulary has "
            f"{vocabulary} tokens. Use the tokenizer of the backbone."
        )


def check_rows(memory: Any, rows: int) -> None:
    """Refuses a value that is no memory, or a memory with another number of rows.

    Raises:
        ValueError: see above.
    """
    if not isinstance(memory, MemoryState):
        raise ValueError(f"memory must be a MemoryState; got {type(memory).__name__}.")
    if memory.batch_size != rows:
        raise ValueError(
            f"The memory has {memory.batch_size} rows and input_ids has {rows}; "
            "they must be equal. memory.select(rows) repeats or drops rows."
        )


def text_of(
    ids: Int[Tensor, "batch tokens"], attention_mask: Int[Tensor, "batch all_tokens"] | None
) -> Bool[Tensor, "batch tokens"]:
    """Marks the text of an input; False at padding.

    Raises:
        ValueError: the mask has another shape.
    """
    if attention_mask is None:
        return torch.ones_like(ids, dtype=torch.bool)
    if attention_mask.dim() != 2 or (
        attention_mask.shape[0] != ids.shape[0] or attention_mask.shape[1] < ids.shape[1]
    ):
        raise ValueError(
            "attention_mask must have the shape of input_ids; got "
            f"{tuple(attention_mask.shape)} for {tuple(ids.shape)}."
        )
    return attention_mask[:, -ids.shape[1] :].bool()


def check_limit(
    limit: Tensor | None, ids: Int[Tensor, "batch tokens"]
) -> Float[Tensor, "batch tokens"] | None:
    """The limit on the strength of tokens, as a tensor.

    Raises:
        ValueError: its shape or a value does not fit.
    """
    if limit is None:
        return None
    limit = torch.as_tensor(limit, dtype=torch.float32, device=ids.device)
    if limit.shape != ids.shape or not bool(((limit >= 0) & (limit <= 1)).all()):
        raise ValueError(
            f"limit must have the shape of input_ids, {tuple(ids.shape)}, and values between 0 "
            f"and 1; got shape {tuple(limit.shape)}."
        )
    return limit
