"""`MemoryLayer`: writes and reads the memory beside one attention module of the backbone.

`MemoryPath` holds the memory layers and what they share. `hooks.py` calls it from inside the
backbone, and `mixing.py` adds the words read to the attention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from memformer.attach.backbone import Backbone, Turn, turned
from memformer.attach.finders import Finders
from memformer.attach.heads import TableHeads
from memformer.attach.mixing import Read
from memformer.attach.words import word_table
from memformer.config import MemoryConfig
from memformer.memory.finding import Asking
from memformer.memory.memory_pass import MemoryPass, ReadHeads

# memory holds many more tokens than a segment, so its matches are a little sharper
KEY_STRENGTH = 1.2
# read modes start at 0.96 for content, 0.02 for each direction: enough for a gradient
CONTENT_MODE = 4.0


class Correction(nn.Module):
    """A trainable change of one projection, zero at the start: x W^T with W low-rank or full."""

    def __init__(self, inputs: int, outputs: int, rank: int | None, seed: int) -> None:
        super().__init__()
        if rank is None:
            self.full = nn.Parameter(torch.zeros(outputs, inputs))
        else:
            self.down = nn.Parameter(torch.empty(rank, inputs))
            self.up = nn.Parameter(torch.zeros(outputs, rank))
            # seeded, so that attaching twice gives the same model
            generator = torch.Generator().manual_seed(seed)
            nn.init.normal_(self.down, std=inputs**-0.5, generator=generator)
        self.rank = rank

    def forward(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The change of the projection's output."""
        linear = nn.functional.linear
        if self.rank is None:
            return linear(x, self.full.to(x.dtype))
        return linear(linear(x, self.down.to(x.dtype)), self.up.to(x.dtype))

    def of_few(self, x: Float[Tensor, "... inputs"]) -> Float[Tensor, "... outputs"]:
        """The same for a few tokens: low-rank products in float32, which need no cast of weights.

        On a CPU, two small products in bfloat16 take six times as long as in float32.
        """
        if self.rank is None or x.dtype == self.down.dtype:
            return cast(Tensor, self(x))
        linear = nn.functional.linear
        return linear(linear(x.to(self.down.dtype), self.down), self.up).to(x.dtype)


class Pointing(NamedTuple):
    """The part of a layer's reads that no token changes.

    Attributes:
        turn: the rotation of queries.
        strength: the factor on the queries of each head.
        heads: the learned numbers of the layer's read heads.
    """

    turn: Turn
    strength: Float[Tensor, "heads 1"]
    heads: ReadHeads


