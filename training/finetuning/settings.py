"""What a run of `training.finetune` can be told, section by section."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from training.finetuning.sources import Source

TARGETS = ("attention", "all")
TRAINED = ("memory", "lora", "all")


@dataclass
class Model:
    """What is trained.

    Attributes:
        name: a plain decoder, which gets a memory, or a memformer checkpoint.
        memory: fields of `MemoryConfig`; of a checkpoint, those that shall change.
    """

    name: str = "HuggingFaceTB/SmolLM2-135M-Instruct"
    memory: dict[str, Any] = field(default_factory=dict)


@dataclass
class Lora:
    """LoRA on linear maps of the backbone's layers, from the lowest memory layer up.

    Attributes:
        rank: of each.
        alpha: scale, over rank.
        targets: "attention" for those of attention modules, "all" for all of them.
    """

    rank: int = 16
    alpha: int = 32
    targets: str = "attention"


@dataclass
class Stage:
    """One stage of the curriculum.

    Attributes:
        steps: how many.
        segments: longest document; every batch draws a length from 1 to this.
        segment_tokens: longest segment.
        weights: of the sources in their order, 0 for those that wait; None: their own.
    """

    steps: int = MISSING
    segments: int = MISSING
    segment_tokens: int = MISSING
    weights: list[float] | None = None


@dataclass
class Optim:
    """How it is trained: AdamW, with a rate that rises, stays, and falls at the end.

    Attributes:
        memory_lr: of the memory path's projections.
        gate_lr: of its scalars and gates, which have no weight decay.
        backbone_lr: of LoRA, or of the backbone itself.
        weight_decay: of the projections and of the backbone.
        warmup: steps until the rate is reached.
        decay: share of all steps in which it falls to nothing again.
        clip: greatest norm of the gradient.
        documents: in a step, over all processes.
        at_once: documents in one forward of one process; None: all that it has.
        chunks: parts of a document that the gradient does not go across.
        text_weight: of the loss on text, where a source learns it.
        teacher_weight: of the divergence from the teacher, where a source has one.
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
    """What is measured while training: best longer documents than those trained on.

    Attributes:
        sources: held-out documents.
        every: steps between measurements.
        segment_tokens: longest segment.
        at_once: documents in one forward.
        by: what the best weights are chosen by: "exact" matches of answers, or "loss".
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
    """A run; see the sections.

    Attributes:
        out: folder of the checkpoint.
        trained: "memory" leaves the backbone as it is, "lora" adds an adapter, "all" trains it.
        model: what is trained.
        lora: how large the adapter is.
        data: what it is trained on.
        stages: the curriculum.
        optim: how it is trained.
        validation: what is measured meanwhile.
        window: answer from so many tokens before the question instead of from memory: trains the
            backbone alone, to compare with.
        seed: of data and adapter.
        report_every: steps between lines of the log.
        save_every: steps between checkpoints to resume from.
        save_dtype: of the weights in `out`: "float32" or "bfloat16".
        tensorboard: also log for tensorboard.
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
