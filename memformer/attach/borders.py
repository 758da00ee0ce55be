"""`borders`: which token ids end a sentence or a paragraph, read from a tokenizer.

The table is made once, when a memory is attached, and saved with the memory. Without a tokenizer it
is zero, and text is cut where a segment is full.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from memformer.attach.backbone import Backbone
from memformer.segments import NOTHING, PARAGRAPH, SENTENCE

SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？")
# closing quotes and brackets, which may follow the end of a sentence
CLOSING = "\"'`)]}>»›”’」』）"
# special tokens that end a turn of a chat, in some vocabularies without being an end of text
TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eot|>", "<|end|>", "<end_of_turn>", "<turn|>")


def border_table(backbone: Backbone, tokenizer: Any | None) -> UInt8[Tensor, " vocabulary"]:
    """The table of borders: for each token id `NOTHING`, `SENTENCE` or `PARAGRAPH`.

    The three numbers stand in `segments.py`.

    A token with a line break ends a paragraph, and so does a special token that ends a text or a
    turn of a chat; other special tokens end nothing. A token ends a sentence if its text ends in a
    full stop, a question mark, an exclamation mark or an ellipsis, closing quotes and brackets
    left aside.

    Args:
        backbone: the decoder, which knows the size of its vocabulary and what ends a text.
        tokenizer: the tokenizer; None: no token ends anything.
    """
    kinds = [NOTHING] * backbone.vocabulary
    if tokenizer is None:
        return torch.tensor(kinds, dtype=torch.uint8)
    settings: Any = getattr(backbone.model, "generation_config", None)
    known = getattr(settings, "eos_token_id", None)
    ends = {known} if isinstance(known, int) else set(known or ())
    special = set(tokenizer.all_special_ids)
    for number, token in tokenizer.added_tokens_decoder.items():
        special |= {number} if token.special else set()
        ends |= {number} if str(token) in TURN_ENDS else set()
    ends.add(tokenizer.eos_token_id)
    for number in range(min(len(kinds), len(tokenizer))):
        if number in special:
            kinds[number] = PARAGRAPH if number in ends else NOTHING
        else:
            kinds[number] = _ending(str(tokenizer.decode([number])))
    return torch.tensor(kinds, dtype=torch.uint8)


def _ending(text: str) -> int:
    """The border that a token with this text makes."""
    if "\n" in text:
        return PARAGRAPH
    return SENTENCE if text.rstrip().rstrip(CLOSING).endswith(SENTENCE_ENDS) else NOTHING
