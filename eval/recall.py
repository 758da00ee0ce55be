"""Recall over distance: facts first, then book text, then a question about one of the facts.

    python -m eval.recall MODEL --facts 6 --distances 0,512,2048,8192 --out reports/recall

A document is n facts about n people in one chat turn and, after it, a turn with so many tokens of a
novel. Each question about it is one case; up to six of the n people are asked about, so 200 cases
are 34 documents at n = 6 (the cases of a document share its text, and the interval of an accuracy
takes them as independent). Answers are greedy and count only if exact. The rows:

- `none`: the question alone
- `full`: the plain model with everything in its window; n/a where the window is too short
- `truncated`: the plain model with the last `--window` tokens
- `memformer`: facts and book were memorized, the question is asked in a new segment
- `capped`: the same with at most `--num-slots` slots

All rows see the same documents, and a document has the same facts at every distance. The recipe of
the memory was found with other names, facts and wordings: this is a test, so never tune anything
on it.
"""

from __future__ import annotations

import copy
import re
import string
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer import MemoryState
from rich.console import Console
from rich.table import Table

from eval.asking import Asker, progress_bar
from eval.harness.metrics import wilson_interval
from eval.harness.systems import WindowExceeded, chunks
from eval.haystack import Haystack
from eval.people import NAMES, QUESTIONS, Chat, Document, Fact, make_documents
from eval.report import (
    BookOption,
    Line,
    ModelArgument,
    OutOption,
    Panel,
    ThreadsOption,
    draw,
    head,
    model_name,
    numbers,
    open_model,
    write_json,
)

ROWS = ("none", "full", "truncated", "memformer", "capped")
MAX_NEW_TOKENS = 8  # the longest value is 3 tokens of SmolLM2; the rest shows where the answer ends
# questions answered at once, and tokens memorized at once: both bound the memory a run needs
QUESTION_ROWS = 12
DOCUMENT_TOKENS = 16_384

# ---- scores --------------------------------------------------------------------------------


def answer(text: str) -> str:
    """The words before the first punctuation or line break, in lower case, without the article."""
    words = re.split(rf"[{re.escape(string.punctuation)}“”‘’…–—\n]", text, maxsplit=1)[0]
    return re.sub(r"^(a|an|the)\s+", "", words.strip().lower())


# ---- rows ----------------------------------------------------------------------------------


