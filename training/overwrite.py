"""Trains the erase head of a model's memory, and nothing else: a new fact weakens the old one.

    python -m training.overwrite erase-smollm2

1. The lowest memory layer's inputs are noted for facts about people and, apart from them, for later
   text: some of these facts with another value, new facts about the same people, a question with
   its answer, pages of a book. Names, kinds of facts and the book are others than the tests'.
2. The gate learns to open where a value is told, by logistic regression.
3. The address learns to be alike where two values are told of the same person and kind, and unlike
   everywhere else, by logistic regression on pairs of tokens. Noise on the inputs is what makes it
   carry over to people and kinds that it never saw.
4. The threshold is set as high as it can be while most of the values that were replaced let go.

The backbone and all other memory weights stay as they are. Takes minutes on a CPU, as only the
head's own maps are differentiated. Saves a checkpoint.
"""

from __future__ import annotations

from typing import Annotated

import typer

from eval.corpora.haystack import Haystack
from eval.corpora.people import Chat
from eval.reporting.app import make_app
from eval.reporting.options import ThreadsOption
from training.heads import overwrite
from training.heads.command import BOOK, Command, ModelOption, NewFolder, TrainingBook


def main(
    out: NewFolder,
    model: ModelOption = None,
    documents: Annotated[int, typer.Option(min=5, help="Three examples each.")] = 200,
    book: TrainingBook = BOOK,
    seed: int = 6000,
    threads: ThreadsOption = None,
) -> None:
    settings = {"documents": documents, "book": book.name, "seed": seed}
    command = Command("training.overwrite", settings, model, threads)
    loaded, tokenizer = command.open(erase=True)
    heads = loaded.memory.table.release
    assert heads is not None
    trained_on, held_out = overwrite.read(
        loaded, Chat(tokenizer), Haystack(tokenizer, book), documents, seed, command.console
    )
    overwrite.train(heads, trained_on, seed)
    shares = overwrite.shares(heads, held_out)
    figures = {"trained_on": overwrite.shares(heads, trained_on), "held_out": shares}
    command.save(out, loaded, tokenizer, figures)
    command.console.print(
        f"held out: {shares['replaced']:.1%} of the values that were replaced are let go, and "
        f"{shares['others']:.2%} of all other tokens; saved in {out}"
    )


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
