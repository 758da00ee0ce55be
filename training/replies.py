"""Ordinary talk as training data: what the model as released replies, in chats with facts in them.

    python -m training.replies replies.jsonl.gz --documents 400

A model that only ever answered questions about a text forgets how to chat. So it is also trained
on its own replies: the model as released is asked for something ordinary, and what it says is the
answer to be learned, with facts about people in memory that have nothing to do with it. Replies
that do not end by themselves are left out. A third of the requests are for what everybody knows,
such as the capital of a country: not to have been told is no reason to refuse that. Their answers
are ours. Other questions are about the facts, and are answered in a sentence.

The people and kinds of facts are those that training may use, none of `eval.corpora.people`. The
requests are our own words.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from eval.corpora.people import Fact
from eval.corpora.training_facts import KINDS, NAMES
from eval.reporting.app import make_app
from eval.reporting.options import ThreadsOption, use_threads
from memformer.chat import chat_ids
from memformer.checkpoint.decoders import check_place
from memformer.pretrained import DEFAULT_MODEL, FetchError, fetch
from training.data.build import Documents, Out, Seed, build
from training.data.drills import REPLIES
from training.data.records import Record, parse
from training.heads.kinds import MANY_KINDS, MORE_KINDS, MORE_NAMES
from training.setup.places import BadPlace, check_file

ASKED = (
    "Write one sentence about {}.",
    "Write two sentences about {}.",
    "Tell me something about {}.",
    "What comes to your mind when you think of {}?",
    "Why do people like {}?",
    "Give me an idea for a story about {}.",
    "How would you explain {} to a child?",
    "Name three words that go with {}.",
    "I have been thinking about {} lately.",
    "Let us talk about {}.",
    "What is good about {}?",
    "I do not know much about {}.",
    "Write a title for an essay about {}.",
    "Is there a saying about {}?",
)
ABOUT = (
    "bread, winter, the sea, trains, old houses, music, rain, gardens, friendship, tea, chess, "
    "bees, mountains, letters, markets, the moon, cats, bicycles, soup, mirrors, rivers, school, "
    "painting, sleep, silence, bridges, apples, travelling, clocks, snow, dancing, libraries, "
    "stars, shoes, breakfast, the colour blue, islands, patience, birds, holidays"
).split(", ")
ALONE = (
    "Hello!",
    "Hi, how are you?",
    "Good morning.",
    "Thank you, that helps.",
    "Who are you?",
    "What can you do?",
    "Tell me a joke.",
    "I am tired today.",
    "I had a long day at work.",
    "Can you help me with something?",
    "It rains again.",
    "I am going to cook tonight.",
    "Today is my birthday.",
    "I have a meeting tomorrow and I am nervous.",
    "What should I do this weekend?",
    "Goodbye, until tomorrow.",
    "I slept badly.",
    "I feel a little lonely today.",
    "I cannot decide what to wear.",
    "My train was late this morning.",
    "I finally finished my book.",
    "I have to clean the kitchen.",
    "It is so hot outside.",
    "I lost a game of chess.",
    "The neighbours were loud last night.",
    "I want to learn something new.",
    "I am bored.",
    "I am looking forward to the weekend.",
    "I made too much soup.",
    "I do not like Mondays.",
    "I went for a long walk.",
    "I have a headache.",
    "That was a good idea.",
    "I think you are right.",
    "Never mind.",
    "Let me think about it.",
    "Sorry, I was away for a moment.",
    "How was your day?",
    "What would you do in my place?",
    "Do you like music?",
    "Do you dream?",
    "Please wish me luck.",
)
# what everybody knows: a question, its answer, and pairs to put into both
KNOWN = (
    (
        "What is the capital of {}?",
        "The capital of {} is {}.",
        "Spain: Madrid, Germany: Berlin, Japan: Tokyo, Norway: Oslo, Egypt: Cairo, Canada: Ottawa, "
        "Greece: Athens, Kenya: Nairobi, Poland: Warsaw, Portugal: Lisbon, Ireland: Dublin, "
        "Peru: Lima, Austria: Vienna, India: New Delhi, Sweden: Stockholm, Hungary: Budapest",
    ),
    (
        "In which country is {}?",
        "{} is in {}.",
        "Rome: Italy, Munich: Germany, Barcelona: Spain, Osaka: Japan, Lyon: France, "
        "Boston: the United States, Manchester: England, Toronto: Canada, Mumbai: India, "
        "Sydney: Australia, Krakow: Poland, Shanghai: China",
    ),
    (
        "Who wrote {}?",
        "{} was written by {}.",
        "Macbeth: William Shakespeare, Pride and Prejudice: Jane Austen, Moby Dick: Herman "
        "Melville, War and Peace: Leo Tolstoy, Don Quixote: Miguel de Cervantes, "
        "Oliver Twist: Charles Dickens, Frankenstein: Mary Shelley, Dracula: Bram Stoker, "
        "Robinson Crusoe: Daniel Defoe, Alice in Wonderland: Lewis Carroll",
    ),
    (
        "What do {} eat?",
        "Most of the time they eat {1}.",
        "cows: grass, lions: meat, owls: mice, pandas: bamboo, squirrels: nuts, penguins: fish, "
        "horses: grass and hay, rabbits: leaves and roots",
    ),
    (
        "What colour is {}?",
        "It is {1}.",
        "grass: green, blood: red, a lemon: yellow, snow: white, coal: black, a carrot: orange",
    ),
    (
        "How many {}?",
        "There are {1}.",
        "days are in a week: seven, months are in a year: twelve, minutes are in an hour: sixty, "
        "continents are there: seven, letters are in the alphabet: twenty-six",
    ),
    (
        "What is {}?",
        "It is {1}.",
        "two plus three: five, ten minus four: six, half of twenty: ten, "
        "the colour of the sky: blue, the opposite of cold: hot, the opposite of early: late, "
        "the largest ocean: the Pacific, the tallest mountain: Mount Everest, "
        "the plural of mouse: mice",
    ),
)
KNOWN_SHARE = 1 / 3  # of the ordinary requests
PEOPLE, FACTS_EACH, FACTS_ASKED = 2, 3, 4  # numbers in a conversation
TURNS = 6  # ordinary requests of a conversation, in it or after it
LONGEST = 60  # tokens of a reply
AT_ONCE = 40
# without it, greedy decoding of a small model repeats itself
REPETITION_PENALTY = 1.1


def requests() -> list[str]:
    """All requests that a model replies to."""
    return [*ALONE, *(form.format(thing) for form, thing in itertools.product(ASKED, ABOUT))]


def known() -> dict[str, str]:
    """Questions for what everybody knows, and their answers."""
    return {
        question.format(asked): answer.format(asked, found)
        for question, answer, pairs in KNOWN
        for asked, found in (pair.split(": ") for pair in pairs.split(", "))
    }


def replies(model: Any, tokenizer: PreTrainedTokenizerBase, asked: list[str]) -> list[str | None]:
    """The reply of a plain model to each request; None for a reply without an end.

    Args:
        model: a decoder of transformers, without memory.
        tokenizer: the model's tokenizer, with a chat template.
        asked: the requests; each begins a chat.
    """
    rows = [chat_ids(tokenizer, [{"role": "user", "content": one}], reply="")[0] for one in asked]
    width = max(len(row) for row in rows)
    padding, stop = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in rows])
    mask = torch.stack([torch.arange(width) >= width - len(row) for row in rows])
    output = model.generate(
        ids.masked_fill(~mask, padding),
        attention_mask=mask.long(),
        max_new_tokens=LONGEST,
        do_sample=False,
        repetition_penalty=REPETITION_PENALTY,
        pad_token_id=padding,
    )
    said: list[str | None] = []
    for row in output[:, width:].tolist():
        ended = row.index(stop) if stop in row else None
        text = str(tokenizer.decode(row[:ended], skip_special_tokens=True)).strip()
        said.append(text if ended is not None and text else None)
    return said


def conversations(said: dict[str, str], documents: int, seed: int) -> Iterator[Record]:
    """Chats with facts and ordinary requests, and questions about both.

    Args:
        said: the reply to each of `requests`.
        documents: the number of chats.
        seed: draws everything.
    """
    rng = random.Random(seed)
    common, said = known(), said | known()
    rest = sorted(said.keys() - common.keys())
    kinds, names = [*KINDS, *MORE_KINDS, *MANY_KINDS], [*NAMES, *MORE_NAMES]
    for number in range(documents):
        # several facts about one person: the person alone must not be enough to find a fact
        facts = [
            Fact(name, kind, rng.choice(kind.values))
            for name in rng.sample(names, PEOPLE)
            for kind in rng.sample(kinds, FACTS_EACH)
        ]
        if rng.random() < 0.5:
            rng.shuffle(facts)
        turns = rng.sample(sorted(common), round(TURNS * KNOWN_SHARE))
        turns += rng.sample(rest, TURNS - len(turns))
        rng.shuffle(turns)
        exchanges = []
        told = [fact.sentence for fact in facts]
        while told:
            some = [told.pop() for _ in range(min(len(told), rng.randint(1, 3)))]
            exchanges.append((" ".join(some), rng.choice(REPLIES)))
        exchanges += [(turn, said[turn]) for turn in turns[: rng.randint(0, 2)]]
        rng.shuffle(exchanges)
        messages: list[dict[str, Any]] = []
        for user, assistant in exchanges:
            messages += [
                {"role": "user", "content": user},
                {"role": "assistant", "content": assistant},
            ]
        questions = [{"question": turn, "answer": said[turn], "alone": True} for turn in turns[2:]]
        questions += [
            {"question": fact.question, "answer": fact.sentence}
            for fact in rng.sample(facts, FACTS_ASKED)
        ]
        name = f"replies/{number}"
        yield parse({"id": name, "document": messages, "questions": questions}, name)


def main(
    out: Out,
    model: Annotated[
        str | None, typer.Option(help="A decoder with a chat template; default: the default model.")
    ] = None,
    documents: Documents = 400,
    seed: Seed = 0,
    threads: ThreadsOption = None,
) -> None:
    use_threads(threads)
    console = Console()
    try:
        check_file(out)
        name = str(fetch()) if model is None else model
        check_place(name)
        decoder = AutoModelForCausalLM.from_pretrained(name).eval()
        tokenizer = AutoTokenizer.from_pretrained(name)
    except BadPlace as error:
        raise typer.BadParameter(str(error)) from None
    except (FetchError, OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise typer.BadParameter(
            f"the model {model or DEFAULT_MODEL!r} can't be opened: {reason}"
        ) from None
    asked = requests()
    said: dict[str, str] = {}
    for begin in track(range(0, len(asked), AT_ONCE), "replies", console=console, transient=True):
        part = asked[begin : begin + AT_ONCE]
        found = zip(part, replies(decoder, tokenizer, part), strict=True)
        said |= {request: reply for request, reply in found if reply is not None}
    console.print(f"{len(said)} of {len(asked)} replies find an end within {LONGEST} tokens")
    if len(said) < TURNS:
        console.print(f"A chat takes {TURNS} of them; this model is of no use here.")
        raise typer.Exit(2)
    build(out, conversations(said, documents, seed))


app = make_app(main, __doc__)

if __name__ == "__main__":
    app()
