"""What to remember of a chat: ten turns in which the model answers, and questions afterwards.

    python -m eval.chats MODEL --reply-limits 1,0.3,0 --penalties 1,1.1

A user tells facts about people among idle talk, asks about two of them in the midst, and the model
answers freely. Afterwards there are questions about all facts told, in a chat that remembers, and
about people of whom something else was told. Each row is a way to remember: with the system message
of the chat template or without, and with replies as firmly as the limit says.

Choices are made on people and kinds of fact of `eval.recipe`; `--test` asks about those of the
benchmarks instead.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from memformer.chat import ChatSession
from memformer.replies import reply_options, reply_text
from rich.console import Console

from eval.corpora.idle_talk import idle_talk
from eval.corpora.people import KINDS, NAMES, Fact
from eval.corpora.training_facts import KINDS as DEVELOPMENT_KINDS
from eval.corpora.training_facts import NAMES as DEVELOPMENT_NAMES
from eval.harness.asking import progress_bar
from eval.harness.metrics import contains, normal, wilson_interval
from eval.harness.unknown import INSTRUCTION, says_unknown
from eval.reporting.app import make_app
from eval.reporting.extras import PAGE, require
from eval.reporting.opening import model_name, open_model
from eval.reporting.options import DtypeOption, ModelArgument, OutOption, ThreadsOption, use_threads
from eval.reporting.page import Page, publish
from eval.reporting.report import head, write_json

TURNS = 10
TOLD = 6
NEVER = 2
REPLY_TOKENS, ANSWER_TOKENS = 64, 24
# a reply loops if a run of so many words comes so many times
LOOP_WORDS, LOOP_TIMES = 4, 3
_ITSELF = re.compile(
    r"\b(smollm|hugging face|ai (chatbot|assistant|model)|language model)\b", re.IGNORECASE
)
COUNTS = ("told", "right", "other", "never", "refused", "loops", "itself", "replies")


@dataclass(frozen=True)
class Conversation:
    """Turns of a user, and the facts that are asked about after them.

    Attributes:
        turns: the words of the user, turn by turn.
        told: facts that the turns tell.
        never: facts that no turn tells, about people whom a turn mentions.
    """

    turns: Sequence[str]
    told: Sequence[Fact]
    never: Sequence[Fact]


def conversation(rng: random.Random, names: Sequence[str], kinds: Sequence[Any]) -> Conversation:
    """A chat of ten turns: six tell a fact, two ask about an earlier fact, two say nothing."""
    people = rng.sample(list(names), TOLD)
    told = []
    for name in people:
        kind = rng.choice(list(kinds))
        told.append(Fact(name, kind, rng.choice(kind.values)))
    never = []
    for fact in rng.sample(told, NEVER):
        kind = rng.choice([one for one in kinds if one is not fact.kind])
        never.append(Fact(fact.name, kind, rng.choice(kind.values)))
    turns = [" ".join((*idle_talk(rng, 1), fact.sentence)) for fact in told]
    turns.insert(3, told[0].question)
    turns.insert(6, told[2].question)
    turns += [idle_talk(rng, 1)[0] for _ in range(TURNS - len(turns))]
    return Conversation(turns, told, never)


class Whole(ChatSession):
    """A session of the older kind, which also remembers the system message and the reply."""

    def say(self, text: str, streamer: Any = None, **options: Any) -> str:
        """Answers, and remembers all tokens that the model saw and generated."""
        ids = torch.tensor([self._asked(text)], device=self.model.device)
        output, self.memory = self.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            memory=self.memory,
            return_memory=True,
            **reply_options(self.tokenizer, self.options | options),
        )
        return reply_text(self.tokenizer, output[0, ids.shape[1] :])


def loops(reply: str) -> bool:
    """Whether a reply repeats a run of words."""
    words = normal(reply).split()
    runs = Counter(tuple(words[at : at + LOOP_WORDS]) for at in range(len(words) - LOOP_WORDS + 1))
    return max(runs.values(), default=0) >= LOOP_TIMES


def about_itself(reply: str) -> bool:
    """Whether a reply speaks of the assistant that the system message describes."""
    return _ITSELF.search(reply) is not None


def measure(session: ChatSession, chat: Conversation) -> Counter[str]:
    """Holds a chat, and counts the kinds of its answers."""
    found: Counter[str] = Counter()
    for turn in chat.turns:
        reply = session.say(turn, max_new_tokens=REPLY_TOKENS)
        found["replies"] += 1
        found["loops"] += loops(reply)
        found["itself"] += about_itself(reply)
    facts = [*chat.told, *chat.never]
    asked = [f"{INSTRUCTION} {fact.question}" for fact in facts]
    answers = session.ask(*asked, max_new_tokens=ANSWER_TOKENS)
    for place, (fact, answer) in enumerate(zip(facts, answers, strict=True)):
        others = [value for value in fact.kind.values if value != fact.value]
        if place < len(chat.told):
            found["told"] += 1
            found["right"] += bool(contains(answer, [fact.value]) and not contains(answer, others))
            found["other"] += bool(contains(answer, others))
        else:
            found["never"] += 1
            named = contains(answer, fact.kind.values)
            found["refused"] += not named and says_unknown(answer)
    return found


def share(count: int, of: int) -> str:
    """A share in per cent with its interval."""
    low, high = wilson_interval(count, of)
    return f"{100 * count / max(of, 1):.0f} ({100 * low:.0f} to {100 * high:.0f})"


def page(report: dict[str, Any]) -> Page:
    """The page of a report: a row for each way to remember."""
    lines = [["", "told: right", "told: another value", "never told: says so", "loops", "itself"]]
    for name, row in report["ways"].items():
        lines.append([
            name,
            share(row["right"], row["told"]),
            share(row["other"], row["told"]),
            share(row["refused"], row["never"]),
            share(row["loops"], row["replies"]),
            share(row["itself"], row["replies"]),
        ])  # fmt: skip
    settings = report["settings"]
    return Page(
        f"Chats: {settings['model']}",
        f"{settings['conversations']} chats of {TURNS} turns, then {TOLD} questions about what was "
        f"told and {NEVER} about what was not. In %, with 95 % intervals. Loops: replies of "
        f"which {LOOP_WORDS} words come {LOOP_TIMES} times; itself: replies about the assistant.",
        lines,
    )


def _floats(text: str, option: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no list of numbers.", param_hint=option) from None


@torch.inference_mode()
def main(
    model: ModelArgument = None,
    conversations: Annotated[int, typer.Option(min=1, help="Eight questions each.")] = 24,
    reply_limits: Annotated[str, typer.Option(help="How firmly replies are remembered.")] = "1,0",
    penalties: Annotated[str, typer.Option(help="Repetition penalties of replies.")] = "1",
    whole: Annotated[
        bool, typer.Option(help="Also with everything remembered, the system message too.")
    ] = True,
    test: Annotated[bool, typer.Option("--test", help="The benchmarks' kinds of fact.")] = False,
    seed: Annotated[int, typer.Option(help="Draws the chats.")] = 0,
    dtype: DtypeOption = "float32",
    out: OutOption = Path("reports/chats"),
    threads: ThreadsOption = None,
) -> None:
    require("the report", PAGE)
    use_threads(threads)
    limits, scales = _floats(reply_limits, "--reply-limits"), _floats(penalties, "--penalties")
    if not all(0 <= limit <= 1 for limit in limits):
        raise typer.BadParameter(f"--reply-limits takes numbers from 0 to 1; got {reply_limits!r}.")
    if not all(scale > 0 for scale in scales):
        raise typer.BadParameter(f"--penalties takes numbers above 0; got {penalties!r}.")
    settings = {"conversations": conversations, "seed": seed, "test": test, "dtype": dtype}
    report = head("eval.chats", model_name(model) | settings)
    loaded, tokenizer = open_model(model, dtype=dtype)
    names, kinds = (NAMES, KINDS) if test else (DEVELOPMENT_NAMES, DEVELOPMENT_KINDS)
    chats = [
        conversation(random.Random(f"{seed}/{number}"), names, kinds)
        for number in range(conversations)
    ]
    ways: dict[str, Callable[[], ChatSession]] = {}
    for scale in scales:
        suffix = "" if scale == 1 else f", penalty {scale:g}"
        if whole:
            ways[f"everything{suffix}"] = partial(
                Whole, loaded, tokenizer, repetition_penalty=scale
            )
        for limit in limits:
            ways[f"no system message, replies {limit:g}{suffix}"] = partial(
                ChatSession, loaded, tokenizer, reply_limit=limit, repetition_penalty=scale
            )
    report["ways"] = {}
    with progress_bar(Console(stderr=True)) as bar:
        for name, session in ways.items():
            found: Counter[str] = Counter()
            for chat in bar.track(chats, description=name):
                found += measure(session(), chat)
            report["ways"][name] = {count: found[count] for count in COUNTS}
            write_json(out.with_name(f"{out.name}.json"), report)
    publish(out, page(report), report)


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
