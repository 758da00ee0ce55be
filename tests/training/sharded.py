"""Fine-tuning sharded by FSDP2 on the CPU, where accelerate leaves it out; run by torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

from accelerate import Accelerator
from rich.console import Console
from torch.distributed.fsdp import fully_shard
from torch.optim import AdamW

from memformer.attach.backbone import Backbone
from training.finetuning.loop import Run
from training.finetuning.preparation import prepare
from training.finetuning.settings import Settings
from training.finetuning.thaw import build, grouped
from training.setup.config import read_config


class Sharding(Accelerator):
    """What accelerate does on a GPU: each decoder layer is a unit, and the rest is one."""

    def prepare(self, model, optimizer):
        for layer in Backbone.of(model.backbone).layers:
            fully_shard(layer)
        fully_shard(model)
        return model, AdamW(grouped(model, self.optim), betas=(0.9, 0.99), foreach=False)


settings = read_config(Settings, Path(sys.argv[1]), sys.argv[2:])
accelerator = Sharding(cpu=True)
accelerator.optim = settings.optim
run = Run(prepare(settings, accelerator), build(settings), accelerator, Console(stderr=True))
run.train(None)
run.finish()
