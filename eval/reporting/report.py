"""What every measurement shares: options, opening the model, the head of a report, JSON, and plots.

Nothing here knows what is measured; `recall.py` and `scaling.py` are the measurements.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
import warnings
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
import typer

from eval.corpora.book import read_book
from eval.reporting.resident import available

if TYPE_CHECKING:
    from memformer import MemformerForCausalLM
    from transformers import PreTrainedTokenizerBase


ModelArgument = Annotated[
    str | None, typer.Argument(help="Hub id or folder; the default model if left out.")
]


def checked_book(path: Path | None) -> Path | None:
    """The path of a book that can be read.

    Raises:
        typer.BadParameter: it can't.
    """
    try:
        read_book(path)
    except (OSError, ValueError) as error:
        raise typer.BadParameter(str(error)) from None
    return path


BookOption = Annotated[
    Path | None,
    typer.Option(
        help="Text file to read from; an excerpt of a novel if left out.", callback=checked_book
    ),
]
DtypeOption = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(help="Of weights and activations; memories are addressed in float32 in both."),
]


def checked_device(name: str) -> str:
    """A device that is there.

    Raises:
        typer.BadParameter: it is not.
    """
    try:
        torch.empty(0, device=name)
    # a torch that was built without the device raises one of the first two
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise typer.BadParameter(
            f"{name!r} can't be used on this machine ({reason}); take cpu, or a device that torch "
            "finds."
        ) from None
    return name


DeviceOption = Annotated[
    str, typer.Option(help="Where to run, such as cpu or cuda.", callback=checked_device)
]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch.")]
OutOption = Annotated[Path, typer.Option(help="Where to write, without .json and .png.")]


def open_model(
    name: str | None, device: str = "cpu", dtype: str = "float32"
) -> tuple[MemformerForCausalLM, PreTrainedTokenizerBase]:
    """A model with its memory attached, and its tokenizer.

    Args:
        name: hub id or folder of a decoder or of a memformer checkpoint; None: the default model.
        device: where to put it.
        dtype: of weights and activations, a name of torch's.

    Raises:
        typer.BadParameter: there is no such model, it can't be opened, or is too large.
    """
    from memformer import MemformerForCausalLM
    from memformer.checkpoint.decoders import load_tokenizer
    from memformer.pretrained import DEFAULT_MODEL
    from transformers import logging

    logging.disable_progress_bar()
    name = name or DEFAULT_MODEL
    try:
        _check_room(name, device, getattr(torch, dtype))
        with warnings.catch_warnings():
            # peft asks transformers for what has a new name there: theirs to mend
            warnings.simplefilter("ignore", FutureWarning)
            model = MemformerForCausalLM.from_pretrained(name, dtype=getattr(torch, dtype)).eval()
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model {name!r} can't be opened: {reason}") from None
    model.to(torch.device(device))
    return model, load_tokenizer(name, model)


def _check_room(name: str, device: str, dtype: torch.dtype) -> None:
    """Checks that there is memory for the weights: without it, a CPU process is simply killed.

    Raises:
        typer.BadParameter: there is not.
        OSError, ValueError: there is no such model.
    """
    from memformer import MemformerConfig
    from memformer.pretrained import local_path
    from transformers import AutoConfig, AutoModelForCausalLM

    config: Any = AutoConfig.from_pretrained(local_path(name) or name)
    if isinstance(config, MemformerConfig):
        config = config.text_config
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(config).parameters()
    needed, free = dtype.itemsize * sum(one.numel() for one in weights), available(device)
    if needed > free:
        raise typer.BadParameter(
            f"the model {name!r} takes {needed / 2**30:.1f} GiB as {str(dtype).partition('.')[2]}, "
            f"and {free / 2**30:.1f} GiB are free on {device}; take a smaller model, --dtype "
            "bfloat16, or a device with more memory."
        )


def model_name(name: str | None) -> dict[str, str]:
    """The entry of a report that says which pretrained model it is about."""
    from memformer.pretrained import DEFAULT_MODEL

    return {"model": name or DEFAULT_MODEL}


def numbers(text: str, least: int, option: str) -> list[int]:
    """Reads a list such as `0,512,2048`.

    Raises:
        typer.BadParameter: not such a list, or a number below `least`.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < least or len(set(found)) < len(found):
        raise typer.BadParameter(
            f"{option} takes different whole numbers from {least} up, with commas between them; "
            f"got {text!r}."
        )
    return found


