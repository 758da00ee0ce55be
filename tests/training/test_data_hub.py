"""Sets of the hub, from small copies in folders laid out as there."""

from __future__ import annotations

import json

import datasets
import pytest

from eval.corpora.jsonl import BadRecord
from training.data.dialogues import Dialogue
from training.data.hub import PERSONAS, SETS, BadSet, hub, hub_dialogues

BABILONG, NARRATIVE, SQUAD, HOTPOT, QMSUM, QUALITY = SETS
WELL = "Ada dug a well\nin nine days."
SCRIPT = "<pre>\n  The <b>well</b>\n\n  Ada digs.  </pre>"


def narrative(number, question, text=WELL):
    return {
        "document": {"id": f"d{number}", "kind": "gutenberg", "text": text},
        "question": {"text": question, "tokens": []},
        "answers": [{"text": "Ada\n", "tokens": []}, {"text": "She", "tokens": []}],
    }


def squad(title, context, question, *answers):
    found = {"text": list(answers), "answer_start": [0] * len(answers)}
    return {"title": title, "context": context, "question": question, "answers": found}


ROWS = {
    NARRATIVE: [
        narrative(1, "Who dug it?"),
        narrative(1, "Who else?"),
        narrative(2, "Who digs?", SCRIPT),
    ],
    SQUAD: [
        squad("Wells", "Ada dug a well.", "Who dug?", "Ada", "she"),
        squad("Wells", "Ada dug a well.", "What was dug?", "a well"),
        squad("Wells", "It took nine days.", "How long?", "nine days"),
        squad("Mills", "Ben built a mill.", "Who built?", "Ben"),
    ],
    HOTPOT: [
        {
            "id": "h1",
            "question": "Where was she born?",
            "answer": "Porto",
            "context": {
                "title": ["Ada", "Ben"],
                "sentences": [["Ada dug.", " She is from Porto."], ["Ben built."]],
            },
        }
    ],
    QMSUM: [
        {
            "input": f"{query}\nChair: The well , again .\nClerk: {{pause}} Mm .",
            "output": "A well .",
        }
        for query in ("Summarize it.", "What was said?")
    ],
    QUALITY: [
        {
            "article": WELL * 2,
            "question": "Who dug?",
            "options": ["Ben", "Ada "],
            "answer": 1,
            "hard": True,
        }
    ],
}


def copied(tmp_path, rows, split="train"):
    """Parquet files as the hub has them."""
    folder = tmp_path / "data"
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_list(rows).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return tmp_path


def found(tmp_path, name):
    return list(hub(name, config="default", source=copied(tmp_path, ROWS[name])))


def asked(record):
    return [(one.question, one.answer) for one in record.questions]


def test_narrativeqa_has_one_record_a_document_without_tags(tmp_path):
    first, second = found(tmp_path, NARRATIVE)
    assert first.id == "deepmind/narrativeqa/0"
    assert first.document == "Ada dug a well in nine days."
    assert asked(first) == [("Who dug it?", "Ada"), ("Who else?", "Ada")]
    assert second.document == "The well\n\nAda digs." and asked(second) == [("Who digs?", "Ada")]


def test_squad_has_one_record_an_article(tmp_path):
    wells, mills = found(tmp_path, SQUAD)
    assert wells.document == "Ada dug a well.\n\nIt took nine days."
    assert asked(wells) == [
        ("Who dug?", "Ada"),
        ("What was dug?", "a well"),
        ("How long?", "nine days"),
    ]
    assert mills.document == "Ben built a mill." and asked(mills) == [("Who built?", "Ben")]


def test_hotpot_joins_its_passages(tmp_path):
    (record,) = found(tmp_path, HOTPOT)
    assert record.document == "Ada\nAda dug. She is from Porto.\n\nBen\nBen built."
    assert asked(record) == [("Where was she born?", "Porto")]


def test_qmsum_takes_the_query_from_the_first_line(tmp_path):
    (record,) = found(tmp_path, QMSUM)
    assert record.document == "Chair: The well, again.\nClerk: Mm."
    assert asked(record) == [("Summarize it.", "A well ."), ("What was said?", "A well .")]


def test_quality_counts_its_options_from_zero(tmp_path):
    (record,) = found(tmp_path, QUALITY)
    assert asked(record) == [("Who dug?\n(A) Ben\n(B) Ada", "Ada")]


