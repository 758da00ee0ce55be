"""Stories made up in the words of bAbI: every answer follows from what was told."""

from __future__ import annotations

import random
import re

import pytest

from training.data.journeys import DROP, EARLIER, GET, GO, PEOPLE, ROOMS, THINGS, Told, journey
from training.data.maps import OPPOSITE, STEPS, room_map

GOES = re.compile(rf"(\w+) (?:{'|'.join(GO)}) to the (\w+)\.")
GETS = re.compile(rf"(\w+) (?:{'|'.join(GET)}) the (\w+)(?: there)?\.")
DROPS = re.compile(rf"(\w+) (?:{'|'.join(DROP)}) the (\w+)(?: there)?\.")


def place_of_thing(statements: tuple[str, ...], thing: str) -> str | None:
    """By reading backwards: who had it last, and where they were until they let go of it."""
    last = [at for at, one in enumerate(statements) if f" the {thing}" in one]
    if not last:
        return None
    at = last[-1]
    holder = statements[at].split()[0]
    known = statements if GETS.fullmatch(statements[at]) else statements[:at]
    went = [GOES.fullmatch(one) for one in known]
    rooms = [one[2] for one in went if one and one[1] == holder]
    return rooms[-1] if rooms else None


def way_of_thing(statements: tuple[str, ...], thing: str) -> list[str | None]:
    """Its place after each statement from the first about it on, the same ones once."""
    way: list[str | None] = []
    for count in range(1, len(statements) + 1):
        told = statements[:count]
        if any(f" the {thing}" in one for one in told):
            place = place_of_thing(told, thing)
            if not way or way[-1] != place:
                way.append(place)
    return way


@pytest.mark.parametrize("seed", range(30))
def test_answers_of_journeys_follow_from_the_statements(seed):
    rng = random.Random(seed)
    story = journey("qa1", rng)
    for asked in story.asked:
        person = asked.question[9:-1]
        went = [GOES.fullmatch(one) for one in story.statements[: asked.after]]
        assert [one[2] for one in went if one and one[1] == person][-1] == asked.answer
    story = journey("qa2", rng)
    for asked in story.asked:
        thing = asked.question[13:-1]
        assert place_of_thing(story.statements[: asked.after], thing) == asked.answer
    story = journey("qa3", rng)
    for asked in story.asked:
        thing, room = re.fullmatch(
            r"Where was the (\w+) before the (\w+)\?", asked.question
        ).groups()
        way = way_of_thing(story.statements[: asked.after], thing)
        latest = len(way) - 1 - way[::-1].index(room)
        assert latest > 0 and way[latest - 1] == asked.answer


def test_a_way_is_that_of_its_carriers():
    told = Told()
    told.get("Mary", "milk")  # nobody knows where
    told.go("Mary", "office")
    told.go("John", "garden")
    told.go("Mary", "garden")
    told.drop("milk")
    told.go("Mary", "kitchen")
    told.get("John", "milk")
    told.go("John", "hallway")
    assert told.ways["milk"] == [None, "office", "garden", "hallway"]


@pytest.mark.parametrize("seed", range(20))
def test_a_journey_can_happen(seed):
    """Nobody takes what another has, or leaves what they have not; nobody goes where they are."""
    story = journey("qa2", random.Random(seed))
    carried: dict[str, str] = {}
    place: dict[str, str] = {}
    for one in story.statements:
        if found := GOES.fullmatch(one):
            person, room = found.groups()
            assert person in PEOPLE and room in ROOMS and place.get(person) != room
            place[person] = room
        elif found := GETS.fullmatch(one):
            person, thing = found.groups()
            assert person in PEOPLE and thing in THINGS and thing not in carried
            carried[thing] = person
        else:
            person, thing = DROPS.fullmatch(one).groups()
            assert carried.pop(thing) == person


def test_journeys_are_of_the_length_asked_for_and_ask_nothing_twice():
    rng = random.Random(0)
    for _ in range(50):
        story = journey("qa3", rng, (10, 20))
        assert 10 <= len(story.statements) <= 20
        pairs = [(asked.question, asked.answer) for asked in story.asked]
        assert 1 <= len(pairs) == len(set(pairs))
        assert all(1 <= asked.after <= len(story.statements) for asked in story.asked)


def test_some_questions_are_about_an_earlier_move():
    rng = random.Random(1)
    last, earlier = 0, 0
    for _ in range(100):
        story = journey("qa3", rng)
        for asked in story.asked:
            thing, room = re.findall(r"the (\w+)", asked.question)
            if way_of_thing(story.statements[: asked.after], thing)[-1] == room:
                last += 1
            else:
                earlier += 1
    assert EARLIER * 0.3 < earlier / (last + earlier) < EARLIER * 2


@pytest.mark.parametrize("seed", range(30))
def test_answers_of_maps_follow_from_the_statements(seed):
    story = room_map(random.Random(seed))
    told = [re.fullmatch(r"The (\w+) is (\w+) of the (\w+)\.", one) for one in story.statements]
    facts = {(found[2], found[3]): found[1] for found in told}
    facts |= {(OPPOSITE[found[2]], found[1]): found[3] for found in told}
    assert len(facts) == 2 * len(story.statements)  # no statement against another
    assert 3 <= len(story.statements) <= 5 and {found[2] for found in told} <= STEPS.keys()
    assert len({asked.question for asked in story.asked}) == len(story.asked) == 4
    for asked in story.asked:
        assert asked.after == len(story.statements)
        if found := re.fullmatch(r"What is (\w+) of the (\w+)\?", asked.question):
            assert facts[found[1], found[2]] == asked.answer
        else:
            room, side = re.fullmatch(r"What is the (\w+) (\w+) of\?", asked.question).groups()
            assert facts[OPPOSITE[side], room] == asked.answer


def test_the_same_seed_makes_the_same_stories():
    for make in (room_map, lambda rng: journey("qa3", rng)):
        assert make(random.Random(4)) == make(random.Random(4)) != make(random.Random(5))
