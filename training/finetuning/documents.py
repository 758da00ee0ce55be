"""Turns records into tokens: a document, the places where it may be cut, and its questions.

A document is tokenised once (`Document`). It is cut into segments when a batch is made
(`training.finetuning.rows`), since the stages of a curriculum have segments of different lengths.
The results are the same in every run and every process.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from eval.corpora.stories import SENTENCE_END
from memformer.template import ACKNOWLEDGEMENT, chat_ids, control_ids, text_ids
from training.data.records import Question, Record, Span

# formats of a document and its questions. "chat": the format of ChatSession. "plain": without roles
STYLES = ("plain", "chat")
QUESTION, ANSWER = "Question: {}\nAnswer:", " {}"
# a character for private use, which no chat template has
NOWHERE = "\ue000"
PARAGRAPH_END = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True)
class Aside:
    """A question and its answer.

    Attributes:
        after: number of tokens of the document before the question.
        ids: tokens of question and answer.
        answer: number of tokens of the answer, which come last; its end-of-text token counts.
        gold: begin and end, in tokens of the document, of the passage that holds the answer; None:
            none is known.
    """

    after: int
    ids: tuple[int, ...]
    answer: int
    gold: tuple[int, int] | None = None

    def after_words(self, words: Sequence[int], place: int) -> Aside:
        """The aside with some words before its question, at a place of its tokens."""
        return replace(self, ids=(*self.ids[:place], *words, *self.ids[place:]))


@dataclass(frozen=True)
class Document:
    """A record as tokens.

    Attributes:
        id: the id of the record.
        ids: tokens of the document.
        ends: numbers of tokens after which a sentence ends.
        begins: numbers of tokens after which a new exchange of a conversation begins.
        asides: the questions, in order.
        paragraphs: numbers of tokens after which a paragraph ends, in order.
    """

    id: str
    ids: tuple[int, ...]
    ends: frozenset[int]
    begins: tuple[int, ...]
    asides: tuple[Aside, ...]
    paragraphs: tuple[int, ...] = ()

    def cut(self, segment_tokens: int) -> list[int]:
        """The beginnings of the segments, and the end of the last segment.

        A segment has `segment_tokens` at most. It ends where an exchange ends; else where a
        paragraph ends, if the next paragraph fits into one segment; else where a sentence in its
        second half ends.
        """
        bounds = [0]
        for stop in (*self.begins, len(self.ids)):
            while bounds[-1] < stop:
                begin = bounds[-1]
                end = min(begin + segment_tokens, stop)
                if end < stop:
                    half = begin + segment_tokens // 2
                    end = next((at for at in range(end, half, -1) if at in self.ends), end)
                    end = self._whole(begin, begin + segment_tokens, stop) or end
                bounds.append(end)
        return bounds

    def _whole(self, begin: int, end: int, stop: int) -> int | None:
        """The last end of a paragraph in a segment, if a cut there keeps the next one whole."""
        number = bisect_right(self.paragraphs, end) - 1
        if number < 0 or self.paragraphs[number] <= begin:
            return None
        last = self.paragraphs[number]
        after = self.paragraphs[number + 1] if number + 1 < len(self.paragraphs) else stop
        return last if min(after, stop) - last <= end - begin else None


def tokenised(record: Record, tokenizer: PreTrainedTokenizerBase, style: str) -> Document:
    """Tokenises one record.

    Args:
        record: a document with questions.
        tokenizer: a fast tokenizer with an end-of-text token; tokens are matched with characters.
        style: one of `STYLES`.
    """
    ids: list[int] = []
    ends: set[int] = set()
    begins: list[int] = []
    asides: list[Aside] = []
    waiting = list(record.questions)
    paragraphs: list[int] = []
    places = Places()
    seen = 0  # characters of the document before the piece
    for text, contents, spans in _pieces(record, tokenizer, style):
        first = len(ids)
        if first:
            begins.append(first)
        new, stops = encoded(text, spans, tokenizer)
        ids.extend(new)
        # a sentence's end is the space after it, and tokens begin with spaces
        sentence_ends = {match.start() for match in SENTENCE_END.finditer(text)}
        sentence_ends |= {match.start() for match in re.finditer(r"\n", text)}
        ends.update(first + place + 1 for place, stop in enumerate(stops) if stop in sentence_ends)
        breaks = (match.end() for match in PARAGRAPH_END.finditer(text))
        paragraphs.extend(first + bisect_right(stops, place) for place in breaks)
        for content, (begin, _) in zip(contents, spans, strict=True):
            places.add(seen, first, begin, stops)
            while waiting and waiting[0].after <= seen + len(content):
                asked = waiting.pop(0)
                reached = begin + asked.after - seen
                after = first + bisect_left(stops, reached) + 1
                # a question at the end of an exchange also comes after the closing marks
                if asked.after == seen + len(content) and content is contents[-1]:
                    after = first + len(stops)
                asides.append(aside_of(asked, after, places, tokenizer, style))
            seen += len(content)
    return Document(
        record.id, tuple(ids), frozenset(ends), tuple(begins), tuple(asides), tuple(paragraphs)
    )


class Places:
    """Where the characters of a record are among its tokens, as far as it was tokenised."""

    def __init__(self) -> None:
        self._seen: list[int] = []
        self._contents: list[tuple[int, int, list[int]]] = []

    def add(self, seen: int, first: int, begin: int, stops: list[int]) -> None:
        """Adds one content.

        Args:
            seen: characters of the record before the content.
            first: tokens before the text in which it stands.
            begin: characters of the text before the content.
            stops: characters of the text before the end of each of its tokens.
        """
        self._seen.append(seen)
        self._contents.append((first, begin, stops))

    def tokens(self, span: Span | None) -> tuple[int, int] | None:
        """The begin and the end of some characters in tokens; None for None."""
        if span is None:
            return None
        # a token that has the first or the last character is inside
        return self._before(span[0]), self._before(span[1] - 1) + 1

    def _before(self, character: int) -> int:
        """The number of tokens before the one that has a character."""
        content = bisect_right(self._seen, character) - 1
        first, begin, stops = self._contents[content]
        return first + bisect_right(stops, begin + character - self._seen[content])


def encoded(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Token ids of a text, and the number of characters before the end of each token.

    Args:
        text: has the control tokens that a template writes.
        spans: the parts that somebody says; a control token in them is text.
        tokenizer: a fast tokenizer.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    control = control_ids(tokenizer)
    ids: list[int] = []
    stops: list[int] = []
    for token, (start, stop) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        word = text[start:stop]
        # some control tokens include the spaces beside them
        left, right = stop - len(word.lstrip()), start + len(word.rstrip())
        inside = token in control and any(begin <= left and right <= end for begin, end in spans)
        new = text_ids(tokenizer, text[start:stop]) if inside else [token]
        ids += new
        stops += [stop] * len(new)
    return ids, stops


# a text, the contents of the document in it, and the span of each content
Piece = tuple[str, list[str], list[tuple[int, int]]]


def _pieces(record: Record, tokenizer: PreTrainedTokenizerBase, style: str) -> list[Piece]:
    """The parts of a document that are tokenised together."""
    if isinstance(record.document, str):
        if style == "plain":
            return [(record.document, [record.document], [(0, len(record.document))])]
        return [_exchange([("user", record.document)], tokenizer, True)]
    if style == "plain":
        return [
            (f"{role}: {content}\n", [content], [(len(role) + 2, len(role) + 2 + len(content))])
            for role, content in record.document
        ]
    exchanges: list[list[tuple[str, str]]] = []
    for role, content in record.document:
        if not exchanges or (role == "user" and exchanges[-1][-1][0] != "system"):
            exchanges.append([])
        exchanges[-1].append((role, content))
    return [_exchange(exchange, tokenizer, False) for exchange in exchanges]


def _exchange(
    messages: list[tuple[str, str]], tokenizer: PreTrainedTokenizerBase, acknowledged: bool
) -> Piece:
    contents = [content for _, content in messages]

    def written(words: Sequence[str]) -> str:
        said = [
            {"role": role, "content": word} for (role, _), word in zip(messages, words, strict=True)
        ]
        if acknowledged:
            said.append({"role": "assistant", "content": ACKNOWLEDGEMENT})
        return str(tokenizer.decode(chat_ids(tokenizer, said)[0]))

    # the template's marks are the text around a character that no mark contains
    marks = written([NOWHERE] * len(contents)).split(NOWHERE)
    text, spans, end = written(contents), [], 0
    is_same = len(marks) == len(contents) + 1
    for mark, content in zip(marks, contents, strict=False):
        begin = end + len(mark)
        kept = content if text.startswith(content, begin) else content.strip()
        end = begin + len(kept)
        is_same = is_same and text[begin:end] == kept
        # the span also counts spaces that the template left out
        left_out = len(content) - len(content.lstrip()) if kept != content else 0
        spans.append((begin - left_out, end))
    if not is_same or text[end:] != marks[-1]:
        raise ValueError(
            "The chat template changes what is said, so questions can't be placed in it; use "
            "style: plain."
        )
    return text, contents, spans


def aside_of(
    question: Question, after: int, places: Places, tokenizer: PreTrainedTokenizerBase, style: str
) -> Aside:
    """A question and its answer as tokens.

    Args:
        question: the question.
        after: the number of tokens of the document before it.
        places: where the document's characters are among its tokens.
        tokenizer: the tokenizer of the model.
        style: one of `STYLES`.
    """
    if style == "chat":
        said = f"{question.instruction} {question.question}".strip()
        asked = chat_ids(tokenizer, [{"role": "user", "content": said}], reply="")[0].tolist()
        told = text_ids(tokenizer, question.answer)
    else:
        asked = text_ids(tokenizer, QUESTION.format(question.question))
        told = text_ids(tokenizer, ANSWER.format(question.answer))
    told = [*told, tokenizer.eos_token_id]
    return Aside(
        after,
        (*asked, *told),
        len(told),
        gold=places.tokens(question.passage),
    )
