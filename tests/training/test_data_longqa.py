"""Long documents with questions: each set's own form becomes records."""

from __future__ import annotations

import gzip
import json

import pytest

from eval.corpora.jsonl import BadRecord
from eval.corpora.long_documents import spoken, tidy
from training.data.longqa import nq, qmsum, quality, squality

STORY = "THE WELL\n   \n  Ada dug\nfor nine days.\n \n  Then there was water.\n"
SQUALITY = {
    "doc_id": "s1",
    "document": STORY,
    "questions": [
        {"question": "Who dug?", "answers": ["It was Ada who dug.", "Ada\ndid."]},
        {"question": "For how long?", "answers": ["Nine days."]},
    ],
}
QUALITY = {
    "doc_id": "q1",
    "same_story_as_squality": None,
    "document": STORY,
    "questions": [
        {
            "question": "What came?\n\n (A) Oil \n (B) Water, (at last) \n (C) Mud\n (D) Gold ",
            "answer": "(B) Water, (at last)",
        }
    ],
}
QMSUM = {
    "doc_id": "m1",
    "meeting_transcripts": [
        {"speaker": "Chair", "content": "So {disfmarker} it 's about the bridge , {pause} again ."},
        {"speaker": "Clerk", "content": "{vocalsound}"},
        {"speaker": "Clerk", "content": "Mm - hmm . I didn't write it down ."},
    ],
    "general_query_list": [{"query": "Summarize it.", "answer": "They spoke of the bridge ."}],
    "specific_query_list": [{"query": "What did the clerk do?", "answer": "Nothing."}],
}


def passages(count):
    return [
        {
            "question": f"who built mill number {number}",
            "answers": [f"Builder {number}", f"Mister Builder {number}"],
            "title": f"Mill {number}",
            "text": f"Mill {number} was built by Builder {number} and stands by the river.",
        }
        for number in range(count)
    ]


def saved(tmp_path, *rows, name="rows.jsonl"):
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path = tmp_path / name
    path.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
    return path


def test_squality_gives_the_story_in_paragraphs_and_the_shortest_answers(tmp_path):
    (record,) = squality(saved(tmp_path, SQUALITY, name="rows.jsonl.gz"))
    assert record.id == "squality/s1"
    assert record.document == "THE WELL\n\nAda dug for nine days.\n\nThen there was water."
    asked = [(one.question, one.answer, one.after) for one in record.questions]
    end = len(record.text)
    assert asked == [("Who dug?", "Ada did.", end), ("For how long?", "Nine days.", end)]


def test_quality_asks_with_options_and_answers_with_the_text_of_one(tmp_path):
    (record,) = quality(saved(tmp_path, QUALITY | {"document": STORY * 2}))
    (asked,) = record.questions
    assert asked.question == "What came?\n(A) Oil\n(B) Water, (at last)\n(C) Mud\n(D) Gold"
    assert asked.answer == "Water, (at last)"


def test_quality_leaves_out_stories_that_squality_has_too(tmp_path):
    other = QUALITY | {"doc_id": "q2", "document": STORY * 2}
    path = saved(tmp_path, QUALITY | {"same_story_as_squality": "s1"}, other)
    assert [record.id for record in quality(path)] == ["quality/q2"]


def test_qmsum_gives_a_turn_a_line_and_all_queries(tmp_path):
    (record,) = qmsum(saved(tmp_path, QMSUM))
    assert record.document == (
        "Chair: So it's about the bridge, again.\nClerk: Mm-hmm. I didn't write it down."
    )
    asked = [(one.question, one.answer) for one in record.questions]
    assert asked == [
        ("Summarize it.", "They spoke of the bridge."),
        ("What did the clerk do?", "Nothing."),
    ]


def test_nq_asks_about_each_passage_once_before_any_again(tmp_path):
    path = saved(tmp_path, *passages(12))
    records = list(nq(path, documents=4, seed=1, gold=3, distractors=5))
    asked = [one.question for record in records for one in record.questions]
    assert len(asked) == 12 and len(set(asked)) == 12
    assert asked[0].startswith("Who built mill") and asked[0].endswith("?")
    for record in records:
        told = record.document.split("\n\n")
        assert len(told) == len(set(told)) == 8
        for one in record.questions:
            assert sum(f"by {one.answer} and" in text for text in told) == 1


