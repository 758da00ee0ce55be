"""A tiny random model and a byte tokenizer, saved in a folder as a user would have them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from memformer import MemformerForCausalLM

SPECIAL = ("<|end|>", "<|start|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def byte_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, and the special ones."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate([*SPECIAL, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=SPECIAL[0],
        pad_token=SPECIAL[0],
        additional_special_tokens=[SPECIAL[1]],
    )
    wrapped.chat_template = chat_template
    return wrapped


def save_tiny(folder: Path, hidden_size: int = 24, seed: int = 7) -> Path:
    """A decoder with its tokenizer, and beside it the same with a memory; returns the latter."""
    from memformer import MemformerForCausalLM, MemoryConfig

    tokenizer = byte_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=40,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    settings = MemoryConfig(num_slots=300, segment_tokens=64, memory_layers=(1, 2))
    model = MemformerForCausalLM.from_pretrained(folder / "base", memory_config=settings)
    model.save_pretrained(folder / "memory")
    tokenizer.save_pretrained(folder / "memory")
    return folder / "memory"


def open_lively(folder: Path) -> MemformerForCausalLM:
    """The tiny model, far from uniform attention, so that answers depend on what was read."""
    from memformer import MemformerForCausalLM

    model = MemformerForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        for weight in model.backbone.parameters():
            weight.mul_(4.0 if weight.dim() > 1 else 1.0)
    return model
