"""The record: every token that a memory was told, in the order of the text.

The record keeps what the write gate drops and what eviction takes. A token's place in its row is
the text clock. A place is empty where a token was forgotten, where a token was only context (limit
0), and behind the text of a row that is shorter than others. Beside each token stand its turn, its
segment and the small keys of *finders*, which are some of the heads of the memory layers.

The functions take and return the tensors of a record by name; see `columns.RECORD`.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from memformer.memory.columns import EMPTY, RECORD, TOLD

# the small float that a finder's key is kept in; larger numbers are cut to its largest
SMALL = torch.float8_e4m3fn
LARGEST = 448.0
# the bits of a small float that is not a number, without the sign
NAN_BITS = 0x7F


def empty_record(
    batch_size: int, finders: int, width: int, device: torch.device | str | None = None
) -> dict[str, Tensor]:
    """A record without a token."""
    told = {name: torch.zeros(batch_size, 0, dtype=torch.int32, device=device) for name in TOLD}
    keys = torch.zeros(batch_size, 0, finders, width, dtype=torch.uint8, device=device)
    return told | {"finder_keys": keys}


def to_bits(keys: Float[Tensor, " *any"]) -> UInt8[Tensor, " *any"]:
    """Keys as the bits of small floats, without a gradient."""
    return keys.detach().float().clamp(-LARGEST, LARGEST).to(SMALL).view(torch.uint8)


def from_bits(bits: UInt8[Tensor, " *any"]) -> Float[Tensor, " *any"]:
    """The inverse of `to_bits`, in float32."""
    return bits.view(SMALL).float()


def is_nan(bits: UInt8[Tensor, " *any"]) -> Bool[Tensor, " *any"]:
    """Marks small floats that are not a number; none of them is infinite."""
    return (bits & NAN_BITS) == NAN_BITS


def resized(record: Mapping[str, Tensor], width: int, finders: int) -> dict[str, Tensor]:
    """A copy of a record with places cut off or empty places added at the end.

    Args:
        record: the record.
        width: the number of places in a row.
        finders: the number of finders; finders that are added have keys of zero.
    """
    found = {}
    for name, empty in RECORD.items():
        tensor = record[name]
        if name == "finder_keys" and (missing := finders - tensor.shape[2]) > 0:
            none = tensor.new_zeros(*tensor.shape[:2], missing, tensor.shape[3])
            tensor = torch.cat([tensor, none], 2)
        batch, places, *rest = tensor.shape
        added = tensor.new_full((batch, max(0, width - places), *rest), empty)
        found[name] = torch.cat([tensor[:, :width], added], 1)
    return found


def appended(
    record: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    seen_at: Int[Tensor, "batch new"],
    is_told: Bool[Tensor, "batch new"],
    width: int,
) -> dict[str, Tensor]:
    """A record with new tokens at their places.

    Args:
        record: the record before.
        new: for each tensor of the record, its numbers for the new tokens.
        seen_at: the place of each new token.
        is_told: which of the new tokens are recorded.
        width: the number of places in a row afterwards.
    """
    rows, columns = is_told.nonzero(as_tuple=True)
    places = seen_at[rows, columns]
    found = resized(record, width, record["finder_keys"].shape[2])
    for name, tensor in found.items():
        tensor[rows, places] = new[name][rows, columns].to(tensor.dtype)
    return found


def blanked(record: Mapping[str, Tensor], gone: Bool[Tensor, "batch told"]) -> dict[str, Tensor]:
    """A record with nothing at some places."""
    return {
        name: record[name].masked_fill(
            gone.view(*gone.shape, *[1] * (record[name].dim() - 2)), empty
        )
        for name, empty in RECORD.items()
    }


def places_of(
    seen_at: Int[Tensor, "batch slots"],
    chosen: Bool[Tensor, "batch slots"],
    told: Int[Tensor, "batch told"],
) -> Bool[Tensor, "batch told"]:
    """Marks the places at which the tokens of the chosen slots are recorded."""
    rows, slots = (chosen & (seen_at < told.shape[1])).nonzero(as_tuple=True)
    marked = torch.zeros_like(told, dtype=torch.bool)
    marked[rows, seen_at[rows, slots]] = True
    return marked & (told != EMPTY)


def of_slots(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The record of a memory that has none: the tokens that are still in its slots."""
    token, num_seen = tensors["token"], tensors["num_seen"]
    new = {
        "told": token,
        "told_turn": tensors["turn"],
        "told_segment": tensors["segment"],
        "finder_keys": tensors["keys"].new_zeros(*token.shape, 0, tensors["keys"].shape[-1]),
    }
    nothing = empty_record(len(token), 0, tensors["keys"].shape[-1], token.device)
    return appended(nothing, new, tensors["seen_at"], token != EMPTY, int(num_seen.max()))


def check_room(
    told: Int[Tensor, "batch told"], new: Bool[Tensor, "batch new"], quota: int | None
) -> None:
    """Refuses more tokens than the record of a row may hold; forgotten tokens do not count.

    Raises:
        ValueError: a row would hold more tokens than the quota.
    """
    if quota is None:
        return
    recorded, more = (told != EMPTY).sum(-1), new.sum(-1)
    total, row = (recorded + more).where(more > 0, 0).max(-1)
    if int(total) > quota:
        raise ValueError(
            f"The memory has {int(recorded[row]):,} tokens recorded, and {int(more[row]):,} more "
            f"would exceed its quota of {quota:,} (record_tokens); forget turns, or use a memory "
            "with a larger record_tokens."
        )
