"""The two halves of `memformer demo`: six facts in one process, six questions in another.

The two processes share a file and nothing else. Each question is a chat turn with the beginning of
an answer ("Anna lives in"), which the model completes greedily in a few tokens.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from memformer.chat import ChatSession, chat_ids
from memformer.memory import MemoryState

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from memformer.model import MemformerForCausalLM

# (the fact, the question, the beginning of the answer, its expected end)
FACTS = (
    ("Anna lives in Lisbon.", "Where does Anna live?", "Anna lives in", "Lisbon"),
    ("Boris works as a baker.", "What is Boris's job?", "Boris works as a", "baker"),
    ("Clara's dog is called Rex.", "What is Clara's dog called?", "Clara's dog is called", "Rex"),
    ("David plays the violin.", "What does David play?", "David plays the", "violin"),
    (
        "Emma's favourite colour is purple.",
        "What is Emma's favourite colour?",
        "Emma's favourite colour is",
        "purple",
    ),
    ("Farid drives a green tractor.", "What does Farid drive?", "Farid drives a", "green tractor"),
)
ANSWER_TOKENS = 6


def tell(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerBase, path: Path
) -> dict[str, int]:
    """Process one: tells the facts in one chat turn and saves the memory."""
    chat = ChatSession(model, tokenizer)
    chat.remember(" ".join(fact for fact, *_ in FACTS))
    chat.memory.save(path)
    return {"tokens": int(chat.memory.num_seen[0]), "bytes": path.stat().st_size}


def recall(
    model: MemformerForCausalLM, tokenizer: PreTrainedTokenizerBase, path: Path
) -> list[dict[str, Any]]:
    """Process two: asks every question with the memory from the file, and without any."""
    memory = MemoryState.load(path, model=model)
    rows = []
    for _, question, begun, expected in FACTS:
        answers = [_answer(model, tokenizer, question, begun, state) for state in (None, memory)]
        rows.append(
            {
                "question": question,
                "begun": begun,
                "expected": expected,
                "without_memory": answers[0],
                "with_memory": answers[1],
                "ok_without": is_right(answers[0], expected),
                "ok": is_right(answers[1], expected),
            }
        )
    return rows


def is_right(answer: str, expected: str) -> bool:
    """Whether the answer starts with the expected words, in any case."""
    return re.match(rf"{re.escape(expected)}\b", answer, re.IGNORECASE) is not None


def _answer(
    model: MemformerForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    begun: str,
    memory: MemoryState | None,
) -> str:
    ids = chat_ids(tokenizer, [{"role": "user", "content": question}], reply=begun)
    ids = ids.to(model.device)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        memory=memory,
        max_new_tokens=ANSWER_TOKENS,
        do_sample=False,
    )
    text = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
    return re.split(r"[.,;:!?\n]", str(text).strip(), maxsplit=1)[0].strip()


def recall_elsewhere(
    path: Path, model: str | None, backbone: str | None = None
) -> list[dict[str, Any]]:
    """Runs `recall` in a process of its own.

    Raises:
        ChildProcessError: the process failed; the message is the last line that it printed.
    """
    # -P: Python imports nothing from the current folder
    command = [sys.executable, "-P", "-m", "memformer", "demo-recall", str(path)]
    if model is not None:
        command += ["--model", model]
    if backbone is not None:
        command += ["--backbone", backbone]
    ended = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    if ended.returncode != 0:
        last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildProcessError(
            f"the second process ended with status {ended.returncode}: "
            f"{last.removeprefix('error: ')}"
        )
    rows: list[dict[str, Any]] = json.loads(ended.stdout)
    return rows
