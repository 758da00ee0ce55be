"""Drill: facts about people, told, changed since, or never told."""

from __future__ import annotations

import re

from eval.corpora import people
from eval.corpora.idle_talk import _TALK as TESTED
from training.data.acquaintances import MORE_NAMES, NAMES, TALK, acquaintances
from training.data.drills import UNKNOWN


def test_answers_are_the_newest_told_and_unknown_where_nothing_was_told():
    sorts = {"told": 0, "changed": 0, "never": 0}
    for record in acquaintances(60, seed=3):
        text = " ".join(content for _, content in record.document)
        for one in record.questions:
            if one.answer == UNKNOWN:
                sorts["never"] += 1
                continue
            places = [match.start() for match in re.finditer(re.escape(one.answer), text)]
            assert places, one
            sorts["told"] += 1
        said = [content for _, content in record.document]
        for number, turn in enumerate(said):
            # whoever has news was told about before
            if match := re.search(r"(?:Now|These days|As of today,) (.+)\.", turn):
                name = next((w for w in match[1].split() if w[:1].isupper()), None)
                assert name is None or any(name in before for before in said[:number])
                sorts["changed"] += 1
    assert min(sorts.values()) > 30, sorts
    assert 0.2 < sorts["never"] / (sorts["never"] + sorts["told"]) < 0.45


def test_a_person_who_is_asked_about_was_mentioned():
    for record in acquaintances(20, seed=4):
        text = " ".join(content for _, content in record.document)
        for one in record.questions:
            names = [word.strip("?'s,.") for word in one.question.split()[1:] if word[:1].isupper()]
            assert any(name in text for name in names), one


def test_no_word_of_the_tests_is_learned_and_seeds_repeat():
    assert not {*NAMES, *MORE_NAMES} & set(people.NAMES)
    statements = {kind.statement for kind in people.KINDS}
    assert not any(one.partition("{name}")[2].strip() in str(list(acquaintances(5)))
                   for one in statements if len(one) > 24)  # fmt: skip
    assert not set(TALK) & set(TESTED)
    assert list(acquaintances(5, seed=1)) == list(acquaintances(5, seed=1))
    assert list(acquaintances(5, seed=1)) != list(acquaintances(5, seed=2))
