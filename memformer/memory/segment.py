"""One chunk of text meets one memory: `MemoryPass`.

The chunk is S segments of T tokens. Segment s reads what was in the memory before the chunk and
what segments 0..s-1 of the chunk write; it never reads itself. With S = 1 this is the recurrent
form, with S > 1 the parallel form of the same computation. The pass collects what the memory
layers write; `finish` turns it into the next `MemoryState`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.memory.addressing import aged_usage, hard_gate, least_used, matches, retention
from memformer.memory.check import all_finite
from memformer.memory.read import Laid, Links, content_read, lay
from memformer.memory.state import EMPTY, TABLE, MemoryState, neighbours

# tokens written one after the other that are read as one passage, and whose keys keep their order:
# a few sentences. What the write gate keeps out does not count, here and in ages: so a memory of
# what matters looks the same however much else was said in between
PASSAGE_TOKENS = 64
# a token is written for what is around it, so many tokens on either side: a word alone can't be
# understood later. Without this, one token in twenty of kinds of sentences that a gate was not
# trained on was lost, with it none
GATE_REACH = 8
# logit of an open gate, 0.98 firm: before training, everything is written
OPEN = 4.0
# tokens before each token that say what it is about: as far back as a short sentence
ADDRESS_REACH = 6
# a token lets go of nothing written so few tokens before it: of nothing in its own sentence
LEAST_AGE = 16


class Release(NamedTuple):
    """What one release head asks for; see `memformer.attach.heads`.

    Attributes:
        keys: what each token looks for.
        gates: how much of what matches it lets go, in [0, 1].
        sharpness: see `matches`.
        threshold: see `matches`.
    """

    keys: Float[Tensor, "entries tokens address"]
    gates: Float[Tensor, "entries tokens"]
    sharpness: Float[Tensor, ""]
    threshold: Float[Tensor, ""]


class MemoryPass:
    """Carries one memory through the backbone's layers, as an explicit argument of its forward.

    The backbone sees the segments that hold text as one batch of `len(rows)` sequences.

    Args:
        state: the memory before the chunk, its open segment closed or taken out.
        real: `[batch, segments, tokens]`, False at padding.
        sequences: `(rows, segments)` of the backbone's batch entries. None: one segment, entry i
            is row i.
        writes: whether memory layers shall write. A decoding step only reads.
        gated: False writes every token.
        limit: how firmly each token may be written at most, in [0, 1]; 0: it is context for the
            tokens beside it, and not written. None: 1.
        stop_after: the layer after whose write the rest of the backbone is not needed.
        until: text clock at which each segment reads the memory as it was then, and not what the
            segments before it in the chunk hold. For segments that write nothing.
        closes: whether each segment is closed at its end; None: if it is full.
        laid: the slots as each layer reads them, for and from other passes over the same state
            that write nothing either; None: set out anew.
    """

    def __init__(
        self,
        state: MemoryState,
        real: Bool[Tensor, "batch segments tokens"],
        sequences: tuple[Int[Tensor, " entries"], Int[Tensor, " entries"]] | None = None,
        *,
        segment_tokens: int = 0,
        writes: bool = True,
        gated: bool = True,
        limit: Float[Tensor, "batch segments tokens"] | None = None,
        stop_after: int | None = None,
        until: Int[Tensor, "batch segments"] | None = None,
        closes: Bool[Tensor, "batch segments"] | None = None,
        laid: dict[int, Laid] | None = None,
    ) -> None:
        self.laid = laid
        self.until = until
        self.closes = closes
        self.state = state
        self.real = real
        self.sequences = sequences
        self.segment_tokens = segment_tokens
        self.writes = writes
        self.gated = gated
        self.limit = limit
        self.stop_after = stop_after
        self.strength: Float[Tensor, "batch new"] | None = None
        self.kept: Float[Tensor, "batch new"] | None = None
        batch, segments, tokens = real.shape
        self.addresses = state.addresses.new_zeros(
            batch, segments * tokens, state.addresses.shape[-1]
        )
        # what each segment leaves of the slots before its end; empty where nothing is let go
        self.retained: list[Float[Tensor, "batch seen"]] = []
        # once for all layers: the gradient of one layer's part is then no copy of the whole
        self._stored = tuple(zip(state.keys, state.values, strict=True))
        self._links: dict[int, tuple[Tensor, Tensor]] = {}
        self._keys: dict[int, Tensor] = {}
        self._values: dict[int, Tensor] = {}
        self._mass: dict[int, list[Tensor | None]] = {}
        self.written_at = state.clock[:, None] + real.flatten(1).long().cumsum(-1) - 1
        # the write clock at the start of every segment and, once the gates are known, at every
        # new token
        self.segment_order = state.writes[:, None].expand(batch, segments)
        self.order: Int[Tensor, "batch new"]
        if until is not None:
            later = (state.strength > 0)[:, None] & (state.written_at[:, None] >= until[..., None])
            self.segment_order = state.writes[:, None] - later.sum(-1)
        self.passage = self._passages(state.order)

    @staticmethod
    def _passages(order: Int[Tensor, "batch slots"]) -> Int[Tensor, "batch slots"]:
        """Numbers passages through all rows."""
        return torch.unique(order // PASSAGE_TOKENS, return_inverse=True)[1]

    def gather(self, entries: Float[Tensor, "entries tokens ..."]) -> Tensor:
        """Backbone entries to `[batch, segments, tokens, ...]`, zero where there is no text."""
        batch, segments, tokens = self.real.shape
        if self.sequences is None:
            full = entries.unsqueeze(1)
        else:
            full = entries.new_zeros(batch, segments, *entries.shape[1:])
            full = full.index_put(self.sequences, entries)
        mask = self.real.view(*self.real.shape, *[1] * (full.dim() - 3))
        return torch.where(mask, full, torch.zeros((), dtype=full.dtype, device=full.device))

    def scatter(self, full: Float[Tensor, "batch segments tokens ..."]) -> Tensor:
        """The inverse of `gather`, for results that go back into the backbone."""
        return full.squeeze(1) if self.sequences is None else full[self.sequences]

    def places(self) -> Int[Tensor, "entries tokens"]:
        """Position of every token counted from the end of its passage: -64, ..., -2, -1."""
        places = self.order.view_as(self.real) % PASSAGE_TOKENS - PASSAGE_TOKENS
        return self.scatter(places[..., None])[..., 0]

    def write(
        self,
        layer: int,
        keys: Float[Tensor, "entries tokens kv_heads width"],
        values: Float[Tensor, "entries tokens kv_heads width"],
    ) -> None:
        """Takes what one memory layer writes; later segments of the chunk read it at once."""
        self._keys[layer] = self.gather(keys).flatten(1, 2)
        self._values[layer] = self.gather(values).flatten(1, 2)

    def gate(self, logits: Float[Tensor, "entries tokens"]) -> None:
        """Takes the logits of the write gates, which all layers share.

        A gate is the mean over a token and its neighbours in the segment; a token is written at
        one half or more. Where gates are trained, all tokens stay readable to the gradient.
        """
        if not self.gated:
            logits = torch.full_like(logits, OPEN)
        around = 2 * GATE_REACH + 1
        near = torch.nn.functional.avg_pool1d(self.gather(logits), around, 1, GATE_REACH)
        count = torch.nn.functional.avg_pool1d(self.real.to(near.dtype), around, 1, GATE_REACH)
        gates = (near / count.clamp_min(1.0 / around)).sigmoid()
        self.strength = torch.where(self.real, gates, 0.0).flatten(1, 2)
        self.kept = hard_gate(self.strength)
        if self.limit is not None:
            self.strength = self.strength * self.limit.flatten(1)
            self.kept = self.kept * (self.limit.flatten(1) > 0)
        written = self.real.flatten(1) & (self.kept > 0)
        self._gated = self.kept.requires_grad and bool((self.real.flatten(1) & ~written).any())
        after = self.state.writes[:, None] + written.long().cumsum(-1)
        self.order = after - written.long()
        self.segment_order = self.order.view_as(self.real)[..., 0]
        self.end_order = self.state.writes + written.sum(-1)
        self.passage = self._passages(torch.cat([self.state.order, self.order], 1))

    @property
    def written(self) -> Float[Tensor, " tokens"]:
        """For every token of text, 1 if it is written and 0 if not; straight-through."""
        assert self.kept is not None
        return self.kept[self.real.flatten(1)]

    def recent(
        self, x: Float[Tensor, "entries tokens hidden"]
    ) -> Float[Tensor, "entries tokens hidden"]:
        """The mean over each token and those just before it in its segment."""
        reach = (ADDRESS_REACH - 1, 0)
        pad, pool = torch.nn.functional.pad, torch.nn.functional.avg_pool1d
        total = pool(pad(self.gather(x).float().flatten(0, 1).mT, reach), ADDRESS_REACH, 1)
        count = pool(pad(self.real.float().flatten(0, 1)[:, None], reach), ADDRESS_REACH, 1)
        mean = total / count.clamp_min(1.0 / ADDRESS_REACH)
        return self.scatter(mean.mT.unflatten(0, self.real.shape[:2]))

    def let_go(
        self, addresses: Float[Tensor, "entries tokens address"], heads: Sequence[Release]
    ) -> None:
        """Takes what the tokens are about, and weakens older slots that they match.

        A token that is not written lets go of nothing. A match depends on two tokens alone, not on
        what else is in memory, so all segments of a chunk are done at once.
        """
        assert self.kept is not None
        state, (batch, segments, tokens) = self.state, self.real.shape
        self.addresses = self.gather(addresses).flatten(1, 2)
        pool = torch.cat([state.addresses, self.addresses], 1)
        written_at = torch.cat([state.written_at, self.written_at], 1)
        present = torch.cat([state.occupied, self.real.flatten(1)], 1)
        keys = [self.gather(head.keys) for head in heads]
        gates = [
            self.gather(head.gates) * self.kept.view(batch, segments, tokens) for head in heads
        ]
        now = self.written_at.view_as(self.real)
        for segment in range(segments):
            seen = state.token.shape[1] + (segment + 1) * tokens
            age = now[:, segment, :, None] - written_at[:, None, :seen]
            within = (age >= LEAST_AGE) & present[:, None, :seen]
            left = pool.new_ones(batch, seen)
            for head, key, gate in zip(heads, keys, gates, strict=True):
                match = matches(pool[:, :seen], key[:, segment], head.sharpness, head.threshold)
                left = left * retention(gate[:, segment], match.where(within, 0.0))
            self.retained.append(left)

    def links(self, segment: int, seen: int) -> tuple[Tensor, Tensor]:
        """The slots before and after each of those that a segment sees."""
        if segment not in self._links:
            written_at, present = self.state.written_at, self.state.strength > 0
            if self.until is not None:
                present = present & (written_at < self.until[:, segment, None])
            elif segment:
                assert self.kept is not None
                written_at = torch.cat([written_at, self.written_at], 1)[:, :seen]
                present = torch.cat([present, (self.kept > 0) & self.real.flatten(1)], 1)[:, :seen]
            both = (neighbours(written_at, present, step) for step in (-1, 1))
            self._links[segment] = next(both), next(both)
        return self._links[segment]

    def read(
        self,
        layer: int,
        queries: Float[Tensor, "entries tokens heads width"],
        age_slope: Float[Tensor, " heads"],
        null_logit: Float[Tensor, " heads"],
        softcap: float | None,
        focus: float,
        modes: Float[Tensor, "heads 3"] | None,
    ) -> (
        tuple[Float[Tensor, "entries tokens heads width"], Float[Tensor, "entries tokens heads"]]
        | None
    ):
        """Reads for every token of the chunk.

        Returns:
            Read words and evidence; None where no segment has anything to read, so that an empty
            memory costs nothing and changes nothing.
        """
        state, (_, segments, tokens) = self.state, self.real.shape
        stored = state.token.shape[1]
        if stored == 0 and (segments == 1 or self.until is not None):
            return None
        keys, values = self._stored[layer]
        strength, order = state.strength, state.order
        kept = None
        if segments > 1 and self.until is None:
            assert self.strength is not None
            assert self.kept is not None
            keys = torch.cat([keys, self._keys[layer].to(keys.dtype)], 1)
            values = torch.cat([values, self._values[layer].to(values.dtype)], 1)
            # where nothing is kept out, a factor of one has the gradient of a strength
            if self._gated:
                kept = torch.cat([torch.ones_like(strength), self.kept], 1)
                strength = torch.cat([strength, self.strength], 1)
            else:
                strength = torch.cat([strength, self.strength * self.kept], 1)
            order = torch.cat([order, self.order], 1)
        asked = self.gather(queries).unbind(1)
        held = strength
        words, evidence = [], []
        mass: list[Tensor | None] = []
        for segment in range(segments):
            seen = stored if self.until is not None else stored + segment * tokens
            if segment and self.retained:
                # what the segment before this one let go of
                left = torch.nn.functional.pad(
                    self.retained[segment - 1], (0, held.shape[1] - seen), value=1.0
                )
                held = held * left
            query = asked[segment]
            if seen == 0:
                words.append(torch.zeros_like(query, dtype=torch.float32))
                evidence.append(query.new_zeros(query.shape[:-1], dtype=torch.float32))
                mass.append(None)
                continue
            age = (self.segment_order[:, segment, None] - order[:, :seen]).clamp_min(0)
            there = held[:, :seen]
            if self.until is not None:
                there = held.where(state.written_at < self.until[:, segment, None], 0.0)
            laid = None if self.laid is None else self.laid.get(layer)
            if laid is None:
                laid = lay(
                    keys[:, :seen],
                    values[:, :seen],
                    there,
                    age.float(),
                    age_slope,
                    null_logit,
                    softcap,
                    None if modes is None else Links(*self.links(segment, seen), modes),
                )
            if self.laid is not None:
                self.laid[layer] = laid
            read, found, used = content_read(
                query,
                laid,
                self.real[:, segment] if self.writes or self.until is not None else None,
                self.passage[:, :seen],
                focus,
                None if kept is None else kept[:, :seen],
            )
            words.append(read)
            evidence.append(found)
            mass.append(used)
        if self.writes or self.until is not None:
            self._mass[layer] = mass
        return self.scatter(torch.stack(words, 1)), self.scatter(torch.stack(evidence, 1))

    def read_mass(self, segment: int, slots: int) -> Float[Tensor, "batch slots"]:
        """Read weight that one segment put on each slot: summed over tokens, mean over heads."""
        layers = [mass[segment] for mass in self._mass.values()]
        rows = [row for row in layers if row is not None]
        if not rows:
            return self.state.usage.new_zeros(self.state.batch_size, slots)
        mean = torch.stack(rows).mean(0)
        return torch.nn.functional.pad(mean, (0, slots - mean.shape[1]))

    def finish(
        self,
        ids: Int[Tensor, "batch segments tokens"],
        turns: Int[Tensor, "batch segments tokens"],
    ) -> MemoryState:
        """The memory after the chunk.

        Unless `closes` says otherwise, a segment that is full is closed, and a row's last, shorter
        segment stays open.

        Args:
            ids: token ids, for provenance.
            turns: the turn each token belongs to.

        Raises:
            ValueError: what would be written is not finite. The memory before the chunk is whole.
        """
        self._check_finite()
        state, real = self.state, self.real
        batch, segments, tokens = real.shape
        stored, new = state.token.shape[1], segments * tokens
        assert self.strength is not None
        assert self.kept is not None
        counts = real.sum(-1)
        full = counts == self.segment_tokens if self.closes is None else self.closes
        number = state.num_segments[:, None] + full.long().cumsum(-1) - full.long()
        fresh = real.flatten(1)
        new_strength = torch.where(fresh & (self.kept.detach() > 0), self.strength, 0.0)
        strength = torch.cat([state.strength, new_strength], 1)
        settled = torch.cat([state.settled, new_strength], 1)
        table = {
            name: torch.cat([getattr(state, name), torch.zeros_like(new_strength)], 1)
            for name in ("usage", "reads", "open_reads")
        }
        provenance = {
            "written_at": self.written_at,
            "order": self.order,
            "token": ids.flatten(1),
            "segment": number[:, :, None].expand_as(ids).flatten(1),
            "turn": turns.flatten(1),
        }
        for name, column in provenance.items():
            column = column.masked_fill(~fresh, EMPTY)
            table[name] = torch.cat([getattr(state, name), column], 1)
        for segment in range(segments):
            closes = full[:, segment, None]
            mass = self.read_mass(segment, stored + new)
            aged = aged_usage(table["usage"], mass, counts[:, segment], state.usage_half_life)
            table["usage"] = torch.where(closes, aged, table["usage"])
            table["reads"] = table["reads"] + mass
            table["open_reads"] = table["open_reads"] + mass.masked_fill(closes, 0.0)
            begin, end = segment * tokens, (segment + 1) * tokens
            table["usage"][:, stored + begin : stored + end] = new_strength.detach()[:, begin:end]
            if self.retained:
                left = self.retained[segment]
                left = torch.nn.functional.pad(left, (0, new - end), value=1.0)
                strength = strength * left
                settled = torch.where(closes, settled * left, settled)
                table["usage"] = table["usage"] * torch.where(closes, left.detach(), 1.0)
        table |= {"strength": strength, "settled": settled}
        after = state.replaced(
            **table,
            keys=state.keys.new_zeros(0),
            values=state.values.new_zeros(0),
            addresses=torch.cat([state.addresses, self.addresses], 1),
            clock=state.clock + counts.sum(-1),
            writes=self.end_order,
            num_segments=state.num_segments + full.sum(-1),
        )
        return self._place(after, stored)

    def _check_finite(self) -> None:
        """One number that is not finite would spoil every later read, and every turn saved."""
        new = [*self._keys.values(), *self._values.values(), self.addresses]
        used = [row for mass in self._mass.values() for row in mass if row is not None]
        if not all_finite(*new, *used):
            raise ValueError(
                "The text can't be remembered: what the model makes of it is not finite (NaN, or "
                f"an overflow in {self.state.dtype}). The memory is as it was before; load the "
                "model in bfloat16 or float32, or check its weights."
            )

    def _place(self, after: MemoryState, stored: int) -> MemoryState:
        """Gives every surviving new token a slot that is free or was just evicted."""
        keep = after.occupied & ~after.is_unwritten
        if after.num_slots is not None:
            settled = keep & ~after.is_open
            excess = (settled.sum(-1) - after.num_slots).clamp_min(0)
            keep = keep & ~least_used(after.usage, settled, excess)
        size = max(int(keep.sum(-1).max()), stored)
        columns = torch.arange(keep.shape[1], device=keep.device)
        # free slots in order of their number, then the surviving new tokens in order of writing
        free = torch.nn.functional.pad(~keep[:, :stored], (0, size - stored), value=True)
        slots = (~free).long().argsort(dim=-1, stable=True)
        newcomers = keep & (columns >= stored)
        comers = (~newcomers).long().argsort(dim=-1, stable=True)[:, :size]
        comers = torch.nn.functional.pad(comers, (0, size - comers.shape[1]))
        wanted = torch.arange(size, device=keep.device)[None] < newcomers.sum(-1, keepdim=True)
        # source of every slot: itself, a newcomer, or nothing (-1)
        source = torch.arange(size, device=keep.device).expand_as(free).masked_fill(free, EMPTY)
        source = source.scatter(1, slots, torch.where(wanted, comers, source.gather(1, slots)))
        taken = source.clamp_min(0)
        nothing = source == EMPTY
        table = {
            name: getattr(after, name).gather(1, taken).masked_fill(nothing, fill)
            for name, fill in TABLE.items()
        }
        contents = {
            name: torch.stack(
                [
                    self._arrange(getattr(self.state, name)[layer], new[layer], taken, nothing)
                    for layer in range(len(new))
                ]
            )
            for name, new in (("keys", self._keys), ("values", self._values))
        }
        rows = torch.arange(len(taken), device=taken.device)[:, None]
        addresses = after.addresses[rows, taken].masked_fill(nothing[..., None], 0.0)
        return after.replaced(**table, **contents, addresses=addresses)

    @staticmethod
    def _arrange(old: Tensor, new: Tensor, source: Tensor, nothing: Tensor) -> Tensor:
        pool = torch.cat([old, new.to(old.dtype)], 1)
        rows = [pool[row].index_select(0, source[row]) for row in range(pool.shape[0])]
        return torch.stack(rows).masked_fill(nothing[..., None, None], 0.0)
