"""Trains the write gate of a model's memory, and nothing else: write what will be read.

    python -m training.gate gate-smollm2 --budget 0.05
    python -m training.gate gate-smollm2 --data train.jsonl.gz

1. Documents are read with the gate open: facts about people, then book text.
2. Each question is read with its answer; how much it read from every token is noted. The names,
   the facts and the book are others than those of `eval.recall`.
3. A token is worth writing if enough was read around it. With `--data`, so is all that those
   documents tell (records of `training.data.records` without book text in them): texts are strewn
   in the book sentence by sentence, conversations are taken as they are.
4. The gate, a linear map of the lowest memory layer's input around a token, is fitted to that by
   logistic regression in which every file counts alike, however long its documents are. Its bias
   is moved so that it lets `--budget` of plain book text through, and it is scaled to be as sure
   of what it writes as the gate that writes everything.

The backbone and all other memory weights stay as they are. Takes minutes on a CPU, as nothing is
differentiated but the regression. Saves a checkpoint that `memformer` and `eval` take as a model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eval.corpora.haystack import Haystack
from eval.corpora.jsonl import BadRecord
from eval.corpora.stories import Background
from eval.harness.interview import Interview
from eval.reporting.app import make_app
from eval.reporting.options import ThreadsOption
from training.heads import gate
from training.heads.command import BOOK, Command, NewFolder, TrainingBook
from training.setup.tokenizer import open_tokenizer


def main(
    out: NewFolder,
    model: Annotated[
        str | None, typer.Option(help="Default: the default model as released, untrained.")
    ] = None,
    budget: Annotated[
        float, typer.Option(min=0.001, max=1.0, help="Share of plain text that is written.")
    ] = 0.05,
    documents: Annotated[
        int, typer.Option(min=gate.LEAST_DOCUMENTS, help="A fifth is held out.")
    ] = 60,
    data: Annotated[
        list[Path] | None, typer.Option(help="As many records of this file too; repeatable.")
    ] = None,
    book: TrainingBook = BOOK,
    seed: int = 5000,
    threads: ThreadsOption = None,
) -> None:
    files = data or []
    settings = {
        "budget": budget,
        "documents": documents,
        "data": [file.name for file in files],
        "book": book.name,
        "seed": seed,
        "least_read": gate.LEAST_READ,
    }
    command = Command("training.gate", settings, model, threads)
    console = command.console
    try:
        told = gate.records_of(files, documents)
        tokenizer = open_tokenizer(model)
        background = Background([book], lambda text: len(tokenizer(text).input_ids))
    except (BadRecord, ValueError) as error:
        console.print(str(error), soft_wrap=True)
        raise typer.Exit(2) from None
    loaded, tokenizer = command.open()
    interview = Interview(loaded, tokenizer, Haystack(tokenizer, book), seed)
    sources = gate.read(interview, documents, told, background, console)
    figures = gate.train(loaded, sources, budget)
    command.save(out, loaded, tokenizer, figures)
    for name, kept in figures["held_out"].items():
        written = " and ".join(
            f"{kept[kind]:.1%} of the {kind}" for kind in ("facts", "book") if kind in kept
        )
        console.print(f"{name}, held out: {written} are written")
    console.print(f"saved in {out}")


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
