"""How systems look to a reader: words, and a colour that stays."""

from __future__ import annotations

import pytest

from eval.harness.looks import COLORS, WORDS, looks, words
from eval.harness.specs import NAMES

PEER = "eval.peers.system:Saved"


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("nothing", "the question alone"),
        ("truncated", "the last 512 tokens"),
        ("sliding:1672", "a sliding window of 1,672 tokens"),
        ("full@runs/mine", "everything in the window, trained weights"),
        ("bm25:4@runs/mine", "BM25, 4 passages, trained weights"),
        ("dense:1/plain", "an encoder, 1 passage, plain text"),
        ("attached", "untrained memory"),
        ("memformer:2048/chat@runs/other/", "memory, 2,048 slots, chat, other"),
        ("ungated", "memory, gate held open"),
        (f"{PEER}:512/plain@runs/rmt", "rmt 512, plain text"),
        ("shelves:Shelf", "Shelf"),
    ],
)
def test_a_system_is_named_in_words(system: str, text: str) -> None:
    assert words(system, "runs/mine") == text


def test_every_system_has_words_and_a_colour_of_its_own() -> None:
    assert set(WORDS) == set(COLORS) == set(NAMES)
    assert len(set(COLORS.values())) == len(NAMES)


def test_a_kind_keeps_its_colour_whatever_else_is_drawn() -> None:
    few = looks(["bm25", "memformer"])
    many = looks(["nothing", "bm25:4@m", "full", "bm25:4", "bm25:8", "attached", "memformer:9"])
    assert many["bm25:4"] == few["bm25"]
    assert many["memformer:9"] == few["memformer"]
    found = [many[name] for name in ("bm25:4@m", "bm25:4", "bm25:8")]
    assert {look.color for look in found} == {few["bm25"].color}
    assert len({look.marker for look in found}) == len({look.line for look in found}) == 3
    # also where there are more of a kind than markers
    assert len(looks([f"bm25:{number}" for number in range(1, 9)])) == 8


def test_classes_of_ones_own_have_a_colour_for_each_model() -> None:
    found = looks([f"{PEER}@rmt", f"{PEER}:512@rmt", f"{PEER}@armt"])
    first, second, other = found.values()
    assert first.color == second.color != other.color
    assert first.marker != second.marker
    assert not {first.color, other.color} & set(COLORS.values())
