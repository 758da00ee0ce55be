"""BABILong's metric with its quirks: the rule by which an answer counts as right.

Rewritten from the rules of `babilong/metrics.py` in https://github.com/booydar/babilong (Kuratov
et al. 2024, arXiv:2406.10149), so that figures compare with the leaderboard's. This file knows
no model, no story and no file.
"""

from __future__ import annotations

_PLACES = frozenset({"bathroom", "bedroom", "garden", "hallway", "kitchen", "office"})
_YES_NO = frozenset({"yes", "no"})
# all answers that a task knows, in lower case
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
    # no route goes back to where it came from
    "qa19": frozenset(
        f"{first},{second}"
        for first in "nesw"
        for second in "nesw"
        if first + second not in {"ns", "sn", "ew", "we"}
    ),
    "qa20": frozenset({"bedroom", "bored", "garden", "hungry", "kitchen", "thirsty", "tired"}),
}
# characters of a pair of directions (qa19); a list of things (qa8) is longer
_LONGEST_DIRECTIONS = 3
# the tasks that the leaderboard averages
HEADLINE = ("qa1", "qa2", "qa3", "qa4", "qa5")
# tasks that belong in no average, with the reason
LEFT_OUT = {
    "qa7": "the metric looks for 'one' inside 'none', so that no answer is right where 'none' is"
}


def score(task: str, output: str, target: str, question: str) -> bool:
    """Whether the official metric counts an answer as right.

    The labels that occur in the output's first sentence, without those that occur in the question,
    must be the target and nothing else; for a list of qa8, all its members in any order.

    Args:
        task: `qa1` to `qa20`.
        output: the generated text.
        target: the answer of the data set; members of a list have commas between them.
        question: the text of the question.

    Raises:
        ValueError: the task does not exist.
    """
    if task not in LABELS:
        raise ValueError(f"There is no task {task!r}; the tasks are qa1 to qa20.")
    # the official code also cuts at "Question", which never occurs in a lower-case text
    said = output.lower().split(".")[0].split("<context>")[0].split("<example>")[0]
    target, question = target.lower(), question.lower()
    found = {label for label in LABELS[task] if label in said and label not in question}
    if "," in target and len(target) > _LONGEST_DIRECTIONS:
        wanted = target.split(",")
        return len(found) == len(wanted) and found.issuperset(wanted)
    return found == {target}
