"""How a conversation becomes token ids.

Only the chat template of a tokenizer writes control tokens. The words of users, documents and
replies stay text, even where they look like a control token. A tokenizer without a template gets
plain lines, "User: ..." and "Assistant: ...".
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
# names of the speakers for a tokenizer without a chat template
PLAIN_NAMES = {"system": "System", "user": "User", "assistant": "Assistant"}
# the beginning of a line that looks like another turn
PLAIN_TURN = re.compile(rf"^(?=(?:{'|'.join(PLAIN_NAMES.values())}):)", re.MULTILINE)
PLAIN_STOP = f"\n{PLAIN_NAMES['user']}:"
# a template that writes the text alone; the real template stands in an unused branch, so that
# transformers finds its control tokens
BARE = "{{{{ messages[0]['content'] }}}}{{% if false %}}{template}{{% endif %}}"
# characters that are tokenized at once
PIECE = 2**16
# a place where a cut leaves the tokens as they are: before white space
CUT = re.compile(r"(?<=\S)(?=\s)")

Message = Mapping[str, Any]


def text_ids(tokenizer: PreTrainedTokenizerBase, text: str, after: str = "") -> list[int]:
    """Token ids of a text, in which the names of control tokens are ordinary words.

    Args:
        tokenizer: any tokenizer; the call changes nothing in it, so threads may share it.
        text: the text.
        after: the text before this one, for tokenizers that begin a text with a space.

    Raises:
        ValueError: the text holds half a character, which no encoding can write.
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
    """The tokens that only a template writes: special tokens, and added tokens named in it."""
    template = tokenizer.get_chat_template() if tokenizer.chat_template else ""
    return frozenset(
        number
        for number, token in tokenizer.added_tokens_decoder.items()
        if token.special or (token.content in template and not token.content.isspace())
    )


def text_pieces(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], after: str = "\n"
) -> Iterator[tuple[list[int], int]]:
    """Token ids of a text of any length, a piece at a time; together they equal `text_ids`.

    Without a chat template, lines that look like another turn are indented, as in `chat_ids`.

    Args:
        tokenizer: any tokenizer.
        texts: the text in parts of any size.
        after: the text before it.

    Yields:
        The ids of the next piece, and the number of its characters.
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
    """The words of a speaker; in plain lines, lines that look like another turn are indented."""
    return PLAIN_TURN.sub(" ", text) if is_plain else text


def chat_ids(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Message],
    reply: str | None = None,
) -> Tensor:
    """Token ids (1, tokens) of a conversation, in the form that the model was trained on.

    Args:
        tokenizer: a tokenizer with or without a chat template.
        messages: dicts with `role` and `content`, a text or a list of text parts.
        reply: the beginning of the assistant's turn, perhaps empty, which stays open; None: the
            conversation ends with the last message.

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
    """The tokens that a template writes around the words of a user.

    Attributes:
        opening: tokens before the first turn, such as the system message; never remembered.
        before: tokens before the user's words in each turn.
        after: tokens after the user's words, up to the end of the turn.
        reply: tokens that begin a reply.
        thanks: a reply that says that the user's words will be remembered.
        lead: text between `before` and the user's words that becomes part of their first token.
    """

    opening: list[int]
    before: list[int]
    after: list[int]
    reply: list[int]
    thanks: list[int]
    lead: str = ""

    @property
    def first(self) -> int:
        """The token that every text begins with, the attention sink (Xiao et al. 2024,
        arXiv:2309.17453). A memory keeps it once, beside the turns: reads find less without it,
        and less with one for every turn (docs/results.md, "Replies")."""
        return (self.opening or self.before)[0]

    @property
    def begin(self) -> list[int]:
        """The tokens before the words of a first turn."""
        return [*self.opening, *self.before]

    def end(self, is_thanked: bool) -> list[int]:
        """The tokens after the words of a turn, with thanks or without."""
        return [*self.after, *(self.thanks if is_thanked else [])]

    @property
    def unwritten(self) -> int:
        """The number of tokens at the beginning of a turn that are read and not remembered."""
        return max(1, len(self.opening))


def frame(tokenizer: PreTrainedTokenizerBase, system: str | None = None) -> Frame:
    """Finds the parts of a template, by comparing conversations that differ in one place.

    Args:
        tokenizer: a tokenizer with or without a chat template.
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
    # the same turn later in a conversation has no opening
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
    """The length of the common beginning of two lists."""
    pairs = zip(one, other, strict=False)
    return next((place for place, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))


def _plain_ids(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], reply: str | None
) -> list[int]:
    """Token ids of plain lines, one for each turn."""
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
    # the token that the tokenizer itself puts before every text
    begin: list[int] = tokenizer("").input_ids[:1]
    begin = begin if begin == [tokenizer.bos_token_id] else []
    return [*begin, *text_ids(tokenizer, text)]


def _content(message: Message) -> str:
    """The text of a message, whose content may be a list of parts."""
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


def check_text(text: str) -> None:
    """Refuses a text without words.

    Raises:
        ValueError: the text is empty, or it is no text.
    """
    if not isinstance(text, str):
        raise ValueError(f"There must be a text to say or to remember; got {text!r}.")
    if not text.strip():
        raise ValueError("There is nothing to say or to remember: the text is empty.")


def _check_characters(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"The text holds half a character (U+{ord(text[error.start]):04X} at place "
            f"{error.start}); it was not decoded as UTF-8. Decode it again, or leave it out."
        ) from None
