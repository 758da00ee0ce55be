"""Facts told in one session and asked for sessions later: told once, changed since, or never told.

    python -m eval.dialogue MODEL --systems nothing,full,bm25,memformer

A user chats over many sessions, mostly about nothing, and now and then about people. After the last
session there are questions about a fact that was told (`told`), one that was replaced by another in
a later session (`updated`: only the new one is right), and one that was never told about a person
who was mentioned (`never`: only an answer that names none is right). Columns say how many sessions
ago it was told, changed, or the person mentioned. Replies are free: an answer counts if it names
the right value and no other of its kind.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from eval.corpora.idle_talk import idle_talk
from eval.corpora.people import KINDS, NAMES, Fact
from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.metrics import contains
from eval.harness.unknown import INSTRUCTION, says_unknown

KINDS_OF_QUESTION = ("told", "updated", "never")
AGO = (1, 4, 16)
# an update replaces a fact that was told so many sessions before
SINCE = 3


def score(question: Question, output: str) -> Mapping[str, float]:
    """Whether the output names the right value alone or, where none was told, says so.

    Also whether it names none and says that it does not know: an answer that is neither right nor
    refused is wrong.
    """
    others = [one for one in _values(question.text) if one not in question.answers]
    refused = float(says_unknown(output))
    if contains(output, others):
        return {"right": 0.0, "refused": 0.0}
    if question.at["kind"] == "never":
        return {"right": refused, "refused": refused}
    return {"right": contains(output, question.answers), "refused": refused}


def _values(text: str) -> list[str]:
    """All values that could answer a question."""
    for kind in KINDS:
        before, _, after = kind.question.partition("{name}")
        if text.startswith(before) and text.endswith(after):
            return kind.values
    raise ValueError(f"There is no kind of fact that {text!r} asks about.")


def dialogue(
    tokenizer: Any,
    conversations: Annotated[int, typer.Option(min=1, help="Nine questions each.")] = 20,
    sessions: Annotated[int, typer.Option(min=AGO[-1] + SINCE, help="Of a conversation.")] = AGO[-1]
    + SINCE
    + 1,
    talk: Annotated[int, typer.Option(min=0, help="Idle sentences in a session.")] = 5,
    seed: Annotated[int, typer.Option(help="Draws the conversations.")] = 0,
) -> Benchmark:
    """Conversations over sessions, with questions after the last session."""
    return Benchmark(
        title="Dialogue",
        axes={"kind": list(KINDS_OF_QUESTION), "sessions ago": [str(ago) for ago in AGO]},
        documents=[
            _conversation(str(number), sessions, talk, random.Random(f"{seed}/{number}"))
            for number in range(conversations)
        ],
        score=score,
        metrics=("right", "refused"),
        instruction=INSTRUCTION,
        max_new_tokens=24,
        settings={
            "conversations": conversations,
            "sessions": sessions,
            "talk": talk,
            "seed": seed,
        },
        averages={"mean of told, updated and never": list(KINDS_OF_QUESTION)},
    )


def _conversation(name: str, sessions: int, talk: int, rng: random.Random) -> Document:
    """All sessions of one user, and the questions after them."""
    said = [idle_talk(rng, talk) for _ in range(sessions)]
    names = iter(rng.sample(NAMES, len(KINDS_OF_QUESTION) * len(AGO)))
    questions = []
    for ago in AGO:
        for sort in KINDS_OF_QUESTION:
            told, asked, answers = _facts(sort, next(names), rng)
            for before, sentence in told:
                lines = said[sessions - ago - before]
                lines.insert(rng.randint(0, len(lines)), sentence)
            at = {"kind": sort, "sessions ago": str(ago)}
            questions.append(Question(f"{sort}/{ago}", asked, answers, at))
    return Document.of(name, [" ".join(lines) for lines in said], questions)


def _facts(
    sort: str, name: str, rng: random.Random
) -> tuple[list[tuple[int, str]], str, tuple[str, ...]]:
    """Sentences about a person, each with its distance in sessions; the question; its answers."""
    kind, other = rng.sample(KINDS, 2)
    value, old = rng.sample(kind.values, 2)
    fact = Fact(name, kind, value)
    match sort:
        case "told":
            return [(0, fact.sentence)], fact.question, (value,)
        case "updated":
            now = f"{fact.begun('By now ')} {value}."
            return [(SINCE, Fact(name, kind, old).sentence), (0, now)], fact.question, (value,)
    mentioned = Fact(name, other, rng.choice(other.values))
    return [(0, mentioned.sentence)], fact.question, ("You have not told me.",)


app = command(dialogue)

if __name__ == "__main__":
    app()
