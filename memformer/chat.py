"""Talking to a model that remembers: :class:`ChatSession`.

The memory is the only link between turns: no earlier turn is sent again, so a turn costs the same
on the first day and on the thousandth. `template.py` turns words into tokens, `replies.py` asks for
a reply, `recalling.py` finds what it is recalled from, `reading.py` reads documents, and `store.py`
keeps memories. This file is long because the methods of one public class stand together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from memformer.documents import Document
from memformer.reading import Progress, Reading, begun, read_document, read_text, write_limit
from memformer.recalling import FOR_A_REPLY, recalled, still_told, with_text
from memformer.recollection import Passage
from memformer.replies import reply_ids, reply_options, reply_text, side_by_side
from memformer.rereading import Reread, with_words
from memformer.store import MemoryBusy, MemoryStore
from memformer.template import ACKNOWLEDGEMENT, PLAIN_NAMES, PLAIN_STOP, chat_ids, check_text, frame
from memformer.turns import readable_turns

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from transformers.generation.streamers import BaseStreamer

    from memformer.memory import MemoryState
    from memformer.model import MemformerForCausalLM

T = TypeVar("T")

# questions that are answered side by side, each with a copy of the memory
ASKED_AT_ONCE = 8
# seconds that the reading of a document waits for the end of another turn
DOCUMENT_PATIENCE = 600.0


class ChatSession:
    """A conversation whose turns are remembered.

    With a store, every turn is one locked step: load the user's memory, answer, save. Two sessions
    of one user therefore see each other's turns, and none is lost. Threads may share a session.

    The system message stands before every turn and is not remembered, because it would answer
    questions about the user. Replies are not remembered unless `reply_limit` says so.

    Args:
        model: the model that answers.
        tokenizer: its tokenizer; without a chat template, turns are written as plain
            "User: ..." and "Assistant: ..." lines.
        store: the store that keeps the memory. None: the memory ends with the session.
        user: whose memory in the store.
        system: the system message; None: the system message of the chat template, if it has one.
        timeout: seconds to wait for another turn of the user to end.
        reply_limit: how firmly replies are remembered at most, in [0, 1]. The default is 0, because
            mistakes of the model would come back from its memory (docs/results.md, "Replies").
        **options: options for `generate`, such as `max_new_tokens` (256 unless given) or
            `temperature`. Replies are greedy unless an option asks for sampling.

    Raises:
        ValueError: a store without a user, a user without a store, an unusable user id, a chat
            template that takes no system message, or a reply_limit out of range.
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
        # the last words that were answered, and the memory before them
        self._answered: tuple[str, MemoryState] | None = None
        self.memory: MemoryState = model.init_memory(batch_size=1)
        self.memory = self._load()

    def __repr__(self) -> str:
        whose = "a temporary memory" if self.user is None else f"the memory of {self.user!r}"
        return f"ChatSession({whose}, {self.memory!r})"

    @property
    def system(self) -> str | None:
        """The system message, which stays the same for the whole session."""
        return self._system

    def say(self, text: str, streamer: BaseStreamer | None = None, **options: Any) -> str:
        """Answers, and remembers the turn.

        Args:
            text: the words of the user.
            streamer: receives the tokens of the reply one after the other.
            **options: options for this reply; they win over the options of the session.

        Raises:
            ValueError: empty text, half a character, or an option that `generate` does not know.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        asked = self._asked(text)
        marks = self._frame

        def answer(memory: MemoryState) -> tuple[tuple[Tensor, MemoryState], MemoryState]:
            (prompt,) = self._with_words(memory, [text], [asked])
            ids = torch.tensor([prompt.ids], device=self.model.device)
            output, after = self.model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                memory=begun(self.model, self._frame, memory),
                recalled=[prompt.recalled],
                reread=torch.tensor([prompt.mask], device=ids.device),
                return_memory=True,
                limit=write_limit(ids, marks.unwritten, len(marks.reply), self.reply_limit),
                reply_limit=self.reply_limit,
                streamer=streamer,
                **reply_options(self.tokenizer, self.options | options),
            )
            return (reply_ids(output, 1)[0, ids.shape[1] :], memory), after

        reply, before = self._change(answer)
        self._answered = (text, before)
        return reply_text(self.tokenizer, reply)

    def ask(self, *questions: str, **options: Any) -> list[str]:
        """Answers questions side by side, without remembering them or their answers.

        Args:
            *questions: the questions; no answer depends on another question.
            **options: options for these answers; they win over the options of the session.

        Raises:
            ValueError: no question, an empty one, or an option that `generate` does not know.
        """
        if not questions:
            raise ValueError("There is no question to answer.")
        asked = [self._asked(question) for question in questions]
        memory, answers = self._load(), list[str]()
        for begin in range(0, len(questions), ASKED_AT_ONCE):
            part = slice(begin, begin + ASKED_AT_ONCE)
            memories = memory.select([0] * len(questions[part]))
            prompts = self._with_words(memories, questions[part], asked[part])
            rows = [torch.tensor(one.ids, device=self.model.device) for one in prompts]
            ids, mask = side_by_side(rows)
            output = self.model.generate(
                ids,
                attention_mask=mask,
                memory=memories,
                recalled=[one.recalled for one in prompts],
                **reply_options(self.tokenizer, self.options | options),
            )
            replies = reply_ids(output, len(ids))[:, ids.shape[1] :]
            answers += [reply_text(self.tokenizer, reply) for reply in replies]
        self._answered = (questions[-1], memory)
        return answers

    def recall(self, query: str, top_k: int = 5) -> list[Passage]:
        """The passages of the memory that some words are about, best first; nothing is remembered.

        `before` and `after` of each are its neighbours in the order of telling.

        Args:
            query: a question, or any words.
            top_k: the most passages.

        Raises:
            ValueError: no words, top_k below 1, or a model that has no heads that find.
        """
        found = recalled(self.model, self.tokenizer, self._load(), query, top_k)
        return with_text(found, self.tokenizer, self._frame)

    def why(self) -> list[Passage]:
        """The passages that the last reply of this session was recalled from, best first.

        Of several questions at once, those of the last. What was forgotten since is not shown.
        Where no words were read again, a memory that is no larger than the working set was read
        whole, so the reply may come from other passages too.

        Raises:
            ValueError: there was no reply yet, or the model has no heads that find.
        """
        if self._answered is None:
            raise ValueError("There is no reply yet to give reasons for; say something first.")
        words, memory = self._answered
        found = recalled(self.model, self.tokenizer, memory, words, FOR_A_REPLY)
        left = still_told(found, self._load().told[0])
        return with_text(left, self.tokenizer, self._frame)

    @torch.no_grad()
    def remember(self, text: str, progress: Progress | None = None) -> int:
        """Reads a text of any length into the memory, as words of the user.

        Every token is written; the write gate has no say, because it knows only the kinds of text
        that it was trained on. The user's memory is locked meanwhile; `read` is for long documents.

        Args:
            text: the text to remember.
            progress: called with the tokens read so far, and an estimate of the tokens in all.

        Returns:
            The number of tokens of the text.

        Raises:
            ValueError: empty text, half a character, or a model whose memory is off.
            MemoryBusy: another session is in the middle of a turn of this user.
        """
        check_text(text)
        self._check_memory()
        parts = self.model, self.tokenizer, self._frame, text
        return self._change(lambda memory: read_text(*parts, memory, self.reply_limit, progress))

    @torch.no_grad()
    def read(
        self,
        document: Document | str | Path,
        *,
        again: bool = False,
        progress: Progress | None = None,
    ) -> Reading:
        """Reads a document into the memory, a stretch at a time.

        After each stretch the memory is saved, and other turns of the user get their chance. The
        checksum of its text identifies a document: an interrupted reading goes on where it stopped,
        and a document that is in memory already is not read again.

        Args:
            document: a file of UTF-8 text, or a `Document`.
            again: whether to forget an earlier reading first, and to read the document anew.
            progress: as in `remember`.

        Raises:
            ValueError: the document is empty, it was forgotten or changed while it was read, or the
                model's memory is off.
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
            ValueError: `turns` is neither a turn, nor several turns, nor a function.
            MemoryBusy: another session is in the middle of a turn of this user.
        """

        def drop(memory: MemoryState) -> tuple[int, MemoryState]:
            memory = memory.clone()
            return memory.forget(turns), memory

        return self._change(drop)

    def inspect(self) -> list[dict[str, Any]]:
        """The content of the memory, one row per token: see `MemoryState.inspect`."""
        return self._load().inspect(self.tokenizer)

    def turns(self) -> list[dict[str, Any]]:
        """The content of the memory as text that a person recognises.

        Returns:
            One dict per turn, oldest first, with keys `turn`, `tokens`, `text` (the words of the
            user), `reply` (empty where it was not remembered) and `document` (its name, or None).
            Tokens that were evicted or forgotten are missing from the text.
        """
        return readable_turns(self._load(), self.tokenizer, self._frame)

    # ---- words and tokens ------------------------------------------------------------------

    def _asked(self, text: str) -> list[int]:
        """Token ids of a turn of the user, up to the place where the reply begins."""
        check_text(text)
        start = [] if self._system is None else [{"role": "system", "content": self._system}]
        turn = [*start, {"role": "user", "content": text}]
        ids: list[int] = chat_ids(self.tokenizer, turn, reply="")[0].tolist()
        return ids

    def _with_words(
        self, memory: MemoryState, questions: Sequence[str], prompts: Sequence[list[int]]
    ) -> list[Reread]:
        """Prompts with the words of what each question is about; the memory has a row for each."""
        return with_words(self.model, self.tokenizer, self._frame, memory, questions, prompts)

    # ---- the memory ------------------------------------------------------------------------

    def _load(self) -> MemoryState:
        if self.store is None or self.user is None:
            if (self.memory.device, self.memory.dtype) != (self.model.device, self.model.dtype):
                # somebody moved or converted the model meanwhile
                return self.model.adopt_memory(self.memory, source="this session")
            return self.memory
        kept = self.store.load(self.user, self.model)
        return self.model.init_memory(batch_size=1) if kept is None else kept

    def _change(self, step: Callable[[MemoryState], tuple[T, MemoryState]]) -> T:
        """Loads, changes and saves the memory under one lock; saves nothing if the turn fails."""
        with self._held(self.timeout):
            mark = self._mark()
            result, after = step(self._load())
            # a streamer, or other code that the turn calls, may hold a turn of its own
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
            MemoryBusy: another turn did not end in time.
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
        """The memory, and a mark that every change replaces; see `memformer.reading.Load`."""
        with self._held(self.timeout):
            return self._load(), self._mark()

    def _mark(self) -> Any:
        if self.store is None or self.user is None:
            return self._changes
        return self.store.version(self.user)

    def _commit(self, memory: MemoryState, mark: Any) -> tuple[bool, Any]:
        """Keeps a memory unless the kept one has a new mark; see `memformer.reading.Commit`."""
        with self._held(DOCUMENT_PATIENCE):
            is_same = self._mark() == mark
            if is_same:
                self._keep(memory)
            return is_same, self._mark()


__all__ = ["ACKNOWLEDGEMENT", "PLAIN_NAMES", "PLAIN_STOP", "ChatSession", "chat_ids"]
