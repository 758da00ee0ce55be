"""Fine-tuning by DeepSpeed on the CPU, where accelerate leaves it out; run by torchrun.

STAGE CONFIG [key=value ...] [--resume]
"""

from __future__ import annotations

import sys
from pathlib import Path

import deepspeed
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from accelerate.utils.deepspeed import DeepSpeedEngineWrapper, DeepSpeedOptimizerWrapper
from rich.console import Console

from training.finetuning.loop import Run
from training.finetuning.preparation import prepare
from training.finetuning.settings import Settings
from training.finetuning.thaw import build
from training.setup.config import read_config

stage, config, *overrides = sys.argv[1:]


class Plugin:
    """Accelerate's, as far as the run looks at it."""

    deepspeed_config = {
        "gradient_accumulation_steps": 1,
        "zero_optimization": {
            "stage": int(stage),
            "stage3_gather_16bit_weights_on_model_save": True,
        },
        "steps_per_print": 10**9,
    }


class Zero(Accelerator):
    """What accelerate does on a GPU: all that matters is left to the engine."""

    distributed_type = DistributedType.DEEPSPEED

    def prepare(self, model, optimizer):
        self.engine, optimizer, _, _ = deepspeed.initialize(
            model=model, optimizer=optimizer, config=Plugin.deepspeed_config
        )
        self.deepspeed_engine_wrapped = DeepSpeedEngineWrapper(self.engine)
        return self.engine, DeepSpeedOptimizerWrapper(optimizer)

    def clip_grad_norm_(self, *_):
        return self.engine.get_global_grad_norm()

    def get_state_dict(self, model):
        if stage == "3":
            return model._zero3_consolidated_16bit_state_dict()
        return {name: value.clone() for name, value in model.module.state_dict().items()}

    def save_state(self, folder):
        self.engine.save_checkpoint(folder, "engine")

    def load_state(self, folder):
        self.engine.load_checkpoint(folder, "engine")


deepspeed.init_distributed("gloo")
resumed = "--resume" in overrides
settings = read_config(Settings, Path(config), [one for one in overrides if one != "--resume"])
accelerator = Zero(cpu=True)
AcceleratorState.deepspeed_plugin = property(lambda _: Plugin)
prepared = prepare(settings, accelerator, resumed=resumed)
run = Run(prepared, build(settings), accelerator, Console(stderr=True))
if resumed:
    run.go_on()
run.train(None)
run.finish()
