"""bAbI's files and a book in small, for tests."""

from __future__ import annotations

from pathlib import Path

from eval.babilong.metric import HEADLINE

# in the format of bAbI, in sentences of our own
STORY = """\
1 {who} ran up to the kitchen.
2 Otto sat down in the garden.
3 Where is {who}? \tkitchen\t1
4 {who} ran on to the office.
5 Where is {who}? \toffice\t4
6 Where is Otto? \tgarden\t2
"""
NAMES = ("Ada", "Ben", "Cleo", "Dora")
PROSE = "The rain of {} days had made the old road soft. Nobody came up from the sea that year."


def save_data(folder: Path) -> Path:
    """Test files of the headline's tasks, and a book beside them; returns the folder."""
    for task in HEADLINE:
        text = "".join(STORY.format(who=name) for name in NAMES)
        (folder / f"{task}_some-task_test.txt").write_text(text)
    (folder / "books").mkdir()
    (folder / "books" / "rain.txt").write_text("\n".join(PROSE.format(n) for n in range(40)))
    return folder
