"""Documents, prompts and scores of the recall benchmark, and its rows on a tiny random model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from typer.testing import CliRunner

from eval import people, recall
from eval.harness.metrics import wilson_interval
from eval.haystack import BOOK, Haystack, read_book
from eval.people import KINDS, NAMES, Chat, make_documents
from eval.recall import (
    ROWS,
    Bench,
    WindowExceeded,
    answer,
    run_cell,
)
from memformer.pretrained import DEFAULT_MODEL, local_path
from tests.tiny import byte_tokenizer, open_lively, save_tiny

# the names and kinds with which the memory's recipe was searched; a test must not use them
SEARCHED_NAMES = (
    "Robert Linda Michael Susan David Karen Richard Nancy Steven Betty Brian Helen Kevin Laura "
    "Jason Emily Frank Rachel Gary Julia"
).split()
SEARCHED_WORDS = ("lives in", "works as", "favorite", "color", "pet", "likes to eat", "plays the")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture
def bench(folder: Path) -> Bench:
    model = open_lively(folder)
    # bytes are many: the window of the tiny model must hold some of the texts below
    model.backbone.config.max_position_embeddings = 2000
    tokenizer = byte_tokenizer()
    return Bench(model, tokenizer, Haystack(tokenizer), window=90, num_slots=100)


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


def test_the_book_turn_has_exactly_so_many_book_tokens(bench: Bench) -> None:
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


# ---- scores --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Paris.", "paris"),
        (" the garden, where", "garden"),
        (" A kite\nUser", "kite"),
        (" Italy and France.", "italy and france"),
        (" theater!", "theater"),
        (". Paris", ""),
        ("", ""),
        (" May", "may"),
    ],
)
def test_an_answer_is_what_comes_before_the_first_punctuation(text: str, expected: str) -> None:
    assert answer(text) == expected


def test_only_the_exact_value_scores(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    documents = make_documents(4, 4, seed=0)
    first, second, third, fourth = (fact.value for fact in documents[0].asked)
    said = [f" {first}.", f" {second} and more.", f" the {third.upper()}\n", f" not {fourth}."]
    monkeypatch.setattr(bench, "answers", lambda *_: said)
    cell = run_cell(bench, "none", documents, 0)
    assert [one["correct"] for one in cell["predictions"]] == [True, False, True, False]
    assert (cell["correct"], cell["cases"], cell["accuracy"]) == (2, 4, 0.5)


@pytest.mark.parametrize(
    ("correct", "cases", "low", "high"),
    # computed by hand from Wilson (1927), z = 1.96
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (81, 263, 0.2553, 0.3662),
    ],
)
def test_wilson_interval(correct: int, cases: int, low: float, high: float) -> None:
    assert wilson_interval(correct, cases) == pytest.approx((low, high), abs=5e-5)


# ---- rows ----------------------------------------------------------------------------------


@pytest.mark.parametrize("distance", [0, 70])
def test_full_equals_the_plain_model_on_the_whole_text(bench: Bench, distance: int) -> None:
    documents = make_documents(3, 5, seed=0)
    by_cache = bench.answers("full", documents, distance)
    expected = []
    for document in documents:
        for fact in document.asked:
            told, book = bench.turns(document, distance)
            ids = torch.tensor([told + book + bench.chat.question(fact, first=False)])
            made = bench.model.backbone.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=recall.MAX_NEW_TOKENS,
                do_sample=False,
            )
            expected.append(_text(bench, made[0, ids.shape[1] :]))
    assert by_cache == expected


def test_truncated_is_full_while_the_window_holds_everything(bench: Bench) -> None:
    documents = make_documents(3, 5, seed=0)
    bench.window = 1900
    assert bench.answers("truncated", documents, 70) == bench.answers("full", documents, 70)


def test_truncated_shows_no_fact_beyond_its_window(bench: Bench) -> None:
    documents = make_documents(3, 3, seed=0)
    others = make_documents(3, 3, seed=1)
    # the same question after other facts: far away, they change nothing
    swapped = [people.Document(0, others[0].facts, documents[0].asked)]
    distance = bench.window
    assert bench.answers("truncated", documents, distance) == bench.answers(
        "truncated", swapped, distance
    )


def test_full_refuses_a_text_longer_than_the_window_of_the_model(bench: Bench) -> None:
    documents = make_documents(3, 3, seed=0)
    with pytest.raises(WindowExceeded):
        bench.answers("full", documents, 2000)
    cell = run_cell(bench, "full", documents, 2000)
    assert cell["accuracy"] is None and cell["reason"].startswith("n/a: exceeds window")


@pytest.mark.parametrize("distance", [0, 70])
def test_memformer_equals_one_document_and_one_question_at_a_time(
    bench: Bench, distance: int
) -> None:
    documents = make_documents(3, 7, seed=0)
    in_batches = bench.answers("memformer", documents, distance)
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
                ids, memory=memory, max_new_tokens=recall.MAX_NEW_TOKENS, do_sample=False
            )
            expected.append(_text(bench, made[0, ids.shape[1] :]))
    assert in_batches == expected


def test_a_capped_memory_takes_fewer_bytes(bench: Bench) -> None:
    documents = make_documents(3, 3, seed=0)
    bench.answers("memformer", documents, 400)
    unbounded = bench.memory_bytes
    bench.answers("capped", documents, 400)
    assert unbounded is not None and bench.memory_bytes is not None
    assert bench.memory_bytes < unbounded


def test_answers_depend_on_what_each_row_can_see(bench: Bench) -> None:
    documents = make_documents(3, 6, seed=0)
    found = {row: tuple(bench.answers(row, documents, 400)) for row in ROWS}
    assert len(set(found.values())) == len(ROWS)


def test_an_unknown_row_is_an_error(bench: Bench) -> None:
    with pytest.raises(ValueError, match="There is no row 'magic'; the rows are none"):
        bench.answers("magic", make_documents(1, 1, seed=0), 0)


def _text(bench: Bench, ids: torch.Tensor) -> str:
    special = set(bench.tokenizer.all_special_ids)
    kept: list[int] = []
    for token in ids.tolist():
        if token in special:
            break
        kept.append(token)
    return bench.tokenizer.decode(kept)


# ---- the command ---------------------------------------------------------------------------


def _run(folder: Path, out: Path, *options: str) -> Any:
    arguments = [str(folder), "--cases", "4", "--out", str(out), *options]
    return CliRunner().invoke(recall.app, arguments)


def test_the_command_writes_a_report_and_a_plot(folder: Path, tmp_path: Path) -> None:
    result = _run(folder, tmp_path / "r.1", "--facts", "2,3", "--distances", "0,400")
    assert result.exit_code == 0, result.output
    assert "3 facts" in result.output and "n/a" in result.output
    report = json.loads((tmp_path / "r.1.json").read_text())
    assert report["finished"] and report["settings"]["seed"] == 0
    assert {"python", "torch", "transformers", "memformer-lm"} == set(report["versions"])
    assert len(report["cells"]) == 2 * 2 * len(ROWS)
    for cell in report["cells"]:
        assert cell["cases"] == 4
        if cell["accuracy"] is not None:
            low, high = cell["interval"]
            assert low <= cell["accuracy"] <= high and len(cell["predictions"]) == 4
    assert (tmp_path / "r.1.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.1.json", "r.1.png"]


def test_two_runs_predict_the_same(folder: Path, tmp_path: Path) -> None:
    options = ("--facts", "2", "--distances", "40", "--rows", "none,memformer")
    for name in ("a", "b"):
        assert _run(folder, tmp_path / name, *options).exit_code == 0
    first, second = (
        [cell["predictions"] for cell in json.loads((tmp_path / name).read_text())["cells"]]
        for name in ("a.json", "b.json")
    )
    assert first == second


@pytest.mark.parametrize(
    "options",
    [("--rows", "none,magic"), ("--distances", "0,far"), ("--facts", "0"), ("--facts", "500")],
)
def test_a_wrong_option_is_a_usage_error(
    folder: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    assert _run(folder, tmp_path / "r", *options).exit_code == 2


def test_a_book_or_a_model_that_is_not_there_is_one_sentence(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty.txt"
    empty.touch()
    wrong = {
        "There is no book file": [str(folder), "--book", str(tmp_path / "none.txt")],
        "holds no text": [str(folder), "--book", str(empty)],
        "can't be opened": [str(tmp_path / "no-model")],
    }
    for sentence, arguments in wrong.items():
        result = CliRunner().invoke(recall.app, [*arguments, "--out", str(tmp_path / "r")])
        assert result.exit_code == 2
        assert sentence in " ".join(result.output.replace("│", " ").split())
        assert "Traceback" not in result.output
    assert not (tmp_path / "r.json").exists()
