"""The model card of a checkpoint: its contents and how to open it, for people and for the hub."""

from __future__ import annotations

from typing import cast

from memformer.config import MemformerConfig, MemoryConfig

CARD = """\
---
library_name: memformer
pipeline_tag: text-generation
tags: [memformer, memory, long-context]
{base}---

# {title}

{what} The memory reads and writes at layers {layers}, in segments of {segment} tokens, and keeps \
{slots}.

```sh
pip install memformer-lm
```

```python
import memformer
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("{place}")
memory = model.memorize(input_ids)  # text of any length
output = model.generate(more_input_ids, memory=memory)
```

This card was written by `save_pretrained`, which does not know what the memory was trained on, or \
how good it is: say so here.
"""


def card(config: MemformerConfig) -> str:
    """The card of a model that is being saved."""
    settings = MemoryConfig.from_dict(config.memory_config or {})
    reference = config.backbone or {}
    name = reference.get("name") or ""
    kept = "every token" if settings.num_slots is None else f"{settings.num_slots:,} tokens"
    backbone = f"[{name}](https://huggingface.co/{name})" if _is_hub_id(name) else "a decoder"
    where = "is not in it" if name else "is in it"
    adapter = " and a LoRA adapter" if reference.get("adapter") else ""
    return CARD.format(
        base=f"base_model: {name}\n" if _is_hub_id(name) else "",
        title=f"A memory for {name}" if _is_hub_id(name) else "A decoder with a memory",
        what=f"The memory path{adapter} for {backbone}, whose own weights are as they were "
        f"released; the backbone {where}."
        if name
        else f"The memory path{adapter}, and the backbone with weights of its own.",
        layers=", ".join(str(layer) for layer in cast("tuple[int, ...]", settings.memory_layers)),
        segment=f"{settings.segment_tokens:,}",
        slots=kept,
        place="this folder or repository",
    )


def _is_hub_id(name: str) -> bool:
    """Whether a name is a hub id, not a folder of this machine, which no card shall name."""
    return name.count("/") == 1 and not name.startswith(("/", ".", "~"))
