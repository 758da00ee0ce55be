"""How fast a model with a memory trains: all segments at once, one after the other, and without.

    python -m training.throughput --segments 8,16,32 --segment-tokens 64

One step is a forward and a backward over one document with a loss on all of its tokens. *parallel*
sends all segments through the backbone at once, *loop* one after the other with the gradient
through all of them; both compute the same. *plain* trains the backbone alone on the same tokens in
windows of `--window`. LoRA is on in all three. Only ratios within one run mean anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from eval.corpora.haystack import Haystack
from eval.reporting.options import ThreadsOption, numbers
from eval.reporting.report import head, write_json
from memformer import MemformerForCausalLM
from training.finetuning.settings import Model, Settings, Stage
from training.finetuning.thaw import build, check_model
from training.heads.parts import tokenizer_of

app = typer.Typer(add_completion=False)


def plain_loss(model: MemformerForCausalLM, ids: Tensor, window: int) -> Tensor:
    """The backbone's own loss in windows, the last of which may be shorter."""
    whole = ids[:, : ids.shape[1] // window * window].reshape(-1, window)
    parts = [part for part in (whole, ids[:, whole.numel() :]) if part.shape[1] > 1 and len(part)]
    losses = [model.backbone(part, labels=part).loss * part.numel() for part in parts]
    return torch.stack(losses).sum() / ids.numel()


def speed(loss: Callable[[], Tensor], model: MemformerForCausalLM, repeats: int) -> float:
    """Seconds of the fastest of some steps, after one that does not count."""
    times = []
    for _ in range(repeats + 1):
        model.zero_grad()
        started = time.perf_counter()
        loss().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


@app.command(help=__doc__)
def main(
    model: Annotated[str | None, typer.Argument(help="Default: the default model.")] = None,
    segments: Annotated[str, typer.Option(help="With commas between them.")] = "8,16,32",
    segment_tokens: Annotated[int, typer.Option(min=2, help="Tokens a segment.")] = 64,
    window: Annotated[int, typer.Option(min=2, help="Tokens of the plain model's window.")] = 512,
    repeats: Annotated[int, typer.Option(min=1, help="Steps that count; the fastest does.")] = 2,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Report; `.json` is added.")] = None,
    threads: ThreadsOption = None,
) -> None:
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    counts = numbers(segments, 1, "--segments")
    settings = Settings(
        out="",
        trained="lora",
        model=Model(memory={"num_slots": None, "segment_tokens": max(window, segment_tokens)}),
        stages=[Stage(steps=1, segments=max(counts), segment_tokens=segment_tokens)],
    )
    if model is not None:
        settings.model = Model(model)
    try:
        tokenizer = tokenizer_of(settings.model.name, check_model(settings))
        text = Haystack(tokenizer).tokens(max(counts) * segment_tokens)
        built = build(settings)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model can't be trained: {reason}") from None
    nn.Module.to(built, device)
    rows: list[dict[str, Any]] = []
    for count in counts:
        ids = torch.tensor([text[: count * segment_tokens]], device=built.device)
        places = torch.arange(ids.shape[1], device=ids.device)[None] // segment_tokens

        def parallel(ids: Tensor = ids, places: Tensor = places) -> Tensor:
            return built(ids, segment_ids=places, labels=ids).loss

        def loop(ids: Tensor = ids) -> Tensor:
            memory, losses = None, []
            for begin in range(0, ids.shape[1], segment_tokens):
                part = ids[:, begin : begin + segment_tokens]
                output = built(part, labels=part, memory=memory)
                memory = output.memory
                losses.append(output.loss)
            return torch.stack(losses).mean()

        def plain(ids: Tensor = ids) -> Tensor:
            return plain_loss(built, ids, window)

        seconds = {
            name: speed(loss, built, repeats)
            for name, loss in (("parallel", parallel), ("loop", loop), ("plain", plain))
        }
        rates = {name: round(ids.numel() / value, 1) for name, value in seconds.items()}
        rows.append(
            {
                "segments": count,
                "tokens": ids.numel(),
                "tokens_per_second": rates,
                "parallel_over_loop": round(seconds["loop"] / seconds["parallel"], 3),
                "parallel_over_plain": round(seconds["plain"] / seconds["parallel"], 3),
            }
        )
    table = Table("segments", "tokens", "parallel", "loop", "plain", "x loop", "x plain")
    for row in rows:
        rates = row["tokens_per_second"]
        ratios = (row["parallel_over_loop"], row["parallel_over_plain"])
        shown = (row["segments"], row["tokens"], *rates.values(), *ratios)
        table.add_row(*(str(value) for value in shown))
    Console().print(table)
    if out is not None:
        options = {"segment_tokens": segment_tokens, "window": window, "repeats": repeats}
        report = head("training.throughput", options | {"device": device}) | {"rows": rows}
        write_json(out.with_suffix(".json"), report)


if __name__ == "__main__":
    app()
