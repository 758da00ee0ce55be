"""How a session asks a model for a reply: the options of `generate`, and its result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memformer.template import PLAIN_STOP

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# options that have an effect only where a reply is sampled
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
# options of `generate` that the session sets itself
OWN = {
    "memory",
    "return_memory",
    "limit",
    "reply_limit",
    "recalled",
    "reread",
    "inputs",
    "input_ids",
    "attention_mask",
}


def reply_options(tokenizer: PreTrainedTokenizerBase, chosen: dict[str, Any]) -> dict[str, Any]:
    """The options for `generate`: greedy unless an option asks for sampling.

    Args:
        tokenizer: the tokenizer; without a chat template, a line of the user ends the reply.
        chosen: the options of the session and of the call.

    Raises:
        ValueError: an option that the session sets itself.
    """
    if own := ", ".join(sorted(OWN & chosen.keys())):
        raise ValueError(f"{own} can't be chosen: the session sets it for each turn.")
    defaults: dict[str, Any] = {
        "max_new_tokens": 256,
        "do_sample": not SAMPLING.isdisjoint(chosen),
    }
    if not tokenizer.chat_template:
        defaults |= {"stop_strings": [PLAIN_STOP], "tokenizer": tokenizer}
    return defaults | chosen


def side_by_side(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Token ids of prompts as one batch, padded on the left, and their attention mask."""
    width = max(map(len, rows))
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows], device=ids.device)
    mask = torch.arange(width, device=ids.device) >= width - lengths[:, None]
    return ids, mask.long()


def reply_ids(output: Any, rows: int) -> Tensor:
    """The token ids that `generate` returned, one row for each prompt.

    Raises:
        ValueError: an option made `generate` return something else.
    """
    if not isinstance(output, Tensor) or output.shape[0] != rows:
        raise ValueError(
            "A session takes one reply a turn, as token ids; leave num_return_sequences and "
            "return_dict_in_generate out."
        )
    return output


def reply_text(tokenizer: PreTrainedTokenizerBase, ids: Tensor) -> str:
    """The text of a reply, up to the next line of the user where there is no chat template."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True))
    if not tokenizer.chat_template:
        text = text.partition(PLAIN_STOP)[0]
    return text.strip()
