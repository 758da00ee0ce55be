"""`SAM`: Sparse Access Memory (J. W. Rae et al. 2016), an NTM for memories of a million slots."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memformer.classic.addressing import content_weights, oneplus
from memformer.classic.controller import (
    CLIP,
    Controller,
    ControllerState,
    Kind,
    check_inputs,
    check_sizes,
    unroll,
)
from memformer.classic.search import ExactSearch, FaissSearch, Search, load_faiss
from memformer.classic.sparse import Accesses, SparseMemory

# the least weight with which a slot counts as accessed (SAM, section 3.2)
ACCESSED = 0.005


class SAMMemory:
    """The parts of a SAM that change in place: words, their search, and the order of accesses.

    Attributes:
        steps: the number of steps so far.
    """

    def __init__(self, words: Float[Tensor, "batch slots width"], search: str) -> None:
        self.store = SparseMemory(words)
        found: type[Search] = ExactSearch if search == "exact" else FaissSearch
        self.search: Search = found(self.store.words)  # type: ignore[call-arg]
        self.accesses = Accesses(*words.shape[:2])
        self.steps = 0

    def detach(self) -> None:
        """Ends the reach of the gradient."""
        self.store.detach()


class SAMState(NamedTuple):
    """The state of a `SAM` between two steps.

    The memory changes in place, so only one step can follow a state; `step` refuses a second one.

    Attributes:
        controller: the state of the controller.
        memory: the parts that grow with the number of slots.
        steps: the number of steps up to this state.
        read_slots: the slots that each head read last.
        read_weights: the weights of these slots; 0 for an empty slot.
        write_slots: the slots that were written last.
        write_weights: the weights of these slots.
        words: the words that the last step read.
    """

    controller: ControllerState
    memory: SAMMemory
    steps: int
    read_slots: Int[Tensor, "batch reads topk"]
    read_weights: Float[Tensor, "batch reads topk"]
    write_slots: Int[Tensor, "batch written"]
    write_weights: Float[Tensor, "batch written"]
    words: Float[Tensor, "batch reads width"]


class SAM(nn.Module):
    """A memory-augmented network whose steps cost the same for any number of slots.

    Equations (SAM, sections 3.1 and 3.2), with U the least recently accessed slot:
        write:  w = alpha (gamma w_read + (1 - gamma) 1_U);   M_U <- 0;   M <- M + w a^T
        read:   the K best slots by cosine; softmax over these of beta cos(key, M_i)
    w_read is the mean over the heads of their last read weights. One difference from the paper: a
    read of an empty slot neither counts as an access nor leads to a write. Otherwise weak reads
    fill the memory and move its empty slots behind the full ones, and words are overwritten before
    anything reads them.

    Args:
        input_size: numbers in one input.
        output_size: numbers in one output.
        slots: N.
        width: W, numbers in one word.
        reads: R, read heads.
        topk: K, slots in one read.
        hidden: size of the controller.
        controller: "lstm" or "feedforward".
        strength: a number added to the strengths of reads at the start. With 0 an untrained read
            spreads over all slots; with about 8 it finds the best match.
        search: "exact" compares every slot, without gradient; "faiss" compares the nearest lists of
            an index, which pays from about 10^5 slots on.

    Raises:
        ValueError: a size below one, more slots in a read than in the memory, or an unknown name.
        ModuleNotFoundError: `search` is "faiss", and faiss is not installed.
    """

    def __init__(
        self,
        input_size: int,
        output_size: int,
        *,
        slots: int = 64,
        width: int = 16,
        reads: int = 1,
        topk: int = 4,
        hidden: int = 100,
        controller: Kind = "lstm",
        strength: float = 0.0,
        search: Literal["exact", "faiss"] = "exact",
    ) -> None:
        super().__init__()
        check_sizes(
            input_size=input_size,
            output_size=output_size,
            slots=slots,
            width=width,
            reads=reads,
            topk=topk,
            hidden=hidden,
        )
        if topk > slots:
            raise ValueError(f"topk must be at most slots; got topk={topk}, slots={slots}.")
        if search not in ("exact", "faiss"):
            raise ValueError(f"search must be 'exact' or 'faiss'; got {search!r}.")
        if search == "faiss":
            load_faiss()  # fails here, and not in the first step
        self.input_size, self.slots, self.width = input_size, slots, width
        self.reads, self.topk, self.search = reads, topk, search
        self.controller = Controller(input_size + reads * width, hidden, controller)
        # read keys and strengths, write vector, alpha, gamma
        self.sizes = [reads * width, reads, width, 1, 1]
        self.interface = nn.Linear(hidden, sum(self.sizes))
        self.output = nn.Linear(hidden + reads * width, output_size)
        with torch.no_grad():
            self.interface.bias[reads * width : reads * width + reads] += strength

    def start(
        self, batch: int, words: Float[Tensor, "batch slots width"] | None = None
    ) -> SAMState:
        """The state before the first step.

        Args:
            batch: independent memories.
            words: the first content of the memory; None: zeros.
        """
        like = self.output.weight
        if words is None:
            words = like.new_zeros(batch, self.slots, self.width)
        nowhere = torch.zeros(batch, self.reads, self.topk, dtype=torch.long, device=like.device)
        return SAMState(
            controller=self.controller.start(batch, like),
            memory=SAMMemory(words, self.search),
            steps=0,
            read_slots=nowhere,
            read_weights=like.new_zeros(nowhere.shape),
            write_slots=nowhere[:, 0, :1],
            write_weights=like.new_zeros(batch, 1),
            words=like.new_zeros(batch, self.reads, self.width),
        )

    def step(
        self, inputs: Float[Tensor, "batch input"], state: SAMState
    ) -> tuple[Float[Tensor, "batch output"], SAMState]:
        """One step: writes, then reads.

        Raises:
            ValueError: another step has followed this state before.
        """
        memory = state.memory
        if memory.steps != state.steps:
            raise ValueError(
                f"this state is of step {state.steps}, but its memory has seen {memory.steps} "
                "steps; a SAM's memory changes in place, so continue the latest state."
            )
        store, accesses = memory.store, memory.accesses
        seen = torch.cat([inputs, state.words.flatten(1)], -1)
        hidden, controller = self.controller(seen, state.controller)
        vector = self.interface(hidden).clamp(-CLIP, CLIP)
        keys, strengths, written, alpha, gamma = vector.split(self.sizes, -1)
        keys = keys.unflatten(-1, (self.reads, self.width))

        oldest = accesses.least_recent().to(inputs.device)[:, None]
        slots = torch.cat([state.read_slots.flatten(1), oldest], 1)
        again = gamma.sigmoid() * state.read_weights.flatten(1) / self.reads
        weights = alpha.sigmoid() * torch.cat([again, 1.0 - gamma.sigmoid()], 1)
        # a slot that several heads read gets the sum of their weights in each of its entries
        weights = (weights.unsqueeze(1) * (slots.unsqueeze(1) == slots.unsqueeze(2))).sum(-1)
        words = store.read(slots).masked_fill((slots == oldest)[..., None], 0.0)
        store.write(slots, words + weights[..., None] * written.unsqueeze(1))
        memory.search.update(slots)
        accesses.touch(slots, weights > ACCESSED)

        found = memory.search.nearest(keys, self.topk)
        words = store.read(found.flatten(1)).unflatten(1, found.shape[1:])
        strengths = oneplus(strengths)
        reading = content_weights(words, keys.unsqueeze(2), strengths.unsqueeze(2)).squeeze(2)
        # a slot that was found twice counts once
        earlier = (found.unsqueeze(-1) == found.unsqueeze(-2)).tril(-1).any(-1)
        reading = reading.masked_fill(earlier, 0.0)
        reading = reading / reading.sum(-1, keepdim=True)
        read = (reading.unsqueeze(-1) * words).sum(-2)
        # an empty slot stays empty, and is among the first to be written
        reading = reading * words.ne(0).any(-1)
        accesses.touch(found.flatten(1), (reading > ACCESSED).flatten(1))
        memory.steps += 1
        output = self.output(torch.cat([hidden, read.flatten(1)], -1))
        return output, SAMState(
            controller, memory, memory.steps, found, reading, slots, weights, read
        )

    def weights(
        self, state: SAMState
    ) -> tuple[Float[Tensor, "batch reads slots"], Float[Tensor, "batch 1 slots"]]:
        """The places that the last step read and wrote, over all slots."""
        shape = (*state.read_weights.shape[:2], self.slots)
        reading = state.read_weights.new_zeros(shape)
        writing = state.read_weights.new_zeros(shape[0], self.slots)
        return (
            reading.scatter(-1, state.read_slots, state.read_weights),
            writing.scatter(-1, state.write_slots, state.write_weights).unsqueeze(1),
        )

    def forward(
        self, inputs: Float[Tensor, "batch steps input"], state: SAMState | None = None
    ) -> tuple[Float[Tensor, "batch steps output"], SAMState]:
        """All steps of a batch of sequences; the returned state continues them."""
        check_inputs(inputs, self.input_size)
        return unroll(self.step, inputs, self.start(len(inputs)) if state is None else state)
