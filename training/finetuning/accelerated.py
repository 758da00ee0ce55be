"""The model and the optimizer as accelerate runs them, in one process or several."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.optim import Optimizer

from memformer import MemformerForCausalLM
from training.finetuning.attention import in_float32
from training.finetuning.settings import Optim
from training.finetuning.thaw import grouped


@dataclass(frozen=True)
class Accelerated:
    """A model and its optimizer, wrapped by accelerate.

    Attributes:
        accelerator: knows the processes and the device of this one.
        inner: the model without the wrapper.
        model: the wrapped model, which is called in training.
        optimizer: the wrapped optimizer of `model`.
    """

    accelerator: Accelerator
    inner: MemformerForCausalLM
    model: nn.Module
    optimizer: Optimizer

    @property
    def deepspeed(self) -> bool:
        """Whether DeepSpeed trains: its engine steps, clips and shards by itself."""
        return bool(self.accelerator.distributed_type == DistributedType.DEEPSPEED)


def accelerated(model: MemformerForCausalLM, optim: Optim, accelerator: Accelerator) -> Accelerated:
    """Makes the optimizer of a model, and wraps both."""
    optimizer = torch.optim.AdamW(grouped(model, optim), betas=(0.9, 0.99), foreach=False)
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        engine = accelerator.state.deepspeed_plugin.deepspeed_config
        engine["train_micro_batch_size_per_gpu"] = optim.documents // accelerator.num_processes
        engine["gradient_clipping"] = optim.clip
        engine["zero_allow_untested_optimizer"] = True
    if accelerator.device.type == "cpu" and accelerator.mixed_precision != "no":
        in_float32(model.backbone)
    return Accelerated(accelerator, model, *accelerator.prepare(model, optimizer))
