"""What each mechanism of the memory is good for: one question for each, with it and without.

    python -m eval.ablation dnc-smollm2 --cases 96 --out reports/ablation

| part | mechanism | what is told | what is asked |
|---|---|---|---|
| latest | erase | facts, pages, half of the facts with another value, pages | the latest value |
| order | links | where somebody went, place after place; pages | what came right after one |
| capacity | usage | facts and pages of 2 and 10 times the slots | facts of each third |
| noise | gate | facts, then a long text | the facts |
| lasting | gate | as for capacity | the same |

All other mechanisms are off: every token is written, nothing is let go, reads are by content, and
what was written first is evicted first. "usage" on means that reads keep a slot from eviction. The
names, kinds and book are those of `eval.recall`, which nothing here was trained on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer import MemformerForCausalLM
from rich.console import Console
from rich.progress import track
from rich.table import Table

from eval.corpora.haystack import Haystack
from eval.corpora.people import KINDS, Fact, Kind, make_documents
from eval.harness.interview import Interview
from eval.harness.metrics import first_words, wilson_interval
from eval.reporting.app import make_app
from eval.reporting.extras import PICTURE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import BookOption, ModelArgument, OutOption, ThreadsOption, use_threads
from eval.reporting.report import head, write_json

FACTS = 6
LEAD = "These days "  # how a change begins
PLACES = 8  # in a list of places
SLOTS, BLOCK, FACTS_A_BLOCK = 512, 256, 3
SCENES_AT_ONCE = 4


@dataclass(frozen=True)
class Question:
    """One question about a scene.

    Attributes:
        fact: what is asked, and the right answer.
        group: with which others it is counted.
        rival: an answer that was right once.
    """

    fact: Fact
    group: str
    rival: str | None = None


@dataclass(frozen=True)
class Scene:
    """Turns, memorized one after the other, and what is asked then."""

    turns: list[list[int]]
    asked: list[Question]
    num_slots: int | None = None


# ---- the parts -----------------------------------------------------------------------------


def latest(interview: Interview, cases: int, distance: int) -> list[Scene]:
    """Facts, half of which change later."""
    scenes = []
    for document in make_documents(FACTS, cases, interview.seed):
        draws = random.Random(f"{interview.seed}/latest/{document.number}")
        facts = list(document.facts)
        used = {fact.value for fact in facts}
        changed = [
            replace(fact, value=draws.choice([v for v in fact.kind.values if v not in used]))
            for fact in facts[: FACTS // 2]
        ]
        told = " ".join(f"{fact.begun(LEAD)} {fact.value}." for fact in changed)
        pages = [
            interview.chat.book(
                interview.haystack.tokens(distance, f"{interview.seed}/{document.number}/{n}")
            )
            for n in range(2)
        ]
        news = interview.chat.told(interview.chat.encode(told))
        asked = [
            Question(new, "changed", old.value) for old, new in zip(facts, changed, strict=False)
        ] + [Question(fact, "unchanged") for fact in facts[FACTS // 2 :]]
        scenes.append(Scene([interview.chat.facts(document), pages[0], news, pages[1]], asked))
    return scenes


def order(interview: Interview, cases: int, distance: int) -> list[Scene]:
    """A walk from place to place."""
    places = next(kind for kind in KINDS if "meeting" in kind.statement).values
    scenes = []
    for document in make_documents(1, -(-cases // FACTS), interview.seed):
        draws = random.Random(f"{interview.seed}/order/{document.number}")
        walk = draws.sample(places, PLACES)
        name = document.facts[0].name
        told = f"{name} went to the " + ", then to the ".join(walk) + "."
        asked = []
        for before, after in draws.sample(list(zip(walk, walk[1:], strict=False)), FACTS):
            kind = Kind(
                f"Right after the {before}, {{name}} went to the",
                f"Where did {{name}} go right after the {before}?",
                walk,
            )
            asked.append(Question(Fact(name, kind, after), "right after"))
        page = interview.chat.book(
            interview.haystack.tokens(distance, f"{interview.seed}/{document.number}")
        )
        scenes.append(Scene([interview.chat.told(interview.chat.encode(told)), page], asked))
    return scenes


def capacity(interview: Interview, cases: int, times: int) -> list[Scene]:
    """Blocks of facts and pages, so many times as many tokens as there are slots."""
    blocks = times * SLOTS // BLOCK
    scenes = []
    for number in range(-(-cases // (2 * blocks))):
        documents = make_documents(FACTS_A_BLOCK * blocks, 1, interview.seed + 100 + number)
        facts = list(documents[0].facts)
        turns, asked = [], []
        for block in range(blocks):
            some = facts[block * FACTS_A_BLOCK : (block + 1) * FACTS_A_BLOCK]
            told = interview.chat.encode(" ".join(fact.sentence for fact in some))
            turn = interview.chat.told(told)
            seed = f"{interview.seed}/{number}/{block}"
            around = len(interview.chat.book([0])) - 1
            page = interview.haystack.tokens(max(1, BLOCK - len(turn) - around), seed)
            turns += [turn, interview.chat.book(page)]
            age = ("oldest", "middle", "newest")[3 * block // blocks]
            asked += [Question(fact, f"{times}N, {age} third") for fact in some[:2]]
        scenes.append(Scene(turns, asked, SLOTS))
    return scenes


def noise(interview: Interview, cases: int, distance: int) -> list[Scene]:
    """Facts, then a long text."""
    return [
        Scene(
            list(interview.turns(document, distance)),
            [Question(fact, f"{distance:,} tokens later") for fact in document.asked],
        )
        for document in make_documents(FACTS, cases, interview.seed)
    ]


# part: mechanism, and how its scenes are made
PARTS: dict[str, tuple[str, list[tuple[Callable[[Interview, int, int], list[Scene]], int]]]] = {
    "latest": ("erase", [(latest, 256)]),
    "order": ("links", [(order, 512)]),
    "capacity": ("usage", [(capacity, 2), (capacity, 10)]),
    "noise": ("gate", [(noise, 2048)]),
    "lasting": ("gate", [(capacity, 2), (capacity, 10)]),
}


# ---- mechanisms ----------------------------------------------------------------------------


def has(model: MemformerForCausalLM, mechanism: str) -> bool:
    """Whether a model can do this at all."""
    return {
        "erase": model.memory_config.erase,
        "links": model.memory_config.links,
        "usage": True,
        "gate": bool(model.memory.table.write_gate_weight.any()),
    }[mechanism]


def only(model: MemformerForCausalLM, mechanism: str | None) -> MemformerForCausalLM:
    """The same model with all mechanisms off but one; `free` is no mechanism of a part."""
    settings = model.memory_config
    return model.with_memory(
        gate=mechanism == "gate",
        usage_by_reads=mechanism == "usage",
        erase=settings.erase and mechanism == "erase",
        links=settings.links and mechanism == "links",
        free=False,
    )


# ---- cells and the report ------------------------------------------------------------------


def ask(interview: Interview, scenes: Sequence[Scene]) -> tuple[list[str], float]:
    """The answers to all questions in order, and the slots of closed segments a scene takes."""
    texts: list[str] = []
    slots = 0
    with torch.inference_mode():
        for begin in range(0, len(scenes), SCENES_AT_ONCE):
            some = scenes[begin : begin + SCENES_AT_ONCE]
            memory = interview.model.init_memory(len(some), num_slots=some[0].num_slots)
            for turns in zip(*(scene.turns for scene in some), strict=True):
                memory = interview.model.memorize(*interview.padded(turns), memory=memory)
            memory = memory.closed()
            slots += int(memory.occupied.sum())
            asked = [(row, one.fact) for row, scene in enumerate(some) for one in scene.asked]
            texts += interview.ask(memory, asked)
    return texts, slots / len(scenes)


def cells_of(
    part: str, mechanism: str, on: bool, scenes: Sequence[Scene], texts: Sequence[str], slots: float
) -> list[dict[str, Any]]:
    """One cell for each group of questions."""
    asked = [one for scene in scenes for one in scene.asked]
    cells = []
    for group in dict.fromkeys(one.group for one in asked):
        mine = [
            (one, first_words(text))
            for one, text in zip(asked, texts, strict=True)
            if one.group == group
        ]
        correct = sum(said == one.fact.value.lower() for one, said in mine)
        rivals = [said == one.rival.lower() for one, said in mine if one.rival]
        cells.append(
            {
                "part": part,
                "mechanism": mechanism,
                "on": on,
                "group": group,
                "cases": len(mine),
                "accuracy": correct / len(mine),
                "interval": wilson_interval(correct, len(mine)),
                "outdated": sum(rivals) / len(rivals) if rivals else None,
                "slots": slots,
                "predictions": [
                    {"question": one.fact.question, "gold": one.fact.value, "said": said}
                    for one, said in mine
                ],
            }
        )
    return cells


def table(cells: Sequence[dict[str, Any]]) -> Table:
    """Accuracies without and with each mechanism."""
    found = Table("part", "asked", "mechanism", "off", "on", "slots off", "slots on")
    pairs: dict[tuple[str, str], dict[bool, dict[str, Any]]] = {}
    for cell in cells:
        pairs.setdefault((cell["part"], cell["group"]), {})[cell["on"]] = cell
    for (part, group), pair in pairs.items():
        shown = []
        for on in (False, True):
            outdated = pair[on]["outdated"]
            old = "" if outdated is None else f" (outdated {100 * outdated:.1f})"
            shown.append(f"{100 * pair[on]['accuracy']:.1f}{old}")
        slots = [f"{pair[on]['slots']:,.0f}" for on in (False, True)]
        found.add_row(part, group, pair[True]["mechanism"], *shown, *slots)
    return found


def plot(path: Path, title: str, cells: Sequence[dict[str, Any]]) -> None:
    """Two bars a group of questions: without its mechanism, and with it."""
    from matplotlib.figure import Figure

    groups = list(dict.fromkeys((cell["part"], cell["group"]) for cell in cells))
    figure = Figure(figsize=(8, 1.2 + 0.45 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for on, color in ((False, "tab:gray"), (True, "tab:orange")):
        mine = [cell for cell in cells if cell["on"] == on]
        at = [groups.index((cell["part"], cell["group"])) + 0.4 * (on - 0.5) for cell in mine]
        share = [cell["accuracy"] for cell in mine]
        low = [max(0.0, cell["accuracy"] - cell["interval"][0]) for cell in mine]
        high = [max(0.0, cell["interval"][1] - cell["accuracy"]) for cell in mine]
        label = "mechanism on" if on else "mechanism off"
        axes.barh(at, share, 0.36, xerr=[low, high], color=color, label=label, capsize=2)
    mechanisms = {(cell["part"], cell["group"]): cell["mechanism"] for cell in cells}
    names = [f"{part}: {group}\n({mechanisms[part, group]})" for part, group in groups]
    axes.set_yticks(range(len(groups)), names, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("exact match, with 95 % interval")
    axes.set_title(title, fontsize=11)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(
    model: ModelArgument = None,
    parts: Annotated[str, typer.Option(help="Which parts; a list.")] = ",".join(PARTS),
    cases: Annotated[int, typer.Option(min=1, help="Questions in a part, roughly.")] = 96,
    seed: Annotated[int, typer.Option(help="Draws the documents.")] = 0,
    book: BookOption = None,
    threads: ThreadsOption = None,
    out: OutOption = Path("reports/ablation"),
) -> None:
    require("the report", PICTURE)
    wanted = parts.split(",")
    if unknown := [part for part in wanted if part not in PARTS]:
        raise typer.BadParameter(f"--parts knows {', '.join(PARTS)}; got {unknown[0]!r}.")
    use_threads(threads)
    console = Console()
    loaded, tokenizer = open_model(model)
    for part in wanted:
        if not has(loaded, PARTS[part][0]):
            raise typer.BadParameter(
                f"the part {part} needs a model with a trained {PARTS[part][0]}; train it "
                "(docs/dnc.md says how), or leave the part out with --parts."
            )
    interview = Interview(loaded, tokenizer, Haystack(tokenizer, book), seed)
    settings = {"parts": wanted, "cases": cases, "seed": seed}
    report = head("eval.ablation", settings) | model_name(model)
    started = time.perf_counter()
    cells: list[dict[str, Any]] = []
    todo = [(part, *one, on) for part in wanted for one in PARTS[part][1] for on in (False, True)]
    for part, make, size, on in track(todo, "asking", console=console, transient=True):
        mechanism = PARTS[part][0]
        scenes = make(interview, cases, size)
        told = replace(interview, model=only(loaded, mechanism if on else None))
        texts, slots = ask(told, scenes)
        cells += cells_of(part, mechanism, on, scenes, texts, slots)
        report |= {"wall_seconds": round(time.perf_counter() - started), "cells": cells}
        write_json(out.with_name(out.name + ".json"), report)
    plot(out.with_name(out.name + ".png"), f"{report['model']}: mechanisms off and on", cells)
    console.print(table(cells))


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
