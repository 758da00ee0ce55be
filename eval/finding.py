"""Finding: whether the paragraph that answers a question is among the first ones recalled.

    python -m eval.finding MODEL --source squad.jsonl --lengths 1000,4000,16000,64000

Paragraphs of a set are strewn together into texts of about so many tokens: those that are asked
about, others of the set between them and, where the set runs out, paragraphs of books. The same
questions, one a paragraph, are asked at every length: where a text has no room for all, several
texts are made. A text is memorized with every token written. What a question is about is found by
its own words, before anything is read:

- `heads`: by the votes of the finder heads alone
- `words`: by BM25 over token ids alone
- `encoder`: by an encoder (`--encoder`) among the same passages of the record
- `fused`: by heads and words, `model.recall`

The paragraph is found if at least half of a passage lies in it. A short one may lie in a passage
with more of another paragraph: it can't be found then, and the report says how many can. Finding
uses the record and no slots, so each memory has few, `--slots`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer import MemformerForCausalLM, MemoryState
from memformer.reading import begun
from memformer.recollection import Passage, recollect
from memformer.template import frame, text_ids
from rich.console import Console

from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import LongDocument
from eval.corpora.paragraphs import Text, book_paragraphs, draw_questions, make_texts
from eval.harness.asking import progress_bar
from eval.harness.metrics import wilson_interval
from eval.harness.retrieval import Dense, NoRetrieval
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, PICTURE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import (
    DeviceOption,
    DtypeOption,
    ModelArgument,
    OutOption,
    ThreadsOption,
    numbers,
    use_threads,
)
from eval.reporting.page import Page, publish
from eval.reporting.plots import Line, Panel, draw
from eval.reporting.report import head, write_json
from eval.sets import KINDS, Name

RANKS = (1, 2, 4)
WAYS = {
    "heads": "finder heads",
    "words": "words, BM25",
    "encoder": "an encoder",
    "fused": "heads and words",
}


def rank(passages: Sequence[Passage], begin: int, end: int) -> int | None:
    """The rank, from 1, of the first passage of which half lies between two places."""
    for number, one in enumerate(passages, 1):
        shared = min(end, one.end) - max(begin, one.start)
        if 2 * shared >= len(one.token_ids):
            return number
    return None


@torch.inference_mode()
def measure(
    model: MemformerForCausalLM,
    tokenizer: Any,
    text: Text,
    slots: int,
    encoder: Dense | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """The rank of the right paragraph of each question, by each way; and the passages there are."""
    memory = begun(model, frame(tokenizer), model.init_memory(num_slots=slots))
    # places count from the first token told
    before = int(memory.is_told.sum())
    ids = torch.tensor([text.ids], device=model.device)
    memory = model.memorize(ids, memory=memory, gated=False)
    first = _question(model, tokenizer, text.cases[0].question)
    everything = model.recall(first, memory, top_k=len(text.ids))[0]
    everything.sort(key=lambda one: one.start)
    search = None
    if encoder is not None:
        search = encoder([tokenizer.decode(one.token_ids) for one in everything])
    cases = []
    for case in text.cases:
        found = _found(model, tokenizer, case.question, memory, RANKS[-1])
        if search is not None:
            best = search(case.question, min(RANKS[-1], len(everything)))
            found["encoder"] = [everything[number] for number in best]
        begin, end = case.begin + before, case.end + before
        ranks = {way: rank(found[way], begin, end) for way in WAYS if way in found}
        findable = rank(everything, begin, end) is not None
        cases.append({"id": case.id, "findable": findable, "ranks": ranks})
    return cases, len(everything)


def _found(
    model: MemformerForCausalLM, tokenizer: Any, question: str, memory: MemoryState, most: int
) -> dict[str, Sequence[Passage]]:
    """The passages that a question is found to be about, by each way of the model's."""
    ids = _question(model, tokenizer, question)
    asked = model.engine(), ids, torch.ones_like(ids, dtype=torch.bool), memory, most
    return {
        "heads": recollect(*asked, by="heads")[0],
        "words": recollect(*asked, by="words")[0],
        "fused": model.recall(ids, memory, most)[0],
    }


def _question(model: MemformerForCausalLM, tokenizer: Any, question: str) -> torch.Tensor:
    return torch.tensor([text_ids(tokenizer, question)], device=model.device)


def cells(length: int, cases: Sequence[Mapping[str, Any]], passages: float) -> list[dict[str, Any]]:
    """The shares of questions whose paragraph is found, with intervals: a cell for each way."""
    made = []
    for way in cases[0]["ranks"]:
        ranks = [case["ranks"][way] for case in cases]
        findable = sum(case["findable"] for case in cases) / len(cases)
        cell: dict[str, Any] = {"length": length, "by": way, "questions": len(ranks)}
        cell |= {"passages": passages, "findable": findable}
        for most in RANKS:
            right = sum(one is not None and one <= most for one in ranks)
            cell[f"recall@{most}"] = right / len(ranks)
            cell[f"interval@{most}"] = wilson_interval(right, len(ranks))
        made.append(cell)
    return made


