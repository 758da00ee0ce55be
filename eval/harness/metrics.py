"""Scores of an answer, each in [0, 1], and the interval of a share. Knows no model and no data."""

from __future__ import annotations

import importlib
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normal(text: str) -> str:
    """A text in lower case without punctuation, articles and extra spaces, as SQuAD compares it."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(output: str, answers: Sequence[str]) -> float:
    """1 if the output is one of the answers, normalized (Rajpurkar et al. 2016, section 6)."""
    return float(any(normal(output) == normal(answer) for answer in answers))


def overlap(output: Sequence[str], answer: Sequence[str]) -> float:
    """Harmonic mean of the shares of words that two texts have in common."""
    common = sum((Counter(output) & Counter(answer)).values())
    return 2 * common / (len(output) + len(answer)) if common else 0.0


def f1(output: str, answers: Sequence[str]) -> float:
    """SQuAD's F1: the overlap in words with the answer that is most like the output."""
    said = normal(output).split()
    return max(overlap(said, normal(answer).split()) for answer in answers)


def stemmer() -> Callable[[str], str]:
    """Porter's stemmer from nltk.

    Raises:
        ImportError: nltk is not installed.
    """
    stem: Callable[[str], str] = importlib.import_module("nltk.stem.porter").PorterStemmer().stem
    return stem


def rouge() -> Callable[[str, Sequence[str]], dict[str, float]]:
    """A function for ROUGE-1, -2 and -L: F1 with stemming, each with the best reference.

    Google's implementation (package rouge-score), which papers on SQuALITY and QMSum use.

    Raises:
        ImportError: rouge-score is not installed.
    """
    names = {"ROUGE-1": "rouge1", "ROUGE-2": "rouge2", "ROUGE-L": "rougeL"}
    scorer: Any = importlib.import_module("rouge_score.rouge_scorer").RougeScorer(
        list(names.values()), use_stemmer=True
    )

    def scores(output: str, answers: Sequence[str]) -> dict[str, float]:
        found = scorer.score_multi(list(answers), output)
        return {name: float(found[key].fmeasure) for name, key in names.items()}

    return scores


def contains(output: str, answers: Sequence[str]) -> float:
    """1 if the output contains one of the answers, both normalized (Liu et al. 2023, 2.2)."""
    said = f" {normal(output)} "
    return float(any(f" {normal(answer)} " in said for answer in answers))


def first_words(text: str) -> str:
    """The words before the first punctuation or line break, in lower case, without the article.

    These words complete a sentence that the prompt begins.
    """
    words = re.split(rf"[{re.escape(string.punctuation)}“”‘’…–—\n]", text, maxsplit=1)[0]
    return re.sub(r"^(a|an|the)\s+", "", words.strip().lower())


def option(output: str, options: Sequence[str]) -> str | None:
    """The option that an output chooses; None if the output shows no choice.

    It is the option whose letter comes first, in parentheses or at the beginning; without a letter,
    the option that has most words in common with the output.
    """
    letters = "ABCDEFGH"[: len(options)]
    found = re.search(rf"\(([{letters}])\)|^\W*([{letters}])\b", output)
    if found:
        return options[letters.index(found[1] or found[2])]
    said = normal(output).split()
    shares = [overlap(said, normal(one).split()) for one in options]
    best = max(range(len(options)), key=lambda number: shares[number])
    return options[best] if shares[best] else None


# the best option by likelihood, as the LM Evaluation Harness counts: its acc_norm and its acc
BY_LENGTH, LIKELIHOOD = "likelihood, by length", "likelihood"


def likelihood(sums: Sequence[float], options: Sequence[str], right: str) -> dict[str, float]:
    """Whether the right option is the likeliest: for its length in characters, and as a whole.

    Args:
        sums: the log-likelihood of each option, summed over its tokens.
        options: the texts of the options.
        right: the right option.
    """
    scores = {
        BY_LENGTH: [one / max(1, len(text)) for one, text in zip(sums, options, strict=True)],
        LIKELIHOOD: sums,
    }
    return {
        name: float(options[max(range(len(values)), key=values.__getitem__)] == right)
        for name, values in scores.items()
    }


def wilson_interval(correct: int, cases: int) -> tuple[float, float]:
    """95 % confidence interval of a share (Wilson's, which stays inside 0 and 1)."""
    z = 1.959964
    share = correct / cases
    middle = share + z * z / (2 * cases)
    half = z * (share * (1 - share) / cases + z * z / (4 * cases * cases)) ** 0.5
    scale = 1 + z * z / cases
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)