def test_nq_puts_the_passages_that_are_asked_about_anywhere(tmp_path):
    path = saved(tmp_path, *passages(9))
    places = set()
    for record in nq(path, documents=60, gold=1, distractors=3):
        told = record.document.split("\n\n")
        (asked,) = record.questions
        places |= {place for place, text in enumerate(told) if f"by {asked.answer} and" in text}
    assert places == {0, 1, 2, 3}


def test_nq_joins_the_questions_of_one_passage(tmp_path):
    first, *others = passages(3)
    rows = [first, first | {"question": "where is it", "answers": ["the river"]}, *others]
    found = list(nq(saved(tmp_path, *rows), documents=3, gold=1, distractors=2))
    assert sorted(len(record.questions) for record in found) == [1, 1, 2]


def test_the_same_seed_gives_the_same_documents(tmp_path):
    path = saved(tmp_path, *passages(12))
    first, again, other = (list(nq(path, 5, seed, 2, 3)) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("made", "row", "sentence"),
    [
        (squality, {"doc_id": "s"}, "line 2: there is no field questions; it has doc_id"),
        (squality, SQUALITY | {"document": 7}, "line 2: document must be a text; got '7'"),
        (squality, SQUALITY | {"document": " \n "}, "line 2: the document is empty"),
        (
            squality,
            SQUALITY | {"questions": ["Who?"]},
            "line 2: questions 1 must be an object; got 'Who",
        ),
        (
            squality,
            SQUALITY | {"questions": [{"question": "Who?", "answers": []}]},
            "line 2, questions 1: there is no answer",
        ),
        (
            quality,
            QUALITY | {"questions": [{"question": "Who? (A) I (B) You", "answer": "(C) He"}]},
            r"line 2, questions 1: the answer must be one of the options .* got '\(C\) He'",
        ),
        (
            qmsum,
            QMSUM | {"meeting_transcripts": [{"speaker": "Chair"}]},
            "line 2, meeting_transcripts 1: there is no field content",
        ),
        (
            qmsum,
            QMSUM | {"general_query_list": [{"query": "Why?", "answer": " "}]},
            "line 2, question 1: answer must be a text that is not empty",
        ),
    ],
)
def test_rows_of_another_form_get_a_sentence_with_the_place(tmp_path, made, row, sentence):
    good = {squality: SQUALITY, quality: QUALITY | {"document": STORY * 2}, qmsum: QMSUM}[made]
    with pytest.raises(BadRecord, match=sentence):
        list(made(saved(tmp_path, good, row)))


def test_answers_that_are_missing_and_too_few_passages_get_a_sentence(tmp_path):
    path = saved(tmp_path, passages(1)[0] | {"answers": []})
    with pytest.raises(BadRecord, match="line 1: there is no answer"):
        list(nq(path, 1))
    with pytest.raises(BadRecord, match="holds 3 passages, and a document takes 16"):
        list(nq(saved(tmp_path, *passages(3)), 1))


@pytest.mark.parametrize(
    ("content", "name", "sentence"),
    [
        (b'{"doc_id": ', "rows.jsonl", "line 1: this is not JSON"),
        (b"[1, 2]\n", "rows.jsonl", r"line 1: expected a JSON object; got \[1, 2\]"),
        (b"\n\n", "rows.jsonl", "rows.jsonl is empty"),
        (b"\xff\xfe", "rows.jsonl", "can't be read: 'utf-8'"),
        (b"plain", "rows.jsonl.gz", "can't be read: Not a gzipped file"),
        (gzip.compress(b'{"doc_id": 1}', mtime=0)[:-6], "rows.jsonl.gz", "can't be read: .*ended"),
    ],
)
def test_files_of_another_form_get_a_sentence(tmp_path, content, name, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadRecord, match=sentence):
        list(squality(path))


def test_a_file_that_is_not_there_gets_a_sentence(tmp_path):
    with pytest.raises(BadRecord, match="nowhere.jsonl can't be read: No such file"):
        list(squality(tmp_path / "nowhere.jsonl"))


def test_texts_are_tidied():
    assert tidy(" a\n b \n\n\n c\td ") == "a b\n\nc d"
    assert spoken("{vocalsound} {pause}") == ""
    assert spoken("I 've {disfmarker} no follow - up , well !") == ("I've no follow-up, well!")
