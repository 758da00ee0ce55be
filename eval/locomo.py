"""LoCoMo: questions about conversations of two people over many sessions, months apart.

    python -m eval.locomo MODEL --data locomo10.json --systems truncated,bm25,memformer

`--data` takes the published file of conversations (Maharana et al. 2024, arXiv:2402.17753; CC BY-NC
4.0: for evaluation only), gzipped or not. A conversation is read once, session by session, and
asked all its questions. Scores are those of the published code: overlap of stemmed words with the
answer (F1); for multi-hop questions the mean over the parts of the answer; adversarial questions,
about what was never said, are a choice between a wrong answer and that there is none. The prompts
ask for the same in words of our own.
"""

from __future__ import annotations

import gzip
import json
import random
import re
import string
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import typer

from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.command import command
from eval.harness.metrics import overlap, stemmer
from eval.reporting.extras import missing

# categories by their number in the file, in the order of the table
CATEGORIES = {4: "single-hop", 1: "multi-hop", 2: "temporal", 3: "open-domain", 5: "adversarial"}
INSTRUCTION = (
    "Answer in a few words, taken from our conversation where that is possible; no whole sentence."
)
WHEN = "Give an approximate date, counted from the date of the conversation."
NOTHING_SAID = "Nothing was said about it"
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class BadConversation(ValueError):
    """A file that does not hold LoCoMo's conversations; the message says where and why."""


# ---- scores --------------------------------------------------------------------------------


class Metric:
    """The published scores.

    Raises:
        BadConversation: nltk is not installed, whose stemmer the scores need.
    """

    def __init__(self) -> None:
        if sentence := missing("LoCoMo's score", "nltk"):
            raise BadConversation(sentence)
        self._stem = stemmer()

    def __call__(self, question: Question, output: str) -> Mapping[str, float]:
        """The score of an answer in the category of its question."""
        answer, category = question.answers[0], question.at["category"]
        if category == "adversarial":
            # an output that does not name the first option counts as the second
            return {"F1": float(("(a)" if "(a)" in output.lower() else "(b)") == answer)}
        output = _said(output)
        if category == "multi-hop":
            parts = [part.strip() for part in answer.split(",")]
            said = [part.strip() for part in output.split(",")]
            found = [max(self.f1(one, part) for one in said) for part in parts]
            return {"F1": sum(found) / len(found)}
        if category == "open-domain":
            answer = answer.split(";")[0].strip()
        return {"F1": self.f1(output, answer)}

    def f1(self, output: str, answer: str) -> float:
        """The overlap of two texts in stemmed words."""
        return overlap(*([self._stem(word) for word in _words(text)] for text in (output, answer)))


def _words(text: str) -> list[str]:
    """The words of a text for the published score: without punctuation, articles and "and"."""
    return re.sub(r"\b(a|an|the|and)\b", " ", text.lower().translate(_PUNCTUATION)).split()


def _said(output: str) -> str:
    """The first line of an output that is not empty, without marks of options."""
    line = next((line for line in output.splitlines() if line.strip()), "").lower()
    for mark in ("(a)", "(b)", "a)", "b)", "answer:"):
        line = line.replace(mark, "")
    return line.strip()


# ---- conversations -------------------------------------------------------------------------


def read(path: Path) -> list[dict[str, Any]]:
    """The conversations of a file.

    Raises:
        BadConversation: the file holds no list of conversations with questions.
    """
    if not path.is_file():
        raise BadConversation(f"There is no file {path}; --data takes LoCoMo's conversations.")
    try:
        raw = path.read_bytes()
        found = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, ValueError) as error:
        raise BadConversation(f"{path} can't be read: {error}.") from None
    if not isinstance(found, list) or not found:
        raise BadConversation(f"{path} must hold a list of conversations.")
    for number, one in enumerate(found, 1):
        if not isinstance(one, dict) or not {"sample_id", "conversation", "qa"} <= set(one):
            raise BadConversation(
                f"{path}, conversation {number}: expected sample_id, conversation and qa."
            )
    return found