@dataclass
class Bench(Asker):
    """A model and how it is asked: one method a row, each returns the answers to all questions.

    Args:
        advance: told how many tokens more are done.
        memory_bytes: filled by the rows with memory: the bytes for one document, on average.
    """

    haystack: Haystack
    seed: int = 0
    window: int = 512
    num_slots: int = 4096
    advance: Callable[[int], None] = lambda tokens: None
    memory_bytes: float | None = None
    chat: Chat = field(init=False)

    def __post_init__(self) -> None:
        self.chat = Chat(self.tokenizer)

    def answers(self, row: str, documents: Sequence[Document], distance: int) -> list[str]:
        """The text generated for each question, in the order of documents and questions.

        Raises:
            WindowExceeded: `full`, and the text is longer than the model's window.
        """
        self.memory_bytes = None
        with torch.inference_mode():
            match row:
                case "none":
                    return self._alone(documents)
                case "full":
                    return self._full(documents, distance)
                case "truncated":
                    return self._truncated(documents, distance)
                case "memformer":
                    return self._memory(documents, distance, None)
                case "capped":
                    return self._memory(documents, distance, self.num_slots)
        raise ValueError(f"There is no row {row!r}; the rows are {', '.join(ROWS)}.")

    def turns(self, document: Document, distance: int) -> tuple[list[int], list[int]]:
        """What comes before the question: the turn with facts, and the turn with book text."""
        book = self.haystack.tokens(distance, f"{self.seed}/book/{document.number}")
        return self.chat.facts(document), self.chat.book(book)

    def _alone(self, documents: Sequence[Document]) -> list[str]:
        return self._plain(
            [self.chat.question(fact, first=True) for one in documents for fact in one.asked]
        )

    def _truncated(self, documents: Sequence[Document], distance: int) -> list[str]:
        prompts = []
        for document in documents:
            before = sum(self.turns(document, distance), [])
            for fact in document.asked:
                ids = before + self.chat.question(fact, first=False)
                prompts.append(ids[-self.window :])
        return self._plain(prompts)

    def _plain(self, prompts: Sequence[list[int]]) -> list[str]:
        texts = []
        for some in chunks(prompts, QUESTION_ROWS):
            ids, mask = self.padded(some, left=True)
            texts += self.said(self.model.backbone, ids, mask, MAX_NEW_TOKENS)
            self.advance(sum(map(len, some)))
        return texts

    def _full(self, documents: Sequence[Document], distance: int) -> list[str]:
        """A document is read once; its questions continue copies of that cache."""
        backbone = self.model.backbone
        limit = getattr(backbone.config.get_text_config(), "max_position_embeddings", None)
        read = [sum(self.turns(document, distance), []) for document in documents]
        asked = [[self.chat.question(fact, first=False) for fact in one.asked] for one in documents]
        needed = MAX_NEW_TOKENS + max(
            len(before) + max(map(len, questions))
            for before, questions in zip(read, asked, strict=True)
        )
        if limit is not None and needed > limit:
            raise WindowExceeded(f"{needed} tokens, and the window has {limit}")
        texts = []
        for before, questions in zip(read, asked, strict=True):
            ids = torch.tensor([before], device=self.model.device)
            cache = backbone(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
            for some in chunks(questions, QUESTION_ROWS):
                own = copy.deepcopy(cache)
                own.batch_repeat_interleave(len(some))
                after, mask = self.padded(some, left=True)
                rows = ids.expand(len(some), -1)
                texts += self.said(
                    backbone,
                    torch.cat([rows, after], 1),
                    torch.cat([torch.ones_like(rows), mask], 1),
                    MAX_NEW_TOKENS,
                    past_key_values=own,
                )
            self.advance(len(before) + sum(map(len, questions)))
        return texts

    def _memory(
        self, documents: Sequence[Document], distance: int, num_slots: int | None
    ) -> list[str]:
        texts = []
        total = 0
        for some in chunks(documents, max(1, min(4, DOCUMENT_TOKENS // (distance + 512)))):
            turns = [self.turns(document, distance) for document in some]
            memory = self.model.init_memory(len(some), num_slots=num_slots)
            memory = self.model.memorize(*self.padded([told for told, _ in turns]), memory=memory)
            if distance:
                book = torch.tensor([book for _, book in turns], device=self.model.device)
                memory = self.model.memorize(book, memory=memory)
            total += memory.nbytes
            asked = [(row, fact) for row, one in enumerate(some) for fact in one.asked]
            texts += self.ask(memory, asked)
            self.advance(sum(len(told) + len(book) for told, book in turns))
        self.memory_bytes = total / len(documents)
        return texts

    def ask(self, memory: MemoryState, asked: Sequence[tuple[int, Fact]]) -> list[str]:
        """The answers to questions, each put to the memory in the row given with it."""
        texts = []
        for part in chunks(asked, QUESTION_ROWS):
            questions = [self.chat.question(fact, first=True) for _, fact in part]
            texts += self.said(
                self.model,
                *self.padded(questions, left=True),
                MAX_NEW_TOKENS,
                memory=memory.select([row for row, _ in part]),
            )
            self.advance(sum(map(len, questions)))
        return texts


# ---- cells and the report ------------------------------------------------------------------


def run_cell(
    bench: Bench, row: str, documents: Sequence[Document], distance: int
) -> dict[str, Any]:
    """One row at one distance: accuracy, interval and every prediction."""
    started = time.perf_counter()
    cell: dict[str, Any] = {
        "row": row,
        "facts": len(documents[0].facts),
        "distance": distance,
        "documents": len(documents),
        "cases": sum(len(document.asked) for document in documents),
    }
    try:
        texts = bench.answers(row, documents, distance)
    except WindowExceeded as error:
        return cell | {"accuracy": None, "reason": f"n/a: exceeds window ({error})"}
    predictions = []
    asked = [(document, fact) for document in documents for fact in document.asked]
    for (document, fact), text in zip(asked, texts, strict=True):
        predictions.append(
            {
                "document": document.number,
                "question": fact.question,
                "gold": fact.value,
                "text": text,
                "correct": answer(text) == fact.value.lower(),
            }
        )
    correct = sum(bool(one["correct"]) for one in predictions)
    return cell | {
        "correct": correct,
        "accuracy": correct / len(predictions),
        "interval": wilson_interval(correct, len(predictions)),
        "memory_bytes": bench.memory_bytes,
        "seconds": round(time.perf_counter() - started, 2),
        "predictions": predictions,
    }


def _cost(row: str, facts: int, distance: int, window: int, cases: int) -> int:
    """Tokens that a cell reads, roughly: a fact has 8, the turns around it 60, a question 50."""
    before = 8 * facts + 60 + distance
    documents = -(-cases // min(facts, QUESTIONS))
    if row == "none":
        return 50 * cases
    if row == "truncated":
        return min(window, before + 50) * cases
    return before * documents + 50 * cases


def table(cells: Sequence[dict[str, Any]], facts: int) -> Table:
    """Accuracies with their intervals, one row of the benchmark a line."""
    mine = [cell for cell in cells if cell["facts"] == facts]
    distances = sorted({cell["distance"] for cell in mine})
    found = Table(title=f"{facts} facts, exact match in % (95 % interval)")
    found.add_column("")
    for distance in distances:
        found.add_column(f"{distance:,} tokens later", justify="right")
    for row in dict.fromkeys(cell["row"] for cell in mine):
        line = []
        for distance in distances:
            here = [cell for cell in mine if (cell["row"], cell["distance"]) == (row, distance)]
            if not here:
                line.append("")
            elif here[0]["accuracy"] is None:
                line.append("n/a: exceeds window")
            else:
                low, high = here[0]["interval"]
                share = 100 * here[0]["accuracy"]
                line.append(f"{share:.1f} ({100 * low:.0f}-{100 * high:.0f})")
        found.add_row(row, *line)
    return found


def plot(path: Path, model: str, cells: Sequence[dict[str, Any]]) -> None:
    """Accuracy against distance; with several numbers of facts, accuracy against these too."""
    scored = [cell for cell in cells if cell["accuracy"] is not None]
    all_facts = sorted({cell["facts"] for cell in cells})
    distances = sorted({cell["distance"] for cell in cells})
    panels = [_panel(scored, "distance", distances, "facts", all_facts[0])]
    if len(all_facts) > 1:
        panels.append(_panel(scored, "facts", all_facts, "distance", distances[0]))
    draw(path, f"Recall: {model}", panels)


def _panel(cells: Sequence[dict[str, Any]], axis: str, at: list[int], other: str, n: int) -> Panel:
    mine = [cell for cell in cells if cell[other] == n]
    lines = []
    rows = list(dict.fromkeys(cell["row"] for cell in mine))
    for place, row in enumerate(rows):
        # beside one another, where values coincide
        shift = 0.03 * (place - (len(rows) - 1) / 2)
        points = sorted((c for c in mine if c["row"] == row), key=lambda cell: cell[axis])
        lines.append(
            Line(
                row,
                [at.index(cell[axis]) + shift for cell in points],
                [cell["accuracy"] for cell in points],
                [cell["interval"][0] for cell in points],
                [cell["interval"][1] for cell in points],
            )
        )
    labels = {"distance": "tokens between facts and question", "facts": "facts in the document"}
    fixed = f"{n} facts" if other == "facts" else f"{n} tokens between"
    ticks = [f"{place:,}" for place in at]
    return Panel(labels[axis], f"exact match ({fixed})", lines, ticks=ticks, top=1.02)


app = typer.Typer(add_completion=False)


@app.command(help=__doc__)
def main(
    model: ModelArgument = None,
    facts: Annotated[str, typer.Option(help="Facts in a document; a list runs all.")] = "6",
    distances: Annotated[
        str, typer.Option(help="Tokens of book text between facts and question; a list.")
    ] = "0,512,2048,8192",
    cases: Annotated[int, typer.Option(min=1, help="Questions in each cell.")] = 200,
    rows: Annotated[str, typer.Option(help="What to compare; a list.")] = ",".join(ROWS),
    num_slots: Annotated[int, typer.Option(min=1, help="Capacity of the row `capped`.")] = 4096,
    window: Annotated[int, typer.Option(min=64, help="Tokens of the row `truncated`.")] = 512,
    seed: Annotated[int, typer.Option(help="Draws the documents.")] = 0,
    book: BookOption = None,
    threads: ThreadsOption = None,
    device: Annotated[str, typer.Option(help="Where to run, such as cpu or cuda.")] = "cpu",
    out: OutOption = Path("reports/recall"),
) -> None:
    all_facts = numbers(facts, 1, "--facts")
    if max(all_facts) > len(NAMES):
        raise typer.BadParameter(f"--facts goes up to {len(NAMES)}; got {max(all_facts)}.")
    all_distances = numbers(distances, 0, "--distances")
    wanted = rows.split(",")
    if unknown := [row for row in wanted if row not in ROWS]:
        raise typer.BadParameter(f"--rows knows {', '.join(ROWS)}; got {unknown[0]!r}.")
    if threads:
        torch.set_num_threads(threads)
    started = time.perf_counter()
    console = Console()
    loaded, tokenizer = open_model(model, device)
    bench = Bench(loaded, tokenizer, Haystack(tokenizer, book), seed, window, num_slots)
    memory = loaded.memory_config.to_dict()
    del memory["num_slots"]  # each row has its own
    settings = {
        "facts": all_facts,
        "distances": all_distances,
        "cases": cases,
        "rows": wanted,
        "num_slots": num_slots,
        "window": window,
        "seed": seed,
        "book": book.name if book else "eval/data/thursday.txt",
        "device": device,
        "max_new_tokens": MAX_NEW_TOKENS,
        "memory": memory,
    }
    report = head("eval.recall", settings) | model_name(model)
    cells: list[dict[str, Any]] = []
    report |= {"finished": False, "wall_seconds": 0.0, "cells": cells}
    path = out.with_name(out.name + ".json")
    todo = [(n, distance, row) for n in all_facts for distance in all_distances for row in wanted]
    costs = [_cost(row, n, distance, window, cases) for n, distance, row in todo]
    with progress_bar(console) as progress:
        task = progress.add_task("", total=sum(costs))
        for (n, distance, row), cost in zip(todo, costs, strict=True):
            progress.update(task, description=f"{row}, {n} facts, {distance:,} tokens")
            before = progress.tasks[0].completed

            def advance(tokens: int, most: float = before + cost) -> None:
                now = progress.tasks[0].completed
                progress.update(task, completed=min(most, now + tokens))

            bench.advance = advance
            same = [cell for cell in cells if (cell["row"], cell["facts"]) == ("none", n)]
            if row == "none" and same:
                # nothing of the document is in the prompt: the answers are the same
                cells.append(same[0] | {"distance": distance, "seconds": 0.0})
            else:
                cells.append(run_cell(bench, row, make_documents(n, cases, seed), distance))
            progress.update(task, completed=before + cost)
            report["wall_seconds"] = round(time.perf_counter() - started, 1)
            write_json(path, report)
    report["finished"] = True
    write_json(path, report)
    plot(out.with_name(out.name + ".png"), report["model"], cells)
    for n in all_facts:
        console.print(table(cells, n))
    console.print(f"{path} and {out.name}.png, {report['wall_seconds']:.0f} s")


if __name__ == "__main__":
    app()
