"""Sessions of one user: facts are said, and asked about in a later session."""

from __future__ import annotations

import itertools
import json

import pytest

from eval.corpora.jsonl import BadRecord
from training.data.dialogues import Dialogue, conversations, dialogue, fact, read_dialogues

# every dialogue has a fact of its own; the first two clash in what they say besides
PERSONAS = (
    "My favorite color is navy blue.",
    "I have three dogs.",
    "I live in alaska.",
    "I drive a bmw.",
    "I am afraid of heights.",
    "I have a pet turtle.",
)


def dialogues():
    return [
        Dialogue((persona, "I will never tell."), (f"Hello {number}.", "Hi!", "So long.", "Bye."))
        for number, persona in enumerate(PERSONAS)
    ]


def asked_and_told(record):
    """Each question with what the user said before it."""
    ends = list(itertools.accumulate(len(content) for _, content in record.document))
    for one in record.questions:
        count = ends.index(one.after) + 1
        yield one, record.document[:count]


@pytest.mark.parametrize(
    ("sentence", "question", "answer"),
    [
        ("My favourite music is country music.", "What is my favorite music?", "country music"),
        ("My favorite colors are red and gray.", "What are my favorite colors?", "red and gray"),
        ("Gymnastics is my favorite sport.", "What is my favorite sport?", "Gymnastics"),
        ("I am 24 years old.", "How old am I?", "24"),
        ("I am four.", "How old am I?", "four"),
        ("I have two dogs.", "How many dogs do I have?", "two"),
        ("I own three old barns.", "How many old barns do I have?", "three"),
        ("I have three children.", "How many children do I have?", "three"),
        ("I have a pet cow.", "What kind of pet do I have?", "cow"),
        ("I have a black goat named rolf.", "What is the name of my black goat?", "rolf"),
        ("My father was a farmer.", "What was the job of my father?", "a farmer"),
        ("I am a school teacher.", "What is my job?", "a school teacher"),
        ("I work as a bus driver.", "What is my job?", "a bus driver"),
        ("I work at a bank.", "Where do I work?", "at a bank"),
        ("I now live in the city.", "Where do I live?", "in the city"),
        ("I was born in somalia.", "Where was I born?", "in somalia"),
        ("I grew up on a farm.", "Where did I grow up?", "on a farm"),
        ("I drive a mini van.", "What do I drive?", "a mini van"),
        ("I also like to cook stew.", "What do I like to cook?", "stew"),
        ("I love playing softball.", "What do I love playing?", "softball"),
        ("I am terribly afraid of bees.", "What am I afraid of?", "bees"),
        ("My name is george.", "What is my name?", "george"),
        ("When i grow up i want to be a cook.", "What do I want to be?", "a cook"),
        ("I have short brown hair.", "What does my hair look like?", "short brown hair"),
        (
            "I play the violin and the flute.",
            "Which instrument do I play?",
            "the violin and the flute",
        ),  # fmt: skip
    ],
)
def test_sentences_become_questions_that_they_answer(sentence, question, answer):
    found = fact(sentence)
    assert (found.question, found.answer) == (question, answer)
    assert found.answer in found.sentence and found.topic.search(found.sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "I have never been out of ohio.",
        "I am a boy.",
        "I am a retired nurse.",
        "I have one older sister.",
        "I was born in the early 80 s.",
        "I like to play with my dolls.",
        "I love cooking but i also enjoy fishing.",
        "My favorite band is up and i got to see them in concert once.",
        "I live in a house with more rooms than anybody could need.",
    ],
)
def test_sentences_that_fit_no_pattern_or_go_on_are_not_asked_about(sentence):
    assert fact(sentence) is None


def test_facts_are_told_by_the_user_and_asked_in_a_later_session():
    found = list(conversations(dialogues(), documents=40, seed=3, sessions=(3, 5)))
    assert len(found) == 40 and [record.id for record in found[:2]] == [
        "dialogues/0",
        "dialogues/1",
    ]
    for record in found:
        roles = [role for role, _ in record.document]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        assert 12 <= len(roles) <= 20 and record.questions
        for asked, before in asked_and_told(record):
            places = [
                place
                for place, (role, content) in enumerate(before)
                if role == "user" and asked.answer in content
            ]
            assert places and len(before) % 4 == 0  # at the end of a session of four messages
            assert places[0] // 4 < len(before) // 4 - 1  # and not of that where it was told


def test_nothing_of_the_last_session_is_asked():
    for record in conversations(dialogues(), documents=20, sessions=(2, 2)):
        assert all(one.after == len(record.text) for one in record.questions)
        assert len(record.questions) == 1


def test_questions_that_something_else_might_answer_are_left_out():
    pool = [
        Dialogue((PERSONAS[0],), ("Hi.", "Hi.")),
        Dialogue(("My favorite color is red.",), ("Hi.", "Hi.")),
        Dialogue((PERSONAS[2],), ("My dogs bark.", "Do they?")),
    ]
    for record in conversations(pool, documents=30, sessions=(3, 3)):
        said = [content for role, content in record.document if role == "user"]
        assert len(record.questions) <= 2
        for asked, before in asked_and_told(record):
            if "color" in asked.question:
                colors = sum("color" in content for role, content in before)
                assert colors == 1 and any(asked.answer in content for content in said)


def test_the_same_seed_gives_the_same_conversations():
    first, again, other = (list(conversations(dialogues(), 5, seed, (3, 5))) for seed in (1, 1, 2))
    assert first == again != other


def test_lines_become_turns():
    lines = [
        "User 2: Too early.",
        "User 1: Hi!",
        "* User 1: It's me.*",
        "[later]",
        "User 2:",
        "**User 2:** Hello: you?",
        "User 1: Bye.",
    ]
    found = dialogue(["I am four."], lines)
    assert found == Dialogue(("I am four.",), ("Hi! It's me.", "Hello: you?"))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["User 1: Anyone?"],
        ["User 1: I'm [name].", "User 2: Hello!"],
        ["User 1: Hi.", "User 2: I am (user 2's name)."],
    ],
)
def test_dialogues_that_were_never_finished_are_left_out(lines):
    assert dialogue(["I am four."], lines) is None


def test_a_local_copy_is_read(tmp_path):
    path = tmp_path / "valid.jsonl"
    row = {"persona_1": ["I am four."], "conversation": ["User 1: Hi!", "User 2: Hello!"]}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"conversation": []}) + "\n")
    assert list(read_dialogues(path)) == [Dialogue(("I am four.",), ("Hi!", "Hello!"))]
    path.write_text(json.dumps(row | {"persona_1": "I am four."}))
    with pytest.raises(BadRecord, match="line 1: persona_1 must be a list; got 'I am four"):
        list(read_dialogues(path))


def test_too_few_dialogues_get_a_sentence():
    pool = [*dialogues()[:2], Dialogue(("I am a boy.",), ("Hi.", "Hi."))]
    with pytest.raises(BadRecord, match="takes up to 8 dialogues .* there are 2"):
        next(conversations(pool, 1))
