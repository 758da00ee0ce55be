"""Documents made of facts about people, and the chat turns that tell them and ask about them.

Benchmarks such as `eval.recall` use the names and kinds of fact in this file: never tune anything
on them. `training_facts.py` holds names and kinds for development and training.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

QUESTIONS = 6  # the most questions about one document
THANKS_FOR_FACTS = "Thank you, I will remember that."
THANKS_FOR_BOOK = "Thank you, I have read it."

NAMES = (
    "Anna Peter Maria Daniel Sarah Thomas Alice James Emma Henry Lucy Andrew Sophie Martin Clara "
    "Oliver Grace Simon Hannah Victor Olivia Albert Monica Oscar Irene Leo Sandra Philip Diana "
    "Walter Teresa Hugo Nora Samuel Eva Bruno Marta Felix Ruth Edward Carol George Lisa Patrick "
    "Amy Eric Carl Sylvia Ralph Ellen Roger Megan Dennis Cathy Stanley Paula Ivan Vera Max Iris "
    "Tony Doris Louis Joan Ben Molly Keith Angela Howard Judy Marcus Wendy Arthur Bridget Norman "
    "Stella Alan Rose Claire Elena Russell Tina"
).split()


@dataclass(frozen=True)
class Kind:
    """A kind of fact. The statement ends where the value begins, so it also starts the answer."""

    statement: str
    question: str
    values: list[str] = field(hash=False)


KINDS = (
    Kind(
        "{name} was born in",
        "In which month was {name} born?",
        "January February March April May June July August September October November "
        "December".split(),
    ),
    Kind(
        "{name} studies",
        "Which subject does {name} study?",
        "chemistry history physics biology law geography economics philosophy mathematics "
        "psychology medicine astronomy geology".split(),
    ),
    Kind(
        "{name} collects",
        "What does {name} collect?",
        "stamps coins shells dolls maps postcards clocks masks bottles marbles feathers posters "
        "magnets".split(),
    ),
    Kind(
        "{name} is travelling to",
        "To which country is {name} travelling?",
        "France Italy Spain Japan China India Brazil Egypt Mexico Canada Greece Norway Peru Kenya "
        "Poland Turkey".split(),
    ),
    Kind(
        "{name} keeps the key in the",
        "Where does {name} keep the key?",
        "drawer kitchen garage garden attic cellar desk cupboard basket pocket wallet shed jar "
        "vase".split(),
    ),
    Kind(
        "In the morning {name} drinks",
        "What does {name} drink in the morning?",
        "coffee tea milk water juice lemonade cocoa cider beer wine soda broth".split(),
    ),
    Kind(
        "For the birthday {name} wants a",
        "What does {name} want for the birthday?",
        "watch bicycle camera scarf kite book ring necklace telescope jacket puzzle lamp tent "
        "mirror".split(),
    ),
    Kind(
        "On the way home {name} lost a",
        "What did {name} lose on the way home?",
        "glove hat shoe phone ticket passport suitcase pencil notebook button belt coat purse "
        "bracelet".split(),
    ),
    Kind(
        "{name} is meeting friends at the",
        "Where is {name} meeting friends?",
        "library museum park station harbor market theater church bridge beach cinema stadium "
        "airport hospital".split(),
    ),
    Kind(
        "{name} gets to work by",
        "How does {name} get to work?",
        "bus train taxi tram boat car ferry subway truck motorcycle scooter helicopter".split(),
    ),
    Kind(
        "{name} is learning to speak",
        "Which language is {name} learning to speak?",
        "French German Spanish Italian Japanese Chinese Russian Arabic Portuguese Turkish Swedish "
        "Dutch Korean".split(),
    ),
)


@dataclass(frozen=True)
class Fact:
    """One person and one value."""

    name: str
    kind: Kind
    value: str

    @property
    def answer_prefix(self) -> str:
        """The beginning of the answer; the model completes the value."""
        return self.kind.statement.format(name=self.name)

    @property
    def sentence(self) -> str:
        """The sentence that tells the fact."""
        return f"{self.answer_prefix} {self.value}."

    def begun(self, lead: str) -> str:
        """The beginning of the sentence after a lead such as "These days ", with no value yet."""
        statement = self.answer_prefix
        if lead and not statement.startswith(self.name):
            statement = statement[0].lower() + statement[1:]
        return lead + statement

    @property
    def question(self) -> str:
        """The question that asks for the value."""
        return self.kind.question.format(name=self.name)


@dataclass(frozen=True)
class Document:
    """Facts, and the facts among them that are asked about."""

    number: int
    facts: Sequence[Fact]
    asked: Sequence[Fact]

    @property
    def told(self) -> str:
        """All facts as one text."""
        return " ".join(fact.sentence for fact in self.facts)


def make_documents(
    num_facts: int,
    cases: int,
    seed: int,
    names: Sequence[str] = NAMES,
    kinds: Sequence[Kind] = KINDS,
) -> list[Document]:
    """Documents with `num_facts` facts each and `cases` questions in all.

    The same arguments give the same documents, and more cases only append some. Names and values
    are all different within a document.

    Raises:
        ValueError: there are more facts than names.
    """
    if not 1 <= num_facts <= len(names):
        raise ValueError(f"facts must be between 1 and {len(names)}; got {num_facts}.")
    documents: list[Document] = []
    left = cases
    while left > 0:
        draws = random.Random(f"{seed}/{num_facts}/{len(documents)}")
        used: set[str] = set()
        facts = []
        for name in draws.sample(list(names), num_facts):
            kind = draws.choice([kind for kind in kinds if not used.issuperset(kind.values)])
            value = draws.choice([value for value in kind.values if value not in used])
            used.add(value)
            facts.append(Fact(name, kind, value))
        asked = draws.sample(facts, min(num_facts, QUESTIONS))[:left]
        left -= len(asked)
        documents.append(Document(len(documents), facts, asked))
    return documents


class Chat:
    """The turns as token ids, in the chat format of a tokenizer or, if it has none, as plain text.

    Raises:
        ValueError: the turns of the chat template cannot be taken apart.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        if tokenizer.chat_template is None:
            # the tokens that the tokenizer itself puts at the start of every text
            self.begin: list[int] = tokenizer("").input_ids
            self._facts, self._book = ("", "\n\n"), ("", "\n\n")
            self._first = self._next = ("Question: ", "\nAnswer: ")
            return
        self.begin = []  # the template writes these tokens
        marks = ("@facts@", "@book@", "@question@")
        turns = [
            {"role": "user", "content": marks[0]},
            {"role": "assistant", "content": THANKS_FOR_FACTS},
            {"role": "user", "content": marks[1]},
            {"role": "assistant", "content": THANKS_FOR_BOOK},
            {"role": "user", "content": marks[2]},
        ]
        render = tokenizer.apply_chat_template
        whole = render(turns, tokenize=False, add_generation_prompt=True)
        alone = render(turns[4:], tokenize=False, add_generation_prompt=True)
        # the text after the words of an assistant who speaks last is the end of a turn
        end = render(turns[:2], tokenize=False).partition(THANKS_FOR_FACTS)[2]
        parts = []
        for mark in (marks[0], THANKS_FOR_FACTS, marks[1], THANKS_FOR_BOOK, marks[2]):
            before, found, whole = whole.partition(mark)
            parts.append(before)
            if not found:
                raise ValueError(f"The chat template of the tokenizer drops the turn {mark!r}.")
        if not (parts[2].startswith(end) and parts[4].startswith(end)):
            raise ValueError("The chat template of the tokenizer ends a turn in different ways.")
        self._facts = (parts[0], parts[1] + THANKS_FOR_FACTS + end)
        self._book = (parts[2][len(end) :], parts[3] + THANKS_FOR_BOOK + end)
        self._next = (parts[4][len(end) :], whole)
        before, _, after = alone.partition(marks[2])
        self._first = (before, after)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; the names of special tokens become these tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids

    def facts(self, document: Document) -> list[int]:
        """The first turn: the facts, and thanks for them."""
        return self.begin + self.encode(document.told.join(self._facts))

    def told(self, ids: list[int]) -> list[int]:
        """A first turn that tells the given tokens."""
        return self.begin + self.encode(self._facts[0]) + ids + self.encode(self._facts[1])

    def book(self, ids: list[int]) -> list[int]:
        """The turn with book text; empty if there is no text."""
        return self.encode(self._book[0]) + ids + self.encode(self._book[1]) if ids else []

    def question(self, fact: Fact, *, first: bool) -> list[int]:
        """The turn with the question, up to where the value is expected.

        Args:
            fact: the fact that is asked about.
            first: whether the turn begins a chat, with the system message if the format has one.
        """
        before, after = self._first if first else self._next
        ids = self.encode(before + fact.question + after + fact.answer_prefix)
        return self.begin + ids if first else ids
