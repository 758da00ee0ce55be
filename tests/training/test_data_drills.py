"""Drills: every answer is what was told last, or that nothing was."""

from __future__ import annotations

import itertools
import re

import pytest

from eval.corpora.people import KINDS, NAMES
from training.data.drills import DRILLS, NEVER_TOLD, UNKNOWN, keys, updates

ABOUT = {drill.asked.format(key=key): (drill, key) for drill in DRILLS for key in drill.keys}


def pattern(form, key):
    """A told fact about one key, with the value in a group."""
    return re.escape(form.format(key=key, value="VALUE")).replace("VALUE", r"(\w+)")


def tellings(question, text):
    """All a text says about what is asked, by the forms alone: (place, value, whether again)."""
    drill, key = ABOUT[question]
    return sorted(
        (found.start(), found[1], form == drill.again)
        for form in (drill.told, drill.again)
        for found in re.finditer(rf"(?<![\w-]){pattern(form, key)}", text)
    )


def last_told(question, text):
    """What a text says last about what is asked; None if it says nothing."""
    told = tellings(question, text)
    return told[-1][1] if told else None


@pytest.mark.parametrize("made", [keys, updates])
def test_answers_are_what_was_told_last_before_the_question(made):
    unknown = count = changed = 0
    for record in made(60, seed=4):
        assert 0 < len(record.questions) <= 8
        for asked in record.questions:
            before = last_told(asked.question, record.text[: asked.after])
            assert asked.answer == (before or UNKNOWN)
            count += 1
            unknown += asked.answer == UNKNOWN
            changed += before is not None and before != last_told(asked.question, record.text)
    assert 0.75 * NEVER_TOLD < unknown / count < 1.25 * NEVER_TOLD
    # some facts change after they were asked about, but only in one kind of drill
    assert (changed > 0) == (made is updates)


def test_what_is_told_again_has_another_value_and_is_told_as_such():
    for record in updates(60):
        for asked in record.questions:
            told = tellings(asked.question, record.text)
            assert [again for _, _, again in told] == [number > 0 for number in range(len(told))]
            values = [value for _, value, _ in told]
            assert all(one != other for one, other in itertools.pairwise(values))


def test_updates_are_conversations_and_keys_are_texts():
    (listed,) = keys(1)
    assert isinstance(listed.document, str)
    for record in updates(10):
        roles = [role for role, _ in record.document]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        ends = {0}
        for _, content in record.document:
            ends.add(max(ends) + len(content))
        assert {one.after for one in record.questions} <= ends


def test_the_number_of_facts_is_the_one_asked_for():
    for record in keys(20, facts=(5, 5)):
        assert len(re.findall(r"\.(?:\s|$)", record.text)) == 5


@pytest.mark.parametrize("made", [keys, updates])
def test_the_same_seed_gives_the_same_drills(made):
    first, again, other = (list(made(5, seed)) for seed in (1, 1, 2))
    assert first == again != other


def test_no_word_is_one_of_the_evaluation():
    evaluated = {name.lower() for name in NAMES}
    evaluated |= {value.lower() for kind in KINDS for value in kind.values}
    used = {
        word.lower()
        for record in [*keys(200), *updates(200)]
        for word in re.findall(r"\w+", record.text)
    }
    assert used & evaluated == set()
