"""The figures of a run: cells with intervals and floors, and means over cells. Knows no model.

A figure depends on the answers alone, never on their order or on the time they took.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eval.harness.benchmark import Benchmark, Document, Question
from eval.harness.metrics import wilson_interval

# how often documents are drawn anew for an interval
RESAMPLINGS = 2000

Key = tuple[str, str, str]  # system, document, question


def interval(scores: Sequence[float], documents: Sequence[str]) -> tuple[float, float]:
    """95 % confidence interval of a mean.

    Wilson's interval where every score is 0 or 1 and every document has one question; else
    `bootstrap`. Where all scores are 0 or all are 1, the interval of `bootstrap` would have no
    length: there Wilson's interval counts a case for each document.
    """
    number = len(set(documents))
    if set(scores) <= {0.0, 1.0} and (number == len(scores) or len(set(scores)) == 1):
        return wilson_interval(round(number * sum(scores) / len(scores)), number)
    return bootstrap(scores, documents)


def bootstrap(scores: Sequence[float], documents: Sequence[str]) -> tuple[float, float]:
    """95 % confidence interval of a mean, by drawing documents anew.

    Documents are drawn with all their questions, which are not independent (percentile bootstrap;
    Efron and Tibshirani 1993, chapter 13). The same scores give the same interval.
    """
    groups = sorted(set(documents))
    place = {name: number for number, name in enumerate(groups)}
    sums, counts = np.zeros(len(groups)), np.zeros(len(groups))
    for score, name in zip(scores, documents, strict=True):
        sums[place[name]] += score
        counts[place[name]] += 1
    drawn = np.random.default_rng(0).integers(len(groups), size=(RESAMPLINGS, len(groups)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def summarize(
    benchmark: Benchmark, systems: Sequence[str], results: Mapping[Key, Mapping[str, Any]]
) -> dict[str, Any]:
    """All figures of a run.

    Args:
        benchmark: the documents and questions.
        systems: the systems in the order of the tables.
        results: for each question `output`, `scores`, and the costs `prompt_tokens`, `read_tokens`
            and `state_bytes`; or `reason`, if the question could not be asked.

    Returns:
        `cells`, one for each system and place in the table, also where answers are missing; `means`
        over cells, for systems that have all these cells; `overall`, the scores and the costs of
        each system over all questions.
    """
    asked: dict[tuple[str, ...], list[tuple[Document, Question]]] = {}
    sources = {one.id: one.source or one.id for one in benchmark.documents}
    for document in benchmark.documents:
        for question in document.questions:
            asked.setdefault(benchmark.cell(question), []).append((document, question))
    floors = {place: _floor(benchmark, [one for _, one in asked[place]]) for place in asked}
    cells = [
        dict(zip(benchmark.axes, place, strict=True))
        | {"system": system}
        | _cell(benchmark, [(system, one.id, q.id) for one, q in asked[place]], results, sources)
        | floors[place]
        for place in sorted(asked, key=lambda place: _order(benchmark, place))
        for system in systems
    ]
    everything = [(document.id, question.id) for document in benchmark.documents
                  for question in document.questions]  # fmt: skip
    overall = [
        {"system": system}
        | _cell(benchmark, [(system, *key) for key in everything], results, sources)
        for system in systems
    ]
    return {"cells": cells, "means": _means(benchmark, systems, cells), "overall": overall}


def _order(benchmark: Benchmark, place: tuple[str, ...]) -> list[int]:
    known = zip(benchmark.axes.values(), place, strict=True)
    return [list(values).index(value) for values, value in known]


def _cell(
    benchmark: Benchmark,
    keys: Sequence[Key],
    results: Mapping[Key, Mapping[str, Any]],
    sources: Mapping[str, str],
) -> dict[str, Any]:
    mine = [(key[1], results[key]) for key in keys if key in results]
    found: dict[str, Any] = {
        "questions": len(keys),
        "documents": len({sources[key[1]] for key in keys}),
    }
    if reasons := [one["reason"] for _, one in mine if "reason" in one]:
        return found | {"scores": None, "reason": reasons[0]}
    if len(mine) < len(keys):
        return found | {"scores": None, "reason": f"{len(mine)} of {len(keys)} are answered"}
    documents = [sources[document] for document, _ in mine]
    scores = {name: [one["scores"][name] for _, one in mine] for name in benchmark.metrics}
    return found | {
        "scores": {name: sum(values) / len(values) for name, values in scores.items()},
        "intervals": {name: interval(values, documents) for name, values in scores.items()},
        # every document is read once for all its questions
        "read_tokens": sum({document: one["read_tokens"] for document, one in mine}.values()),
        "prompt_tokens": sum(one["prompt_tokens"] for _, one in mine),
        "state_bytes": round(sum(one["state_bytes"] for _, one in mine) / len(mine)),
    }


def _floor(benchmark: Benchmark, asked: Sequence[Question]) -> dict[str, Any]:
    """The score of a blind guess, and the best score of one answer to all questions."""
    found: dict[str, Any] = {"chance": sum(one.chance for one in asked) / len(asked)}
    if benchmark.constants:
        metric = benchmark.metrics[0]
        shares = {
            constant: sum(benchmark.score(one, constant)[metric] for one in asked) / len(asked)
            for constant in sorted({answer for one in asked for answer in one.answers})
        }
        best = max(shares, key=lambda constant: shares[constant])
        found |= {"constant": best, "constant_score": shares[best]}
    return found


def _means(
    benchmark: Benchmark, systems: Sequence[str], cells: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Plain means of the headline metric over values of the first axis."""
    first, *others = benchmark.axes
    metric = benchmark.metrics[0]
    means = []
    for title, values in benchmark.averages.items():
        places = dict.fromkeys(tuple(cell[axis] for axis in others) for cell in cells)
        for place, system in ((place, system) for place in places for system in systems):
            mine = [
                cell
                for cell in cells
                if cell["system"] == system
                and cell[first] in values
                and tuple(cell[axis] for axis in others) == place
                and cell["scores"] is not None
            ]
            if len(mine) < len(values):
                continue
            entry = {"title": title, **dict(zip(others, place, strict=True)), "system": system}
            means.append(entry | _mean(metric, mine))
    return means


def _mean(metric: str, cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """A mean whose interval joins the intervals of its cells by their squared distances.

    The method is MOVER (Zou and Donner 2008, Statistics in Medicine 27).
    """
    low = high = total = 0.0
    for cell in cells:
        score, ends = cell["scores"][metric], cell["intervals"][metric]
        total += score
        low += (score - ends[0]) ** 2
        high += (ends[1] - score) ** 2
    mean, number = total / len(cells), len(cells)
    ends = (max(0.0, mean - low**0.5 / number), min(1.0, mean + high**0.5 / number))
    found = {"scores": {metric: mean}, "intervals": {metric: ends}}
    if all("constant_score" in cell for cell in cells):
        found["constant_score"] = sum(cell["constant_score"] for cell in cells) / number
    found["chance"] = sum(cell["chance"] for cell in cells) / number
    return found
