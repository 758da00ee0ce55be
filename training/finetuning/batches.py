"""Documents as batches: those of a step, shared among the processes."""

from __future__ import annotations

from collections.abc import Sequence

from accelerate import Accelerator

from training.finetuning import sources
from training.finetuning.documents import Document
from training.finetuning.objective import Batch
from training.finetuning.preparation import Prepared, weights
from training.finetuning.rows import collate, windowed, with_asides
from training.finetuning.settings import Stage
from training.finetuning.sources import Source


class Batches:
    """Makes the batches of this process, on its device."""

    def __init__(self, prepared: Prepared, accelerator: Accelerator) -> None:
        tokenizer = prepared.tokenizer
        self.settings, self.pools = prepared.settings, prepared.pools
        self.accelerator = accelerator
        self.padding = int(tokenizer.pad_token_id or tokenizer.eos_token_id or 0)
        self.between = tokenizer("\n", add_special_tokens=False).input_ids

    def stage(self, step: int) -> Stage:
        """The stage of the curriculum that a step belongs to."""
        begin = 0
        for stage in self.settings.stages:
            begin += stage.steps
            if step < begin:
                return stage
        return self.settings.stages[-1]

    def of_step(self, step: int) -> tuple[Source, list[Batch]]:
        """This process's share of a step: one batch a forward, and the source of all of them."""
        stage, optim = self.stage(step), self.settings.optim
        pool, documents = sources.batch(
            self.pools,
            weights(self.settings, stage),
            optim.documents,
            stage.segments,
            stage.segment_tokens,
            f"{self.settings.seed}/{step}",
        )
        mine = documents[self.accelerator.process_index :: self.accelerator.num_processes]
        at_once = optim.at_once or len(mine)
        parts = [mine[begin : begin + at_once] for begin in range(0, len(mine), at_once)]
        source = pool.source
        return source, [self.batch(part, stage.segment_tokens, source) for part in parts]

    def batch(self, documents: Sequence[Document], segment_tokens: int, source: Source) -> Batch:
        """Some documents of a source as one batch."""
        if (window := self.settings.window) is not None:
            rows = [
                row for document in documents for row in windowed(document, window, self.between)
            ]
        else:
            text = source.text or source.teacher
            rows = [
                with_asides(document, segment_tokens, answers=not source.teacher, text=text)
                for document in documents
            ]
        columns = collate(rows, self.padding)
        return {name: value.to(self.accelerator.device) for name, value in columns.items()}
