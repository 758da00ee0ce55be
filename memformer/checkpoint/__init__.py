"""Checkpoints: the memory path and a reference to the backbone, nothing more.

A checkpoint is a folder with `config.json`, `model.safetensors` (memory weights only) and
`generation_config.json`. A peft adapter of the backbone is saved in the folder `adapter`, in
peft's own format. The backbone itself is saved in the folder `backbone` if it has no name to
load it by, or if its weights have changed since loading.
"""

# what is chosen when a memory is attached, among the weights; earlier versions have none of it
CHOSEN = (
    "memory.borders",
    "memory.words",
    "memory.finders.heads",
    "memory.finders.nothing",
    "memory.finders.match",
)
WEIGHTS = "model.safetensors"
OWN_BACKBONE = "backbone"
ADAPTER = "adapter"
