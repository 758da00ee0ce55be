"""People and kinds of facts to train with, beside those of `eval.corpora.training_facts`.

No name and no kind is in `eval.corpora.people`, which tests use. A head that is trained on few
kinds learns these kinds; a head that is trained on many learns their common features.
"""

from __future__ import annotations

from eval.corpora.people import Kind

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

_VALUES = {
    "place": "Boston Denver Geneva Naples Warsaw Lagos Havana Kyoto Bergen Porto Krakow Dakar",
    "color": "scarlet teal violet ivory silver golden khaki indigo",
    "number": "two three four five six nine ten fourteen sixteen eighteen ninety",
    "animal": "cat dog parrot turtle hamster pony hedgehog lizard",
    "person": "Alfred Bertha Conrad Dora Emil Flora Gustav Hilda Jonas Karla Ludwig Mina",
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "food": "honey noodles lamb mushrooms pumpkin tofu cabbage pears walnuts ham",
    "stuff": "wood stone glass steel brick copper marble leather wool silk",
    "mood": "happy sad tired angry calm bored proud nervous lonely curious",
    "thing": "hammer ladder blanket bucket pillow kettle broom rope spade helmet",
}
# statement, question, name of the values
_MORE = """
The boss of {name} is; Who is the boss of {name}?; person
The doctor of {name} is called; What is the doctor of {name} called?; person
The best friend of {name} is; Who is the best friend of {name}?; person
The dog of {name} is called; What is the dog of {name} called?; person
{name} is married to; Who is {name} married to?; person
The teacher of {name} is; Who is the teacher of {name}?; person
The office of {name} is in; Where is the office of {name}?; place
The parents of {name} live in; Where do the parents of {name} live?; place
{name} grew up in; Where did {name} grow up?; place
{name} is moving to; Where is {name} moving to?; place
The next flight of {name} goes to; Where does the next flight of {name} go?; place
The bicycle of {name} is; What color is the bicycle of {name}?; color
The front door of {name} is painted; How is the front door of {name} painted?; color
The hair of {name} is now; What color is the hair of {name}?; color
Today {name} is dressed in; What is {name} dressed in today?; color
The age of the son of {name} is; How old is the son of {name}?; number
The room number of {name} is; What is the room number of {name}?; number
The bus line of {name} is number; Which bus line does {name} take?; number
The score of {name} is; What is the score of {name}?; number
The shoe size of {name} is; What is the shoe size of {name}?; number
{name} would like to have a; Which animal would {name} like to have?; animal
The daughter of {name} drew a; What did the daughter of {name} draw?; animal
{name} has an appointment on; When is the appointment of {name}?; day
The lesson of {name} is on; When is the lesson of {name}?; day
{name} does the laundry on; When does {name} do the laundry?; day
The free day of {name} is; Which day does {name} have free?; day
For dinner {name} cooks; What does {name} cook for dinner?; food
{name} is allergic to; What is {name} allergic to?; food
{name} sells; What does {name} sell?; food
The table of {name} is made of; What is the table of {name} made of?; stuff
The roof of {name} is made of; What is the roof of {name} made of?; stuff
Lately {name} feels; How does {name} feel lately?; mood
The neighbor of {name} looks; How does the neighbor of {name} look?; mood
{name} borrowed a; What did {name} borrow?; thing
{name} repaired the; What did {name} repair?; thing
In the trunk {name} has a; What does {name} have in the trunk?; thing
"""
MANY_KINDS = tuple(
    Kind(statement, question, _VALUES[values].split())
    for statement, question, values in (line.split("; ") for line in _MORE.strip().splitlines())
)
MORE_NAMES = (
    "Adele Benjamin Cecilia Damian Esther Fabian Gloria Harold Isabel Jerome Kathleen Lorenzo "
    "Miriam Nathan Ophelia Quentin Rebecca Sebastian Tabitha Ulrich Valerie Wilhelm Yvonne Zachary "
    "Beatrice Clement Dorothy Edgar Frances Gilbert Harriet Ignatius Josephine Kenneth Lillian "
    "Maurice Nadine Otto Priscilla Roland Sabine Theodore Ursula Vincent Winifred Xavier "
    "Agatha Barnaby Colette Desmond Eleanor Ferdinand Gwendolyn Herbert Ingrid Jasper Katrina "
    "Leonard Matilda Nigel Octavia Percy Quincy Rosalind Silas Thelma Uriah Veronica Wallace "
    "Yasmin Zelda Ambrose Blanche Cedric Daphne Ernest Florence Gerald Henrietta Isaac Jasmine "
    "Kirsten Lambert Muriel Neville Odette Prudence Reginald Sylvester Tamara Vernon Wilfred"
).split()
