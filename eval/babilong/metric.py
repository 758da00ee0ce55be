"""BABILong's metric, its quirks kept: which answers count as right.

Rewritten from the rules of `babilong/metrics.py` in https://github.com/booydar/babilong (Kuratov
et al. 2024, arXiv:2406.10149), so that figures compare with the leaderboard's. It knows nothing of
models, stories or files.
"""

from __future__ import annotations

_PLACES = frozenset({"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"})
_YES_NO = frozenset({"yes", "no"})
# of each task, in lower case: all that it takes for an answer
LABELS: dict[str, frozenset[str]] = {
    **dict.fromkeys(("qa1", "qa2", "qa3", "qa4"), _PLACES),
    "qa5": frozenset({"bill", "fred", "jeff", "mary", "apple", "football", "milk"}),
    "qa6": _YES_NO,
    "qa7": frozenset({"none", "one", "two", "three"}),
    "qa8": frozenset({"apple", "football", "milk", "nothing"}),
    "qa9": _YES_NO,
    "qa10": _YES_NO | {"maybe"},
    **dict.fromkeys(("qa11", "qa12", "qa13"), _PLACES),
    "qa14": frozenset({"bedroom", "cinema", "kitchen", "office", "park", "school"}),
    "qa15": frozenset({"cat", "mouse", "sheep", "wolf"}),
    "qa16": frozenset({"gray", "green", "white", "yellow"}),
    **dict.fromkeys(("qa17", "qa18"), _YES_NO),
    # a way is never there and back
    "qa19": frozenset(
        f"{first},{second}"
        for first in "nesw"
        for second in "nesw"
        if first + second not in {"ns", "sn", "ew", "we"}
    ),
    "qa20": frozenset({"bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"}),
}
# a pair of qa8 is longer than this, a pair of qa19 is not
_LONGEST_DIRECTIONS = 3
# the tasks that the leaderboard averages
HEADLINE = ("qa1", "qa2", "qa3", "qa4", "qa5")
# tasks that no average may hold, and why
LEFT_OUT = {
    "qa7": "the metric looks for 'one' inside 'none', so that no answer is right where 'none' is"
}


def score(task: str, output: str, target: str, question: str) -> bool:
    """Whether the official metric takes an answer for right.

    The labels that occur in the output's first sentence, without those that occur in the question,
    must be the target and nothing else; for a list of qa8, all its members in any order.

    Args:
        task: `qa1` to `qa20`.
        output: what was generated.
        target: the answer of the data set; members of a list have commas between them.
        question: as it was asked.

    Raises:
        ValueError: no such task.
    """
    if task not in LABELS:
        raise ValueError(f"There is no task {task!r}; the tasks are qa1 to qa20.")
    # the official code also cuts at "Question", which never occurs in lower case: nothing to do
    said = output.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    target, question = target.lower(), question.lower()
    found = {label for label in LABELS[task] if label in said and label not in question}
    if "," in target and len(target) > _LONGEST_DIRECTIONS:
        wanted = target.split(",")
        return len(found) == len(wanted) and found.issuperset(wanted)
    return found == {target}
