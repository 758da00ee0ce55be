"""Checkpoints: the memory path and a reference to the backbone, nothing more.

A checkpoint is a folder with `config.json`, `model.safetensors` (memory weights only) and
`generation_config.json`. Where the backbone has a peft adapter, that is beside it in peft's own
format, in the folder `adapter`. Where the backbone has no name to find it by, or its weights are no
longer those it was loaded with, it is saved too, in the folder `backbone`.

`saving.py` writes a checkpoint, and `loading.py` opens its parts; the model builds itself of them.
`decoders.py` opens plain decoders, configs and tokenizers.
"""

WEIGHTS = "model.safetensors"
OWN_BACKBONE = "backbone"
ADAPTER = "adapter"
