"""What a checkpoint has lost or gained in plain text: perplexity on a book.

    python -m eval.forgetting MODEL --tokens 8192

The same windows of the book are read three times: by the backbone as it was released (without the
memory and without the adapter), by the checkpoint with an empty memory, and by the checkpoint with
the windows before in memory. Where nothing but the memory path was trained, the first two are the
same, bit for bit.

Short tasks, before and after, are asked by `eval.longqa --set squad --systems full,full@MODEL`.
"""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer import MemformerForCausalLM
from rich.console import Console
from rich.progress import track
from torch import Tensor

from eval.corpora.haystack import Haystack
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import BookOption, ModelArgument, OutOption, ThreadsOption, use_threads
from eval.reporting.page import Page, publish
from eval.reporting.report import head, write_json

RELEASED, EMPTY, REMEMBERED = "as released", "empty memory", "windows before in memory"


def without_adapter(model: MemformerForCausalLM) -> AbstractContextManager[Any]:
    """A context in which the backbone computes without its adapter."""
    backbone: Any = model.backbone
    return backbone.disable_adapter() if hasattr(backbone, "peft_config") else nullcontext()


def nats(logits: Tensor, ids: Tensor) -> float:
    """The summed cross entropy of all tokens of a window but the first."""
    return float(
        torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum")
    )


def page(report: dict[str, Any]) -> Page:
    """The page of a report: the perplexities below each other."""
    found, settings = report["perplexity"], report["settings"]
    lines = [["", "perplexity", "against the release"]]
    for name, value in found.items():
        lines.append([name, f"{value:.3f}", f"{100 * (value / found[RELEASED] - 1):+.2f} %"])
    same = "are" if report["logits_bit_equal"] else "are not"
    return Page(
        f"Perplexity of plain text: {settings['model']}",
        f"{report['tokens_scored']:,} tokens of a book, {settings['window']:,} seen at once. With "
        f"an empty memory, logits {same} those released, bit for bit.",
        lines,
    )


@torch.no_grad()
def main(
    model: ModelArgument = None,
    tokens: Annotated[int, typer.Option(min=2, help="Of the book.")] = 8192,
    window: Annotated[int, typer.Option(min=2, help="Tokens seen at once.")] = 512,
    book: BookOption = None,
    out: OutOption = Path("reports/forgetting"),
    threads: ThreadsOption = None,
) -> None:
    require("the report", PAGE)
    use_threads(threads)
    report = head("eval.forgetting", model_name(model) | {"tokens": tokens, "window": window})
    loaded, tokenizer = open_model(model)
    if window > (most := loaded.memory_config.segment_tokens):
        raise typer.BadParameter(f"--window must be at most {most}, the model's segment_tokens.")
    ids = torch.tensor([Haystack(tokenizer, book).tokens(tokens)])
    sums = dict.fromkeys((RELEASED, EMPTY, REMEMBERED), 0.0)
    same, scored = True, 0
    memory = loaded.init_memory(num_slots=None)
    for begin in track(range(0, tokens, window), "reading", console=Console(stderr=True)):
        part = ids[:, begin : begin + window]
        if part.shape[1] < 2:
            break
        with without_adapter(loaded):
            released = loaded.backbone(part).logits
        empty = loaded(part).logits
        output = loaded(part, memory=memory)
        memory = output.memory
        same = same and torch.equal(released, empty)
        scored += part.shape[1] - 1
        for name, logits in zip(sums, (released, empty, output.logits), strict=True):
            sums[name] += nats(logits, part)
    found = {name: round(math.exp(value / scored), 4) for name, value in sums.items()}
    report |= {"perplexity": found, "tokens_scored": scored, "logits_bit_equal": same}
    write_json(out.with_name(f"{out.name}.json"), report)
    publish(out, page(report), report)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
