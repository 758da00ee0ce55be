"""Turns records into the model's input: tokens, segments, asides, labels.

A document is tokenised once (`Document`). It is cut into segments when a batch is made, since the
stages of a curriculum have segments of different lengths. Its questions then stand as asides at
their places (`memformer.asides`). The results are the same in every run and every process.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from eval.corpora.stories import SENTENCE_END
from memformer.asides import IGNORED_LABEL
from memformer.template import ACKNOWLEDGEMENT, chat_ids, control_ids, text_ids
from training.data.records import Record

# formats of a document and its questions. "chat": the format of ChatSession. "plain": without roles
STYLES = ("plain", "chat")
QUESTION, ANSWER = "Question: {}\nAnswer:", " {}"
# a character for private use, which no chat template has
NOWHERE = "\ue000"
# segment ids of asides begin here, above all segment ids of documents
ASIDE = 1_000_000


@dataclass(frozen=True)
class Aside:
    """A question and its answer.

    Attributes:
        after: number of tokens of the document before the question.
        ids: tokens of question and answer.
        answer: number of tokens of the answer, which come last; its end-of-text token counts.
    """

    after: int
    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Document:
    """A record as tokens.

    Attributes:
        id: the id of the record.
        ids: tokens of the document.
        ends: numbers of tokens after which a sentence ends.
        begins: numbers of tokens after which a new exchange of a conversation begins.
        asides: the questions, in order.
    """

    id: str
    ids: tuple[int, ...]
    ends: frozenset[int]
    begins: tuple[int, ...]
    asides: tuple[Aside, ...]

    def cut(self, segment_tokens: int) -> list[int]:
        """The beginnings of the segments, and the end of the last segment.

        A segment has `segment_tokens` at most. It ends where an exchange ends, or where a sentence
        in its second half ends.
        """
        bounds = [0]
        for stop in (*self.begins, len(self.ids)):
            while bounds[-1] < stop:
                begin = bounds[-1]
                end = min(begin + segment_tokens, stop)
                if end < stop:
                    half = begin + segment_tokens // 2
                    end = next((at for at in range(end, half, -1) if at in self.ends), end)
                bounds.append(end)
        return bounds


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
        for content, (begin, _) in zip(contents, spans, strict=True):
            while waiting and waiting[0].after <= seen + len(content):
                asked = waiting.pop(0)
                reached = begin + asked.after - seen
                after = first + sum(stop < reached for stop in stops) + 1
                # a question at the end of an exchange also comes after the closing marks
                if asked.after == seen + len(content) and content is contents[-1]:
                    after = first + len(stops)
                asides.append(_aside(asked.question, asked.answer, after, tokenizer, style))
            seen += len(content)
    return Document(record.id, tuple(ids), frozenset(ends), tuple(begins), tuple(asides))


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


def _aside(
    question: str, answer: str, after: int, tokenizer: PreTrainedTokenizerBase, style: str
) -> Aside:
    if style == "chat":
        asked = chat_ids(tokenizer, [{"role": "user", "content": question}], reply="")[0].tolist()
        told = text_ids(tokenizer, answer)
    else:
        asked = text_ids(tokenizer, QUESTION.format(question))
        told = text_ids(tokenizer, ANSWER.format(answer))
    told = [*told, tokenizer.eos_token_id]
    return Aside(after, (*asked, *told), len(told))


@dataclass(frozen=True)
class Row:
    """One row of a batch; `MemformerForCausalLM.forward` explains each list."""

    ids: list[int]
    segment_ids: list[int]
    remembered: list[bool]
    labels: list[int]


def with_asides(
    document: Document, segment_tokens: int, *, answers: bool = True, text: bool = False
) -> Row:
    """One row: a document with its questions as asides at their places.

    Args:
        document: as tokens.
        segment_tokens: longest segment.
        answers: whether answers are predicted.
        text: whether the document is predicted, from its second segment on; the first segment has
            no memory.
    """
    bounds = document.cut(segment_tokens)
    row = Row([], [], [], [])
    waiting = list(document.asides)
    for number, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        for place in range(begin, end):
            row.ids.append(document.ids[place])
            row.segment_ids.append(number)
            row.remembered.append(True)
            row.labels.append(document.ids[place] if text and number else IGNORED_LABEL)
            while waiting and waiting[0].after <= place + 1:
                aside = waiting.pop(0)
                asked = len(aside.ids) - aside.answer
                row.ids.extend(aside.ids)
                row.segment_ids.extend([ASIDE + len(waiting)] * len(aside.ids))
                row.remembered.extend([False] * len(aside.ids))
                row.labels.extend([IGNORED_LABEL] * asked)
                row.labels.extend(aside.ids[asked:] if answers else [IGNORED_LABEL] * aside.answer)
    return row


def windowed(document: Document, window: int, between: Sequence[int]) -> list[Row]:
    """One row for each question, with as much of the document before it as fits; no memory.

    Args:
        document: as tokens.
        window: tokens of a row at most.
        between: tokens between the document and the question.
    """
    rows = []
    for aside in document.asides:
        room = max(0, window - len(aside.ids))
        before = [*document.ids[: aside.after], *between]
        ids = [*before[max(0, len(before) - room) :], *aside.ids][-window:]
        silent = [IGNORED_LABEL] * (len(ids) - aside.answer)
        labels = [*silent, *aside.ids[-aside.answer :]]
        rows.append(Row(ids, [ASIDE] * len(ids), [False] * len(ids), labels))
    return rows


def collate(rows: Sequence[Row], padding: int) -> dict[str, Tensor]:
    """Rows as one batch of the arguments of `MemformerForCausalLM.forward`, padded on the right."""
    width = max(len(row.ids) for row in rows)

    def padded(lists: list[list[int]] | list[list[bool]], fill: int) -> Tensor:
        return torch.tensor([[*values, *[fill] * (width - len(values))] for values in lists])

    return {
        "input_ids": padded([row.ids for row in rows], padding),
        "attention_mask": padded([[1] * len(row.ids) for row in rows], 0),
        "segment_ids": padded([row.segment_ids for row in rows], -1),
        "remembered": padded([row.remembered for row in rows], 0).bool(),
        "labels": padded([row.labels for row in rows], IGNORED_LABEL),
    }
