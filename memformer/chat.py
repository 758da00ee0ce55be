"""Talking to a model that remembers: :class:`ChatSession`.

Inside a session and across sessions the memory is the only thing that links turns: no earlier turn
is ever sent again, so a turn costs the same on the first day and on the thousandth. How words
become tokens: `template.py`; how documents are read: `reading.py`; where memories are kept:
`store.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from memformer.reading import Document, Reading, begun, chunks, read_document
from memformer.store import MemoryBusy, MemoryStore
from memformer.template import (
    ACKNOWLEDGEMENT,
    PLAIN_NAMES,
    PLAIN_STOP,
    chat_ids,
    frame,
)
from memformer.turns import readable_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

    from memformer.memory import MemoryState
    from memformer.model import MemformerForCausalLM

T = TypeVar("T")

# options that mean nothing unless a reply is sampled
SAMPLING = {"temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff"}
# questions answered side by side: each has a copy of the memory
ASKED_AT_ONCE = 8
# options of `generate` that are the session's own business
OWN = {"memory", "return_memory", "limit", "reply_limit", "inputs", "input_ids", "attention_mask"}
# seconds that a document which is being read waits for a turn to end, before it gives up
DOCUMENT_PATIENCE = 600.0


class ChatSession:
    """A conversation whose turns are remembered.

    With a store, every turn is one locked step: load the user's memory, answer, save. Two sessions
    of one user therefore see each other's turns, and none is lost. Threads may share a session.

    The system message stands before every turn and is never remembered: it would answer questions
    about the user. Nor are replies, unless `reply_limit` says so.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer; without a chat template, turns are written as plain
            "User: ..." and "Assistant: ..." lines.
        store: where the memory is kept. None: it lives as long as the session.
        user: whose memory in the store.
        system: the system message; None: that of the chat template, if it has one.
        timeout: seconds to wait where another turn of the user is under way.
        reply_limit: how firmly replies are remembered at most, in [0, 1]; 0: not at all, because
            a model's own mistakes come back from its memory (docs/results.md, "Replies").
        **options: for `generate`, such as `max_new_tokens` (256 if left out), `temperature` or
            `repetition_penalty`. Replies are greedy unless an option asks for sampling.

    Raises:
        ValueError: a store without a user, a user without a store, an unusable user id, or a chat
            template that takes no system message; a reply_limit out of range.
        MemoryBusy: the user's memory can't be opened in time.
    """

    def __init__(
        self,
        model: MemformerForCausalLM,
        tokenizer: PreTrainedTokenizerBase,
        store: MemoryStore | None = None,
        user: str | None = None,
        *,
        system: str | None = None,
        timeout: float = 5.0,
        reply_limit: float = 0.0,
        **options: Any,
    ) -> None:
        if (store is None) != (user is None):
            given, missing = ("user", "store") if store is None else ("store", "user")
            raise ValueError(
                f"store and user belong together; got a {given} without a {missing}. "
                "Give both, or neither for a memory that ends with the session."
            )
        if not isinstance(reply_limit, int | float) or not 0 <= reply_limit <= 1:
            raise ValueError(f"reply_limit must be a number between 0 and 1; got {reply_limit!r}.")
        self.model = model
        self.tokenizer = tokenizer
        self.store = store
        self.user = user
        self._system = system
        self.timeout = timeout
        self.reply_limit = reply_limit
        self.options = options
        self._frame = frame(tokenizer, system)
        self._lock = threading.RLock()
        self._changes = 0
        self.memory: MemoryState = model.init_memory(batch_size=1)
        self.memory = self._load()

    def __repr__(self) -> str:
        whose = "a temporary memory" if self.user is None else f"the memory of {self.user!r}"
        return f"ChatSession({whose}, {self.memory!r})"

    @property
    def system(self) -> str | None:
        """The system message; another one needs another session."""
        return self._system

    def say(self, text: str, streamer: BaseStreamer | None = None, **options: Any) -> str:
        """Answers, and remembers the turn.

        Args:
            text: what the user says.
            streamer: gets the reply's tokens as they come.
            **options: for this reply, over those of the session.

        Raises:
            ValueError: empty text, half a character, or an option that `generate` does not know.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        ids = self._asked(text)
        limit = torch.ones_like(ids, dtype=torch.float32)
        limit[:, : self._frame.unwritten] = 0
        limit[:, ids.shape[1] - len(self._frame.reply) :] = self.reply_limit

        def answer(memory: MemoryState) -> tuple[Tensor, MemoryState]:
            output, after = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                memory=begun(self.model, self._frame, memory),
                return_memory=True,
                limit=limit,
                reply_limit=self.reply_limit,
                streamer=streamer,
                **self._generation(options),
            )
            return _replies(output, 1), after

        output = self._change(answer)
        return self._reply(output[0, ids.shape[1] :])

    def ask(self, *questions: str, **options: Any) -> list[str]:
        """Answers questions side by side, without remembering them or their answers.

        Args:
            *questions: each is asked alone.
            **options: for these answers, over those of the session.

        Raises:
            ValueError: no question, an empty one, or an option that `generate` does not know.
        """
        if not questions:
            raise ValueError("There is no question to answer.")
        rows = [self._asked(question)[0] for question in questions]
        memory, answers = self._load(), list[str]()
        for begin in range(0, len(rows), ASKED_AT_ONCE):
            some = rows[begin : begin + ASKED_AT_ONCE]
            width = max(map(len, some))
            ids = torch.stack([torch.nn.functional.pad(row, (width - len(row), 0)) for row in some])
            lengths = torch.tensor([len(row) for row in some], device=ids.device)
            mask = torch.arange(width, device=ids.device) >= width - lengths[:, None]
            output = self.model.generate(
                ids,
                attention_mask=mask.long(),
                memory=memory.select([0] * len(some)),
                **self._generation(options),
            )
            answers += [self._reply(answer) for answer in _replies(output, len(some))[:, width:]]
        return answers

    @torch.no_grad()
    def remember(self, text: str, progress: Callable[[int, int], None] | None = None) -> int:
        """Reads a text of any length into the memory, as something the user said.

        All of it is written: a write gate knows the kinds of text that it was trained for, and who
        has a text remembered wants that one. The user's memory is locked meanwhile; `read` is for
        long documents.

        Args:
            text: what to remember.
            progress: called with the tokens of the text read so far and the number in all, which is
                an estimate until the end is in sight.

        Returns:
            The number of tokens of the text.

        Raises:
            ValueError: empty text, half a character, or a model whose memory is off.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        _check_text(text)
        self._check_memory()

        def write(memory: MemoryState) -> tuple[int, MemoryState]:
            turn, done = None, 0
            memory = begun(self.model, self._frame, memory)
            for chunk in chunks(
                self.model, self.tokenizer, self._frame, [text], len(text), self.reply_limit
            ):
                memory = chunk.write(self.model, memory, turn, self.reply_limit)
                turn, done = int(memory.num_turns[0]) - 1, done + chunk.words
                if progress is not None:
                    progress(done, max(done, chunk.expected))
            return done, memory

        return self._change(write)

    @torch.no_grad()
    def read(
        self,
        document: Document | str | Path,
        *,
        again: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> Reading:
        """Reads a document into the memory, a stretch at a time.

        After each stretch the memory is saved and free for other turns of the user. A document
        that was interrupted goes on where it stopped; one that is in memory already is not read
        again. It is known by a checksum of its text.

        Args:
            document: a file of UTF-8 text, or a `Document`.
            again: forget what is left of an earlier reading, and read it anew.
            progress: as in `remember`.

        Returns:
            How much was read, and how much of it the memory kept.

        Raises:
            ValueError: no text in it, it was forgotten or changed while it was read, or the model's
                memory is off.
            OSError: the file can't be read.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        self._check_memory()
        if not isinstance(document, Document):
            document = Document.file(document)
        return read_document(
            self.model,
            self.tokenizer,
            self._frame,
            document,
            load=self._marked,
            commit=self._commit,
            reply_limit=self.reply_limit,
            again=again,
            progress=progress,
        )

    def forget(self, turns: int | Iterable[int] | Callable[[dict[str, Any]], bool]) -> int:
        """Removes turns, or the rows of `inspect` a function picks; returns how many tokens.

        Raises:
            ValueError: `turns` is none of these.
            MemoryBusy: another session is in the middle of a turn of this user.
        """

        def drop(memory: MemoryState) -> tuple[int, MemoryState]:
            memory = memory.clone()
            return memory.forget(turns), memory

        return self._change(drop)

    def inspect(self) -> list[dict[str, Any]]:
        """What the memory holds now, one row per token: see `MemoryState.inspect`."""
        return self._load().inspect(self.tokenizer)

    def turns(self) -> list[dict[str, Any]]:
        """What the memory holds now, as text that a person recognises.

        Returns:
            One dict a turn, oldest first, with keys `turn`, `tokens`, `text` (what the user said),
            `reply` (empty where it was not remembered) and `document` (its name, or None). What
            was evicted or forgotten is missing from the text.
        """
        return readable_turns(self._load(), self.tokenizer, self._frame)

    # ---- words and tokens ------------------------------------------------------------------

    def _asked(self, text: str) -> Tensor:
        """A turn of the user, up to where the reply is expected."""
        _check_text(text)
        start = [] if self._system is None else [{"role": "system", "content": self._system}]
        turn = [*start, {"role": "user", "content": text}]
        return chat_ids(self.tokenizer, turn, reply="").to(self.model.device)

    def _generation(self, options: dict[str, Any]) -> dict[str, Any]:
        """What `generate` is told: greedy unless asked otherwise, and where a reply ends."""
        chosen = self.options | options
        if own := ", ".join(sorted(OWN & chosen.keys())):
            raise ValueError(f"{own} can't be chosen: the session sets it for each turn.")
        defaults: dict[str, Any] = {
            "max_new_tokens": 256,
            "do_sample": not SAMPLING.isdisjoint(chosen),
        }
        if not self.tokenizer.chat_template:
            # nothing ends the reply but the next line that the user would speak
            defaults |= {"stop_strings": [PLAIN_STOP], "tokenizer": self.tokenizer}
        return defaults | chosen

    def _reply(self, ids: Tensor) -> str:
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True))
        if not self.tokenizer.chat_template:
            text = text.partition(PLAIN_STOP)[0]
        return text.strip()

    # ---- the memory ------------------------------------------------------------------------

    def _load(self) -> MemoryState:
        if self.store is None or self.user is None:
            if (self.memory.device, self.memory.dtype) != (self.model.device, self.model.dtype):
                # the model was moved or converted since
                return self.model.adopt_memory(self.memory, source="this session")
            return self.memory
        kept = self.store.load(self.user, self.model)
        return self.model.init_memory(batch_size=1) if kept is None else kept

    def _change(self, step: Callable[[MemoryState], tuple[T, MemoryState]]) -> T:
        """One locked load-change-save; a turn that fails saves nothing."""
        with self._held(self.timeout):
            mark = self._mark()
            result, after = step(self._load())
            # a streamer, or whatever else the turn calls, may hold a turn of its own
            if self._mark() != mark:
                raise MemoryBusy(
                    "This turn was not saved: another turn of the same user was held within it. "
                    "Hold one after the other."
                )
            self._keep(after)
        return result

    def _check_memory(self) -> None:
        if self.model.is_memory_disabled:
            raise ValueError(
                "The model's memory is off, so nothing can be remembered; leave memory_disabled "
                "first."
            )

    def _keep(self, memory: MemoryState) -> None:
        if self.store is not None and self.user is not None:
            self.store.save(self.user, memory)
        self.memory = memory
        self._changes += 1

    @contextmanager
    def _held(self, timeout: float) -> Iterator[None]:
        """Keeps other turns of the user out, in this session and in others.

        Raises:
            MemoryBusy: one was under way for too long.
        """
        if self.store is not None and self.user is not None:
            with self.store.lock(self.user, timeout):
                yield
            return
        if not self._lock.acquire(timeout=timeout):
            raise MemoryBusy(
                "This session is in the middle of a turn in another thread; try again when that "
                "one has finished."
            )
        try:
            yield
        finally:
            self._lock.release()

    def _marked(self) -> tuple[MemoryState, Any]:
        """The memory, and a mark that differs once somebody changes it."""
        with self._held(self.timeout):
            return self._load(), self._mark()

    def _mark(self) -> Any:
        if self.store is None or self.user is None:
            return self._changes
        return self.store.version(self.user)

    def _commit(self, memory: MemoryState, mark: Any) -> tuple[bool, Any]:
        """Keeps a memory that was made from the one with this mark, unless somebody changed it."""
        with self._held(DOCUMENT_PATIENCE):
            is_same = self._mark() == mark
            if is_same:
                self._keep(memory)
            return is_same, self._mark()


def _replies(output: Any, rows: int) -> Tensor:
    """The token ids of replies, a row each.

    Raises:
        ValueError: an option has asked for something else.
    """
    if not isinstance(output, Tensor) or output.shape[0] != rows:
        raise ValueError(
            "A session takes one reply a turn, as token ids; leave num_return_sequences and "
            "return_dict_in_generate out."
        )
    return output


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise ValueError(f"There must be a text to say or to remember; got {text!r}.")
    if not text.strip():
        raise ValueError("There is nothing to say or to remember: the text is empty.")


__all__ = ["ACKNOWLEDGEMENT", "PLAIN_NAMES", "PLAIN_STOP", "ChatSession", "chat_ids"]
