"""Questions after the words that a memory would read again, as rows of a batch."""

from __future__ import annotations

import pytest
from tiny import byte_tokenizer

from memformer.asides import IGNORED_LABEL
from training.data.drills import UNKNOWN
from training.data.records import Question, Record
from training.finetuning import rereading
from training.finetuning.documents import STYLES
from training.finetuning.rereading import PASSAGE_WORDS, asked_again
from training.finetuning.rows import collate, with_asides

pytest.importorskip("bm25s")

PARAGRAPHS = [
    "The lighthouse of Vardo has a red lamp. It was built in 1896.",
    "Ottilie keeps nine bees in a bottle. The bottle stands in the cellar.",
    "Whoever walks to the quarry comes past two barns and a well.",
]
TEXT = "\n\n".join(PARAGRAPHS)
END = len(TEXT)
BEGIN = TEXT.index(PARAGRAPHS[1])


def asked(question, answer, after=END, **named):
    return Question(question, answer, after, **named)


def record(*questions, document=TEXT, name="one"):
    return Record(name, document, questions)


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def shown(tokenizer, found):
    return [tokenizer.decode(list(one.asides[0].ids)) for one in found]


@pytest.mark.parametrize("style", STYLES)
def test_the_passage_with_the_answer_stands_before_its_question(tokenizer, style):
    # no word of the question is in the passage that is named, and all of them are in another
    one = asked(
        "Was the lighthouse lamp red?", "bottle", passage=(BEGIN, BEGIN + len(PARAGRAPHS[1]))
    )
    (found,) = asked_again(record(one), tokenizer, style, 400)
    (text,) = shown(tokenizer, [found])
    assert PARAGRAPHS[1] in text
    assert text.index(PARAGRAPHS[1]) < text.index(one.question) < text.rindex("bottle")
    assert found.ids == () and found.asides[0].gold is None
    row = with_asides(found, 24)
    wanted = [label for label in row.labels if label != IGNORED_LABEL]
    assert wanted == list(found.asides[0].ids[-found.asides[0].answer :])
    assert not any(row.remembered) and len(set(row.segment_ids)) == 1
    assert not collate([row, row], 0)["remembered"].any()


def test_a_question_without_an_answer_has_what_looks_most_like_it_or_anything_or_nothing(
    tokenizer, monkeypatch
):
    questions = [asked("How many bees are in the barn bottle?", UNKNOWN) for _ in range(40)]
    texts = shown(tokenizer, asked_again(record(*questions), tokenizer, "plain", 400))
    before = [text[: text.index("How many")] for text in texts]
    assert len(texts) == 40 and any(one == "Question: " for one in before)
    assert any(PARAGRAPHS[1] not in text and "The" in text for text in before)
    monkeypatch.setattr(rereading, "NOTHING", 0.0)
    monkeypatch.setattr(rereading, "UNLIKE", 0.0)
    texts = shown(tokenizer, asked_again(record(*questions), tokenizer, "plain", 400))
    assert len(texts) == 40 and all(PARAGRAPHS[1] in text for text in texts)
    # how many others stand beside it is drawn
    assert {sum(one in text for one in PARAGRAPHS) for text in texts} > {1}


def test_a_request_that_needs_nothing_has_any_words_before_it_or_none(tokenizer):
    # short, and nowhere in the document: a question about it would be left out
    requests = [asked("Hello!", "Hi.", alone=True) for _ in range(30)]
    texts = shown(tokenizer, asked_again(record(*requests), tokenizer, "plain", 400))
    none = sum(text.startswith("Question: Hello!") for text in texts)
    assert len(texts) == 30 and 10 < none < 26
    assert all("Answer: Hi." in text for text in texts)
    (left_out,) = [asked("Hello!", "Hi.")]
    assert asked_again(record(left_out), tokenizer, "plain", 400) == []


def test_passages_stand_in_order_and_none_is_told_after_the_question(tokenizer, monkeypatch):
    monkeypatch.setattr(rereading, "NOTHING", 0.0)
    early = [asked("Who keeps bees past the well?", UNKNOWN, len(PARAGRAPHS[0])) for _ in "abcd"]
    for text in shown(tokenizer, asked_again(record(*early), tokenizer, "plain", 400)):
        assert PARAGRAPHS[0] in text and PARAGRAPHS[1] not in text
    late = [asked("Do bees, a well and a red lamp go together?", UNKNOWN) for _ in range(12)]
    for text in shown(tokenizer, asked_again(record(*late), tokenizer, "plain", 400)):
        places = [text.find(one) for one in PARAGRAPHS if one in text]
        assert places == sorted(places)


def test_what_can_not_be_answered_from_few_tokens_is_left_out(tokenizer):
    known = asked("Where does the bottle stand?", "cellar")
    nowhere = asked("What is it worth?", "forty crowns")
    found = asked_again(record(known, nowhere), tokenizer, "plain", 400)
    assert [one.id for one in found] == ["one/0"]
    assert asked_again(record(known), tokenizer, "plain", 20) == []


def test_an_answer_in_other_words_comes_after_the_passage_with_most_of_them(tokenizer):
    told = "There are nine of them, kept below the ground in a bottle, and they are bees."
    one = asked("Which animals does she have?", told)
    for name in "abcdef":
        (text,) = shown(tokenizer, asked_again(record(one, name=name), tokenizer, "plain", 400))
        assert PARAGRAPHS[1] in text


def test_a_long_paragraph_is_cut_and_a_conversation_by_its_turns(tokenizer):
    long = " ".join(f"Number {n} of the list is a stone." for n in range(120))
    told = f"{long} Gerda has the key. {long}"
    begin = told.index("Gerda")
    one = asked("Who has the key?", "Gerda", len(told), passage=(begin, begin + 19))
    (text,) = shown(tokenizer, asked_again(record(one, document=told), tokenizer, "plain", 9000))
    before = text[: text.index("Who has")]
    assert "Gerda has the key." in before and len(before.split()) <= 3 * PASSAGE_WORDS
    turns = (("user", "My aunt is called Roswitha."), ("assistant", "Nice."), ("user", "I ski."))
    length = sum(len(content) for _, content in turns)
    chat = Record("talk", turns, (asked("What is my aunt called?", "Roswitha", length),))
    (text,) = shown(tokenizer, asked_again(chat, tokenizer, "chat", 400))
    assert "<|start|>user\nMy aunt is called Roswitha." in text


def test_the_same_record_gives_the_same_rows(tokenizer):
    one = record(asked("Where does the bottle stand?", "cellar"))
    assert asked_again(one, tokenizer, "chat", 400) == asked_again(one, tokenizer, "chat", 400)
