"""Talking to a model that remembers: :class:`ChatSession`.

Inside a session and across sessions the memory is the only thing that links turns: no earlier turn
is ever sent again, so a turn costs the same on the first day and on the thousandth. Knows the
tokenizer and the store; the memory itself is `model.py`'s and `memory/`'s business.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from memformer.store import MemoryStore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

    from memformer.memory import MemoryState
    from memformer.model import MemformerForCausalLM

ACKNOWLEDGEMENT = "I will remember that."
# how a conversation is written for a tokenizer that brings no chat template
PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
PLAIN_STOP = "\nUser:"


class ChatSession:
    """A conversation whose turns are remembered.

    With a store, every turn is one locked step: load the user's memory, answer, save. Two sessions
    of one user therefore see each other's turns, and none is lost.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer; without a chat template, turns are written as plain
            "User: ..." and "Assistant: ..." lines.
        store: where the memory is kept. None: it lives as long as the session.
        user: whose memory in the store.
        max_new_tokens: longest reply.

    Raises:
        ValueError: a store without a user, a user without a store, or an unusable user id.
    """

    def __init__(
        self,
        model: MemformerForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        store: MemoryStore | None = None,
        user: str | None = None,
        max_new_tokens: int = 256,
    ) -> None:
        if (store is None) != (user is None):
            given, missing = ("user", "store") if store is None else ("store", "user")
            raise ValueError(
                f"store and user belong together; got a {given} without a {missing}. "
                "Give both, or neither for a memory that ends with the session."
            )
        self.model = model
        self.tokenizer = tokenizer
        self.store = store
        self.user = user
        self.max_new_tokens = max_new_tokens
        self.memory: MemoryState = self._load()

    def say(self, text: str, streamer: BaseStreamer | None = None) -> str:
        """Answers, greedily, and remembers both sides.

        Args:
            text: what the user says.
            streamer: gets the reply's tokens as they come.

        Raises:
            ValueError: empty text.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        ids = self._ids([_message("user", text)], reply="")
        plain = not self.tokenizer.chat_template
        # without a template nothing ends the reply but the next line that the user would speak
        stop = {"stop_strings": [PLAIN_STOP], "tokenizer": self.tokenizer} if plain else {}
        with self._turn():
            output, self.memory = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                memory=self.memory,
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                return_memory=True,
                streamer=streamer,
                **stop,
            )
        reply = self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        return str(reply).removesuffix(PLAIN_STOP if plain else "").strip()

    @torch.no_grad()
    def remember(self, text: str, progress: Callable[[int, int], None] | None = None) -> int:
        """Reads a text of any length into the memory, as something the user said.

        All of it is written: a write gate knows the kinds of text that it was trained for, and who
        has a text remembered wants that one.

        Args:
            text: what to remember.
            progress: called with the number of tokens read so far and the number in all.

        Returns:
            The number of tokens read.

        Raises:
            ValueError: empty text.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        ids = self._ids([_message("user", text), _message("assistant", ACKNOWLEDGEMENT)])
        total = ids.shape[1]

        def report(done: int) -> None:
            if progress is not None:
                progress(min(done, total), total)

        with self._turn():
            self.memory = self.model.memorize(ids, memory=self.memory, gated=False, progress=report)
        return total

    def forget(self, turns: int | Iterable[int] | Callable[[dict[str, Any]], bool]) -> int:
        """Removes turns, or the rows of `inspect` a function picks; returns how many tokens.

        Raises:
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        with self._turn():
            return self.memory.forget(turns)

    def inspect(self) -> list[dict[str, Any]]:
        """What the memory holds now, one row per token: see `MemoryState.inspect`."""
        self.memory = self._load()
        return self.memory.inspect(self.tokenizer)

    def turns(self) -> list[dict[str, Any]]:
        """What the memory holds now, as readable text.

        Returns:
            One dict a turn, oldest first, with keys `turn, tokens, reads, text`; evicted and
            forgotten tokens are missing from the text.
        """
        self.memory = memory = self._load()
        slots = memory.occupied[0].nonzero().flatten()
        slots = slots[memory.written_at[0, slots].argsort()]
        turns = []
        for turn in sorted(set(memory.turn[0, slots].tolist())):
            mine = slots[memory.turn[0, slots] == turn]
            turns.append(
                {
                    "turn": turn,
                    "tokens": len(mine),
                    "reads": float(memory.reads[0, mine].sum()),
                    "text": self._readable(memory.token[0, mine].tolist()),
                }
            )
        return turns

    def _readable(self, ids: list[int]) -> str:
        """Text in one piece, since a character may need several tokens; a line per message."""
        special = set(self.tokenizer.all_special_ids)
        runs = itertools.groupby(ids, key=lambda token: token in special)
        texts = [str(self.tokenizer.decode(list(run))).strip() for skip, run in runs if not skip]
        return "\n".join(text for text in texts if text)

    def _ids(self, messages: list[dict[str, str]], reply: str | None = None) -> Tensor:
        return chat_ids(self.tokenizer, messages, reply=reply).to(self.model.device)

    def _load(self) -> MemoryState:
        if self.store is None or self.user is None:
            kept = getattr(self, "memory", None)
        else:
            kept = self.store.load(self.user, self.model)
        return self.model.init_memory(batch_size=1) if kept is None else kept

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """One locked load-change-save; a turn that fails saves nothing."""
        if self.store is None or self.user is None:
            yield
            return
        with self.store.lock(self.user):
            self.memory = self._load()
            yield
            self.store.save(self.user, self.memory)


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, str]],
    reply: str | None = None,
) -> Tensor:
    """Token ids (1, tokens) of a conversation as the model was trained to see one.

    Args:
        tokenizer: with or without a chat template.
        messages: dicts with `role` and `content`.
        reply: None: the conversation ends here. Text, perhaps empty: the assistant's turn is open
            and begins with it.
    """
    if tokenizer.chat_template:
        text = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=reply is not None
        )
        text = f"{text}{reply or ''}"
    else:
        lines = [f"{PLAIN_NAMES[message['role']]}: {message['content']}" for message in messages]
        if reply is not None:
            lines.append(f"{PLAIN_NAMES['assistant']}: {reply}".rstrip())
        text = "\n".join(lines) + ("\n" if reply is None else "")
    # a template writes its own special tokens
    encoded = tokenizer(text, add_special_tokens=not tokenizer.chat_template, return_tensors="pt")
    ids: Tensor = encoded.input_ids
    return ids


def _message(role: str, content: str) -> dict[str, str]:
    if not content.strip():
        raise ValueError("There is nothing to say or to remember: the text is empty.")
    return {"role": role, "content": content}
