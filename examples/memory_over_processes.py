"""Keeps a memory in a store, and opens it again in a second process.

    python examples/memory_over_processes.py                   # the trained checkpoint
    python examples/memory_over_processes.py --model FOLDER    # another model with a memory

The first process tells two facts and ends. The second one has only the store: it asks for the
facts, lists what is remembered, and forgets one turn. The store is a temporary folder here; leave
`MemoryStore()` without a folder for the user's own. Takes about a minute on two CPU cores.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile

from transformers import AutoTokenizer

from memformer import TRAINED, ChatSession, MemformerForCausalLM, MemoryStore, fetch


def session(model: str, store: str) -> ChatSession:
    """Opens the model, and Alice's memory in the store."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = MemformerForCausalLM.from_pretrained(model)
    return ChatSession(loaded, tokenizer, MemoryStore(store), user="alice", max_new_tokens=24)


def tell(alice: ChatSession) -> None:
    """The first process."""
    for fact in ("My sister Ines plays the cello.", "My brother Tom lives in Oslo."):
        alice.say(fact)
        print(f"told: {fact}")


def ask(alice: ChatSession) -> None:
    """The second process."""
    for question in ("What does my sister play?", "Where does my brother live?"):
        print(f"asked: {question} {alice.ask(question)[0]}")
    alice.forget([1])
    print("remembered after forgetting turn 1:", [turn["text"] for turn in alice.turns()])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A memory kept over processes.")
    parser.add_argument("--model", default=str(TRAINED), help="folder of a model with a memory")
    parser.add_argument("--store", help="given to the second process by the first")
    given = parser.parse_args()
    if given.store:
        ask(session(given.model, given.store))
    else:
        if given.model == str(TRAINED):
            fetch()  # the decoder below the trained checkpoint
        with tempfile.TemporaryDirectory() as folder:
            tell(session(given.model, folder))
            again = [sys.executable, __file__, "--model", given.model, "--store", folder]
            subprocess.run(again, check=True)
