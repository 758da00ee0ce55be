"""The turns of a memory as text that a person recognises, without the tokens of a template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.memory import MemoryState
    from memformer.template import Frame


def readable_turns(
    memory: MemoryState, tokenizer: PreTrainedTokenizerBase, marks: Frame
) -> list[dict[str, Any]]:
    """The turns of a memory of one row.

    Args:
        memory: the memory.
        tokenizer: the tokenizer of the model that wrote the memory.
        marks: the tokens that its template writes around a turn; they are left out.

    Returns:
        One dict per turn, oldest first, with keys `turn`, `tokens`, `text`, `reply` and `document`.
    """
    names = {read.turn: read.name for read in memory.documents}
    slots = memory.occupied[0].nonzero().flatten()
    slots = slots[memory.seen_at[0, slots].argsort()]
    turns = []
    for turn in sorted(set(memory.turn[0, slots].tolist())):
        mine = slots[(memory.turn[0, slots] == turn) & (memory.strength[0, slots] > 0)]
        if memory.token[0, mine].tolist() == [marks.first]:
            continue  # the token that every text begins with; see `Frame.first`
        said, _, replied = _split(memory.token[0, mine].tolist(), marks.reply)
        said, replied = without_marks(said, marks), without_marks(replied, marks)
        text, reply = (
            str(tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in (said, replied)
        )
        turns.append(
            {
                "turn": turn,
                "tokens": len(mine),
                "text": text,
                "reply": reply,
                "document": names.get(turn),
            }
        )
    return turns


def without_marks(ids: list[int], marks: Frame) -> list[int]:
    """Token ids without the tokens that a template writes around a turn."""
    around = (marks.opening, marks.before, marks.before[1:])
    for part in (*around, marks.thanks, marks.reply, marks.after):
        ids = _without(ids, part)
    return ids


def _split(ids: list[int], marks: list[int]) -> tuple[list[int], list[int], list[int]]:
    """The ids before the first occurrence of the marks, the marks, and the ids after it."""
    for place in range(len(ids) - len(marks) + 1) if marks else ():
        if ids[place : place + len(marks)] == marks:
            return ids[:place], marks, ids[place + len(marks) :]
    return ids, [], []


def _without(ids: list[int], marks: list[int]) -> list[int]:
    """The ids without any occurrence of the marks."""
    before, found, after = _split(ids, marks)
    while found:
        ids = before + after
        before, found, after = _split(ids, marks)
    return ids
