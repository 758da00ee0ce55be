"""Associative Recurrent Memory Transformer (Rodkin et al. 2024, arXiv:2407.04841).

A baseline for evaluation. Every layer keeps a matrix of associations: before the layer runs, its
inputs read the matrix and add the values they find; after it ran, the memory tokens at the end of
the segment write by a delta rule, which first removes the old values under their keys (section 3,
equations 3 to 8).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

EPSILON = 1e-5
SHIFTS = 3  # shifts in the features: DPFP-3


@dataclass(frozen=True)
class Associations:
    """Associations of one layer: values (rows, features, width), and a weight for each feature."""

    values: Tensor
    weight: Tensor


def features(x: Tensor) -> Tensor:
    """DPFP features of norm 1, six times as wide as `x` (Schlag et al. 2021, arXiv:2102.11174)."""
    both = torch.relu(torch.cat([x, -x], -1))
    found = torch.cat([both * both.roll(shift, -1) for shift in range(1, SHIFTS + 1)], -1)
    return found / (found.norm(dim=-1, keepdim=True) + EPSILON)


class Layer(nn.Module):
    """The projections of one layer's associations.

    Args:
        width: the width of the decoder.
        keys: the width of keys and queries.
    """

    def __init__(self, width: int, keys: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, keys, bias=False)
        self.key = nn.Linear(width, keys, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.strength = nn.Linear(width, 1)
        # values of 0 leave the decoder unchanged until training
        nn.init.zeros_(self.value.weight)

    def found(self, x: Tensor, held: Associations) -> Tensor:
        """The values that inputs (rows, tokens, width) find."""
        return _associated(features(self.query(x.float())), held)

    def written(self, memory: Tensor, held: Associations) -> Associations:
        """The associations after memory tokens (rows, tokens, width) were written."""
        memory = memory.float()
        keys = features(self.key(memory))
        strength = torch.sigmoid(self.strength(memory))
        new = strength * (self.value(memory) - _associated(keys, held))
        # no feature counts twice (equation 8)
        known = keys @ held.weight[..., None]
        fresh = 1 - known / (keys.square().sum(-1, keepdim=True) + EPSILON)
        weight = (fresh.clamp(0, 1).detach() * keys).sum(1)
        return Associations(held.values + keys.mT @ new, held.weight + weight)


def _associated(asked: Tensor, held: Associations) -> Tensor:
    """The values under features (rows, tokens, features)."""
    return (asked @ held.values) / (asked @ held.weight[..., None] + EPSILON)


class ARMT(nn.Module):
    """A decoder with associations in every layer.

    Args:
        backbone: a decoder of transformers, with or without an adapter.
        tokens: the number of memory tokens at the end of every segment.
        keys: the width of keys and queries.
    """

    def __init__(self, backbone: Any, tokens: int = 10, keys: int = 64) -> None:
        super().__init__()
        self.backbone = backbone
        self.keys = keys
        embeddings = backbone.get_input_embeddings().weight.detach().float()
        width = embeddings.shape[1]
        drawn = torch.randn(1, tokens, width) * embeddings.std().cpu()
        self.memory = nn.Parameter(drawn.to(embeddings.device))
        count = backbone.config.get_text_config().num_hidden_layers
        self.layers = nn.ModuleList(Layer(width, keys) for _ in range(count))
        self.layers.to(embeddings.device)

    @property
    def _decoder_layers(self) -> nn.ModuleList:
        return next(
            one
            for one in self.backbone.modules()
            if isinstance(one, nn.ModuleList) and len(one) == len(self.layers)
        )

    def empty(self, rows: int = 1) -> list[Associations]:
        """Associations of every layer before anything was read."""
        width, wide = self.memory.shape[-1], 2 * SHIFTS * self.keys
        none = self.memory.new_zeros
        return [Associations(none(rows, wide, width), none(rows, wide)) for _ in self.layers]

    def rows(self, held: list[Associations], chosen: Sequence[int]) -> list[Associations]:
        """The associations of some rows, in this order."""
        index = list(chosen)
        return [Associations(one.values[index], one.weight[index]) for one in held]

    def read(self, ids: Tensor, there: Tensor, held: list[Associations]) -> list[Associations]:
        """The associations after one more segment.

        Args:
            ids: (rows, tokens), padded on the right.
            there: which ids are text; every row has some.
            held: the associations of each row.
        """
        after = list(held)
        text = self.backbone.get_input_embeddings()(ids)
        memory = self.memory.to(text.dtype).expand(len(ids), -1, -1)
        mask = torch.cat([there, there.new_ones(memory.shape[:2])], 1)
        with self._associating(held, after):
            self.backbone.get_decoder()(
                inputs_embeds=torch.cat([text, memory], 1),
                attention_mask=mask.long(),
                position_ids=(mask.cumsum(1) - 1).clamp_min(0),
                use_cache=False,
            )
        return after

    def logits(
        self, ids: Tensor, held: list[Associations], cache: Any = None, at: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token after the ids (rows, tokens) of a segment that is not written.

        Args:
            ids: padded on the right.
            held: the associations of each row.
            cache: keys and values of this segment so far; the call extends it.
            at: the places whose logits are returned; None: all places.
        """
        at = torch.arange(ids.shape[1], device=ids.device) if at is None else at
        with self._associating(held, None):
            output = self.backbone(
                ids,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=at,
            )
        logits: Tensor = output.logits
        return logits

    @contextmanager
    def _associating(
        self, held: list[Associations], after: list[Associations] | None
    ) -> Iterator[None]:
        """While open, every layer reads `held` and, if `after` is given, writes to it."""
        hooks = []
        tokens = self.memory.shape[1]
        for number, decoder in enumerate(self._decoder_layers):
            layer: Any = self.layers[number]

            def ask(module: nn.Module, given: Any, kwargs: Any, number: int = number,
                    layer: Any = layer) -> Any:  # fmt: skip
                x, *rest = given or (kwargs.pop("hidden_states"),)
                return (x + layer.found(x, held[number]).to(x.dtype), *rest), kwargs

            def write(module: nn.Module, given: Any, output: Any, number: int = number,
                      layer: Any = layer) -> None:  # fmt: skip
                x = output[0] if isinstance(output, tuple) else output
                assert after is not None
                after[number] = layer.written(x[:, -tokens:], held[number])

            hooks.append(decoder.register_forward_pre_hook(ask, with_kwargs=True))
            if after is not None:
                hooks.append(decoder.register_forward_hook(write))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
