"""Starts a command in several processes, so that a failure is one sentence, and the last one.

accelerate's launcher and torchrun end with a traceback of their own where a process ends with an
error, below whatever that process had to say. Here each process hands its sentence over to the
process that started it, which prints it once all have ended.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import psutil
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import DistributedType
from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from yaml import YAMLError

from training.setup.config import BadConfig

# the environment variable that names the file in which a process leaves its sentence
HANDOVER = "MEMFORMER_LAUNCH_HANDOVER"
# every process has one of these devices
DEVICE_EACH = (DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED)


class LaunchFailed(RuntimeError):
    """A process that was started has failed; the message says why.

    Attributes:
        status: what to exit with.
    """

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def hand_over(sentence: str) -> bool:
    """Gives an error to the process that launched this one, if any; returns whether it did."""
    place = os.environ.get(HANDOVER)
    if place is None:
        return False
    try:
        with open(place, "x", encoding="utf-8") as file:
            file.write(sentence)
    except FileExistsError:
        pass  # the first process that failed says why
    return True


def launch(config: Path, module: str, arguments: Sequence[str]) -> None:
    """Runs a module as a command in the processes that an accelerate config asks for.

    Args:
        config: YAML, as `accelerate config` writes it.
        module: such as `training.finetune`; calls `hand_over` with its errors.
        arguments: of the command.

    Raises:
        BadConfig: the config can't be used here.
        LaunchFailed: a process ended with an error.
    """
    settings = _checked(config)
    command = ["-m", module, *arguments]
    # what the launchers tell of a failed process, its sentence tells better
    logging.disable(logging.ERROR)
    # a process of its own group is sent these by its launcher, any other one from here
    previous = {
        number: signal.signal(number, _pass_on) for number in (signal.SIGINT, signal.SIGTERM)
    }
    with TemporaryDirectory() as folder:
        said = Path(folder) / "error"
        os.environ[HANDOVER] = str(said)
        try:
            if settings.use_cpu and settings.num_processes > 1:
                # accelerate starts one process on CPUs, whatever it is told
                os.environ["ACCELERATE_USE_CPU"] = "true"
                os.environ["ACCELERATE_MIXED_PRECISION"] = str(settings.mixed_precision)
                many = f"--nproc-per-node={settings.num_processes}"
                torchrun.run(torchrun.parse_args(["--standalone", many, *command]))
            else:
                parser = launch_command_parser()
                launch_command(parser.parse_args(["--config_file", str(config), *command]))
        except (ValueError, ImportError) as error:
            raise BadConfig(f"{config}: {' '.join(str(error).split())}") from None
        except SignalException as error:
            name = signal.Signals(error.sigval).name
            raise LaunchFailed(
                f"The launch was stopped by {name}; --resume goes on from its last checkpoint.",
                128 + int(error.sigval),
            ) from None
        except (CalledProcessError, ChildFailedError) as error:
            if said.is_file():
                raise LaunchFailed(said.read_text(encoding="utf-8"), 2) from None
            status = _status(error)
            raise LaunchFailed(
                f"A process of the launch ended with status {status}; look above for its reason.",
                status,
            ) from None
        finally:
            del os.environ[HANDOVER]
            logging.disable(logging.NOTSET)
            for number, handler in previous.items():
                signal.signal(number, handler)


def _checked(config: Path) -> Any:
    """The accelerate config in a file.

    Raises:
        BadConfig: it can't be read, or asks for devices that this machine does not have.
    """
    try:
        settings = load_config_from_file(str(config))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, YAMLError) as error:
        reason = " ".join(str(error).split())
        raise BadConfig(f"{config} is no config of accelerate: {reason}") from None
    there, needed = torch.accelerator.device_count(), settings.num_processes
    if settings.distributed_type in DEVICE_EACH and settings.num_machines == 1 and there < needed:
        raise BadConfig(
            f"{config} asks for {needed} processes with a GPU each, and this machine has {there}; "
            "set num_processes in it, or take configs/accelerate/cpu.yaml."
        )
    return settings


def _pass_on(number: int, frame: FrameType | None) -> None:
    # the terminal has sent Ctrl-C to the whole group
    if number == signal.SIGTERM:
        for child in psutil.Process().children():
            child.send_signal(number)


def _status(error: CalledProcessError | ChildFailedError) -> int:
    """What a shell would call the status of a process."""
    status = (
        error.returncode
        if isinstance(error, CalledProcessError)
        else error.get_first_failure()[1].exitcode
    )
    return int(status) if status >= 0 else 128 - int(status)
