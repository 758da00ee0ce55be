"""Calibration: two measurements of the backbone's own attention when a memory is attached.

The log-sum-exp of each head's local scores sets the null logits. The attention from a question to
the fact that answers it chooses the memory layers. Both use short texts; neither is ever tuned on a
benchmark.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memformer.attach.backbone import Backbone

# plain prose, written for this purpose
PLAIN_TEXT = (
    "The library opens at nine in the morning and closes late in the evening. People come to read "
    "the newspapers, to borrow books, or only to sit in the warm room when it rains. A tall woman "
    "at the desk knows where everything is. She has worked there for eleven years and says that "
    "the quiet is the best part of her day. In spring the windows are opened and one can hear the "
    "children in the school across the street. Most visitors are students, but there are also old "
    "men who come for the chess boards in the corner. The rules are simple: speak softly, put "
    "things back, and do not eat near the maps. Once a month a writer is invited to talk about a "
    "new book, and the chairs are never enough. When the river flooded the cellar, forty people "
    "carried the archive upstairs in a single night. Nothing was lost except a box of unsorted "
    "postcards. Since then every shelf below the ground floor stands empty, and the building feels "
    "lighter for it."
)
# other facts, the wanted fact, more facts, and a question that repeats the wanted fact up to the
# answer
NEEDLES = (
    (
        "The gate is painted green. The roof is made of copper. The bell was cast in spring. ",
        "The old mill belongs to a banker. ",
        "The wall is nine feet high. The tower leans a little. ",
        "Who owns the old mill? The old mill belongs to a",
    ),
    (
        "The soup was cold. ",
        "The fish came with lemon. ",
        "The bread was fresh. The wine was too sweet. The bill was paid in coins. ",
        "What did the fish come with? The fish came with",
    ),
    (
        "Monday is for washing. Tuesday is for baking. ",
        "Friday is for the market. ",
        "Sunday is for rest. Saturday is for friends. ",
        "What is Friday for? Friday is for the",
    ),
    (
        "The red box holds letters. ",
        "The blue box holds buttons. ",
        "The white box holds candles. The black box holds nails. ",
        "What does the blue box hold? The blue box holds",
    ),
)
# share of the retrieving attention that the chosen layers must hold; in SmolLM2-135M: layers 8-29
RETRIEVAL_SHARE = 0.7
DEFAULT_FRACTION = 0.75
SAMPLED_TOKENS = 64


def measure(
    backbone: Backbone, wanted: str | float | tuple[int, ...], tokenizer: Any | None
) -> tuple[tuple[int, ...], Float[Tensor, "layers heads"]]:
    """The numbers of the memory layers, and the null logits of all layers.

    Args:
        backbone: the decoder.
        wanted: `MemoryConfig.memory_layers`.
        tokenizer: None: layers are not measured, and the text is the backbone's own.

    Raises:
        ValueError: a layer that the backbone does not have, or numbers that are not finite.
    """
    retrieving = None
    if wanted == "auto" and tokenizer is not None:
        retrieving = retrieval(backbone, tokenizer)
    layers = choose_layers(wanted, len(backbone.layers), retrieving)
    if wanted == "auto":
        # a layer that was trained on a sliding window finds and reads nothing far away
        layers = tuple(layer for layer in layers if backbone.sees_all(layer)) or layers
    return layers, null_logits(backbone, plain_text(backbone, tokenizer))


@torch.no_grad()
def null_logits(
    backbone: Backbone, ids: Int[Tensor, "rows tokens"]
) -> Float[Tensor, "layers heads"]:
    """Mean log-sum-exp of each head's local attention scores over a text.

    With these null logits, a head's local attention and the memory compete as in one softmax
    (MEMORY.md, section 2).

    Raises:
        ValueError: the backbone computes a number that is not finite.
    """
    rows = []
    for scores, visible in _local_scores(backbone, ids):
        rows.append(scores.masked_fill(~visible, -torch.inf).logsumexp(-1).mean((0, 2)))
    return _finite(torch.stack(rows))


@torch.no_grad()
def retrieval(backbone: Backbone, tokenizer: Any) -> Float[Tensor, " layers"]:
    """Attention from a question to the fact that answers it, per layer, summed over heads.

    All tokens of the question count, not the last alone: the layers that find the person or thing
    come long before the layers that fetch the answer, and memory needs both. The attention on an
    average token of the other facts is subtracted.
    """
    total = torch.zeros(len(backbone.layers))
    device = next(backbone.model.parameters()).device
    for needle in NEEDLES:
        parts = [tokenizer(part, add_special_tokens=False).input_ids for part in needle]
        ids = torch.tensor([sum(parts, [])], device=device)
        begin, end = len(parts[0]), len(parts[0]) + len(parts[1])
        asked = end + len(parts[2])
        for layer, (scores, visible) in enumerate(_local_scores(backbone, ids)):
            weights = scores.masked_fill(~visible, -torch.inf).softmax(-1)[0, :, asked:]
            # without the first token, which takes the attention of heads that find no match
            fact, others = weights[..., begin:end].mean(-1), weights[..., 1:asked].mean(-1)
            total[layer] += (fact - others).clamp_min(0).sum().cpu()
    return total / len(NEEDLES)


def choose_layers(
    wanted: str | float | tuple[int, ...],
    num_layers: int,
    retrieving: Float[Tensor, " layers"] | None,
) -> tuple[int, ...]:
    """Turns `MemoryConfig.memory_layers` into layer numbers.

    A fraction takes that share of the layers, from the top. `"auto"` takes the fewest upper
    layers that hold 70 % of the retrieving attention; without a measurement (no tokenizer) it
    takes the fraction 0.75.

    Raises:
        ValueError: a layer number that the backbone does not have.
    """
    if wanted == "all":
        return tuple(range(num_layers))
    if isinstance(wanted, tuple):
        wrong = [layer for layer in wanted if not 0 <= layer < num_layers]
        if wrong:
            raise ValueError(
                f"memory_layers must be between 0 and {num_layers - 1}, the layers of this "
                f"backbone; got {wrong[0]}."
            )
        return wanted
    if isinstance(wanted, float) or retrieving is None:
        fraction = wanted if isinstance(wanted, float) else DEFAULT_FRACTION
        return tuple(range(num_layers - max(1, round(fraction * num_layers)), num_layers))
    # mass[b]: the retrieving attention of layers b and above
    mass = retrieving.flip(0).cumsum(0).flip(0)
    enough = (mass >= RETRIEVAL_SHARE * mass[0]).nonzero().flatten()
    return tuple(range(int(enough[-1]), num_layers))


def plain_text(backbone: Backbone, tokenizer: Any | None) -> Int[Tensor, "rows tokens"]:
    """The text to calibrate on: prose, or without a tokenizer text that the backbone generates.

    The generated text has four rows, sampled with a fixed seed.
    """
    device = next(backbone.model.parameters()).device
    if tokenizer is not None:
        ids = tokenizer(PLAIN_TEXT, add_special_tokens=False).input_ids
        return torch.tensor([ids], device=device)
    generator = torch.Generator().manual_seed(0)
    config: Any = backbone.model.config
    ids = torch.randint(config.vocab_size, (4, 1), generator=generator)
    with torch.no_grad():
        for _ in range(min(SAMPLED_TOKENS, config.max_position_embeddings) - 1):
            logits = backbone.model(ids.to(device), use_cache=False).logits[:, -1]
            shares = _finite(logits.float().softmax(-1))
            nxt = torch.multinomial(shares.cpu(), 1, generator=generator)
            ids = torch.cat([ids, nxt], 1)
    return ids.to(device)


def _finite(values: Tensor) -> Tensor:
    """Returns the values if a model may be calibrated on them.

    Raises:
        ValueError: a value is not finite.
    """
    if bool(torch.isfinite(values).all()):
        return values
    raise ValueError(
        "What the backbone computes on plain text is not finite (NaN, or an overflow); its weights "
        "are damaged, or it has to be loaded in bfloat16 or float32."
    )


def _local_scores(
    backbone: Backbone, ids: Int[Tensor, "rows tokens"]
) -> list[tuple[Float[Tensor, "rows heads tokens tokens"], Bool[Tensor, "tokens tokens"]]]:
    """Every layer's attention scores over a text, recomputed from the attention's inputs."""
    training = backbone.model.training
    try:
        backbone.model.eval()
        inputs = backbone.attention_inputs(ids)
    finally:
        backbone.model.train(training)
    tokens = ids.shape[1]
    place = torch.arange(tokens, device=ids.device)
    distance = place[:, None] - place[None]
    results = []
    for layer, x in enumerate(inputs):
        attention: Any = backbone.attention(layer)
        queries, keys, _ = backbone.project(attention, x)
        queries = backbone.rotate(layer, queries, place[None]).float()
        keys = backbone.rotate(layer, keys, place[None]).float()
        keys = keys.repeat_interleave(backbone.heads // backbone.kv_heads, dim=2)
        scores = torch.einsum("bthw,bnhw->bhtn", queries, keys) * backbone.scale(layer)
        if (cap := backbone.softcap(layer)) is not None:
            scores = cap * torch.tanh(scores / cap)
        # a layer gives its sliding window; in families where all layers slide, only the config does
        whole = getattr(attention.config, "sliding_window", None)
        window = getattr(attention, "sliding_window", whole) or tokens
        results.append((scores, (distance >= 0) & (distance < window)))
    return results