class MemoryLayer(nn.Module):
    """Reads and writes at one decoder layer (MEMORY.md, section 2).

    | parameter | shape | starts at |
    |---|---|---|
    | query, key, value corrections | as the backbone's projections | 0: no change |
    | log_key_strength | heads | log 1.2: a little sharper than the backbone's own scale |
    | age_slope | heads | 0: all ages alike |
    | null_logit | heads | calibrated when the memory is attached |
    | read_modes (with links) | heads, 3 | 0, 4, 0: backward, content, forward before softmax |

    Args:
        backbone: how to reach the projections.
        layer: number of the decoder layer.
        index: place among the memory layers.
        config: the memory's config.
    """

    def __init__(self, backbone: Backbone, layer: int, index: int, config: MemoryConfig) -> None:
        super().__init__()
        self.layer = layer
        self.index = index
        self.key_positions = config.key_positions
        self.read_distance = config.read_distance
        self._backbone = [backbone]  # in a list, so that the backbone is no submodule of this layer
        heads, kv_heads, width = backbone.heads, backbone.kv_heads, backbone.width
        hidden, rank = backbone.hidden, config.projection_rank
        self.query_correction = Correction(hidden, heads * width, rank, layer)
        self.key_correction = Correction(hidden, kv_heads * width, rank, layer)
        self.value_correction = Correction(hidden, kv_heads * width, rank, layer)
        self.log_key_strength = nn.Parameter(torch.full((heads,), math.log(KEY_STRENGTH)))
        self.age_slope = nn.Parameter(torch.zeros(heads))
        self.null_logit = nn.Parameter(torch.zeros(heads))
        if config.links:
            self.read_modes = nn.Parameter(torch.tensor([0.0, CONTENT_MODE, 0.0]).repeat(heads, 1))
        self.links = config.links

    def forward(
        self,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        memory: MemoryPass,
        table: TableHeads | None = None,
        finders: Sequence[tuple[int, int]] = (),
    ) -> tuple[Tensor, Tensor] | None:
        """Writes keys and values of the tokens, then reads the memory for each token.

        Args:
            attention: the attention module.
            x: its input.
            memory: carries the memory of this call.
            table: the heads that decide about slots, at the lowest memory layer.
            finders: number and key head of each small key that this layer hands to the record.
        """
        queries = None
        if memory.writes:
            queries = self._write(attention, x, memory, table, finders)
        if not memory.reads:
            return None
        if queries is None:
            correction = self.query_correction.of_few(x)
            queries = self._backbone[0].project_queries(attention, x, correction)
        pointing = memory.once(
            ("pointing", self.index, x.dtype), lambda: self._pointing(cast(Tensor, queries))
        )
        queries = turned(queries, pointing.turn).float()
        with torch.autocast(x.device.type, enabled=False):
            return memory.read(self.index, queries * pointing.strength, pointing.heads)

    def _write(
        self,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        memory: MemoryPass,
        table: TableHeads | None,
        finders: Sequence[tuple[int, int]],
    ) -> Float[Tensor, "entries tokens heads width"]:
        """Writes keys and values of the tokens; returns their queries, without positions."""
        backbone = self._backbone[0]
        corrections = (self.query_correction(x), self.key_correction(x), self.value_correction(x))
        queries, keys, values = backbone.project(attention, x, corrections)
        if table is not None:
            memory.decide(*table(x, memory.chunk))
        positions = x.new_zeros(1, 1, dtype=torch.long)
        if self.key_positions == "passage":
            positions = memory.positions()
        keys = backbone.rotate(self.layer, keys, positions)
        memory.write(self.index, keys, values)
        for number, head in finders:
            memory.find_keys(number, keys[:, :, head])
        return queries

    def queries(
        self, attention: nn.Module, x: Float[Tensor, "entries tokens hidden"]
    ) -> Float[Tensor, "entries tokens heads width"]:
        """The queries of all heads, multiplied by key strength and attention scale."""
        correction = self.query_correction(x)
        queries = self._backbone[0].project_queries(attention, x, correction)
        pointing = self._pointing(queries)
        return turned(queries, pointing.turn).float() * pointing.strength

    def keys(
        self,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        positions: Int[Tensor, "rows columns"],
    ) -> Float[Tensor, "entries tokens kv_heads width"]:
        """The keys of all key heads, at the given positions."""
        corrections = (self.query_correction(x), self.key_correction(x), self.value_correction(x))
        _, keys, _ = self._backbone[0].project(attention, x, corrections)
        return self._backbone[0].rotate(self.layer, keys, positions)

    def _pointing(self, queries: Float[Tensor, "entries tokens heads width"]) -> Pointing:
        """The part of the reads that no token changes, for queries on this device."""
        backbone = self._backbone[0]
        far = torch.tensor([[self.read_distance]], device=queries.device)
        strength = self.log_key_strength.float().exp() * backbone.scale(self.layer)
        with torch.autocast(queries.device.type, enabled=False):
            modes = self.read_modes.float().softmax(-1) if self.links else None
        return Pointing(
            backbone.turn(self.layer, queries, far),
            strength[:, None],
            ReadHeads(
                self.age_slope.float(),
                self.null_logit.float(),
                backbone.softcap(self.layer),
                modes,
            ),
        )