def head(module: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The top of a report: what was run, with what, where and when.

    Args:
        module: the one that was run, such as `eval.recall`.
        settings: its own.
    """
    return {
        "benchmark": module.rpartition(".")[2],
        "command": shlex.join(["python", "-m", module, *sys.argv[1:]]),
        "settings": settings,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in ("torch", "transformers", "memformer-lm")},
        },
        "machine": machine(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        # a checkout that was not installed
        from memformer import __version__

        return __version__


def machine() -> dict[str, Any]:
    """The class of machine, without its name: processor, cores, and the GPU if there is one."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                processor = line.partition(":")[2].strip()
                break
    found: dict[str, Any] = {
        "processor": processor,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def write_json(path: Path, report: dict[str, Any], levels: int = 4) -> None:
    """Writes a report whole or not at all: an interrupted run leaves the report before it.

    Args:
        path: where; its folder is made.
        report: what.
        levels: down to which entries have lines of their own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text(_layout(report, levels) + "\n", encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _layout(value: Any, levels: int, indent: str = "") -> str:
    """JSON with one entry a line down to so many levels."""
    if levels == 0 or not value or not isinstance(value, dict | list):
        return json.dumps(value)
    deeper = indent + " "
    if isinstance(value, dict):
        opening, closing = "{", "}"
        entries = [f"{json.dumps(k)}: {_layout(v, levels - 1, deeper)}" for k, v in value.items()]
    else:
        opening, closing = "[", "]"
        entries = [_layout(v, levels - 1, deeper) for v in value]
    inside = ",\n".join(deeper + entry for entry in entries)
    return f"{opening}\n{inside}\n{indent}{closing}"


@dataclass(frozen=True)
class Line:
    """One line of a plot.

    Attributes:
        label: for the legend.
        x: where its points are.
        y: how high they are.
        low: lower ends of error bars, if there are any.
        high: upper ends.
        color: None: the next of the palette.
        marker: of the points.
        style: of the line between them.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    _: KW_ONLY
    color: str | None = None
    marker: str = "o"
    style: str = "-"


@dataclass(frozen=True)
class Panel:
    """One plot; both axes start at 0 unless logarithmic.

    Args:
        ticks: marks of the x axis; with them the x values are places among the marks.
        top: upper end of the y axis.
    """

    x_label: str
    y_label: str
    lines: Sequence[Line]
    ticks: Sequence[str] | None = None
    log_x: bool = False
    log_y: bool = False
    top: float | None = None


def colors(count: int) -> list[tuple[float, ...]]:
    """Colours for so many lines, all different up to twenty."""
    from matplotlib import colormaps

    found: Any = colormaps["tab10" if count <= 10 else "tab20"]
    return [found.colors[place % len(found.colors)] for place in range(count)]


def draw(path: Path, title: str, panels: Sequence[Panel]) -> None:
    """Draws panels side by side into a PNG."""
    # without pyplot: no window, no state left behind
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5 * len(panels) + 1.5, 4.2), layout="constrained")
    figure.suptitle(title, fontsize=11)
    labels = {tuple(line.label for line in panel.lines) for panel in panels}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        axes.set_prop_cycle(color=colors(len(panel.lines)))
        for line in panel.lines:
            bars = None
            if line.low is not None and line.high is not None:
                # rounding can put an end on the wrong side of its value
                bars = [
                    [max(0.0, y - low) for y, low in zip(line.y, line.low, strict=True)],
                    [max(0.0, high - y) for y, high in zip(line.y, line.high, strict=True)],
                ]
            axes.errorbar(
                line.x,
                line.y,
                yerr=bars,
                marker=line.marker,
                markersize=4,
                capsize=3,
                label=line.label,
                color=line.color,
                linestyle=line.style,
            )
        if panel.ticks is not None:
            axes.set_xticks(range(len(panel.ticks)), panel.ticks)
        elif panel.log_x:
            axes.set_xscale("log", base=2)
            places = sorted({x for line in panel.lines for x in line.x})
            axes.set_xticks(places, [f"{x:,.0f}" for x in places], rotation=30)
            axes.minorticks_off()
        if panel.log_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0, top=panel.top)
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        axes.grid(alpha=0.3)
        if len(labels) > 1:
            axes.legend(fontsize=8)
    if len(labels) == 1:  # once for all, where it hides nothing
        figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
