"""BABILong: bAbI's questions about facts strewn in book text, scored by the official metric.

    python -m eval.babilong MODEL --babi FOLDER --books FOLDER --tasks qa1,qa2 --lengths 0k,1k

`--babi` takes a folder with bAbI's test files, `--books` one with prose; without them the published
samples, RMT-team/babilong, are read from the hub. Every case has a document of its own. With a
`/plain` system the question is written as "Question: ..." and "Answer:", without special tokens, as
for models trained on such questions; else it is asked in chat turns. Lengths are those of BABILong,
counted by the model's own tokenizer where samples are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.babilong import prompts as official_prompts
from eval.babilong.metric import HEADLINE, LABELS, LEFT_OUT, score
from eval.babilong.samples import (
    HUB_NAME,
    LENGTHS,
    PROMPT_TOKENS,
    FromHub,
    FromStories,
    NoSamples,
    Source,
)
from eval.corpora.stories import Background, Count, story_file
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command

INSTRUCTION = "Answer from what I told you before, with one word."
MAX_NEW_TOKENS = 20
# tokens that a question and the words around it add to a document
AROUND = 30


def babilong(
    tokenizer: Any,
    babi: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with bAbI's test files."),
    ] = None,
    books: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with books, .txt or .txt.gz."),
    ] = None,
    tasks: Annotated[str, typer.Option(help="qa1 to qa20; a list.")] = ",".join(HEADLINE),
    lengths: Annotated[str, typer.Option(help="0k to 512k, 1M, 10M; a list.")] = "0k,1k,2k,4k",
    cases: Annotated[int, typer.Option(min=1, help="Of each task at each length.")] = 100,
    seed: Annotated[int, typer.Option(help="Draws cases, book text and places.")] = 0,
    prompts: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="The official prompts.py.")
    ] = None,
) -> Benchmark:
    """BABILong with some tasks at some lengths.

    Raises:
        NoSamples: an option names an unknown task or length, or the samples can't be had.
        ValueError: the file of prompts has another form.
    """
    wanted, sizes = _listed(tasks, LABELS, "--tasks"), _listed(lengths, LENGTHS, "--lengths")

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)

    leads = official_prompts.read_prompts(prompts, wanted) if prompts else dict[str, str]()
    source, origin = open_source(babi, books, wanted, sizes, cases, seed, count)
    documents = [
        _document(source, task, length, case, leads.get(task, ""))
        for task in wanted
        for length in sizes
        for case in range(source.count(task, length))
    ]
    return Benchmark(
        title="BABILong",
        axes={"task": wanted, "length": sizes},
        documents=documents,
        score=official,
        metrics=("accuracy",),
        instruction=official_prompts.INSTRUCTION if leads else INSTRUCTION,
        max_new_tokens=MAX_NEW_TOKENS,
        settings={
            "tasks": wanted,
            "lengths": sizes,
            "cases": cases,
            "seed": seed,
            "prompts": sha256(prompts.read_bytes()).hexdigest()[:12] if prompts else None,
            **origin,
        },
        notes=_notes(origin["samples"], bool(leads), wanted),
        averages=averages(wanted),
        marks=official_prompts.MARKS if leads else ("", ""),
    )


def _notes(samples: str, are_official_words: bool, tasks: Sequence[str]) -> list[str]:
    """Sentences for the report: the metric, the samples, the wording, and the tasks left out."""
    return [
        f"Official metric. Samples: {samples}.",
        *(["Chats are asked in the official words."] if are_official_words else []),
        *(f"{task} is in no mean: {LEFT_OUT[task]}." for task in LEFT_OUT if task in tasks),
    ]


def official(question: Question, output: str) -> dict[str, float]:
    """The score of an output by the official metric."""
    right = score(question.at["task"], output, question.answers[0], question.text)
    return {"accuracy": float(right)}


def averages(tasks: Sequence[str]) -> dict[str, list[str]]:
    """The means to report: of the leaderboard's five tasks, and of all tasks not in `LEFT_OUT`."""
    usable = [task for task in tasks if task not in LEFT_OUT]
    found = {"mean of qa1-qa5": list(HEADLINE)} if set(HEADLINE) <= set(usable) else {}
    if len(usable) > 1 and set(usable) != set(HEADLINE):
        found[f"mean of {', '.join(usable)}"] = usable
    return found


def _document(source: Source, task: str, length: str, case: int, lead: str) -> Document:
    name, asked, target = source.case(task, length, case)
    question = Question("0", asked, (target,), {"task": task, "length": length}, lead=lead)
    return Document(
        f"{task}/{length}/{name}",
        lambda: (source.document(task, length, case),),
        (question,),
        LENGTHS[length] + AROUND,
    )


def _listed(text: str, known: Sequence[str] | dict[str, Any], option: str) -> list[str]:
    """Reads a list such as `qa1,qa2`.

    Raises:
        NoSamples: an entry is unknown, or stands in the list twice.
    """
    found = text.split(",")
    if unknown := [one for one in found if one not in known]:
        raise NoSamples(f"{option} knows {', '.join(known)}; got {unknown[0]!r}.")
    if len(set(found)) < len(found):
        raise NoSamples(f"{option} names something twice: {text!r}.")
    return found


def open_source(
    babi: Path | None,
    books: Path | None,
    tasks: Sequence[str],
    lengths: Sequence[str],
    cases: int,
    seed: int,
    count: Count,
) -> tuple[Source, dict[str, Any]]:
    """The samples, and the settings of a report that describe them.

    Raises:
        NoSamples, BadStory, OSError: the samples can't be had.
    """
    if babi is None:
        if books is not None:
            raise NoSamples("--books needs --babi too: the hub's samples hold their own.")
        said = f"{HUB_NAME} on the hub; its lengths are counted by GPT-2's tokenizer"
        return FromHub(tasks, lengths, cases, seed), {"samples": said}
    texts: list[Path] = []
    if set(lengths) != {"0k"}:
        if books is None:
            raise NoSamples("--babi needs --books too, for lengths beyond 0k.")
        texts = sorted([*books.glob("*.txt"), *books.glob("*.txt.gz")])
        if not texts:
            raise NoSamples(f"--books takes a folder of .txt or .txt.gz; {books} has none.")
    source = FromStories(babi, tasks, cases, seed, count)
    for task, length in ((task, length) for task in tasks for length in lengths):
        if source.count(task, length) == 0:
            raise NoSamples(f"{task} has no question whose statements fit into {length}.")
    if texts:  # counting opens the model, so this comes last
        source.background = Background(texts, count)
    files = [*(story_file(babi, task, "test") for task in tasks), *texts]
    return source, {
        "samples": f"made from bAbI's test files and {len(texts)} books; lengths are counted by "
        f"the model's own tokenizer (officially GPT-2's), {PROMPT_TOKENS} tokens of each are left "
        "to the prompt",
        "files": {path.name: sha256(path.read_bytes()).hexdigest()[:12] for path in files},
    }


app = command(babilong)