def page(report: Mapping[str, Any]) -> Page:
    """The page of a report: a row for each length and way."""
    settings = report["settings"]
    lines = [["tokens", "found by", "passages", "findable", *(f"recall@{most}" for most in RANKS)]]
    for cell in report["cells"]:
        shares = []
        for most in RANKS:
            low, high = cell[f"interval@{most}"]
            shares.append(f"{100 * cell[f'recall@{most}']:.1f} ({100 * low:.0f}–{100 * high:.0f})")
        row = [f"{cell['length']:,}", WAYS[cell["by"]], f"{cell['passages']:.0f}"]
        lines.append([*row, f"{100 * cell['findable']:.1f}", *shares])
    return Page(
        f"Finding: {KINDS[settings['set']].title}, {settings['model']}",
        f"The share of {report['cells'][0]['questions']} questions, in %, whose paragraph is among "
        "the first 1, 2 or 4 passages found (95 % interval over questions, Wilson's), in texts of "
        "so many tokens. Passages: how many there are in a text, on average; findable: the share "
        "of questions for which any passage would do.",
        lines,
    )


def plot(path: Path, made: Sequence[Mapping[str, Any]]) -> None:
    """Draws the shares against the length: a panel for each rank."""
    panels = []
    for most in RANKS:
        lines = []
        for way, label in WAYS.items():
            mine = [cell for cell in made if cell["by"] == way]
            if not mine:
                continue
            low, high = zip(*(cell[f"interval@{most}"] for cell in mine), strict=True)
            heights = [cell[f"recall@{most}"] for cell in mine]
            lines.append(Line(label, [cell["length"] for cell in mine], heights, low, high))
        panels.append(Panel("tokens", f"recall@{most}", lines, log_x=True, top=1.05))
    draw(path, "The right paragraph among the first passages found", panels)


def run(
    report: dict[str, Any],
    out: Path,
    model: MemformerForCausalLM,
    tokenizer: Any,
    texts: Mapping[int, Sequence[Text]],
    slots: int,
    encoder: Dense | None,
) -> None:
    """Measures each length and adds it to the report, which is written after each."""
    report |= {"finished": False, "cells": [], "cases": {}}
    with progress_bar(Console(stderr=True)) as bar:
        tokens = sum(len(text.ids) for some in texts.values() for text in some)
        task = bar.add_task("finding", total=tokens)
        for size, some in texts.items():
            cases: list[dict[str, Any]] = []
            passages = 0
            for text in some:
                more, count = measure(model, tokenizer, text, slots, encoder)
                cases += more
                passages += count
                bar.advance(task, len(text.ids))
            report["cells"] += cells(size, cases, passages / len(some))
            report["cases"][str(size)] = cases
            write_json(out.with_name(f"{out.name}.json"), report)
    report["finished"] = True
    write_json(out.with_name(f"{out.name}.json"), report)


def read_set(name: str, source: Path) -> list[LongDocument]:
    """All paragraphs of a set.

    Raises:
        BadRecord: the documents of the set are no paragraphs, or a row has another form.
    """
    kind = KINDS[name]
    if not kind.paragraphs or kind.read is None:
        known = ", ".join(one for one, kind in KINDS.items() if kind.paragraphs)
        raise BadRecord(f"the documents of {name} are no paragraphs; --set takes {known}.")
    return list(kind.read(source, None, None))


def main(
    source: Annotated[Path, typer.Option(help="Local copy of the set, .jsonl or .jsonl.gz.")],
    model: ModelArgument = None,
    name: Annotated[Name, typer.Option("--set", help="A set of paragraphs.")] = "squad",
    lengths: Annotated[
        str, typer.Option(help="Tokens of a text; a list.")
    ] = "1000,4000,16000,64000",
    questions: Annotated[int, typer.Option(min=1, help="At each length.")] = 40,
    books: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with books, .txt or .txt.gz."),
    ] = None,
    encoder: Annotated[
        str | None, typer.Option(help="Hub id or folder of an encoder to compare with.")
    ] = None,
    slots: Annotated[int, typer.Option(min=1, help="Slots of each memory.")] = 1024,
    seed: Annotated[int, typer.Option(help="Draws questions and texts.")] = 0,
    device: DeviceOption = "cpu",
    dtype: DtypeOption = "float32",
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/finding"),
) -> None:
    require("the report", PAGE, PICTURE)
    require("finding by words", "bm25s")
    sizes = sorted(numbers(lengths, 1, "--lengths"))
    use_threads(threads)
    try:
        found = read_set(name, source)
        asked = draw_questions(found, questions, seed)
        next(book_paragraphs(books, ""))
        dense = None if encoder is None else Dense(encoder, device)
    except (BadRecord, NoRetrieval, OSError) as error:
        raise typer.BadParameter(str(error)) from None
    settings = model_name(model) | {
        "set": name,
        "source": {source.name: sha256(source.read_bytes()).hexdigest()[:12]},
        "lengths": sizes,
        "questions": questions,
        "books": books.name if books else None,
        "encoder": encoder,
        "slots": slots,
        "seed": seed,
        "device": device,
        "dtype": dtype,
    }
    report = head("eval.finding", settings)
    opened, tokenizer = open_model(model, device, dtype)
    if not opened.memory.finders.chosen:
        raise typer.BadParameter(
            "the model has no heads that find; choose them with model.choose_finders(tokenizer), "
            "and save it anew."
        )
    texts = {size: list(make_texts(tokenizer, found, asked, size, seed, books)) for size in sizes}
    run(report, out, opened, tokenizer, texts, slots, dense)
    picture = out.with_name(f"{out.name}.png")
    plot(picture, report["cells"])
    publish(out, page(report), report, [picture])


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
