"""Facts about people, the book between, chat turns, and questions through the memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from eval.corpora import people
from eval.corpora.book import BOOK, read_book
from eval.corpora.haystack import Haystack
from eval.corpora.people import KINDS, NAMES, Chat, make_documents
from eval.harness import interview
from eval.harness.interview import Interview, right
from memformer.pretrained import DEFAULT_MODEL, local_path
from tests.tiny import byte_tokenizer, open_lively

# the names and kinds with which the memory's recipe was searched; a test must not use them
SEARCHED_NAMES = (
    "Robert Linda Michael Susan David Karen Richard Nancy Steven Betty Brian Helen Kevin Laura "
    "Jason Emily Frank Rachel Gary Julia"
).split()
SEARCHED_WORDS = ("lives in", "works as", "favorite", "color", "pet", "likes to eat", "plays the")


@pytest.fixture
def bench(folder: Path) -> Interview:
    tokenizer = byte_tokenizer()
    return Interview(open_lively(folder), tokenizer, Haystack(tokenizer))


# ---- documents -----------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_documents_and_another_seed_others() -> None:
    assert make_documents(6, 40, seed=3) == make_documents(6, 40, seed=3)
    assert make_documents(6, 40, seed=3) != make_documents(6, 40, seed=4)


def test_more_cases_only_append_documents() -> None:
    few, many = make_documents(6, 18, seed=0), make_documents(6, 60, seed=0)
    assert many[: len(few)] == few


def test_two_hundred_cases_about_six_facts_are_34_documents() -> None:
    documents = make_documents(6, 200, seed=0)
    assert len(documents) == 34
    assert sum(len(document.asked) for document in documents) == 200


@pytest.mark.parametrize("num_facts", [1, 6, 24, 48])
def test_names_and_values_differ_within_a_document(num_facts: int) -> None:
    for document in make_documents(num_facts, 60, seed=1):
        assert len({fact.name for fact in document.facts}) == num_facts
        assert len({fact.value for fact in document.facts}) == num_facts
        assert len(set(document.asked)) == len(document.asked)
        assert set(document.asked) <= set(document.facts)


def test_too_many_facts_are_refused() -> None:
    with pytest.raises(ValueError, match=f"facts must be between 1 and {len(NAMES)}; got 500"):
        make_documents(500, 10, seed=0)


def test_there_are_enough_names_kinds_and_values() -> None:
    assert len(NAMES) == len(set(NAMES)) >= 60
    assert len(KINDS) >= 8 and all(len(kind.values) >= 12 for kind in KINDS)
    values = [value for kind in KINDS for value in kind.values]
    assert len(values) == len(set(values))
    assert all(re.fullmatch("[A-Za-z]+", value) for value in values)


def test_nothing_is_shared_with_the_search_for_the_recipe() -> None:
    assert not set(NAMES) & set(SEARCHED_NAMES)
    for kind in KINDS:
        for word in SEARCHED_WORDS:
            assert word not in kind.statement and word not in kind.question


def test_no_name_occurs_in_the_book() -> None:
    assert not set(NAMES) & set(re.findall("[A-Za-z]+", read_book()))


# ---- the book ------------------------------------------------------------------------------


def test_a_shorter_text_is_the_beginning_of_a_longer_one() -> None:
    haystack = Haystack(byte_tokenizer())
    assert haystack.tokens(700, "0/book/2")[:50] == haystack.tokens(50, "0/book/2")
    assert haystack.tokens(50, "0/book/2") != haystack.tokens(50, "0/book/3")


def test_a_book_that_ends_goes_on_with_its_beginning(tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_text("abc")
    tokenizer = byte_tokenizer()
    assert tokenizer.decode(Haystack(tokenizer, tmp_path / "book.txt").tokens(7)) == "abcabca"


def test_a_missing_or_empty_book_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no book file"):
        read_book(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(ValueError, match="holds no text"):
        read_book(tmp_path / "empty.txt")


def test_the_book_has_about_sixty_thousand_characters() -> None:
    assert 50_000 < len(BOOK.read_text()) < 70_000


# ---- prompts -------------------------------------------------------------------------------


def test_turns_together_are_the_chat_template_of_the_whole_chat() -> None:
    tokenizer = byte_tokenizer()
    chat = Chat(tokenizer)
    document = make_documents(3, 3, seed=0)[0]
    fact = document.asked[0]
    book = tokenizer("Some text of a book.").input_ids
    turns = [
        {"role": "user", "content": document.told},
        {"role": "assistant", "content": people.THANKS_FOR_FACTS},
        {"role": "user", "content": "Some text of a book."},
        {"role": "assistant", "content": people.THANKS_FOR_BOOK},
        {"role": "user", "content": fact.question},
    ]
    whole = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    ids = chat.facts(document) + chat.book(book) + chat.question(fact, first=False)
    assert tokenizer.decode(ids) == whole + fact.answer_prefix


def test_a_template_that_adds_a_system_message_adds_it_once_to_each_chat() -> None:
    template = byte_tokenizer().chat_template
    tokenizer = byte_tokenizer("<|start|>system\nBe kind.<|end|>\n" + template)
    chat = Chat(tokenizer)
    document = make_documents(3, 3, seed=0)[0]
    fact = document.asked[0]
    assert "system" in tokenizer.decode(chat.facts(document))
    assert "system" in tokenizer.decode(chat.question(fact, first=True))
    assert "system" not in tokenizer.decode(chat.question(fact, first=False))
    assert "system" not in tokenizer.decode(chat.book([5]))


def test_without_a_template_the_text_is_plain() -> None:
    tokenizer = byte_tokenizer(chat_template=None)
    chat = Chat(tokenizer)
    document = make_documents(2, 2, seed=0)[0]
    fact = document.asked[0]
    assert tokenizer.decode(chat.facts(document)) == document.told + "\n\n"
    expected = f"Question: {fact.question}\nAnswer: {fact.answer_prefix}"
    assert tokenizer.decode(chat.question(fact, first=True)) == expected


@pytest.mark.parametrize("template", ["{{ messages[-1]['content'] }}", "hello"])
def test_a_template_that_drops_turns_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match="chat template of the tokenizer drops the turn"):
        Chat(byte_tokenizer(template))


def test_no_value_is_in_the_prompt_without_context() -> None:
    tokenizer = byte_tokenizer()
    chat = Chat(tokenizer)
    for document in make_documents(24, 300, seed=5):
        for fact in document.asked:
            prompt = tokenizer.decode(chat.question(fact, first=True))
            assert fact.value.lower() not in re.findall("[a-z]+", prompt.lower())


def test_the_book_turn_has_exactly_so_many_book_tokens(bench: Interview) -> None:
    document = make_documents(2, 2, seed=0)[0]
    around = len(bench.turns(document, 1)[1]) - 1
    assert len(bench.turns(document, 77)[1]) == 77 + around
    assert bench.turns(document, 0)[1] == []


@pytest.mark.real
def test_24_facts_fit_into_the_first_segment_of_the_default_model() -> None:
    where = local_path(DEFAULT_MODEL)
    if where is None:
        pytest.skip("the default model is not on this machine; run `memformer fetch`")
    chat = Chat(AutoTokenizer.from_pretrained(where))
    lengths = [len(chat.facts(one)) for n in (6, 12, 24) for one in make_documents(n, 300, 0)]
    assert max(lengths) <= 512


# ---- through the memory --------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0, 70])
def test_many_documents_and_questions_are_one_document_and_one_question_at_a_time(
    bench: Interview, distance: int
) -> None:
    documents = make_documents(3, 7, seed=0)
    in_batches = bench.answers(documents, distance)
    expected = []
    for document in documents:
        told, book = bench.turns(document, distance)
        memory = bench.model.init_memory(num_slots=None)
        memory = bench.model.memorize(torch.tensor([told]), memory=memory)
        if book:
            memory = bench.model.memorize(torch.tensor([book]), memory=memory)
        for fact in document.asked:
            ids = torch.tensor([bench.chat.question(fact, first=True)])
            made = bench.model.generate(
                ids, memory=memory, max_new_tokens=interview.MAX_NEW_TOKENS, do_sample=False
            )
            expected.append(_text(bench, made[0, ids.shape[1] :]))
    assert in_batches == expected


def _text(bench: Interview, ids: torch.Tensor) -> str:
    special = set(bench.tokenizer.all_special_ids)
    kept: list[int] = []
    for token in ids.tolist():
        if token in special:
            break
        kept.append(token)
    return bench.tokenizer.decode(kept)


def test_only_the_exact_value_is_right() -> None:
    fact = make_documents(1, 1, seed=0)[0].asked[0]
    said = [f" {fact.value}.", f" the {fact.value.upper()}\n", f" {fact.value} and more.", " not"]
    assert [right(text, fact) for text in said] == [True, True, False, False]
