"""Drill: facts about people, told, changed since, or never told."""

from __future__ import annotations

import random
import re

from eval.corpora import people
from eval.corpora.idle_talk import _TALK as TESTED
from training.data.acquaintances import (
    CHANGES,
    MORE_NAMES,
    NAMES,
    OWN_KINDS,
    RELATIONS,
    TALK,
    _news,
    _own,
    acquaintances,
)
from training.data.drills import UNKNOWN


def test_an_answer_stands_in_its_passage_in_a_word_or_at_the_end_of_a_sentence():
    short = long = never = 0
    for record in acquaintances(60, seed=3):
        for one in record.questions:
            if one.alone:
                continue
            if one.answer == UNKNOWN:
                assert one.passage is None
                never += 1
                continue
            passage = record.text[slice(*one.passage)]
            assert passage in [content for _, content in record.document]
            if one.instruction:
                assert one.answer in passage and not one.answer.endswith(".")
                short += 1
            else:
                assert one.answer.endswith(".") and one.answer.split()[-1].strip(".") in passage
                long += 1
    assert min(short, long, never) > 60
    assert 0.4 < never / (short + long + never) < 0.6


def test_of_what_changed_the_newest_is_the_answer():
    told = [_own(kind, random.Random(1)) for kind in OWN_KINDS]
    for one in told:
        news = _news(one, random.Random(2))
        assert news.value != one.value and news.about == one.about
        assert one.sentence.replace(one.value, news.value) == news.sentence
        assert news.value in news.answer and one.value not in news.answer.split()
    for record in acquaintances(20, seed=5):
        text = record.text
        for one in record.questions:
            if one.answer != UNKNOWN and one.question == "What is my name?":
                # nothing after the passage gives another name
                assert "y name is" not in text[one.passage[1] :]
                assert "y name is" in text[slice(*one.passage)]


def test_what_is_told_at_the_end_is_neither_answered_nor_refused():
    changes = 0
    for record in acquaintances(60, seed=3):
        remarks = [one for one in record.questions if one.alone]
        assert 2 <= len(remarks) <= 4
        for one in remarks:
            assert one.question.endswith(".") and one.passage is None
            said, known = one.question.strip(".").split(), one.answer.strip(".").split()
            assert known[:4] == ["I", "will", "remember", "that"]
            # its last word is repeated, and nothing else stands there
            assert said[-1] in known or "in spring" in one.question
            changes += any(change in one.question for change in CHANGES.values())
    assert changes > 5


def test_whoever_is_asked_about_was_mentioned_or_is_the_user():
    for record in acquaintances(20, seed=4):
        text = record.text.lower()
        for one in [one for one in record.questions if not one.alone]:
            words = [word.strip("?'s,.") for word in one.question.split()[1:]]
            named = [word for word in words if word[:1].isupper() and word != "I"]
            related = [one for one in re.findall(r"my (\w+)", one.question) if one in RELATIONS]
            assert not named or any(name.lower() in text for name in named), one
            assert all(f"my {relation}" in text for relation in related), one


def test_no_word_of_the_tests_is_learned_and_seeds_repeat():
    assert not {*NAMES, *MORE_NAMES} & set(people.NAMES)
    assert not {kind[1] for kind in OWN_KINDS} & {kind.question for kind in people.KINDS}
    assert not set(TALK) & set(TESTED)
    assert list(acquaintances(5, seed=1)) == list(acquaintances(5, seed=1))
    assert list(acquaintances(5, seed=1)) != list(acquaintances(5, seed=2))