def test_babilong_takes_length_and_task_by_name(tmp_path):
    for task in ("qa1", "qa2"):
        folder = tmp_path / "data" / task
        folder.mkdir(parents=True)
        row = {"input": f"Ada went. {task} Ben sat.", "question": "Where?", "target": "here"}
        (folder / "2k.json").write_text(json.dumps([row]))
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: 2k\n  data_files:\n"
        "  - split: qa1\n    path: data/qa1/2k.json\n"
        "  - split: qa2\n    path: data/qa2/2k.json\n---\n"
    )
    (record,) = hub(BABILONG, config="2k", split="qa2", source=tmp_path)
    assert record.document == "Ada went. qa2 Ben sat." and asked(record) == [("Where?", "here")]
    with pytest.raises(BadSet, match="can't be read from .*qa7"):
        list(hub(BABILONG, config="2k", split="qa7", source=tmp_path))


def test_personas_are_read_as_dialogues(tmp_path):
    (tmp_path / "data").mkdir()
    rows = [
        {
            "user 1 personas": "I am four.\nI drive a bmw.",
            "user 2 personas": "I am a boy.",
            "Best Generated Conversation": "User 1: Hi!\nUser 2: Hello!\nUser 1: Bye!",
        },
        {
            "user 1 personas": "I am a boy.",
            "user 2 personas": "I am a boy.",
            "Best Generated Conversation": "User 2: Anyone?",
        },
    ]
    datasets.Dataset.from_list(rows).to_csv(tmp_path / "data" / "chat_train.csv", index=False)
    expected = Dialogue(("I am four.", "I drive a bmw."), ("Hi!", "Hello!"))
    assert list(hub_dialogues(source=tmp_path)) == [expected]


@pytest.mark.parametrize(
    ("name", "change", "sentence"),
    [
        (NARRATIVE, {"document": {"id": "d3"}}, "row 2, document: there is no field text"),
        (NARRATIVE, {"answers": []}, "row 2: there is no answer"),
        (SQUAD, {"answers": {"text": []}}, "row 2: there is no answer"),
        (SQUAD, {"context": None}, "row 2: context must be a text; got 'None'"),
        (HOTPOT, {"context": {"title": ["Ada"], "sentences": []}}, "1 titles and 0 passages"),
        (QMSUM, {"input": "Why?"}, "row 2: the document is empty"),
        (QUALITY, {"answer": 2}, "row 2: there is no option 2; they are 0 to 1"),
    ],
)
def test_rows_of_another_form_get_a_sentence_with_the_place(monkeypatch, name, change, sentence):
    rows = [ROWS[name][0], ROWS[name][0] | change]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    with pytest.raises(BadRecord, match=sentence):
        list(hub(name))


def test_columns_of_another_set_get_a_sentence(tmp_path):
    source = copied(tmp_path, [{"text": "Ada dug."}])
    with pytest.raises(BadRecord, match="squad, train, row 1: there is no field answers; it has"):
        list(hub(SQUAD, source=source))


def test_a_hub_that_can_not_be_reached_gets_one_sentence(monkeypatch):
    def unreachable(*_, **__):
        raise ConnectionError("Couldn't reach the Hub.\nMore lines.")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(BadSet) as caught:
        list(hub(SQUAD))
    assert str(caught.value) == (
        "rajpurkar/squad can't be read from the Hugging Face hub: Couldn't reach the Hub."
    )
    with pytest.raises(BadSet, match=PERSONAS):
        list(hub_dialogues())


def test_a_connection_that_breaks_gets_a_sentence(monkeypatch):
    def broken():
        yield ROWS[SQUAD][0]
        raise TimeoutError

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: broken())
    with pytest.raises(BadSet, match="can't be read from the Hugging Face hub: TimeoutError"):
        list(hub(SQUAD))


def test_the_hub_is_read_as_it_arrives(monkeypatch):
    asked_for = {}

    def load(path, config, **options):
        asked_for.update(options, path=path, config=config)
        return ROWS[NARRATIVE]

    monkeypatch.setattr(datasets, "load_dataset", load)
    list(hub(NARRATIVE, split="validation"))
    assert asked_for == {
        "path": NARRATIVE,
        "config": None,
        "split": "validation",
        "streaming": True,
    }


def test_a_set_that_is_not_known_gets_a_sentence():
    with pytest.raises(BadSet, match="There is no set some/thing here; known are .*squad"):
        list(hub("some/thing"))
