"""`word_table`: which token ids are the same word, so that words can be compared by token ids.

"Boat", " boat" and "BOAT" are three tokens and one word. The table is made once, when a memory is
attached with a tokenizer, and saved with the memory.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

# what a token without a letter or a digit is, and a token of a chat template
NO_WORD, CONTROL = -1, -2


def word_table(vocabulary: int, tokenizer: Any | None) -> Int[Tensor, " vocabulary"]:
    """For each token id, the lowest id with the same letters, whatever their case.

    Args:
        vocabulary: the number of token ids.
        tokenizer: the tokenizer; None: every token is a word of its own.
    """
    table = torch.arange(vocabulary, dtype=torch.int32)
    if tokenizer is None:
        return table
    special = set(tokenizer.all_special_ids)
    special |= {number for number, one in tokenizer.added_tokens_decoder.items() if one.special}
    first: dict[str, int] = {}
    for number in range(min(vocabulary, len(tokenizer))):
        if number in special:
            table[number] = CONTROL
            continue
        word = str(tokenizer.decode([number])).strip().casefold()
        is_word = any(letter.isalnum() for letter in word)
        table[number] = first.setdefault(word, number) if is_word else NO_WORD
    return table
