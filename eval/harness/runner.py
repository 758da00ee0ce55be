"""Runs a benchmark: every system reads every document and answers every question, once.

Each process appends its answers to a file of its own, so that an interrupted run goes on where it
stopped, with any number of processes. Documents are always read in the same groups, so that answers
do not depend on interruptions.
"""

from __future__ import annotations

import glob
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState

from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.cases import CaseLog, read_cases
from eval.harness.desk import BATCH_QUESTIONS, Answer, WindowExceeded, chunks, neighbours
from eval.harness.metrics import likelihood
from eval.harness.roster import Roster
from eval.harness.specs import Spec
from eval.harness.summary import Key
from eval.harness.systems import Reading, System

# the most questions of short documents that are read together
BATCH_CASES = 20

Record = dict[str, Any]


def begin_log(
    out: Path, settings: Record, systems: Record, again: bool, state: PartialState
) -> CaseLog:
    """Opens the file for the answers of this process; all processes call this at once.

    Args:
        out: the path of the report, without ending.
        settings: the settings that all systems share.
        systems: the identity of each system.
        again: whether to delete earlier answers.
        state: the place of this process among all processes.

    Raises:
        OtherRun: the file is of a run with other settings.
    """
    if again and state.is_main_process:
        for path in _paths(out):
            path.unlink()
    state.wait_for_everyone()
    number = f".{state.process_index}" if state.process_index else ""
    path = out.with_name(f"{out.name}.cases{number}.jsonl")
    log = CaseLog(path, settings, systems, again=False)
    state.wait_for_everyone()
    return log


def results(out: Path, settings: Record, systems: Record) -> dict[Key, Record]:
    """The answers of these systems so far, from all processes of this run and earlier ones.

    Raises:
        OtherRun: a file is of a run with other settings.
    """
    logs = [read_cases(path, settings, systems)[1] for path in _paths(out)]
    return {_key(one): one for log in logs for one in log if one["system"] in systems}


def _paths(out: Path) -> list[Path]:
    return sorted(out.parent.glob(f"{glob.escape(out.name)}.cases*.jsonl"))


def ask(
    benchmark: Benchmark,
    specs: Sequence[Spec],
    roster: Roster,
    done: dict[Key, Record],
    log: CaseLog,
    state: PartialState,
    step: Callable[[Spec, Sequence[Document]], None],
    advance: Callable[[int], None],
) -> None:
    """Asks all questions that have no answer yet.

    Args:
        benchmark: the documents and questions.
        specs: the systems that are compared.
        roster: opens the systems.
        done: the answers so far.
        log: stores the new answers.
        state: the place of this process among all processes, which take turns at the groups.
        step: is called with a system and the documents that it reads next, known or not.
        advance: is called with the number of tokens that have been read since the last call.

    Raises:
        BadSystem: a system can't be opened.
    """
    for spec in specs:
        run = _Run(benchmark, spec, partial(roster.system, spec, benchmark, advance))
        for number, group in enumerate(groups(benchmark.documents)):
            if number % state.num_processes == state.process_index:
                step(spec, group)
                for records in run.answers(group, done):
                    log.add(records)
    state.wait_for_everyone()


def groups(documents: Sequence[Document]) -> Iterator[Sequence[Document]]:
    """Neighbouring documents that are read together: short ones with few questions."""
    return neighbours(
        documents, lambda one: one.tokens, lambda one: len(one.questions), BATCH_CASES
    )


class _Run:
    """One system at one benchmark."""

    def __init__(self, benchmark: Benchmark, spec: Spec, opened: Callable[[], System]) -> None:
        self.benchmark = benchmark
        self.spec = spec
        self._opened = opened
        self._system: System | None = None
        # the reason why the questions of a cell can't be asked; one document of the cell shows it
        self._reasons: dict[tuple[str, ...], str] = {}

    def answers(self, group: Sequence[Document], done: dict[Key, Record]) -> Iterator[list[Record]]:
        """The missing answers about some documents, a few questions at a time."""
        known = [done.get((self.spec.text, *key)) for key in _keys(group)]
        for one, (_, question) in zip(known, _cases(group), strict=True):
            if one is not None and "reason" in one:
                self._reasons.setdefault(self.benchmark.cell(question), one["reason"])
        if all(one is not None for one in known):
            return
        cells = [self.benchmark.cell(question) for _, question in _cases(group)]
        if all(cell in self._reasons for cell in cells):
            yield self._lacking(group, self._reasons[cells[0]], done)
            return
        try:
            yield from self._read(group, done)
        except WindowExceeded as error:
            if len(group) > 1:  # perhaps only one document is too long
                for document in group:
                    yield from self.answers([document], done)
                return
            reason = f"exceeds window ({error})"
            self._reasons |= dict.fromkeys(cells, reason)
            yield self._lacking(group, reason, done)

    def _read(self, group: Sequence[Document], done: dict[Key, Record]) -> Iterator[list[Record]]:
        self._system = self._system or self._opened()
        started = time.perf_counter()
        with torch.inference_mode():
            reading = self._system.read(group)
        seconds = (time.perf_counter() - started) / sum(len(one.questions) for one in group)
        cases = [(place, question) for place, one in enumerate(group) for question in one.questions]
        for some in chunks(cases, BATCH_QUESTIONS):
            heads = [
                {"system": self.spec.text, "document": group[place].id, "question": question.id}
                for place, question in some
            ]
            if all(_key(one) in done for one in heads):
                continue
            started = time.perf_counter()
            with torch.inference_mode():
                answers = self._system.answer(reading, some)
            each = seconds + (time.perf_counter() - started) / len(some)
            ranked = self._ranked(self._system, reading, some)
            yield [
                head
                | {
                    "output": answer.text,
                    "scores": self._scores(question, answer, sums),
                    **({"log_likelihoods": sums} if sums else {}),
                    "prompt_tokens": answer.tokens,
                    "read_tokens": reading.tokens[place],
                    "state_bytes": reading.nbytes[place],
                    "seconds": round(each, 4),
                }
                for head, (place, question), answer, sums in zip(
                    heads, some, answers, ranked, strict=True
                )
                if _key(head) not in done
            ]

    def _scores(
        self, question: Question, answer: Answer, sums: Sequence[float]
    ) -> dict[str, float]:
        """The scores of an answer and, where the question has options, of their likelihoods."""
        ranked = likelihood(sums, question.options, question.answers[0]) if sums else {}
        return {**self.benchmark.score(question, answer.text), **ranked}

    def _ranked(
        self, system: System, reading: Reading, asked: Sequence[tuple[int, Question]]
    ) -> list[list[float]]:
        """The log-likelihoods of the options of each question; an empty list where it has none."""
        wanted = [number for number, (_, question) in enumerate(asked) if question.options]
        found: list[list[float]] = [[] for _ in asked]
        if wanted:
            with torch.inference_mode():
                sums = system.rank(reading, [asked[number] for number in wanted])
            for number, one in zip(wanted, sums, strict=True):
                found[number] = one
        return found

    def _lacking(
        self, group: Sequence[Document], reason: str, done: dict[Key, Record]
    ) -> list[Record]:
        return [
            {"system": self.spec.text, "document": document, "question": question, "reason": reason}
            for document, question in _keys(group)
            if (self.spec.text, document, question) not in done
        ]


def _cases(group: Sequence[Document]) -> list[tuple[Document, Question]]:
    return [(document, question) for document in group for question in document.questions]


def _keys(group: Sequence[Document]) -> list[tuple[str, str]]:
    return [(document.id, question.id) for document, question in _cases(group)]


def _key(record: Record) -> Key:
    return record["system"], record["document"], record["question"]
