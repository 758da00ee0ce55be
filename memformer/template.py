"""How a conversation becomes token ids, so that what somebody says stays text.

The chat template of a tokenizer writes control tokens; what users, documents and replies contain
is never turned into one, whatever it looks like. A tokenizer without a template gets plain lines,
"User: ..." and "Assistant: ...". Next: `chat.py`, which has the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ACKNOWLEDGEMENT = "I will remember that."
# how a conversation is written for a tokenizer that brings no chat template
PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
# what would begin another turn in plain lines
PLAIN_TURN = re.compile(rf"^(?=(?:{'|'.join(PLAIN_NAMES.values())}):)", re.MULTILINE)
PLAIN_STOP = f"\n{PLAIN_NAMES['user']}:"
# a template that writes nothing but the text; the real one stands in it unused, so that its control
# tokens are known
BARE = "{{{{ messages[0]['content'] }}}}{{% if false %}}{template}{{% endif %}}"
# characters tokenized at once
PIECE = 2**16
# a place where text can be cut and still gives the tokens of the whole: before white space
CUT = re.compile(r"(?<=\S)(?=\s)")

Message = Mapping[str, Any]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, after: str = "") -> list[int]:
    """Token ids of a text, in which the names of control tokens are words like any other.

    Args:
        tokenizer: any; nothing of it is changed, so threads may share it.
        text: the text.
        after: what stands before it, for tokenizers that begin a text with a space of their own.

    Raises:
        ValueError: half a character, which no encoding can write.
    """
    if not text:
        return []
    if after:
        before, both = text_ids(tokenizer, after), text_ids(tokenizer, after + text)
        if both[: len(before)] == before:
            return both[len(before) :]
    _check_characters(text)
    template = tokenizer.chat_template
    real = "" if not template else tokenizer.get_chat_template()
    ids: Any = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}],
        chat_template=BARE.format(template=real),
        tokenize=True,
        sanitize_control_tokens=True,
        return_dict=False,
        tokenizer_kwargs={"verbose": False},
    )
    return list(ids)


def control_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that only a template writes: special ones, and others that it is made of."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    return frozenset(
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in template and not token.content.isspace())
    )


def text_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], after: str = "\n"
) -> Iterator[tuple[list[int], int]]:
    """Token ids of what somebody says at any length, a piece at a time, as `text_ids` gives them.

    Without a chat template, lines that look like another turn are indented, as in `chat_ids`.

    Args:
        tokenizer: any.
        texts: the text in parts of any size.
        after: what stands before it.

    Yields:
        Ids of the next piece, and how many characters it has.
    """
    is_plain = not tokenizer.chat_template
    rest = ""
    for text in texts:
        rest += text
        while len(rest) > PIECE:
            cut = next((match.start() for match in CUT.finditer(rest, PIECE // 2, PIECE)), PIECE)
            yield text_ids(tokenizer, _said(rest[:cut], is_plain), after), cut
            rest, after = rest[cut:], "\n"
    if rest:
        yield text_ids(tokenizer, _said(rest, is_plain), after), len(rest)


def _said(text: str, is_plain: bool) -> str:
    """What somebody says; in plain lines, lines that look like another turn are indented."""
    return PLAIN_TURN.sub(" ", text) if is_plain else text


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: str | None = None,
) -> Tensor:
    """Token ids (1, tokens) of a conversation as the model was trained to see one.

    Args:
        tokenizer: with or without a chat template.
        messages: dicts with `role` and `content`, a text or a list of text parts.
        reply: None: the conversation ends here. Text, perhaps empty: the assistant's turn is open
            and begins with it.

    Raises:
        ValueError: a message that the template can't write, content that is not text, or half a
            character.
    """
    said = [dict(message) | {"content": _content(message)} for message in messages]
    if not tokenizer.chat_template:
        return torch.tensor([_plain_ids(tokenizer, said, reply)])
    from jinja2 import TemplateError

    try:
        ids: Any = tokenizer.apply_chat_template(
            said,
            add_generation_prompt=reply is not None,
            tokenize=True,
            sanitize_control_tokens=True,
            return_dict=False,
            tokenizer_kwargs={"verbose": False},
        )
    except TemplateError as error:
        raise ValueError(
            f"The tokenizer's chat template does not take these messages: {error}"
        ) from error
    return torch.tensor([[*ids, *text_ids(tokenizer, reply or "", after="\n")]])


@dataclass(frozen=True)
class Frame:
    """What a template writes around the words of a user, in tokens.

    Attributes:
        opening: before the first turn: begin of text, the system message. Never remembered.
        before: before the user's words in each turn.
        after: after them, up to the end of the turn.
        reply: what begins a reply.
        thanks: a reply that says that the user's words will be remembered.
        lead: text between `before` and the user's words, where they carry it in their first token.
    """

    opening: list[int]
    before: list[int]
    after: list[int]
    reply: list[int]
    thanks: list[int]
    lead: str = ""

    @property
    def first(self) -> int:
        """The token that every text begins with, where attention goes to rest (Xiao et al. 2024,
        arXiv:2309.17453). A memory keeps it once, beside the turns: without it reads find less,
        and with one for every turn they find less too (docs/results.md, "Replies")."""
        return (self.opening or self.before)[0]

    @property
    def begin(self) -> list[int]:
        """What stands before the words of a first turn."""
        return [*self.opening, *self.before]

    def end(self, is_thanked: bool) -> list[int]:
        """What follows the words of a turn, with thanks for them or without."""
        return [*self.after, *(self.thanks if is_thanked else [])]

    @property
    def unwritten(self) -> int:
        """How many tokens at the beginning of each turn are seen and not remembered."""
        return max(1, len(self.opening))


def frame(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Frame:
    """Takes a template apart.

    Args:
        tokenizer: with or without a chat template.
        system: the system message; None: the template's own, if it has one.

    Raises:
        ValueError: the template drops what a user says, or takes no system message.
    """
    start = [] if system is None else [{"role": "system", "content": system}]

    def ids(*words: str, reply: str | None = None) -> list[int]:
        roles = ("user", "assistant", "user")
        turns = [{"role": role, "content": word} for role, word in zip(roles, words, strict=False)]
        found: list[int] = chat_ids(tokenizer, [*start, *turns], reply)[0].tolist()
        return found

    one, other, two, three = ids("x"), ids("q"), ids("x", "y"), ids("x", "y", "x")
    asked, thanked = ids("x", reply=""), ids("x", ACKNOWLEDGEMENT)
    before = _alike(one, other)
    after = _alike(one[before:][::-1], other[before:][::-1])
    if one == other:
        raise ValueError("The chat template of the tokenizer drops what the user says.")
    # the same turn later in a conversation is what comes after the opening
    turn = three[len(two) :] if three[: len(two)] == two else []
    opening = len(one) - len(turn) if turn and one[-len(turn) :] == turn else 0
    opening = min(opening, before)
    is_open = tokenizer.chat_template or str(tokenizer.decode(one[:before])).endswith(" ")
    return Frame(
        opening=one[:opening],
        before=one[opening:before],
        after=one[len(one) - after :],
        reply=asked[_alike(one, asked) :],
        thanks=thanked[_alike(one, thanked) :],
        lead="" if is_open else " ",
    )


def _alike(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two lists begin with alike."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _plain_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], reply: str | None
) -> list[int]:
    """A line a turn; lines of a message that look like another turn are indented."""
    lines = []
    for message in messages:
        if message["role"] not in PLAIN_NAMES:
            raise ValueError(
                f"Without a chat template a message is by {', '.join(PLAIN_NAMES)}; got role "
                f"{message['role']!r}."
            )
        content = _said(message["content"], is_plain=True)
        lines.append(f"{PLAIN_NAMES[message['role']]}: {content}")
    if reply is not None:
        lines.append(f"{PLAIN_NAMES['assistant']}: {_said(reply, is_plain=True)}".rstrip())
    text = "\n".join(lines) + ("\n" if reply is None else "")
    # what the tokenizer itself puts at the start of every text
    begin: list[int] = tokenizer("").input_ids[:1]
    begin = begin if begin == [tokenizer.bos_token_id] else []
    return [*begin, *text_ids(tokenizer, text)]


def _content(message: Message) -> str:
    """The text of a message, which may come in parts."""
    content = message.get("content")
    if isinstance(content, str):
        _check_characters(content)
        return content
    if isinstance(content, list | tuple):
        parts = [part if isinstance(part, str) else dict(part) for part in content]
        if all(isinstance(part, str) or part.get("type") == "text" for part in parts):
            texts = (part if isinstance(part, str) else str(part["text"]) for part in parts)
            return _content({"content": "".join(texts)})
        kinds = {"text" if isinstance(part, str) else str(part.get("type")) for part in parts}
        raise ValueError(
            "A message can hold text only; got parts of type "
            f"{', '.join(sorted(kinds - {'text'}))}."
        )
    raise ValueError(
        f"The content of a message must be text, or a list of text parts; got {content!r}."
    )


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds half a character (U+{ord(text[error.start]):04X} at place "
            f"{error.start}); it was not decoded as UTF-8. Decode it again, or leave it out."
        ) from None
