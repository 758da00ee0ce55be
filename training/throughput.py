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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from eval.corpora.haystack import Haystack
from eval.reporting.app import make_app
from eval.reporting.options import ThreadsOption, numbers, use_threads
from eval.reporting.report import head, write_json
from memformer import MemformerForCausalLM
from training.finetuning.settings import Model, Settings, Stage
from training.finetuning.thaw import build, check_model
from training.setup.tokenizer import tokenizer_of


def plain_loss(model: MemformerForCausalLM, ids: Tensor, window: int) -> Tensor:
    """The loss of the backbone alone, in windows; the last window may be shorter."""
    whole = ids[:, : ids.shape[1] // window * window].reshape(-1, window)
    parts = [part for part in (whole, ids[:, whole.numel() :]) if part.shape[1] > 1 and len(part)]
    losses = [model.backbone(part, labels=part).loss * part.numel() for part in parts]
    return torch.stack(losses).sum() / ids.numel()


def speed(loss: Callable[[], Tensor], model: MemformerForCausalLM, repeats: int) -> float:
    """Seconds of the fastest step; the first step does not count."""
    times = []
    for _ in range(repeats + 1):
        model.zero_grad()
        started = time.perf_counter()
        loss().backward()
        if model.device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times[1:])


def losses(
    model: MemformerForCausalLM, ids: Tensor, segment_tokens: int, window: int
) -> dict[str, Callable[[], Tensor]]:
    """The three forwards that are compared, by name, on the same tokens."""
    places = torch.arange(ids.shape[1], device=ids.device)[None] // segment_tokens

    def parallel() -> Tensor:
        return model(ids, segment_ids=places, labels=ids).loss

    def loop() -> Tensor:
        memory, found = None, []
        for begin in range(0, ids.shape[1], segment_tokens):
            part = ids[:, begin : begin + segment_tokens]
            output = model(part, labels=part, memory=memory)
            memory = output.memory
            found.append(output.loss)
        return torch.stack(found).mean()

    def plain() -> Tensor:
        return plain_loss(model, ids, window)

    return {"parallel": parallel, "loop": loop, "plain": plain}


@dataclass(frozen=True)
class Row:
    """The speeds at one number of segments.

    Attributes:
        segments: segments of the document.
        tokens: tokens of the document.
        tokens_per_second: speed of each way of training.
        parallel_over_loop: how many times as fast all segments at once are as one after the other.
        parallel_over_plain: how many times as fast they are as the plain model.
    """

    segments: int
    tokens: int
    tokens_per_second: dict[str, float]
    parallel_over_loop: float
    parallel_over_plain: float


def measured(
    model: MemformerForCausalLM,
    text: list[int],
    segments: int,
    segment_tokens: int,
    window: int,
    repeats: int,
) -> Row:
    """Measures the three ways of training on the beginning of a text."""
    ids = torch.tensor([text[: segments * segment_tokens]], device=model.device)
    seconds = {
        name: speed(loss, model, repeats)
        for name, loss in losses(model, ids, segment_tokens, window).items()
    }
    return Row(
        segments,
        ids.numel(),
        {name: round(ids.numel() / value, 1) for name, value in seconds.items()},
        round(seconds["loop"] / seconds["parallel"], 3),
        round(seconds["plain"] / seconds["parallel"], 3),
    )


def table(rows: list[Row]) -> Table:
    """The rows as they are printed."""
    found = Table("segments", "tokens", "parallel", "loop", "plain", "x loop", "x plain")
    for row in rows:
        ratios = (row.parallel_over_loop, row.parallel_over_plain)
        shown = (row.segments, row.tokens, *row.tokens_per_second.values(), *ratios)
        found.add_row(*(str(value) for value in shown))
    return found


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
    use_threads(threads)
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
        tokenizer = tokenizer_of(settings.model.name, check_model(settings)[0])
        text = Haystack(tokenizer).tokens(max(counts) * segment_tokens)
        built = build(settings)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(f"the model can't be trained: {reason}") from None
    nn.Module.to(built, device)
    rows = [measured(built, text, count, segment_tokens, window, repeats) for count in counts]
    Console().print(table(rows))
    if out is not None:
        options = {"segment_tokens": segment_tokens, "window": window, "repeats": repeats}
        report = head("training.throughput", options | {"device": device})
        report["rows"] = [asdict(row) for row in rows]
        write_json(out.with_suffix(".json"), report)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
