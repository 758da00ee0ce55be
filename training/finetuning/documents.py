"""From records to what the model reads: tokens, segments, asides, labels.

A document is tokenised once (`Document`), cut into segments when a batch is made, since stages of
a curriculum differ in how long a segment is, and laid out with its questions where they are asked
(`memformer.asides`). Everything here is the same on every run and every rank.
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

# how a document and its questions are written. "chat": as ChatSession does. "plain": without roles
STYLES = ("plain", "chat")
QUESTION, ANSWER = "Question: {}\nAnswer:", " {}"
# a character for private use, which no chat template has
NOWHERE = "\ue000"
# segment ids of asides, out of the way of those of the document
ASIDE = 1_000_000


@dataclass(frozen=True)
class Aside:
    """A question and its answer.

    Attributes:
        after: so many tokens of the document come before it.
        ids: of question and answer.
        answer: so many of them, at the end, are the answer's, its end-of-text token with them.
    """

    after: int
    ids: tuple[int, ...]
    answer: int


@dataclass(frozen=True)
class Document:
    """A record as tokens.

    Attributes:
        id: of the record.
        ids: of the document.
        ends: after how many tokens a sentence ends.
        begins: after how many tokens a new exchange of a conversation begins.
        asides: its questions, in order.
    """

    id: str
    ids: tuple[int, ...]
    ends: frozenset[int]
    begins: tuple[int, ...]
    asides: tuple[Aside, ...]

    def cut(self, segment_tokens: int) -> list[int]:
        """Where segments begin, and where the last one ends.

        A segment has `segment_tokens` at most. It ends where a sentence does, if one ends in its
        second half, and where an exchange does.
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
        tokenizer: a fast one, as tokens are matched with characters; with an end-of-text token.
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
                # what is asked at the end of an exchange comes after its closing marks too
                if asked.after == seen + len(content) and content is contents[-1]:
                    after = first + len(stops)
                asides.append(_aside(asked.question, asked.answer, after, tokenizer, style))
            seen += len(content)
    return Document(record.id, tuple(ids), frozenset(ends), tuple(begins), tuple(asides))


def encoded(
    text: str, spans: Sequence[tuple[int, int]], tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], list[int]]:
    """Token ids of a text, and the characters before the end of each.

    Args:
        text: with the control tokens that a template writes.
        spans: where somebody speaks: what looks like a control token there is text.
        tokenizer: a fast one.
    """
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    control = control_ids(tokenizer)
    ids: list[int] = []
    stops: list[int] = []
    for token, (start, stop) in zip(found["input_ids"], found["offset_mapping"], strict=True):
        word = text[start:stop]
        # some control tokens take the spaces beside them along
        left, right = stop - len(word.lstrip()), start + len(word.rstrip())
        inside = token in control and any(begin <= left and right <= end for begin, end in spans)
        new = text_ids(tokenizer, text[start:stop]) if inside else [token]
        ids += new
        stops += [stop] * len(new)
    return ids, stops


# a text, the contents of the document in it, and where each of them stands
Piece = tuple[str, list[str], list[tuple[int, int]]]


def _pieces(record: Record, tokenizer: PreTrainedTokenizerBase, style: str) -> list[Piece]:
    """What is written down at once."""
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

    # the marks around contents are those around something that no mark contains
    marks = written([NOWHERE] * len(contents)).split(NOWHERE)
    text, spans, end = written(contents), [], 0
    is_same = len(marks) == len(contents) + 1
    for mark, content in zip(marks, contents, strict=False):
        begin = end + len(mark)
        kept = content if text.startswith(content, begin) else content.strip()
        end = begin + len(kept)
        is_same = is_same and text[begin:end] == kept
        # a beginning counts spaces that the template left out
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
    """One row of a batch; see `MemformerForCausalLM.forward` for what each list means."""

    ids: list[int]
    segment_ids: list[int]
    remembered: list[bool]
    labels: list[int]


def laid_out(
    document: Document, segment_tokens: int, *, answers: bool = True, text: bool = False
) -> Row:
    """Lays a document out with its questions.

    Args:
        document: as tokens.
        segment_tokens: longest segment.
        answers: whether answers are to be predicted.
        text: whether the document is, from its second segment on: the first has no memory.
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
    """A row a question, with as much of the document before it as fits: nothing is remembered.

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
