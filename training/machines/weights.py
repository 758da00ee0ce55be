"""A picture of the read weights and the write weights of a machine over one sequence."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from training.machines.machine import MemoryMachine
from training.machines.tasks import Batch, Scoring


def draw_weights(path: Path, machine: MemoryMachine, batch: Batch, scoring: Scoring) -> None:
    """Draws inputs, answers, write and read weights of the first sequence, a column a step."""
    state, reads, writes, answers = machine.start(1), [], [], []
    with torch.no_grad():
        for step in batch.inputs[:1].unbind(1):
            answer, state = machine.step(step, state)
            # a step is one token, or a segment of tokens
            tokens = 1 if step.dim() == 2 else step.shape[1]
            read, written = (one[0].unflatten(0, (tokens, -1)) for one in machine.weights(state))
            reads.append(read.sum(1))
            writes.append(written.sum(1))
            answers.append(scoring.chances(answer[0]).view(tokens, -1))
    rows = {
        "input": batch.inputs[0].flatten(0, -2),
        "output": torch.cat(answers),
        "write weights, by slot": torch.cat(writes),
        "read weights, by slot": torch.cat(reads),
    }
    figure = Figure(figsize=(8, 8), layout="constrained")
    places = figure.subplots(len(rows), 1, sharex=True, height_ratios=[1, 1, 2, 2])
    for axes, (label, values) in zip(places, rows.items(), strict=True):
        axes.imshow(values.T, aspect="auto", interpolation="nearest", cmap="Greys", vmin=0)
        axes.set_ylabel(label, fontsize=8)
    places[-1].set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
