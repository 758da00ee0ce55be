"""`Keeper`: saves checkpoints to resume from, and the best weights, while a run trains.

`resume.py` reads and writes the files. Here the parts of a run are put into a checkpoint and taken
out of it, and DeepSpeed writes and reads weights and optimizer by itself.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from training.finetuning import resume
from training.finetuning.accelerated import Accelerated
from training.finetuning.progress import Best, Progress
from training.finetuning.settings import Settings
from training.finetuning.sources import Pool


class Keeper:
    """Writes and reads the checkpoints of one run; all processes take part.

    Args:
        settings: the run's, which a run that goes on must have too.
        pools: the sources, whose streams have a position.
        accelerated: the model and its optimizer.
    """

    def __init__(self, settings: Settings, pools: Sequence[Pool], accelerated: Accelerated) -> None:
        self.settings, self.pools, self.accelerated = settings, pools, accelerated
        self.folder = Path(settings.out) / resume.CHECKPOINTS

    def keep(self, progress: Progress) -> None:
        """Writes a checkpoint to resume from."""
        accelerated, accelerator = self.accelerated, self.accelerated.accelerator
        state = {
            "settings": dataclasses.asdict(self.settings),
            "best": progress.best.entry(),
            "tokens": progress.tokens,
            "seconds": round(progress.seconds, 1),
            "share": progress.share,
            "streams": [pool.stream.state() if pool.stream else None for pool in self.pools],
        }
        resume.save(
            self.folder,
            progress.step,
            accelerated.model,
            accelerated.optimizer,
            state,
            main=accelerator.is_main_process,
            engine=self._keep_engine if accelerated.deepspeed else None,
        )
        accelerator.wait_for_everyone()

    def _keep_engine(self, folder: Path) -> None:
        accelerator = self.accelerated.accelerator
        accelerator.wait_for_everyone()
        accelerator.save_state(str(folder))
        accelerator.wait_for_everyone()

    def go_on(self) -> Progress:
        """Puts model, optimizer and streams back as the newest checkpoint has them.

        Raises:
            BadCheckpoint: there is none, it is of other settings, or can't be used.
        """
        accelerated = self.accelerated
        state = resume.newest(self.folder, dataclasses.asdict(self.settings))
        if accelerated.deepspeed:
            engine = self.folder / f"{state['step']:06d}" / resume.ENGINE
            accelerated.accelerator.load_state(str(engine))
        else:
            resume.load(self.folder, state["step"], accelerated.model, accelerated.optimizer)
        for pool, position in zip(self.pools, state["streams"], strict=True):
            if pool.stream is not None:
                pool.stream.resume(position)
        return Progress(
            state["step"], state["tokens"], state["seconds"], state["share"], Best(**state["best"])
        )

    def keep_best(self) -> None:
        """Writes the trained weights as the best so far."""
        weights = self.whole_weights()
        if self.accelerated.accelerator.is_main_process:
            resume.save_best(self.folder, resume.trained(weights, self.accelerated.inner))

    def whole_weights(self) -> dict[str, Tensor]:
        """All weights on the CPU of the first process, however they are sharded."""
        if self.accelerated.deepspeed:
            found: dict[str, Tensor] = self.accelerated.accelerator.get_state_dict(
                self.accelerated.model
            )
            return found
        return resume.whole_weights(self.accelerated.model)
