"""People and kinds of facts for development and training.

No benchmark asks about them: `eval/corpora/people.py` holds the people and kinds of the tests.
"""

from __future__ import annotations

from eval.corpora.people import Kind

NAMES = (
    "Robert Linda Michael Susan David Karen Richard Nancy Steven Betty Brian Helen Kevin Laura "
    "Jason Emily Frank Rachel Gary Julia"
).split()
KINDS = (
    Kind(
        "{name} lives in",
        "Where does {name} live?",
        "Berlin Lisbon Cairo Oslo Lima Tokyo Dublin Madrid Vienna Athens Prague Seoul".split(),
    ),
    Kind(
        "{name} works as a",
        "What is the job of {name}?",
        "baker lawyer pilot nurse farmer tailor plumber chemist sailor teacher dentist".split(),
    ),
    Kind(
        "The favorite color of {name} is",
        "What is the favorite color of {name}?",
        "red blue green yellow purple orange pink brown black white gray gold".split(),
    ),
    Kind(
        "{name} has a pet",
        "What pet does {name} have?",
        "tiger rabbit horse eagle dolphin monkey camel snake whale goat duck wolf".split(),
    ),
    Kind(
        "{name} likes to eat",
        "What does {name} like to eat?",
        "pizza soup rice fish bread cheese salad pasta cake eggs beans corn".split(),
    ),
    Kind(
        "{name} plays the",
        "What does {name} play?",
        "piano violin guitar drums flute harp trumpet organ".split(),
    ),
)
