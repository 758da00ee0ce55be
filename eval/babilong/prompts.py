"""BABILong's official prompts, read from the file in which they are published.

`babilong/prompts.py` of booydar/babilong assigns a dictionary to `DEFAULT_PROMPTS`: each task has
an `instruction`, `examples` and a `post_prompt`. The file is read, never run. A chat is told these
three, then the text between tags, then the question. Zero-shot results are comparable with
published results only in these words.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

NAME = "DEFAULT_PROMPTS"
PARTS = ("instruction", "examples", "post_prompt")
# written around the text, and before the question
MARKS = ("<context>\n", "\n</context>")
INSTRUCTION = "Question:"


def read_prompts(path: Path, tasks: Sequence[str]) -> dict[str, str]:
    """The words before text and question, by task.

    Raises:
        ValueError: the file has another form, or lacks a task.
        OSError: the file can't be read.
    """
    where = f"{path} is not BABILong's prompts.py"
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError):
        raise ValueError(f"{where}: it is no Python.") from None
    values = [
        one.value
        for one in statements
        if isinstance(one, ast.Assign)
        and any(isinstance(name, ast.Name) and name.id == NAME for name in one.targets)
    ]
    if len(values) != 1:
        raise ValueError(f"{where}: it must assign {NAME} once.")
    try:
        prompts = ast.literal_eval(values[0])
        return {task: "\n\n".join(prompts[task][part] for part in PARTS) for task in tasks}
    except KeyError as error:
        raise ValueError(f"{where}: {NAME} has no {error}.") from None
    except (ValueError, TypeError):
        raise ValueError(f"{where}: {NAME} must hold texts, {', '.join(PARTS)} by task.") from None
