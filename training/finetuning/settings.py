"""The settings of a run of `training.finetune`, section by section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from training.finetuning.sources import Source

TARGETS = ("attention", "all")
TRAINED = ("memory", "lora", "all")


@dataclass
class Model:
    """The model that is trained.

    Attributes:
        name: a plain decoder, which gets a memory, or a memformer checkpoint.
        memory: fields of `MemoryConfig`; for a checkpoint, the fields to change.
        open_gate: open the write gate of a checkpoint, so that everything is written.
    """

    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    memory: dict[str, Any] = field(default_factory=dict)
    open_gate: bool = False


@dataclass
class Lora:
    """LoRA on linear maps of the backbone's layers, from the lowest memory layer up.

    Attributes:
        rank: rank of each adapter.
        alpha: the adapters are scaled by alpha / rank.
        targets: "attention" for the linear maps of attention modules, "all" for all of them.
    """

    rank: int = 16
    alpha: int = 32
    targets: str = "attention"


@dataclass
class Stage:
    """One stage of the curriculum.

    Attributes:
        steps: number of steps.
        segments: longest document; every batch draws a length from 1 to this.
        segment_tokens: longest segment.
        weights: weight of each source in order, 0 for a source that waits; None: the weights of
            the sources.
    """

    steps: int = MISSING
    segments: int = MISSING
    segment_tokens: int = MISSING
    weights: list[float] | None = None


@dataclass
class Optim:
    """The optimizer: AdamW, with a learning rate that rises, stays, and falls at the end.

    Attributes:
        memory_lr: learning rate of the memory path's projections.
        gate_lr: learning rate of its scalars and gates, which have no weight decay.
        backbone_lr: learning rate of LoRA, or of the backbone itself.
        weight_decay: weight decay of the projections and of the backbone.
        warmup: steps until the rates are reached.
        decay: share of all steps in which the rates fall to nothing again.
        clip: greatest norm of the gradient.
        documents: documents in a step, over all processes.
        at_once: documents in one forward of one process; None: all of the process.
        chunks: parts of a document that the gradient does not cross.
        text_weight: weight of the loss on text, where a source learns text.
        teacher_weight: weight of the divergence from the teacher, where a source has a teacher.
        checkpointing: compute activations twice instead of keeping them.
    """

    memory_lr: float = 1e-3
    gate_lr: float = 1e-2
    backbone_lr: float = 3e-4
    weight_decay: float = 0.01
    warmup: int = 20
    decay: float = 0.2
    clip: float = 1.0
    documents: int = 8
    at_once: int | None = None
    chunks: int = 1
    text_weight: float = 0.2
    teacher_weight: float = 1.0
    checkpointing: bool = False


@dataclass
class Validation:
    """Measurements while training, best on longer documents than those trained on.

    Attributes:
        sources: held-out documents.
        every: steps between measurements.
        segment_tokens: longest segment.
        at_once: documents in one forward.
        by: the score that the best weights are chosen by: "exact" matches of answers, or "loss".
        patience: measurements without a better score until training ends; None: never.
    """

    sources: list[Source] = field(default_factory=list)
    every: int = 50
    segment_tokens: int = 64
    at_once: int = 8
    by: str = "exact"
    patience: int | None = None


@dataclass
class Settings:
    """All settings of a run; most are in sections.

    Attributes:
        out: folder of the checkpoint.
        trained: "memory" leaves the backbone as it is, "lora" adds an adapter, "all" trains it.
        model: the model that is trained.
        lora: the size of the adapter.
        data: the sources to train on.
        stages: the curriculum.
        optim: the optimizer.
        validation: measurements while training.
        window: answer from so many tokens before the question instead of from memory; trains the
            backbone alone, to compare with.
        seed: draws documents and the adapter's first weights.
        report_every: steps between lines of the log.
        save_every: steps between checkpoints to resume from.
        save_dtype: dtype of the weights in `out`: "float32" or "bfloat16".
        tensorboard: also write a log for tensorboard.
    """

    out: str = MISSING
    trained: str = "memory"
    model: Model = field(default_factory=Model)
    lora: Lora = field(default_factory=Lora)
    data: list[Source] = MISSING
    stages: list[Stage] = MISSING
    optim: Optim = field(default_factory=Optim)
    validation: Validation = field(default_factory=Validation)
    window: int | None = None
    seed: int = 0
    report_every: int = 10
    save_every: int = 100
    save_dtype: str = "float32"
    tensorboard: bool = False
