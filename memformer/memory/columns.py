"""The names and kinds of a memory's tensors, which states, checks and files share."""

from __future__ import annotations

EMPTY = -1
# columns of one number a slot, with the number of an empty slot: a float for float32, else int64
COLUMNS: dict[str, float] = {
    "strength": 0.0,
    "settled": 0.0,
    "usage": 0.0,
    "reads": 0.0,
    "open_reads": 0.0,
    "seen_at": EMPTY,
    "written_at": EMPTY,
    "token": EMPTY,
    "segment": EMPTY,
    "turn": EMPTY,
}
# counts of one number a row
COUNTS = ("num_seen", "num_written", "num_segments", "num_turns")
CONTENTS = ("keys", "values", "addresses")
# the record: int32 columns of one number a token that was told, and the keys of the finders, uint8;
# each with the number of a place where no token is told
TOLD: dict[str, int] = {"told": EMPTY, "told_turn": EMPTY, "told_segment": EMPTY}
RECORD: dict[str, int] = TOLD | {"finder_keys": 0}
