"""Draws where a machine reads and writes over the steps of one sequence."""

from __future__ import annotations

from pathlib import Path

import torch
from matplotlib.figure import Figure

from training.machine import Machine
from training.tasks import Batch


def draw_weights(path: Path, machine: Machine, batch: Batch) -> None:
    """One column a step: inputs, answers, write weights and read weights of the first sequence."""
    state, reads, writes, answers = machine.start(1), [], [], []
    with torch.no_grad():
        for step in batch.inputs[:1].unbind(1):
            answer, state = machine.step(step, state)
            read, written = machine.weights(state)
            reads.append(read[0].sum(0))
            writes.append(written[0].sum(0))
            answers.append(answer[0].sigmoid())
    rows = {
        "input": batch.inputs[0],
        "output": torch.stack(answers),
        "write weights, by slot": torch.stack(writes),
        "read weights, by slot": torch.stack(reads),
    }
    figure = Figure(figsize=(8, 8), layout="constrained")
    places = figure.subplots(len(rows), 1, sharex=True, height_ratios=[1, 1, 2, 2])
    for axes, (label, values) in zip(places, rows.items(), strict=True):
        axes.imshow(values.T, aspect="auto", interpolation="nearest", cmap="Greys", vmin=0)
        axes.set_ylabel(label, fontsize=8)
    places[-1].set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
