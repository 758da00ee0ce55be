"""Where the paragraphs that are asked about stand, and by which ways they are found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from eval import finding
from eval.corpora import paragraphs
from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import Asked, LongDocument
from memformer import MemformerForCausalLM
from memformer.recollection import Passage, recollect
from memformer.template import text_ids
from tests.eval.toy import said
from tests.tiny import byte_tokenizer, open_lively

THINGS = ("violin", "kettle", "lantern", "basket", "umbrella", "camera", "ladder", "trumpet")
PLACES = ("cellar", "attic", "garden", "harbour", "kitchen", "chapel", "tower", "stable")
PARAGRAPHS = [
    LongDocument(
        f"{thing}/0",
        f"Every winter the old {thing} was kept in the {place} of the house, well out of the rain.",
        (Asked(f"Where was the {thing} kept?", (place,)),),
        "line 1",
    )
    for thing, place in zip(THINGS, PLACES, strict=True)
]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set") / "own.jsonl"
    rows = [
        {
            "doc_id": one.id,
            "context": one.text,
            "questions": [
                {"question": asked.question, "answers": list(asked.answers)} for asked in one.asked
            ],
        }
        for one in PARAGRAPHS
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(folder: Path) -> MemformerForCausalLM:
    return open_lively(folder)


@pytest.mark.parametrize("length", [120, 330, 2000])
def test_every_question_is_asked_where_its_paragraph_stands(length: int) -> None:
    tokenizer = byte_tokenizer()
    asked = paragraphs.draw_questions(PARAGRAPHS, 5, seed=3)
    texts = list(paragraphs.make_texts(tokenizer, PARAGRAPHS, asked, length, seed=3))
    assert sorted(case.question for text in texts for case in text.cases) == sorted(
        one.question for one in asked
    )
    wanted = {one.question: one.paragraph.text for one in asked}
    for text in texts:
        # a text is filled up but for less than one paragraph, here of the novel's excerpt too
        assert len(text.ids) <= length
        for case in text.cases:
            assert (
                tokenizer.decode(text.ids[case.begin : case.end]).strip() == wanted[case.question]
            )
        words = tokenizer.decode(text.ids)
        assert all(words.count(one.text) <= 1 for one in PARAGRAPHS)
    # where there is room for the whole set, the rest is of books
    if length == 2000:
        assert len(texts) == 1 and all(one.text in words for one in PARAGRAPHS)
        assert len(texts[0].ids) > sum(len(one.text) + 2 for one in PARAGRAPHS)


def test_the_same_seed_draws_the_same_texts_and_another_seed_others() -> None:
    def made(seed: int) -> list[list[int]]:
        asked = paragraphs.draw_questions(PARAGRAPHS, 3, seed)
        texts = paragraphs.make_texts(byte_tokenizer(), PARAGRAPHS, asked, 700, seed)
        return [text.ids for text in texts]

    assert made(1) == made(1) != made(2)


def test_questions_without_an_answer_in_the_text_are_not_asked() -> None:
    never = (Asked("Who?", ("I don't know.",), impossible=True),)
    odd = [LongDocument("x", "Nothing.", never, "line 1")]
    assert len(paragraphs.draw_questions([*odd, *PARAGRAPHS], 99, 0)) == len(PARAGRAPHS)
    with pytest.raises(BadRecord, match="no paragraph answers"):
        paragraphs.draw_questions(odd, 1, 0)


def test_books_of_a_folder_go_on_without_an_end(tmp_path: Path) -> None:
    with pytest.raises(BadRecord, match="holds no book"):
        next(paragraphs.book_paragraphs(tmp_path, ""))
    (tmp_path / "one.txt").write_text("A line\nand another.\n\nThe end.\n", encoding="utf-8")
    pages = paragraphs.book_paragraphs(tmp_path, "7")
    assert {next(pages) for _ in range(6)} == {"A line and another.", "The end."}


def test_a_paragraph_is_found_by_a_passage_of_which_half_lies_in_it() -> None:
    def passage(start: int, size: int) -> Passage:
        return Passage(tuple(range(size)), 1.0, 0, 0, start)

    assert finding.rank([passage(0, 10), passage(10, 10)], 5, 12) == 1
    assert finding.rank([passage(0, 10), passage(10, 10)], 6, 16) == 2
    assert finding.rank([passage(0, 10), passage(10, 10)], 8, 12) is None


def test_words_alone_find_what_only_they_can_and_both_add_up(model: MemformerForCausalLM) -> None:
    tokenizer = byte_tokenizer()
    told = "\n\n".join(one.text for one in PARAGRAPHS)
    memory = model.memorize(torch.tensor([text_ids(tokenizer, told)]), gated=False)
    ids = torch.tensor([text_ids(tokenizer, PARAGRAPHS[5].asked[0].question)])
    asked = model.engine(), ids, torch.ones_like(ids, dtype=torch.bool), memory, 99
    scores = {
        by: {one.start: one.score for one in recollect(*asked, by=by)[0]}
        for by in ("heads", "words", "both")
    }
    assert len(scores["both"]) > 5 and scores["heads"] != scores["words"]
    for start, score in scores["both"].items():
        assert score == pytest.approx(scores["heads"][start] + scores["words"][start], abs=1e-4)
    (recalled,) = model.recall(ids, memory, 99)
    assert [one.score for one in recalled] == list(scores["both"].values())


def test_the_command_reports_every_way_at_every_length(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "finding"
    arguments = [str(folder), "--set", "squadshifts", "--source", str(source)]
    arguments += ["--lengths", "200,900", "--questions", "4"]
    options = ["--slots", "80", "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(finding.app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["finished"] and report["settings"]["source"].keys() == {"own.jsonl"}
    ways = [(cell["length"], cell["by"]) for cell in report["cells"]]
    assert ways == [(size, by) for size in (200, 900) for by in ("heads", "words", "fused")]
    for cell in report["cells"]:
        assert cell["questions"] == 4 == len(report["cases"][str(cell["length"])])
        assert cell["recall@1"] <= cell["recall@2"] <= cell["recall@4"]
        low, high = cell["interval@4"]
        assert low <= cell["recall@4"] <= high + 1e-9
        assert cell["recall@4"] <= cell["findable"]
    # in a text of few passages, all that can be found are among the first four
    few = [cell for cell in report["cells"] if cell["passages"] <= 4]
    assert few and all(cell["recall@4"] == cell["findable"] for cell in few)
    page = out.with_suffix(".md").read_text()
    assert "heads and words" in page and "an encoder" not in page
    assert out.with_suffix(".png").is_file()


def test_sets_of_long_documents_are_refused(source: Path) -> None:
    arguments = ["--source", str(source), "--set", "quality"]
    result = CliRunner().invoke(finding.app, arguments, terminal_width=200)
    assert result.exit_code == 2
    assert "the documents of quality are no paragraphs" in said(result)


def test_an_encoder_searches_the_passages_of_the_record(
    folder: Path, source: Path, tmp_path: Path
) -> None:
    from transformers import BertConfig, BertModel

    encoder, out = tmp_path / "encoder", tmp_path / "finding"
    tokenizer = byte_tokenizer()
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokenizer), num_hidden_layers=1, **sizes)).save_pretrained(
        encoder
    )
    tokenizer.save_pretrained(encoder)
    arguments = [str(folder), "--set", "squadshifts", "--source", str(source), "--lengths", "300"]
    options = ["--questions", "2", "--encoder", str(encoder), "--threads", "1", "--out", str(out)]
    result = CliRunner().invoke(finding.app, [*arguments, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert [cell["by"] for cell in report["cells"]] == list(finding.WAYS)
    # all passages are among the first four
    assert all(cell["recall@4"] == cell["findable"] for cell in report["cells"])
