"""Checks options and reads data before the model is opened, so that mistakes are found at once.

The order is: options, folder to write to, data files, config of the model, tokens. Opening and
calibrating a model takes longer than all of these together.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import DistributedType
from transformers import PreTrainedTokenizerBase

from training import missing
from training.data.records import Record
from training.finetuning import resume, sources
from training.finetuning.settings import Settings, Stage
from training.finetuning.sources import Pool
from training.finetuning.thaw import check_model, check_options
from training.setup.config import BadConfig
from training.setup.places import check_folder
from training.setup.tokenizer import tokenizer_of


@dataclass(frozen=True)
class Prepared:
    """Everything that a run needs, except its model.

    Attributes:
        settings: the checked settings.
        tokenizer: the tokenizer of the model.
        pools: the documents to train on, a pool a source.
        measured: the documents to measure with, a pool a source.
    """

    settings: Settings
    tokenizer: PreTrainedTokenizerBase
    pools: list[Pool]
    measured: list[Pool]


def check(settings: Settings) -> None:
    """Refuses settings that no run can have; reads no file.

    Raises:
        BadConfig: a value is out of range, or values contradict each other.
    """
    check_options(settings)
    optim, validation = settings.optim, settings.validation
    for source in (*settings.data, *validation.sources):
        sources.check(source)
    if not settings.data:
        raise BadConfig("data names no source of documents.")
    if not settings.stages:
        raise BadConfig("stages names no stage.")
    if validation.by not in ("exact", "loss"):
        raise BadConfig(f"validation.by must be exact or loss; got {validation.by!r}.")
    if settings.save_dtype not in ("float32", "bfloat16"):
        raise BadConfig(f"save_dtype must be float32 or bfloat16; got {settings.save_dtype!r}.")
    if settings.tensorboard and (lacks := missing("tensorboard")):
        raise BadConfig(f"tensorboard: true: {lacks}")
    for name, value, least in (
        ("optim.documents", optim.documents, 1),
        ("optim.at_once", optim.at_once, 1),
        ("optim.chunks", optim.chunks, 1),
        ("validation.every", validation.every, 1),
        ("validation.at_once", validation.at_once, 1),
        ("validation.segment_tokens", validation.segment_tokens, 2),
        ("report_every", settings.report_every, 1),
        ("save_every", settings.save_every, 1),
        *((f"steps of stage {n}", one.steps, 1) for n, one in enumerate(settings.stages, 1)),
        *((f"segments of stage {n}", one.segments, 1) for n, one in enumerate(settings.stages, 1)),
        *(
            (f"segment_tokens of stage {n}", one.segment_tokens, 2)
            for n, one in enumerate(settings.stages, 1)
        ),
    ):
        if value is not None and value < least:
            raise BadConfig(f"{name} must be {least} or more; got {value}.")
    for stage in settings.stages:
        weights(settings, stage)
    for source in settings.data:
        if settings.window is not None and (source.teacher or source.text):
            raise BadConfig(
                f"{source.name} is to be learned as text, and a window only answers questions; "
                "leave text and teacher out."
            )
    for source in validation.sources:
        if source.streaming:
            raise BadConfig(f"{source.name} is to be measured: it can't be streamed.")


def prepare(
    settings: Settings,
    accelerator: Accelerator,
    tell: Callable[[str], None] = lambda _: None,
    *,
    resumed: bool = False,
) -> Prepared:
    """Checks the folder and the data of a run, and reads and tokenises the data.

    Args:
        settings: settings that passed `check`.
        accelerator: knows the number of processes.
        tell: is called with a line about each source.
        resumed: whether the run goes on where it stopped.

    Raises:
        BadConfig, BadPlace, BadRecord, BadCheckpoint: settings, folder, data or checkpoint can't be
            used.
        OSError, ValueError: there is no such model.
    """
    _check_processes(settings, accelerator)
    out = Path(settings.out)
    if resumed:
        resume.newest(out / resume.CHECKPOINTS, dataclasses.asdict(settings))
    else:
        check_folder(out, "go on with --resume, or name another out")
    learned = [sources.records(source) for source in settings.data]
    held_out = [sources.records(source) for source in settings.validation.sources]
    for source, records in zip(settings.data, learned, strict=True):
        if source.teacher and _asks(records):
            raise BadConfig(
                f"{source.name} has questions, which a teacher is no use for; set text."
            )
    for source, records in zip(settings.validation.sources, held_out, strict=True):
        if settings.validation.by == "exact" and not _asks(records):
            raise BadConfig(f"{source.name} has no questions; set validation.by: loss.")
    config, most = check_model(settings)
    tokenizer = tokenizer_of(settings.model.name, config)
    pools, measured = (
        [sources.pool(*one, tokenizer, tell) for one in zip(of, read, strict=True)]
        for of, read in ((settings.data, learned), (settings.validation.sources, held_out))
    )
    for pool in (*pools, *measured):
        if long := pool.leave_out(most):
            tell(f"{pool.source.name}: {long} with a question of over {most} tokens are left out")
    for number, stage in enumerate(settings.stages, 1):
        for pool, weight in zip(pools, weights(settings, stage), strict=True):
            if weight and (long := pool.check(stage.segments, stage.segment_tokens)):
                of = f"{long} of {len(pool.documents)} documents"
                tell(f"stage {number}: {of} in {pool.source.name} are longer, and wait")
    for pool in measured:
        pool.check_taught(settings.validation.segment_tokens)
    return Prepared(settings, tokenizer, pools, measured)


def _asks(records: Sequence[Record]) -> bool:
    return any(record.questions for record in records)


def weights(settings: Settings, stage: Stage) -> list[float]:
    """The weight of each source in a stage: how often it is drawn.

    Raises:
        BadConfig: there is not one weight for each source, or all weights are 0.
    """
    found = stage.weights or [source.weight for source in settings.data]
    if len(found) != len(settings.data) or min(found) < 0 or not sum(found):
        raise BadConfig(
            f"weights of stage {settings.stages.index(stage) + 1} must be one for each of the "
            f"{len(settings.data)} sources, and not all 0; got {found}."
        )
    return found


def _check_processes(settings: Settings, accelerator: Accelerator) -> None:
    optim = settings.optim
    many = accelerator.num_processes
    if optim.documents % many:
        raise BadConfig(
            f"optim.documents must be a multiple of the {many} processes; got {optim.documents}."
        )
    if accelerator.distributed_type == DistributedType.DEEPSPEED and optim.at_once is not None:
        raise BadConfig("DeepSpeed takes all documents at once; leave out optim.at_once.")
