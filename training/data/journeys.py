"""Stories of people who carry things from room to room, made up in the words of bAbI.

The stories belong to the world of bAbI's tasks 1 to 3 (J. Weston et al. 2015, arXiv:1502.05698):
somebody goes to a room, takes something there, carries it about and leaves it. The answers follow
from the statements. The stories replace a training file that is missing (many copies of the set
lack task 3, which is large), and they can have any length.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable

from eval.corpora.stories import Asked, Story

PEOPLE = ("Daniel", "John", "Mary", "Sandra")
ROOMS = ("bathroom", "bedroom", "garden", "hallway", "kitchen", "office")
THINGS = ("apple", "football", "milk")
# all words of the release; its generator has fewer
GO = ("journeyed", "moved", "travelled", "went", "went back")
GET = ("got", "grabbed", "picked up", "took")
DROP = ("discarded", "dropped", "left", "put down")
# relative frequency of going, taking and leaving where possible: in two thirds of the statements
# somebody goes, as in the training stories of task 2
WEIGHTS = (5, 12, 3)
THERE = 0.4  # share of the sentences about a thing that end in "there"
STATEMENTS = (8, 80)
QUESTIONS = 6  # about one story, at most
EARLIER = 0.25  # share of the questions of task 3 that are not about the last move of a thing


class Told:
    """The state of the world as the statements so far tell it.

    Attributes:
        place: the room of each person who went somewhere.
        carried: the person who has a thing.
        ways: the rooms in which each thing has been; None for a room that was not told.
    """

    def __init__(self) -> None:
        self.place: dict[str, str] = {}
        self.carried: dict[str, str] = {}
        self.ways: dict[str, list[str | None]] = defaultdict(list)

    def go(self, person: str, room: str) -> None:
        """Somebody goes to a room, with all that they carry."""
        self.place[person] = room
        for thing, carrier in self.carried.items():
            if carrier == person:
                self._come(thing, room)

    def get(self, person: str, thing: str) -> None:
        """Somebody takes a thing, where they are."""
        self.carried[thing] = person
        self._come(thing, self.place.get(person))

    def drop(self, thing: str) -> None:
        """A thing is left where it is."""
        del self.carried[thing]

    def _come(self, thing: str, room: str | None) -> None:
        way = self.ways[thing]
        if not way or way[-1] != room:
            way.append(room)


def _where_is_somebody(told: Told, rng: random.Random) -> tuple[str, str] | None:
    if not told.place:
        return None
    person = rng.choice(sorted(told.place))
    return f"Where is {person}?", told.place[person]


def _where_is_something(told: Told, rng: random.Random) -> tuple[str, str] | None:
    known = {thing: room for thing, way in told.ways.items() if (room := way[-1])}
    if not known:
        return None
    thing = rng.choice(sorted(known))
    return f"Where is the {thing}?", known[thing]


def _where_was_it_before(told: Told, rng: random.Random) -> tuple[str, str] | None:
    """Asks for the room before another one, on the last way of the thing to that room."""
    last: list[tuple[str, str, str]] = []
    earlier: list[tuple[str, str, str]] = []
    for thing, way in sorted(told.ways.items()):
        seen: set[str | None] = set()
        for back, (before, room) in enumerate(zip(way[-2::-1], way[:0:-1], strict=True)):
            if before and room and room not in seen:
                (earlier if back else last).append((thing, room, before))
            seen.add(room)
    some = earlier if earlier and (not last or rng.random() < EARLIER) else last
    if not some:
        return None
    thing, room, before = rng.choice(some)
    return f"Where was the {thing} before the {room}?", before


ASK: dict[str, Callable[[Told, random.Random], tuple[str, str] | None]] = {
    "qa1": _where_is_somebody,
    "qa2": _where_is_something,
    "qa3": _where_was_it_before,
}


def journey(task: str, rng: random.Random, statements: tuple[int, int] = STATEMENTS) -> Story:
    """One story, with questions of one task at places drawn at random, none twice.

    Args:
        task: "qa1", "qa2" or "qa3".
        rng: draws everything.
        statements: least and most statements.
    """
    while True:
        count = rng.randint(*statements)
        places = set(rng.sample(range(1, count + 1), min(count, QUESTIONS)))
        story = _journey(ASK[task], rng, count, places)
        if story.asked:
            return story


def _journey(
    ask: Callable[[Told, random.Random], tuple[str, str] | None],
    rng: random.Random,
    count: int,
    places: set[int],
) -> Story:
    told = Told()
    # the true places, which the statements tell bit by bit
    place = {one: rng.choice(ROOMS) for one in PEOPLE + THINGS}
    statements: list[str] = []
    asked: dict[tuple[str, str], Asked] = {}
    while len(statements) < count:
        person = rng.choice(PEOPLE)
        free = [
            thing for thing in THINGS if thing not in told.carried and place[thing] == place[person]
        ]
        held = [thing for thing in THINGS if told.carried.get(thing) == person]
        kind = rng.choices(("go", "get", "drop"), WEIGHTS)[0]
        there = " there" if rng.random() < THERE else ""
        if kind == "go":
            room = rng.choice([room for room in ROOMS if room != place[person]])
            told.go(person, room)
            for one in (person, *held):
                place[one] = room
            statements.append(f"{person} {rng.choice(GO)} to the {room}.")
        elif kind == "get" and free:
            thing = rng.choice(free)
            told.get(person, thing)
            statements.append(f"{person} {rng.choice(GET)} the {thing}{there}.")
        elif kind == "drop" and held:
            thing = rng.choice(held)
            told.drop(thing)
            statements.append(f"{person} {rng.choice(DROP)} the {thing}{there}.")
        else:
            continue
        if len(statements) in places and (found := ask(told, rng)) is not None:
            asked.setdefault(found, Asked(len(statements), *found))
    return Story(tuple(statements), tuple(asked.values()))