def sessions(conversation: Mapping[str, Any]) -> list[str]:
    """The sessions of a conversation as texts: a line for the date, then a line for each turn."""
    numbers = sorted(
        int(name.removeprefix("session_"))
        for name in conversation
        if re.fullmatch(r"session_\d+", name)
    )
    texts = []
    for number in numbers:
        lines = [f"{conversation[f'session_{number}_date_time']}"]
        for turn in conversation[f"session_{number}"]:
            shown = f" [shares {turn['blip_caption']}]" if turn.get("blip_caption") else ""
            lines.append(f"{turn['speaker']}: {turn['text']}{shown}")
        texts.append("\n".join(lines))
    return texts


def questions(
    entries: list[dict[str, Any]], sample: str, categories: Mapping[int, str]
) -> Iterator[Question]:
    """The questions of a conversation in some categories."""
    for number, one in enumerate(entries):
        category = categories.get(one["category"])
        if category is None:
            continue
        text, answer = str(one["question"]), str(one.get("answer", ""))
        if category == "adversarial":
            options = [str(one.get("adversarial_answer", answer)), NOTHING_SAID]
            random.Random(f"{sample}/{number}").shuffle(options)
            text = f"{text} Which is right? (a) {options[0]} (b) {options[1]}. Write (a) or (b)."
            answer = "(b)" if options[1] == NOTHING_SAID else "(a)"
        elif category == "temporal":
            text = f"{text} {WHEN}"
        chance = 0.5 if category == "adversarial" else 0.0
        yield Question(str(number), text, (answer,), {"category": category}, chance=chance)


def drawn(found: list[Question], most: int, sample: str) -> list[Question]:
    """At most `most` questions of each category, in their order."""
    kept: set[str] = set()
    for category in dict.fromkeys(one.at["category"] for one in found):
        mine = [one.id for one in found if one.at["category"] == category]
        kept.update(random.Random(f"{sample}/{category}").sample(mine, min(most, len(mine))))
    return [one for one in found if one.id in kept]


def locomo(
    tokenizer: Any,
    data: Annotated[Path, typer.Option(help="The file of conversations, .json or .json.gz.")],
    categories: Annotated[str, typer.Option(help="Of questions; a list.")] = ",".join(
        CATEGORIES.values()
    ),
    conversations: Annotated[
        int | None, typer.Option(min=1, help="Only so many, from the first; all if left out.")
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="Draws so many questions of each category and conversation."),
    ] = None,
) -> Benchmark:
    """LoCoMo with some categories of questions."""
    wanted = categories.split(",")
    if unknown := [one for one in wanted if one not in CATEGORIES.values()]:
        raise BadConversation(
            f"--categories knows {', '.join(CATEGORIES.values())}; got {unknown[0]!r}."
        )
    chosen = {number: name for number, name in CATEGORIES.items() if name in wanted}
    documents = []
    for one in read(data)[:conversations]:
        name = str(one["sample_id"])
        asked = list(questions(one["qa"], name, chosen))
        if sample is not None:
            asked = drawn(asked, sample, name)
        documents.append(Document.of(name, sessions(one["conversation"]), asked))
    return Benchmark(
        title="LoCoMo",
        axes={"category": list(chosen.values())},
        documents=documents,
        score=Metric(),
        metrics=("F1",),
        instruction=INSTRUCTION,
        max_new_tokens=50,
        settings={
            "data": data.name,
            "sha256": sha256(data.read_bytes()).hexdigest()[:12],
            "categories": list(chosen.values()),
            "conversations": conversations,
            "sample": sample,
        },
        notes=[
            "Scores as published: adversarial questions are a choice between two options, and what "
            "names neither counts as the second, so half of them are had for nothing."
        ],
        quotable=False,  # CC BY-NC 4.0
    )


app = command(locomo)

if __name__ == "__main__":
    app()
