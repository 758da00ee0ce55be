"""Builds a file of training data: documents with questions, one JSON object a line.

    python -m training.data.build squality squality.jsonl.gz --source SQuALITY/train.jsonl
    python -m training.data.build updates updates.jsonl --documents 5000
    python -m training.data.build hub deepmind/narrativeqa narrativeqa.jsonl.gz --documents 200
    python -m training.data.build prose prose.jsonl.gz --folder SETS --measured SETS

What each set is made of is said in the module it comes from; the format is that of
`training.data.records`.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eval.corpora.jsonl import BadRecord, Row
from eval.corpora.stories import BadStory
from training.data import drills, local, longqa, prose, talk
from training.data.acquaintances import acquaintances
from training.data.babilong import babilong
from training.data.dialogues import conversations, read_dialogues
from training.data.drills import UNKNOWN
from training.data.hub import BadSet, hub, hub_dialogues
from training.data.local import Left, check_set, files_of, kept
from training.data.overlap import Measured
from training.data.plain import passages
from training.data.records import Record, write

Rows = list[tuple[str, Row]]

app = typer.Typer(add_completion=False, help=__doc__, no_args_is_help=True)


def allowed(name: Path | str | None) -> Path | str | None:
    """The name of a set that may be trained on.

    Raises:
        typer.BadParameter: the set is LoCoMo.
    """
    if name is not None and re.search(r"locomo(?![a-z])", str(name), re.IGNORECASE):
        raise typer.BadParameter(
            "LoCoMo is for evaluation only: its licence, CC BY-NC 4.0, rules out training a model "
            "that others may use freely."
        )
    return name


Out = Annotated[Path, typer.Argument(help="JSONL file; gzipped if its name ends in .gz.")]
Source = Annotated[Path, typer.Option(help="Local copy of the set.", callback=allowed)]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn.")]
Documents = Annotated[int, typer.Option(min=1, help="How many to make.")]
AtMost = Annotated[int | None, typer.Option(min=1, help="Take only the first so many.")]
Folder = Annotated[Path, typer.Option(help="Folder with a folder for each set.")]
Sets = Annotated[str, typer.Option(help="Which sets, with commas between them.")]
MeasuredIn = Annotated[
    list[Path],
    typer.Option(help="File or folder of what is measured, and so not trained on; repeat it."),
]
Part = Annotated[str, typer.Option(help="train, or dev for held-out documents.")]
OnePass = Annotated[int | None, typer.Option(min=1, help="Default: all passages once.")]


def build(out: Path, records: Iterable[Record]) -> None:
    """Writes the records and prints their number; ends with one sentence and status 2 on errors."""
    questions = unknown = placed = silver = 0

    def counted() -> Iterator[Record]:
        nonlocal questions, unknown, placed, silver
        for record in records:
            questions += len(record.questions)
            unknown += sum(one.answer == UNKNOWN for one in record.questions)
            placed += sum(one.passage is not None for one in record.questions)
            silver += sum(one.silver for one in record.questions)
            yield record

    console = Console()
    try:
        documents = write(out, counted())
    except (BadRecord, BadSet, BadStory) as error:
        message = str(error)
    except OSError as error:
        message = f"{out} can't be written: {error.strerror or error}."
    else:
        console.print(f"{documents} documents with {questions} questions in {out}", soft_wrap=True)
        if placed:
            console.print(
                f"{unknown} questions without an answer there; the passage of {placed} is known, "
                f"of {silver} of them by a guess",
                soft_wrap=True,
            )
        return
    console.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(2)


def build_from_sets(
    out: Path,
    folder: Path,
    sets: Sequence[str],
    allowed_sets: Sequence[str],
    split: str,
    measured: Sequence[Path],
    make: Callable[[dict[str, Rows]], Iterable[Record]],
) -> None:
    """Builds from sets in a folder, without what is measured, and says how much was left out."""
    if split not in ("train", "dev"):
        raise typer.BadParameter(f"--split must be train or dev; got {split!r}.")
    left = Left()

    def records() -> Iterator[Record]:
        for name in sets:
            check_set(name, tuple(allowed_sets))
        held_out = [
            one for name in sets if split == "train" for one in files_of(folder, name, "dev")
        ]
        known = Measured.of(measured, held_out)
        yield from make({name: list(kept(folder, name, split, known, left)) for name in sets})

    try:
        build(out, records())
    finally:
        for line in left.lines():
            Console().print(line, soft_wrap=True)


def texts_in(folder: Path) -> list[Path]:
    """The books in a folder.

    Raises:
        typer.BadParameter: there are none.
    """
    found = sorted(path for path in folder.glob("*") if path.name.endswith((".txt", ".txt.gz")))
    if not found:
        raise typer.BadParameter(f"{folder} holds no .txt or .txt.gz file.")
    return found


@app.command("plain")
def from_books(
    out: Out,
    books: Annotated[Path, typer.Option(help="Folder with text files.")],
    documents: Documents = 4000,
    seed: Seed = 0,
    least: Annotated[int, typer.Option(min=10, help="Words of the shortest passage.")] = 100,
    most: Annotated[int, typer.Option(min=10, help="Words of the longest passage.")] = 1000,
) -> None:
    """Passages of books, without questions."""
    if most < least:
        raise typer.BadParameter(f"--most must be --least or more; got {most} and {least}.")
    build(out, passages(texts_in(books), documents, (least, most), seed))


@app.command("babilong")
def from_stories(
    out: Out,
    babi: Annotated[Path, typer.Option(help="Folder with bAbI's en-10k files.")],
    books: Annotated[
        Path | None,
        typer.Option(help="Folder with text files to put in between; not needed for length 0."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="With commas between them.")] = "qa1,qa2,qa3,qa4,qa5",
    lengths: Annotated[
        str, typer.Option(help="Tokens of book text, about, with commas; each document draws one.")
    ] = "0",
    documents: Annotated[int, typer.Option(min=1, help="Of each task.")] = 2000,
    seed: Seed = 0,
    regenerated: Annotated[
        Path | None, typer.Option(help="Folder with training files that --babi lacks.")
    ] = None,
    validation: Annotated[
        bool, typer.Option("--validation", help="Of the stories kept for validation.")
    ] = False,
    anew: Annotated[
        str | None,
        typer.Option(help="Tasks of which stories are made up: of qa1 to qa4, with commas."),
    ] = None,
) -> None:
    """BABILong: bAbI training stories in book text, no test story among them."""
    if not re.fullmatch(r"\d+(,\d+)*", lengths):
        raise typer.BadParameter(
            f"--lengths takes whole numbers with commas between them; got {lengths!r}."
        )
    places = [int(length) for length in lengths.split(",")]
    if books is None and any(places):
        raise typer.BadParameter("--lengths other than 0 need --books.")
    texts = [] if books is None else texts_in(books)
    records = babilong(
        babi,
        texts,
        tasks.split(","),
        places,
        documents,
        seed,
        regenerated,
        validation,
        anew.split(",") if anew else (),
    )
    build(out, records)


@app.command()
def squality(out: Out, source: Source, documents: AtMost = None) -> None:
    """SQuALITY: stories, and questions that take a paragraph to answer."""
    build(out, itertools.islice(longqa.squality(source), documents))


@app.command()
def quality(out: Out, source: Source, documents: AtMost = None) -> None:
    """QuALITY: stories, and questions with four options."""
    build(out, itertools.islice(longqa.quality(source), documents))


@app.command()
def qmsum(out: Out, source: Source, documents: AtMost = None) -> None:
    """QMSum: transcripts of meetings, and what was said about what."""
    build(out, itertools.islice(longqa.qmsum(source), documents))


@app.command()
def nq(
    out: Out,
    source: Source,
    documents: Documents = 400,
    seed: Seed = 0,
    gold: Annotated[int, typer.Option(min=1, help="Passages that are asked about.")] = 4,
    distractors: Annotated[int, typer.Option(min=0, help="Passages that are not.")] = 12,
) -> None:
    """Natural Questions: passages of Wikipedia among others."""
    build(out, longqa.nq(source, documents, seed, gold, distractors))


@app.command()
def dialogues(
    out: Out,
    source: Annotated[
        Path | None,
        typer.Option(help="Local copy of the set; from the hub if left out.", callback=allowed),
    ] = None,
    documents: Documents = 1000,
    seed: Seed = 0,
) -> None:
    """Synthetic-Persona-Chat: sessions of one user, asked about earlier ones."""
    found = hub_dialogues() if source is None else read_dialogues(source)
    build(out, conversations(found, documents, seed))


@app.command()
def keys(out: Out, documents: Documents = 1000, seed: Seed = 0) -> None:
    """Drills: many facts of the same form, asked at the end."""
    build(out, drills.keys(documents, seed))


@app.command()
def updates(out: Out, documents: Documents = 1000, seed: Seed = 0) -> None:
    """Drills: facts that change, asked all along; the newest counts."""
    build(out, drills.updates(documents, seed))


@app.command("acquaintances")
def of_acquaintances(out: Out, documents: Documents = 1000, seed: Seed = 0) -> None:
    """Drills: what a user says about people; told, changed since, or never told."""
    build(out, acquaintances(documents, seed))


@app.command("prose")
def from_paragraphs(
    out: Out,
    folder: Folder,
    measured: MeasuredIn,
    sets: Sets = "squadshifts,squad_train_part",
    split: Part = "train",
    documents: OnePass = None,
    seed: Seed = 0,
) -> None:
    """Paragraphs of several articles in one memory, with short answers or none."""

    def make(found: dict[str, Rows]) -> Iterable[Record]:
        return prose.strewn(
            [one for name, rows in found.items() for one in local.paragraphs(name, rows)],
            "prose",
            documents,
            seed,
        )

    build_from_sets(out, folder, sets.split(","), local.PARAGRAPHS, split, measured, make)


@app.command("stories")
def from_tales(
    out: Out,
    folder: Folder,
    measured: MeasuredIn,
    split: Part = "train",
    documents: OnePass = None,
    seed: Seed = 0,
) -> None:
    """FairytaleQA: stories, each told up to some place, with short answers or none."""

    def make(found: dict[str, Rows]) -> Iterable[Record]:
        tales = [story for rows in found.values() for story in local.stories(rows)]
        return prose.stories(tales, documents, seed)

    build_from_sets(out, folder, local.STORIES, local.STORIES, split, measured, make)


@app.command("talk")
def from_talk(
    out: Out,
    folder: Folder,
    measured: MeasuredIn,
    sets: Sets = "friendsqa,molweni,realmem",
    split: Part = "train",
    passes: Annotated[int, typer.Option(min=1, help="How often each scene is told.")] = 4,
    seed: Seed = 0,
) -> None:
    """FriendsQA, Molweni, RealMem: scenes and sessions, with questions about what was said."""

    def make(found: dict[str, Rows]) -> Iterable[Record]:
        return talk.talk(found, passes, seed)

    build_from_sets(out, folder, sets.split(","), local.TALKS, split, measured, make)


@app.command("hub")
def from_hub(
    name: Annotated[str, typer.Argument(help="As on the hub.", callback=allowed)],
    out: Out,
    config: Annotated[str | None, typer.Option(help="Which part, if it has several.")] = None,
    split: Annotated[str | None, typer.Option(help="Default: the one to train with.")] = None,
    source: Annotated[
        Path | None, typer.Option(help="Folder with a copy laid out as there.", callback=allowed)
    ] = None,
    documents: AtMost = None,
) -> None:
    """A set of the Hugging Face hub, read as it arrives."""
    build(out, itertools.islice(hub(name, config, split, source), documents))


@app.command(
    hidden=True, context_settings={"ignore_unknown_options": True, "allow_extra_args": True}
)
def locomo() -> None:
    """Refused."""
    allowed("locomo")


if __name__ == "__main__":
    app()
