"""Speed of decoding with a memory, over the speed of the bare model, by the number of slots.

    python -m eval.decoding MODEL --slots 0,1024,4096,65536 --threads 1 --out reports/decoding

The bare model is the backbone as it was released, opened by transformers and decoded by its own
`generate`. Both begin with a prompt of the same length and say the same number of tokens. Only
decoding steps are timed: from the first new token to the last. In each round the bare model and
the model with a memory take turns, and one round gives one ratio; the table has the median of the
rounds and the lowest and the highest. The same ratio of CPU time leaves out the time in which other
processes had the cores, though not what they did to the caches. Seconds of a shared machine can't
be compared; ratios within a round can.

A memory of many slots holds book text again and again: 1,024 tokens of the text are read, and their
slots are repeated. The cost of a read does not depend on what a slot holds.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import torch
import typer
from memformer.memory import MemoryState
from memformer.pretrained import local_path
from rich.console import Console
from transformers.generation.streamers import BaseStreamer

from eval.corpora.haystack import Haystack
from eval.harness.roster import released
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import (
    BookOption,
    DtypeOption,
    ModelArgument,
    OutOption,
    ThreadsOption,
    numbers,
    use_threads,
)
from eval.reporting.page import Page, publish
from eval.reporting.report import head, write_json

READ_TOKENS = 1024

Entry = dict[str, Any]


class Step(NamedTuple):
    """Seconds of a decoding step: by the clock, and of the process on all cores."""

    wall: float
    cpu: float


class Clock(BaseStreamer):
    """Notes the time, and the CPU time, of every token that `generate` says."""

    def __init__(self) -> None:
        self.times: list[tuple[float, float]] = []

    def put(self, value: Any) -> None:
        """Takes the prompt, then one token after the other."""
        self.times.append((time.perf_counter(), time.process_time()))

    def end(self) -> None:
        """Takes nothing: the last token has come."""

    @property
    def seconds(self) -> Step:
        """Mean seconds of one decoding step; the prompt's own pass does not count."""
        steps = len(self.times) - 2
        wall, cpu = (
            (last - first) / steps
            for first, last in zip(self.times[1], self.times[-1], strict=True)
        )
        return Step(wall, cpu)


def step_seconds(model: Any, prompt: torch.Tensor, tokens: int, **options: Any) -> Step:
    """Seconds of a decoding step, mean over `tokens` steps."""
    clock = Clock()
    with torch.inference_mode():
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            streamer=clock,
            do_sample=False,
            min_new_tokens=tokens + 1,
            max_new_tokens=tokens + 1,
            **options,
        )
    return clock.seconds


