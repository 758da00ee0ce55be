"""Maps of rooms, made up in the words of bAbI's task 4: which room is north of which?

The released task has few stories, and most of them are also test stories (J. Weston et al. 2015,
arXiv:1502.05698), so that few are left to train with. A story of the release has two statements;
these stories have more rooms, so that no story is one of the release.
"""

from __future__ import annotations

import random

from eval.corpora.stories import Asked, Story
from training.data.journeys import ROOMS

STATEMENTS = (3, 5)
QUESTIONS = 4  # about one story
STEPS = {"north": (0, 1), "south": (0, -1), "east": (1, 0), "west": (-1, 0)}
OPPOSITE = {"north": "south", "south": "north", "east": "west", "west": "east"}


def room_map(rng: random.Random) -> Story:
    """One story: how some rooms lie, then questions about rooms that were told to be neighbours.

    Args:
        rng: draws everything.
    """
    rooms = rng.sample(ROOMS, rng.randint(*STATEMENTS) + 1)
    cells = {rooms[0]: (0, 0)}
    statements, asked = [], []
    for room in rooms[1:]:
        known, side = rng.choice(
            [
                (one, side)
                for one, (x, y) in cells.items()
                for side, (dx, dy) in STEPS.items()
                if (x + dx, y + dy) not in cells.values()
            ]
        )
        (x, y), (dx, dy) = cells[known], STEPS[side]
        cells[room] = (x + dx, y + dy)
        one, other = room, known
        if rng.random() < 0.5:
            one, side, other = known, OPPOSITE[side], room
        statements.append(f"The {one} is {side} of the {other}.")
        asked += [
            (f"What is {side} of the {other}?", one),
            (f"What is {OPPOSITE[side]} of the {one}?", other),
            (f"What is the {one} {side} of?", other),
            (f"What is the {other} {OPPOSITE[side]} of?", one),
        ]
    rng.shuffle(statements)
    some = rng.sample(asked, QUESTIONS)
    return Story(tuple(statements), tuple(Asked(len(statements), *one) for one in some))
