"""Finding: which stretches of the record a question is about, before anything is read.

Most heads can read and can't find: among thousands of slots they collect noise. A few *finder
heads* can find. They vote with all tokens of a question for passages, and the votes of a question
without content are taken off (In-context re-ranking, arXiv:2410.02642; QRHead, arXiv:2506.09944).
Votes are made on small keys that the record keeps for every token, whether its slot is still there
or not.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memformer.memory.record import from_bits

# matches held at once: 64 MiB
BLOCK = 2**24
# a finite stand-in for minus infinity
MASKED = -1.0e30
# a token is loud if a question without content matches it with such a share against the null slot:
# the first token of a segment, and others that take the attention of heads without a match
LOUD = 0.1


class Asking(NamedTuple):
    """A question as finder heads ask it.

    Attributes:
        queries: already multiplied by key strength and by the backbone's attention scale.
        pairs: which of the small keys each finder head matches.
        null_logit: the logit of "nothing in memory" of each finder head.
    """

    queries: Float[Tensor, "tokens finders width"]
    pairs: Int[Tensor, " finders"]
    null_logit: Float[Tensor, " finders"]


class Calm(NamedTuple):
    """The votes of a question without content, which `MemoryState.calm` keeps for a record.

    Attributes:
        nothing: the question without content.
        passage: the passage of each token.
        unheard: the tokens that it matches anyway; see `loud`.
        votes: its votes, with those tokens left out.
    """

    nothing: Asking
    passage: Int[Tensor, " told"]
    unheard: Bool[Tensor, "finders told"]
    votes: Float[Tensor, "finders passages"]

    def holds_for(self, nothing: Asking, passage: Int[Tensor, " told"]) -> bool:
        """Whether the question and the passages are the same, so that all else is.

        Other weights, or a view with other passages, may ask about the same record.
        """
        mine = *self.nothing, self.passage
        return all(map(torch.equal, mine, (*nothing, passage)))


def calm_votes(
    nothing: Asking,
    keys: UInt8[Tensor, "told keys width"],
    passage: Int[Tensor, " told"],
    passages: int,
) -> Calm:
    """The votes of a question without content for each passage; see `votes` for the arguments."""
    unheard = loud(nothing, keys)
    return Calm(nothing, passage, unheard, votes(nothing, keys, passage, passages, unheard))


def loud(nothing: Asking, keys: UInt8[Tensor, "told keys width"]) -> Bool[Tensor, "finders told"]:
    """Marks the tokens that a question without content matches; they say nothing of a passage."""
    marked = []
    for finder, pair in enumerate(nothing.pairs.tolist()):
        parts = [
            (logits - nothing.null_logit[finder]).sigmoid().amax(0) >= LOUD
            for _, logits in _matches(nothing, finder, keys[:, pair])
        ]
        marked.append(torch.cat(parts))
    return torch.stack(marked)


def votes(
    asking: Asking,
    keys: UInt8[Tensor, "told keys width"],
    passage: Int[Tensor, " told"],
    passages: int,
    unheard: Bool[Tensor, "finders told"],
) -> Float[Tensor, "finders passages"]:
    """The read weight that a question puts on each passage, by finder head.

    Equation, for token t of the question, with the softmax of `read.content_read`:
        v_p = sum_t sum_{i in p} softmax([q_t . k, c])_i

    Args:
        asking: the question.
        keys: the small keys of the record, as bits.
        passage: the passage of each token, in order; tokens of no passage (-1) are not matched.
        passages: the number of passages.
        unheard: tokens that a finder head does not match; see `loud`.

    Cost: O(tokens finders told width) time; memory for `BLOCK` matches.
    """
    voted = []
    for finder, pair in enumerate(asking.pairs.tolist()):
        nothing = asking.null_logit[finder].expand(len(asking.queries))
        # the weight of each passage as a log, so that no block needs another
        found = asking.queries.new_full((len(asking.queries), passages), MASKED)
        for begin, logits in _matches(asking, finder, keys[:, pair]):
            part = slice(begin, begin + logits.shape[1])
            heard = (passage[part] >= 0) & ~unheard[finder, part]
            if bool(heard.any()):
                found = _joined(found, logits[:, heard], passage[part][heard])
        total = torch.logaddexp(found.logsumexp(-1), nothing)
        voted.append((found - total[:, None]).exp().sum(0))
    return torch.stack(voted)


def _matches(
    asking: Asking, finder: int, keys: UInt8[Tensor, "told width"]
) -> Iterator[tuple[int, Float[Tensor, "tokens block"]]]:
    """The matches of one finder head, a block of the record at a time, with where it begins."""
    query = asking.queries[:, finder]
    step = max(1, BLOCK // max(1, len(query)))
    for begin in range(0, len(keys), step):
        yield begin, query @ from_bits(keys[begin : begin + step].contiguous()).T


def scores(
    asked: Float[Tensor, "finders passages"],
    nothing: Float[Tensor, "finders passages"],
    sizes: Int[Tensor, " passages"],
) -> Float[Tensor, " passages"]:
    """The score of each passage: the mean of its scores by head."""
    return scores_by_head(asked, nothing, sizes).mean(0)


def scores_by_head(
    asked: Float[Tensor, "finders passages"],
    nothing: Float[Tensor, "finders passages"],
    sizes: Int[Tensor, " passages"],
) -> Float[Tensor, "finders passages"]:
    """What each head makes of each passage, in units of the spread over the passages.

    A long passage has more votes by chance, so votes count by the root of its length.

    Args:
        asked: the votes of the question.
        nothing: the votes of a question without content, which are taken off.
        sizes: the number of tokens of each passage.
    """
    return standardised((asked - nothing) / sizes.clamp_min(1).sqrt())


def standardised(values: Float[Tensor, "*rows passages"]) -> Float[Tensor, "*rows passages"]:
    """Values less their mean over the passages, in units of their spread."""
    spread = values.std(-1, keepdim=True, correction=0).clamp_min(1e-6)
    return (values - values.mean(-1, keepdim=True)) / spread


def _joined(
    found: Float[Tensor, "tokens passages"],
    logits: Float[Tensor, "tokens heard"],
    passage: Int[Tensor, " heard"],
) -> Float[Tensor, "tokens passages"]:
    """Adds matches to the log of the weight of each passage."""
    first, last = int(passage[0]), int(passage[-1]) + 1
    where = (passage - first).expand_as(logits)
    top = logits.new_full((len(logits), last - first), MASKED)
    top = top.scatter_reduce(1, where, logits.detach(), "amax")
    mass = torch.zeros_like(top).scatter_add(1, where, (logits - top.gather(1, where)).exp())
    here = top + mass.clamp_min(1e-30).log()
    joined = torch.logaddexp(found[:, first:last], here)
    return torch.cat([found[:, :first], joined, found[:, last:]], 1)