class MemoryPath(nn.Module):
    """The modules added to a backbone: the memory layers, and the heads that they share.

    The buffer `borders` says which token ids end a sentence or a paragraph (`borders.py`), the
    buffer `words` which token ids are the same word (`words.py`).

    Args:
        backbone: how to reach the decoder's parts.
        config: the memory's config, with layer numbers as `memory_layers`.
    """

    borders: UInt8[Tensor, " vocabulary"]
    words: Int[Tensor, " vocabulary"]

    def __init__(self, backbone: Backbone, config: MemoryConfig) -> None:
        super().__init__()
        numbers = cast("tuple[int, ...]", config.memory_layers)
        self.layers = nn.ModuleList(
            MemoryLayer(backbone, number, index, config) for index, number in enumerate(numbers)
        )
        self.table = TableHeads(backbone.hidden, config.release, config.address_reach)
        self.index_of = {number: index for index, number in enumerate(numbers)}
        # without a tokenizer, no token ends anything
        nothing = torch.zeros(backbone.vocabulary, dtype=torch.uint8)
        self.register_buffer("borders", nothing)
        self.register_buffer("words", word_table(backbone.vocabulary, None))
        self.finders = Finders(config.finders, backbone.heads // backbone.kv_heads, backbone.width)
        self._backbone = [backbone]  # in a list, so that the backbone is no submodule

    def __len__(self) -> int:
        return len(self.layers)

    @property
    def backbone(self) -> Backbone:
        """How to reach the decoder's parts."""
        return self._backbone[0]

    def layer(self, number: int) -> MemoryLayer:
        """The memory layer beside a decoder layer."""
        return cast(MemoryLayer, self.layers[self.index_of[number]])

    def adopt(self, other: MemoryPath) -> MemoryPath:
        """Takes the tables, the finders and the parameters that another path has too.

        Both paths then share them; nothing is copied. Returns itself.
        """
        self.borders, self.words, self.finders = other.borders, other.words, other.finders
        theirs = dict(other.named_parameters())
        for prefix, module in self.named_modules():
            for name, _ in list(module.named_parameters(recurse=False)):
                if (parameter := theirs.get(f"{prefix}.{name}")) is not None:
                    setattr(module, name, parameter)
        return self

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """As in torch; weights of a version without a table or finders leave them as they are."""
        for name, buffer in self.named_buffers():
            state_dict.setdefault(f"{prefix}{name}", buffer)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(
        self,
        number: int,
        attention: nn.Module,
        x: Float[Tensor, "entries tokens hidden"],
        memory: MemoryPass,
    ) -> Read | None:
        """Writes and reads at one decoder layer; the lowest memory layer decides first.

        Args:
            number: the number of the decoder layer.
            attention: the attention module of the layer.
            x: the module's input.
            memory: the pass that carries the memory.

        Returns:
            The read; None where there was nothing to read.
        """
        index = self.index_of[number]
        found = enumerate(self.finders.keys if memory.writes else ())
        finders = [(key, head) for key, (layer, head) in found if layer == number]
        table = self.table if index == 0 else None
        read = self.layers[index](attention, x, memory, table, finders)
        return None if read is None else Read(*read)

    def ask(self, ids: Int[Tensor, " tokens"]) -> Asking:
        """A question as the finder heads ask it, encoded without any memory.

        Args:
            ids: the token ids of the question.
        """
        return self.finders.learned(self.ask_as_attached(ids))

    def ask_as_attached(self, ids: Int[Tensor, " tokens"]) -> Asking:
        """The same before the finder heads learned anything."""
        backbone, chosen = self._backbone[0], self.finders.chosen
        inputs = backbone.attention_inputs(ids[None], max(layer for layer, _ in chosen))
        queries, nulls = [], []
        for number, head in chosen:
            layer = self.layer(number)
            queries.append(layer.queries(backbone.attention(number), inputs[number])[0, :, head])
            nulls.append(layer.null_logit[head].float())
        return Asking(torch.stack(queries, 1), self.finders.key_of, torch.stack(nulls))
