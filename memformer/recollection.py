"""Recollection: what a memory was told that a question is about, found before anything is read.

`recollect` finds paragraphs of the record, by the votes of the finder heads and, where bm25s is
installed, by words. `reading` makes of them the memory that a turn reads: the slots of the best
paragraphs and of the newest segment, a few hundred of any number. So most read weights are exactly
zero, as in SAM (Rae et al. 2016), and a step costs the same in a small memory and in a large one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.attach.layers import MemoryPath
from memformer.engine import Engine
from memformer.memory.finding import Asking, calm_votes, scores, standardised, votes
from memformer.memory.passages import Stretches, stretches
from memformer.memory.record import resized
from memformer.memory.state import MemoryState
from memformer.words import can_compare_words, content, word_scores

# what paragraphs are found by; "both": by heads and, where bm25s is installed, by words
By = Literal["both", "heads", "words"]
# weight of the score by words beside the score by heads
WORDS_WEIGHT = 1.0
# passages that are looked at for a working set
MOST_PASSAGES = 64
# a passage is read beside the best if its score is at least this share of the best score
NEAR = 0.7
# with less evidence, nothing that was told is about the question; between that of questions about
# what was told and that of ordinary requests, in development chats
EVIDENCE = 0.03
# a stretch of which a smaller share has slots is encoded again
KEPT_SHARE = 0.5


@dataclass(frozen=True)
class Passage:
    """A stretch of what a memory was told.

    Attributes:
        token_ids: its tokens.
        score: how well it fits the question, in units of the spread over all passages.
        turn: the turn in which it was told.
        segment: the segment.
        start: the place of its first token on the text clock.
        text: its words; empty until it is decoded.
        before: the paragraph told right before it, whatever its turn; forgotten ones are skipped.
            None for the first paragraph, and for a neighbour, which has none of its own.
        after: the paragraph told right after it, likewise.
        reread: whether its words stand before the question, so that its slots are not read.
    """

    token_ids: tuple[int, ...]
    score: float
    turn: int
    segment: int
    start: int
    text: str = ""
    before: Passage | None = None
    after: Passage | None = None
    reread: bool = False

    @property
    def end(self) -> int:
        """The place after its last token."""
        return self.start + len(self.token_ids)


class Recollection(list[Passage]):
    """The passages found for one question, best first.

    Attributes:
        evidence: the share of the question's votes that the best passage has, less that of a
            question without content, in [-1, 1]; 0 where nothing is recorded.
        margin: the score of the best passage less that of the second.

    What was told about the people and things of a question has evidence, whether or not it answers
    the question; ordinary talk has little.
    """

    def __init__(
        self, passages: Iterable[Passage] = (), evidence: float = 0.0, margin: float = 0.0
    ) -> None:
        super().__init__(passages)
        self.evidence = evidence
        self.margin = margin

    @property
    def is_about(self) -> bool:
        """Whether there is evidence that anything told is about the question."""
        return self.evidence >= EVIDENCE


@torch.no_grad()
def recollect(
    engine: Engine,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    memory: MemoryState,
    top_k: int,
    by: By = "both",
) -> list[Recollection]:
    """The passages of each memory that its question is about, best first.

    Args:
        engine: the backbone and its memory path.
        ids: the questions.
        real: False at padding.
        memory: the memories; nothing in them changes but for what they keep in `calm`.
        top_k: the most passages for each question.
        by: what they are found by.

    Raises:
        ImportError: they are to be found by words alone, and bm25s is not installed.
    """
    path = engine.path
    if not path.finders.chosen or not bool(memory.is_told.any()):
        return [Recollection() for _ in range(len(ids))]
    nothing = path.ask(torch.tensor(path.finders.question_without_content, device=ids.device))
    found = []
    for row in range(len(ids)):
        question = content(ids[row][real[row]], path.words)
        cut = cut_of(engine, memory, row)
        found.append(_of_row(path, question, nothing, memory, row, cut, top_k, by))
    return found


def cut_of(engine: Engine, memory: MemoryState, row: int) -> Stretches:
    """The passages and paragraphs of the record of one row."""
    told = memory.told[row]
    kinds = engine.path.borders[told.clamp_min(0).long()].long().where(told >= 0, 0)
    columns = told, memory.told_turn[row], memory.told_segment[row]
    return stretches(*columns, kinds, engine.rules.passage_tokens)


def _of_row(
    path: MemoryPath,
    question: Int[Tensor, " tokens"],
    nothing: Asking,
    memory: MemoryState,
    row: int,
    cut: Stretches,
    top_k: int,
    by: By,
) -> Recollection:
    """The passages that one question is about."""
    spans = cut.spans
    if not spans or not len(question):
        return Recollection()
    told, keys = memory.told[row], memory.finder_keys[row]
    parts = keys, cut.passage, len(cut.begins)
    calm = memory.calm.get(row)
    if calm is None or not calm.holds_for(nothing, cut.passage):
        calm = memory.calm[row] = calm_votes(nothing, *parts)
    asked = votes(path.ask(question), *parts, calm.unheard)
    total = paragraph_scores(scores(asked, calm.votes, cut.sizes), cut)
    if by == "words" or (by == "both" and can_compare_words()):
        words = paragraph_words(path, question, told, cut)
        total = words if by == "words" else total + WORDS_WEIGHT * words
    order = total.argsort(descending=True, stable=True)[: max(top_k, 2)].tolist()
    share = (asked / len(question) - calm.votes / len(nothing.queries)).mean(0)
    paragraph = torch.tensor(cut.paragraph, device=told.device)
    share = share.new_zeros(len(spans)).scatter_add(0, paragraph, share)
    passages = [_with_neighbours(memory, row, spans, total, number) for number in order[:top_k]]
    margin = float(total[order[0]] - total[order[1]]) if len(order) > 1 else 0.0
    return Recollection(passages, float(share[order[0]]), margin)


def paragraph_scores(
    score: Float[Tensor, " passages"], cut: Stretches
) -> Float[Tensor, " paragraphs"]:
    """The score of each paragraph by its passages, in units of the spread over the paragraphs.

    A paragraph is as good as its passages together; those that speak against it do not count.
    """
    spans, paragraph = len(cut.spans), torch.tensor(cut.paragraph, device=score.device)
    total = score.new_zeros(spans).scatter_add(0, paragraph, score.clamp_min(0.0))
    best = score.new_full((spans,), -torch.inf).scatter_reduce(0, paragraph, score, "amax")
    return standardised(total + best)


def paragraph_words(
    path: MemoryPath, question: Int[Tensor, " tokens"], told: Int[Tensor, " told"], cut: Stretches
) -> Float[Tensor, " paragraphs"]:
    """How much the words of each paragraph are those of a question, in units of the spread."""
    texts = [told[begin:end].cpu() for begin, end in cut.spans]
    words = word_scores(question.cpu(), texts, path.words.cpu())
    return standardised(words.to(told.device))


def _with_neighbours(
    memory: MemoryState,
    row: int,
    spans: Sequence[tuple[int, int]],
    total: Float[Tensor, " paragraphs"],
    number: int,
) -> Passage:
    """A paragraph of one row with the paragraphs before and after it; `total` has the scores."""
    around = {}
    for near in range(max(0, number - 1), min(len(spans), number + 2)):
        begin, end = spans[near]
        around[near] = Passage(
            tuple(memory.told[row, begin:end].tolist()),
            float(total[near]),
            int(memory.told_turn[row, begin]),
            int(memory.told_segment[row, begin]),
            begin,
        )
    return dataclasses.replace(
        around[number], before=around.get(number - 1), after=around.get(number + 1)
    )


def recollect_if_large(
    engine: Engine,
    ids: Int[Tensor, "batch tokens"],
    real: Bool[Tensor, "batch tokens"],
    memory: MemoryState,
) -> list[Recollection]:
    """What questions are about, in memories too large to be read whole; nothing in the others."""
    large = is_large(engine, memory)
    if not bool(large.any()):
        return [Recollection() for _ in range(len(ids))]
    return recollect(engine, ids, real & large[:, None], memory, MOST_PASSAGES)


def is_large(engine: Engine, memory: MemoryState) -> Bool[Tensor, " batch"]:
    """Whether each memory holds more slots than a turn may read, and heads to choose with."""
    readable = (memory.occupied & (memory.strength > 0)).sum(-1)
    can_find = memory.is_told.any(-1) & bool(engine.path.finders.chosen)
    most = engine.rules.working_set
    if most is None:
        return torch.zeros_like(readable, dtype=torch.bool)
    return (readable > most) & can_find


def places(
    engine: Engine,
    recalled: Sequence[Sequence[Passage]],
    memory: MemoryState,
    *,
    reread: bool = False,
) -> Bool[Tensor, "batch told"]:
    """Marks the places of the record whose slots are to be read, best passages first.

    Passages far worse than the best are left out, and so is what exceeds the working set.

    Args:
        engine: knows the size of the working set.
        recalled: the passages of each row, best first.
        memory: the memories.
        reread: also mark the passages whose words are read again.
    """
    marked = torch.zeros_like(memory.is_told)
    for row, passages in enumerate(recalled):
        for passage in within(passages, engine.rules.working_set or memory.told.shape[1]):
            if reread or not passage.reread:
                marked[row, passage.start : passage.end] = True
    return marked


def within(passages: Sequence[Passage], tokens: int, near: float = NEAR) -> list[Passage]:
    """The passages that are nearly as good as the best, up to a number of tokens, best first.

    Args:
        passages: best first.
        tokens: the most tokens of all.
        near: the share of the best score that the score of each must have.
    """
    taken: list[Passage] = []
    for passage in passages:
        is_near = not taken or passage.score >= near * taken[0].score
        if not is_near or len(passage.token_ids) > tokens:
            break
        tokens -= len(passage.token_ids)
        taken.append(passage)
    return taken


def reread_rows(
    recalled: Sequence[Sequence[Passage]], memory: MemoryState
) -> Bool[Tensor, " batch"]:
    """Whether each row has words before its question, so that it reads them and not the memory."""
    return torch.tensor([any(one.reread for one in row) for row in recalled], device=memory.device)


def reading(
    engine: Engine,
    memory: MemoryState,
    recalled: Bool[Tensor, "batch told"],
    rereads: Bool[Tensor, " batch"],
) -> MemoryState:
    """The working set: the memory that a turn reads.

    A memory that is no larger than `working_set` is read whole, unless words are read again. Else
    the slots at the places recalled are read, and those of the segment before in the same turn.

    Args:
        engine: knows the size of the working set, and encodes passages without slots again.
        memory: the memories.
        recalled: from `places`.
        rereads: from `reread_rows`.
    """
    large = is_large(engine, memory) | rereads
    if not bool(large.any()):
        return memory
    there = memory.occupied & (memory.strength > 0)
    newest = (memory.segment == memory.num_segments[:, None] - 1) & (
        memory.turn == memory.num_turns[:, None] - 1
    )
    lost = [(row, *span) for row, span in _spans(memory, recalled & large[:, None])]
    lost = [one for one in lost if _is_lost(memory, *one)]
    for row, begin, end in lost:
        recalled = recalled.clone()
        recalled[row, begin:end] = False
    wanted = memory.at_places(recalled) | newest | memory.is_open | ~large[:, None]
    found = memory.at(there & wanted)
    for row, begin, end in lost:
        found = found.beside(row, _encoded(engine, memory, row, begin, end))
    return found


def reach(
    engine: Engine,
    memory: MemoryState,
    recalled: Bool[Tensor, "batch told"],
    rereads: Bool[Tensor, " batch"],
) -> Bool[Tensor, "batch slots"] | None:
    """The slots of the working set, for a pass that also writes; None: the memory is read whole.

    As `reading`, but passages without slots are not encoded again.
    """
    large = is_large(engine, memory) | rereads
    if not bool(large.any()):
        return None
    return memory.at_places(recalled) | ~large[:, None]


def _spans(
    memory: MemoryState, marked: Bool[Tensor, "batch told"]
) -> list[tuple[int, tuple[int, int]]]:
    """The runs of marked places in one turn and segment: row, first place, place after the last."""
    same = marked[:, 1:] & marked[:, :-1]
    for column in (memory.told_turn, memory.told_segment):
        same = same & (column[:, 1:] == column[:, :-1])
    pad = torch.nn.functional.pad
    begins, ends = marked & ~pad(same, (1, 0)), marked & ~pad(same, (0, 1))
    pairs = zip(begins.nonzero().tolist(), ends.nonzero().tolist(), strict=True)
    return [(row, (begin, end + 1)) for (row, begin), (_, end) in pairs]


def _is_lost(memory: MemoryState, row: int, begin: int, end: int) -> bool:
    """Whether most slots of a stretch are gone: the gate or an eviction took them."""
    inside = (memory.seen_at[row] >= begin) & (memory.seen_at[row] < end)
    readable = inside & memory.occupied[row] & (memory.strength[row] > 0)
    return int(readable.sum()) < KEPT_SHARE * (end - begin)


def _encoded(engine: Engine, memory: MemoryState, row: int, begin: int, end: int) -> MemoryState:
    """A stretch of the record encoded again, every token written, as a memory of one row."""
    one = memory.select([row])
    before = one.written_at.where(one.occupied & (one.seen_at < begin), -1)
    written = torch.nn.functional.pad(before, (0, 1), value=-1).amax(-1) + 1
    clocks = {"num_seen": torch.full_like(one.num_seen, begin), "num_written": written}
    empty = one.at(torch.zeros_like(one.occupied)).replaced(
        **clocks, **resized(one.record, begin, one.finder_keys.shape[2]), record_tokens=None
    )
    rules = dataclasses.replace(engine.rules, gate=False)
    ids = one.told[:, begin:end].long()
    with torch.no_grad():
        anew = dataclasses.replace(engine, rules=rules)
        return anew.ingest(ids, torch.ones_like(ids, dtype=torch.bool), empty).closed()