def repeated(memory: MemoryState, slots: int) -> MemoryState:
    """A memory whose slots are those of another memory again and again, as if read in a row."""
    held = memory.token.shape[1]
    turns, number = -(-slots // held), torch.arange(slots) % held
    after = held * (torch.arange(slots) // held)
    parts = {name: column[:, number] for name, column in memory.columns.items()}
    parts |= {name: parts[name] + after for name in ("seen_at", "written_at")}
    parts |= {
        "keys": memory.keys[:, :, number],
        "values": memory.values[:, :, number],
        "addresses": memory.addresses[:, number],
        "num_seen": memory.num_seen * turns,
        "num_written": memory.num_written * turns,
    }
    return memory.replaced(**parts, num_slots=None)


def of_slots(model: Any, text: torch.Tensor, slots: int) -> MemoryState:
    """A closed memory with so many slots."""
    empty: MemoryState = model.init_memory(num_slots=None)
    if slots == 0:
        return empty
    with torch.inference_mode():
        read = model.memorize(text[:, : min(slots, READ_TOKENS)], memory=empty, gated=False)
    return repeated(read.closed(), slots)


def measure(
    models: tuple[Any, Any], text: torch.Tensor, slots: int, tokens: int, rounds: int
) -> Entry:
    """The speeds of both models, in rounds that take turns.

    Args:
        models: the bare model, and the model with a memory.
        text: the prompt, and after it the text of the memory.
        slots: slots of the memory.
        tokens: decoding steps in a round.
        rounds: how many rounds; one more goes before them, to warm up.
    """
    bare, model = models
    prompt, rest = text.split([text.shape[1] - READ_TOKENS, READ_TOKENS], 1)
    memory = of_slots(model, rest, slots)
    pairs = [
        (
            step_seconds(bare, prompt, tokens),
            step_seconds(model, prompt, tokens, memory=memory),
        )
        for _ in range(rounds + 1)
    ][1:]
    ratios = sorted(plain.wall / own.wall for plain, own in pairs)
    return {
        "slots": slots,
        "ratio": round(median(ratios), 3),
        "ratios": [round(one, 3) for one in ratios],
        "cpu_ratio": round(median(plain.cpu / own.cpu for plain, own in pairs), 3),
        "bare_ms": round(1000 * median(plain.wall for plain, _ in pairs), 2),
        "memory_ms": round(1000 * median(own.wall for _, own in pairs), 2),
    }


def page(report: Entry) -> Page:
    """The page of a report: a row for each number of slots."""
    settings = report["settings"]
    lines = [["slots", "speed over the bare model", "lowest", "highest", "in CPU time"]]
    lines += [
        [
            f"{cell['slots']:,}",
            f"{cell['ratio']:.2f}",
            f"{cell['ratios'][0]:.2f}",
            f"{cell['ratios'][-1]:.2f}",
            f"{cell['cpu_ratio']:.2f}",
        ]
        for cell in report["cells"]
    ]
    return Page(
        f"Speed of decoding over the bare model: {report['model']}",
        f"{settings['dtype']}, {settings['tokens']} steps after a prompt of "
        f"{settings['prompt_tokens']} tokens, {settings['threads']} threads. The median of "
        f"{settings['rounds']} rounds; in each, both models take turns.",
        lines,
    )


def open_pair(name: str | None, dtype: str) -> tuple[tuple[Any, Any], Any]:
    """The bare model and the model with a memory, and the tokenizer of both."""
    from transformers import AutoModelForCausalLM

    model, tokenizer = open_model(name, dtype=dtype)
    source = released(model_name(name)["model"])
    bare: Any = AutoModelForCausalLM.from_pretrained(
        local_path(source) or source, dtype=getattr(torch, dtype)
    )
    return (bare.eval(), model), tokenizer


def cells(
    models: tuple[Any, Any], text: torch.Tensor, slots: Sequence[int], tokens: int, rounds: int
) -> list[Entry]:
    """A cell for each number of slots."""
    console, found = Console(stderr=True), []
    for count in slots:
        with console.status(f"{count:,} slots"):
            found.append(measure(models, text, count, tokens, rounds))
        gc.collect()
    return found


def main(
    model: ModelArgument = None,
    slots: Annotated[str, typer.Option(help="Slots of the memory; a list.")] = "0,1024,4096,65536",
    tokens: Annotated[int, typer.Option(min=2, help="Decoding steps in a round.")] = 48,
    prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the prompt.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds for each number of slots.")] = 7,
    dtype: DtypeOption = "float32",
    book: BookOption = None,
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/decoding"),
) -> None:
    require("the report", PAGE)
    counts = sorted(numbers(slots, 0, "--slots"))
    use_threads(threads)
    settings = {
        "slots": counts,
        "tokens": tokens,
        "prompt_tokens": prompt_tokens,
        "rounds": rounds,
        "dtype": dtype,
        "threads": torch.get_num_threads(),
    }
    report = head("eval.decoding", settings) | model_name(model)
    models, tokenizer = open_pair(model, dtype)
    text = torch.tensor([Haystack(tokenizer, book).tokens(prompt_tokens + READ_TOKENS)])
    report["cells"] = cells(models, text, counts, tokens, rounds)
    write_json(out.with_name(out.name + ".json"), report)
    publish(out, page(report), report)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
