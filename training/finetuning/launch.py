"""Starts a command in several processes; a failure is one sentence, printed last.

accelerate's launcher and torchrun print a traceback of their own below the error of a process. Here
a process hands its sentence over to the process that started it, which prints the sentence after
all processes have ended.
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

# environment variable with the file that a process writes its sentence to
HANDOVER = "MEMFORMER_LAUNCH_HANDOVER"
# with these, every process has a device
DEVICE_EACH = (DistributedType.MULTI_GPU, DistributedType.FSDP, DistributedType.DEEPSPEED)


class LaunchFailed(RuntimeError):
    """A process that was started has failed; the message gives the reason.

    Attributes:
        status: the exit status for the command.
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
        pass  # the first process that failed gives the reason
    return True


def launch(config: Path, module: str, arguments: Sequence[str]) -> None:
    """Runs a module as a command in the processes that an accelerate config asks for.

    Args:
        config: YAML file, as `accelerate config` writes it.
        module: a module such as `training.finetune`, which calls `hand_over` with its errors.
        arguments: arguments of the command.

    Raises:
        BadConfig: the config can't be used here.
        LaunchFailed: a process ended with an error.
    """
    settings = _checked(config)
    command = ["-m", module, *arguments]
    # the sentence of a failed process replaces the messages of the launchers
    logging.disable(logging.ERROR)
    # a launcher passes signals on to processes in groups of their own; others get them from here
    previous = {
        number: signal.signal(number, _pass_on) for number in (signal.SIGINT, signal.SIGTERM)
    }
    with TemporaryDirectory() as folder:
        said = Path(folder) / "error"
        os.environ[HANDOVER] = str(said)
        try:
            if settings.use_cpu and settings.num_processes > 1:
                # accelerate starts one process on CPUs, whatever the config says
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
        BadConfig: the file can't be read, or asks for devices that this machine does not have.
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
    """Passes SIGTERM on to the processes; the terminal sends Ctrl-C to all of them by itself."""
    if number == signal.SIGTERM:
        for child in psutil.Process().children():
            child.send_signal(number)


def _status(error: CalledProcessError | ChildFailedError) -> int:
    """The exit status of a process, as a shell counts it."""
    status = (
        error.returncode
        if isinstance(error, CalledProcessError)
        else error.get_first_failure()[1].exitcode
    )
    return int(status) if status >= 0 else 128 - int(status)
