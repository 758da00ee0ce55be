"""Paragraphs, stories and talk with short answers: what is asked, and where the answer stands."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.harness.unknown import INSTRUCTION, says_unknown
from eval.sets import LETTER, PARAGRAPH, SHORT
from training.data import passages as forms
from training.data.build import app
from training.data.drills import UNKNOWN
from training.data.local import paragraphs, places, stories, untokenised
from training.data.passages import Asked, Passage, Words, sentence_at
from training.data.prose import strewn
from training.data.records import read
from training.data.talk import plain, scenes, shortened

WORDS = "amber basalt cobalt dolmen ermine falcon garnet hazel indigo jasper".split()
TOWNS = "Aberdon Brackwell Cinderby Dunmere Eastholm Farrowby Glenrock Hathersage Irondale Kestrel"


def paragraph(article: int, number: int) -> dict:
    """A paragraph with two questions whose answers only it holds."""
    town, thing = TOWNS.split()[article], WORDS[number]
    year = 1500 + 10 * article + number
    text = (
        f"The {thing} tower of {town} was raised in {year}. Its mason was Master {thing.title()}"
        f"ius{article}, who came from the hills. Nobody knows why it leans."
    )
    questions = [
        {"question": f"when was the {thing} tower of {town} raised", "answers": [str(year)]},
        {
            "question": f"Who was the mason of the {thing} tower of {town}?",
            "answers": [f"Master {thing.title()}ius{article}", "a mason with too long a name " * 3],
        },
        {"question": f"Who burned the {thing} tower of {town}?", "answers": [], "impossible": True},
        {"question": "Why?", "answers": ["Nobody knows why"]},
    ]
    return {"doc_id": f"set/{town}", "title": town, "context": text, "questions": questions}


def rows(articles=10, each=10):
    return [paragraph(a, n) for a in range(articles) for n in range(each)]


def save(folder: Path, name: str, found: list[dict], split: str = "train") -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    path = folder / name / f"{split}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def run(*arguments: object):
    return CliRunner().invoke(app, [str(one) for one in arguments], env={"COLUMNS": "200"})


@pytest.fixture
def sets(tmp_path):
    folder = tmp_path / "sets"
    save(folder, "squadshifts", rows())
    save(folder, "squad", [{"doc_id": "m", "paragraphs": [{"context": "Nothing is alike."}]}])
    return folder


def test_questions_are_asked_in_the_words_of_the_benchmarks():
    assert (forms.SHORT, forms.LETTER, forms.PERHAPS) == (SHORT, LETTER, INSTRUCTION)
    assert forms.PARAGRAPH == PARAGRAPH
    assert says_unknown(UNKNOWN)


def test_paragraphs_are_told_once_and_asked_about_where_they_are_told(tmp_path, sets):
    out = tmp_path / "out.jsonl"
    result = run("prose", out, "--folder", sets, "--measured", sets, "--sets", "squadshifts")
    assert result.exit_code == 0, result.output
    assert "squadshifts/train: 0 of 100 rows left out" in result.output
    records = list(read(out))
    told = [part for record in records for part in record.text.split("\n\n")]
    assert len(told) == len(set(told)) >= 90
    questions = [(record, one) for record in records for one in record.questions]
    forms_of_titles = {part.split("\n")[0] in TOWNS.split() for part in told}
    assert forms_of_titles == {True, False}
    unknown = [one for _, one in questions if one.answer == UNKNOWN]
    assert 0.1 < len(unknown) / len(questions) < 0.35
    assert all(one.passage is None and one.sentence is None for one in unknown)
    assert f"{len(unknown)} questions without an answer there" in result.output
    for record, one in questions:
        if one.answer == UNKNOWN:
            continue
        passage, sentence = (record.text[slice(*span)] for span in (one.passage, one.sentence))
        assert passage in record.text.split("\n\n") and sentence in passage
        answer = one.answer
        if options := dict(zip("ABCD", one.question.split("\n")[1:], strict=False)):
            assert len(options) == 4 and one.instruction in (SHORT, LETTER)
            if one.instruction == LETTER:
                answer = options[answer.strip("()")].partition(" ")[2]
        assert answer in sentence and not one.silver
        # the passage was told before the question, and names what is asked
        assert one.passage[1] <= one.after <= len(record.text)
        town = next(town for town in TOWNS.split() if town in one.question)
        assert town in passage
    assert {one.instruction for _, one in questions} == {SHORT, LETTER, INSTRUCTION, ""}
    assert any("\n(A)" in one.question for _, one in questions)


def test_half_of_the_documents_hold_several_paragraphs_of_one_article():
    found = paragraphs("squadshifts", [("here", row) for row in rows()])
    many = 0
    records = list(strewn(found, "x", 40, size=(8, 8)))
    assert [record.id for record in records[:2]] == ["x/0", "x/1"]
    for record in records:
        towns = [t for t in TOWNS.split() for part in record.text.split("\n\n") if t in part]
        many += max(towns.count(town) for town in towns) >= 4
    assert 10 <= many <= 34
    assert list(strewn(found, "x", 40, size=(8, 8))) == records


def test_a_question_that_another_passage_could_answer_is_not_asked():
    texts = ["The mill of Dunmere was built by Ada.", "The barn was built by Ben.", "Cleo sings."]
    words = Words(Passage("", text) for text in texts)
    mill, vague = Asked("Who built the mill of Dunmere?", "Ada"), Asked("Who built it?", "Ada")
    assert words.asks_for(mill, texts[0], texts[1:])
    assert not words.asks_for(vague, texts[0], texts[1:])
    assert not words.asks_for(mill, texts[0], ["Another mill of Dunmere was built too."])
    assert not words.asks_for(mill, texts[0], ["Ada was in the mill of Dunmere."])


def test_answers_are_whole_words_and_short():
    row = paragraph(0, 0) | {
        "questions": [
            {"question": "How many?", "answers": ["3"]},
            {"question": "Of what?", "answers": ["the hills", "hills", "the hills"]},
        ]
    }
    (passage,) = paragraphs("squadshifts", [("here", row)])
    assert [one.answer for one in passage.asked] == ["the hills"]
    assert places("353 or 3", "3") == [7]
    table = row | {"context": "<Table> <Tr> <Td> The hills </Td> </Tr> </Table>"}
    assert paragraphs("nq_swap", [("here", table)]) == []
    text = "Ada left. She sails now. Ben stays."
    assert text[slice(*sentence_at(text, 14, 19))] == "She sails now."
    assert untokenised("He does n't get `` it '' ( yet ) , he 's gon na go .") == (
        "He doesn't get \"it\" (yet), he's gonna go."
    )


STORY = {
    "doc_id": "tale",
    "context": " ".join(["The miller had a daughter who could spin straw into gold."] * 5)
    + "\n\n"
    + " ".join(["The king locked her in a chamber until the morning came."] * 5)
    + "\n\n"
    + " ".join(["A dwarf stepped in and asked for her necklace."] * 6),
    "questions": [
        {"question": "What could she spin?", "answers": ["straw"], "sections": ["1"]},
        {
            "question": "Why was she afraid?",
            "answers": ["The king locked her up"],
            "sections": ["1", "2"],
        },
        {"question": "What did the dwarf ask for?", "answers": ["her necklace"], "sections": ["3"]},
    ],
}
STORY |= {
    "section_ids": ["1", "2", "3"],
    "section_starts": [0, STORY["context"].index("The king"), STORY["context"].index("A dwarf")],
}


def test_stories_have_silver_labels_where_the_answer_is_in_other_words(tmp_path):
    (story,) = stories([("here", STORY)])
    assert [len(passage.asked) for passage in story] == [1, 1, 1]
    assert [passage.asked[0].silver for passage in story] == [False, True, False]
    assert story[1].text[slice(*story[1].asked[0].sentence)].startswith("The king locked her")
    save(tmp_path, "fairytaleqa", [STORY, STORY | {"doc_id": "again"}])
    out = tmp_path / "out.jsonl"
    arguments = ("--folder", tmp_path, "--measured", tmp_path / "fairytaleqa" / "train.jsonl")
    assert "2 of 2 rows left out: 2 share text" in run("stories", out, *arguments).output
    other = save(tmp_path / "other", "x", [{"text": "Nothing."}])
    assert run("stories", out, "--folder", tmp_path, "--measured", other).exit_code == 0
    records = list(read(out))
    assert len(records) == 2 and all(one.text.startswith("The miller") for one in records)


SCENE = {
    "doc_id": "s01_e01_c01",
    "sessions": [
        {
            "turns": [
                {"uid": 0, "speaker": "#NOTE#", "text": "[ Scene : a ferry . ]"},
                {"uid": 1, "speaker": "Ada", "text": "I lost my umbrella in Dunmere ."},
                {"uid": 2, "speaker": "Ben", "text": "Do n't worry , it 's dry ."},
            ]
        }
    ],
    "questions": [
        {
            "question": "Where did Ada lose her umbrella ?",
            "answers": ["in Dunmere ."],
            "spans": [{"uid": 1}],
        },
        {"question": "Who comforts her ?", "answers": ["Ben"], "spans": [{"uid": 2}]},
        {"question": "Who sinks ?", "answers": ["nobody"], "spans": [{"uid": 1}]},
    ],
}


def test_scenes_are_told_a_line_a_turn():
    (scene, other) = scenes(
        "friendsqa", [("a", SCENE), ("b", SCENE), ("c", SCENE | {"doc_id": "s01_e01_c02"})]
    )
    assert scene.article == other.article == "friendsqa/s01_e01"
    lines = scene.text.split("\n")
    assert lines == [
        "[Scene: a ferry.]",
        "Ada: I lost my umbrella in Dunmere.",
        "Ben: Don't worry, it's dry.",
    ]
    assert [(one.question, one.answer) for one in scene.asked] == [
        ("Where did Ada lose her umbrella?", "in Dunmere"),
        ("Who comforts her?", "Ben"),
    ]
    assert [scene.text[slice(*one.sentence)] for one in scene.asked] == lines[1:]
    chat = SCENE | {"turns": SCENE["sessions"][0]["turns"][1:], "doc_id": "molweni/1"}
    chat["questions"] = [
        {"question": "What is lost ?", "answers": ["my umbrella"], "answer_starts": [12]}
    ]
    (found,) = scenes("molweni", [("here", chat)])
    assert found.text[slice(*found.asked[0].sentence)] == lines[1]


def test_days_are_asked_about_the_session_that_is_needed(tmp_path):
    def session(number, said):
        turns = [("User", said), ("Assistant", "**Fine.**\n\nI will."), ("User", "Thanks a lot.")]
        return {
            "session": number,
            "turns": [{"speaker": speaker, "text": text} for speaker, text in turns],
        }

    told = ["I bought a kayak.", "My ladder is broken.", "It rains on the meadow.", "Hello again."]
    need = [{"session": 2, "content": "The ladder of the user is broken."}]
    asked = {"question": "Hi, what did I say of the ladder?", "answers": ["It is broken.\n\nSo."]}
    row = {
        "doc_id": "realmem/Ada",
        "sessions": [session(number, said) for number, said in enumerate(told, 1)],
        "questions": [asked | {"id": "Ada/1", "session": 4, "turn": 0, "memory_used": need}],
    }
    row["questions"].append(asked | {"id": "Ada/2", "session": 4, "turn": 2, "memory_used": need})
    save(tmp_path, "realmem", [row])
    other = save(tmp_path / "other", "x", [{"text": "Nothing."}])
    out = tmp_path / "out.jsonl"
    options = ("--folder", tmp_path, "--measured", other, "--sets", "realmem")
    assert run("talk", out, *options).exit_code == 0
    (record,) = read(out)
    (one,) = record.questions
    assert (one.answer, one.silver) == ("It is broken.", True)
    assert record.text[slice(*one.passage)] == "My ladder is broken.Fine. I will."
    assert record.document[0] == ("user", "I bought a kayak.")
    assert plain("# Plan\n\n- **one** `two`\n2. _three_ a_b") == "Plan one two three a_b"
    assert shortened("One. " * 61).split() == ["One."] * 60


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("personamem", "personamem is for evaluation only: no model may be trained on it"),
        ("leval_topic_retrieval", "is for evaluation only"),
        ("clapnq_dev", "is for evaluation only"),
        ("bamboo_altqa", "is for evaluation only"),
        ("poems", "There is no set poems here; there are squadshifts, "),
    ],
)
def test_sets_that_measure_are_refused_by_name(tmp_path, sets, name, sentence):
    out = tmp_path / "out.jsonl"
    result = run("prose", out, "--folder", sets, "--measured", sets, "--sets", name)
    assert result.exit_code == 2 and sentence in result.output and not out.exists()


def test_texts_of_the_held_out_part_are_not_trained_on(tmp_path, sets):
    same = rows(1, 4)
    for row in same:
        row["context"] += " It leans to the north, and the people of the valley are fond of it."
    save(sets, "squadshifts", [*rows(), *same])
    save(sets, "squadshifts", same, "dev")
    arguments = ("--folder", sets, "--measured", sets, "--sets", "squadshifts")
    result = run("prose", tmp_path / "out.jsonl", *arguments)
    assert "of 104 rows left out" in result.output and ": 0 of" not in result.output
    told = [record.text for record in read(tmp_path / "out.jsonl")]
    assert told and not any("fond of it" in text for text in told)


def test_mistakes_get_a_sentence(tmp_path, sets):
    out = tmp_path / "out.jsonl"
    arguments = ("prose", out, "--folder", sets, "--measured", sets, "--sets", "squadshifts")
    result = run(*arguments, "--split", "test")
    assert result.exit_code == 2 and "--split must be train or dev" in result.output
    result = run(*arguments, "--split", "dev")
    assert result.exit_code == 2 and "holds no file *dev.jsonl" in result.output
    save(sets, "squadshifts", rows(1, 3), "dev")
    result = run(*arguments, "--split", "dev")
    assert result.exit_code == 2 and "A document takes 8 passages or more" in result.output


def test_options_are_alike():
    pool = [Asked("When?", str(year)) for year in range(1900, 1903)] + [Asked("When?", "never")]
    asked = Asked("When did it end?", "1950")
    found = forms._options(asked, pool, random.Random(0))
    assert sorted(found) == ["1900", "1901", "1902", "1950"]
    assert forms._options(asked, pool[1:], random.Random(0)) == []
    assert forms.kind("In what year did it end?") == "what year"
    assert forms.kind("What is it?") == "what"
