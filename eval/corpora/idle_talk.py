"""Idle sentences of a user, between the facts of a chat."""

from __future__ import annotations

import random

_TALK = (
    "The rain has not stopped since {day}.",
    "I slept badly again, and the heating was off.",
    "My neighbour is painting the fence for the third time.",
    "Work was slow, so I left early on {day}.",
    "I tried to bake bread, and it came out flat.",
    "There was a queue of {number} people at the post office.",
    "The cat sat on my keyboard all of {day}.",
    "I watched a film about a lighthouse and fell asleep.",
    "The lift is broken, so I walked up {number} floors.",
    "On {day} I want to clear out the balcony.",
    "Somebody has planted tulips in front of the house.",
    "I counted {number} swans on the pond.",
)
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
_NUMBERS = "two three four five six seven eight nine".split()


def idle_talk(rng: random.Random, sentences: int) -> list[str]:
    """Sentences about nothing that a question asks about."""
    return [
        line.format(day=rng.choice(_DAYS), number=rng.choice(_NUMBERS))
        for line in rng.sample(_TALK, min(sentences, len(_TALK)))
    ]
