"""More kinds of facts to train with, beside those of `eval.recipe`; none is in `eval.recall`."""

from __future__ import annotations

from eval.people import Kind

MORE_KINDS = (
    Kind(
        "The name of the sister of {name} is",
        "What is the name of the sister of {name}?",
        "Alice Clara Diana Edith Fiona Grace Hannah Irene Judith Martha Nora Sylvia".split(),
    ),
    Kind(
        "{name} painted the door",
        "In which color did {name} paint the door?",
        "crimson turquoise beige maroon navy lilac olive cream".split(),
    ),
    Kind(
        "In the garden of {name} there is a",
        "What is there in the garden of {name}?",
        "pond fountain swing statue bench shed greenhouse maze well".split(),
    ),
    Kind(
        "For the holidays {name} goes to the",
        "Where does {name} go for the holidays?",
        "beach mountains desert lake forest island countryside valley".split(),
    ),
    Kind(
        "{name} is afraid of",
        "What is {name} afraid of?",
        "spiders heights thunder dogs darkness ghosts fire crowds".split(),
    ),
    Kind(
        "{name} bought a new",
        "What did {name} buy?",
        "lamp table chair mirror carpet clock sofa desk oven fridge".split(),
    ),
    Kind(
        "The number of the house of {name} is",
        "What is the number of the house of {name}?",
        "seven eleven twelve fifteen twenty thirty forty fifty sixty".split(),
    ),
    Kind(
        "Last summer {name} learned",
        "What did {name} learn last summer?",
        "swimming sailing surfing knitting boxing fencing skating dancing climbing".split(),
    ),
    Kind(
        "The car of {name} was made by",
        "Who made the car of {name}?",
        "Ford Toyota Honda Volvo Fiat Tesla Nissan Mazda".split(),
    ),
    Kind(
        "The doctor told {name} to eat more",
        "What should {name} eat more of?",
        "spinach carrots apples nuts berries lentils garlic yogurt".split(),
    ),
)
