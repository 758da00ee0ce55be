"""A trained peer as a system of the harness: `eval.peers.system:Saved@FOLDER`.

`training.peers` writes the folder: `peer.json`, the peer's own weights, and an adapter in peft's
format.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import DynamicCache

from eval.harness.benchmark import Document, Question
from eval.harness.desk import Answer, Desk, likelihoods
from eval.harness.systems import Reading
from eval.peers.armt import ARMT, Associations
from eval.peers.rmt import RMT
from eval.reporting.opening import open_model

PEERS: dict[str, type[RMT] | type[ARMT]] = {"rmt": RMT, "armt": ARMT}


class Peer(Protocol):
    """The methods of a peer; each peer has a type of state of its own."""

    backbone: Any

    def empty(self, rows: int = 1) -> Any:
        """The states before anything was read."""

    def rows(self, state: Any, chosen: Sequence[int]) -> Any:
        """The states of some rows, in this order."""

    def read(self, ids: Tensor, there: Tensor, state: Any) -> Any:
        """The states after one more segment of ids (rows, tokens); `there` marks the text."""

    def logits(
        self, ids: Tensor, state: Any, cache: Any = None, at: Tensor | None = None
    ) -> Tensor:
        """Logits of the next token after ids (rows, tokens) of a segment that is not written."""


def save(peer: nn.Module, folder: Path, settings: dict[str, Any]) -> None:
    """Writes a peer: its own weights, its adapter, and its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    own = {
        name: value.detach().cpu().contiguous()
        for name, value in peer.state_dict().items()
        if not name.startswith("backbone.")
    }
    save_file(own, folder / "peer.safetensors")
    adapted: Any = peer.backbone
    adapted.save_pretrained(folder / "adapter")
    (folder / "peer.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def load(folder: Path, device: Any = "cpu", dtype: str = "float32") -> tuple[Any, dict[str, Any]]:
    """A saved peer, and its settings.

    Raises:
        ValueError: the folder holds no peer.
        typer.BadParameter: its backbone can't be opened.
    """
    from peft import PeftModel

    try:
        settings = json.loads((folder / "peer.json").read_text(encoding="utf-8"))
        kind = PEERS[settings["peer"]]
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{folder} holds no peer as training.peers writes it.") from None
    model, _ = open_model(settings["backbone"], str(device), dtype)
    backbone: Any = PeftModel.from_pretrained(model.backbone, folder / "adapter")
    peer = kind(backbone.merge_and_unload())
    own = load_file(folder / "peer.safetensors", device=str(device))
    peer.load_state_dict(own, strict=False)
    return peer.eval(), settings


def segments(ids: Sequence[int], longest: int, last: Set[int]) -> Iterator[Sequence[int]]:
    """The segments of a text, cut as in training.

    Args:
        ids: the ids of the text.
        longest: the most tokens of a segment, which ends with a sentence if a sentence ends in its
            second half.
        last: the tokens that sentences end with.
    """
    begin = 0
    while begin < len(ids):
        end = begin + longest
        if end < len(ids):
            half = begin + longest // 2
            end = next((at for at in range(end, half, -1) if ids[at - 1] in last), end)
        yield ids[begin:end]
        begin = end


class Saved:
    """A trained peer.

    Args:
        desk: prompts and tokenizer; the model of the desk is not used.
        number: the tokens of a segment; None: as in training.
        folder: the folder that `training.peers` wrote.

    Raises:
        ValueError: there is no folder, or it holds no peer.
    """

    def __init__(self, desk: Desk, number: int | None = None, folder: str | None = None) -> None:
        if folder is None:
            raise ValueError("a peer is written eval.peers.system:Saved@FOLDER.")
        self.desk = desk
        dtype = str(desk.model.dtype).removeprefix("torch.")
        self.peer, settings = load(Path(folder), desk.model.device, dtype)
        self.segment = number or int(settings["segment_tokens"])
        known = range(len(desk.tokenizer))
        self.last = {one for one in known if desk.tokenizer.decode(one).endswith((".", "!", "?"))}

    def read(self, documents: Sequence[Document]) -> Reading:
        """Reads all segments of each document but the last, where questions will stand."""
        kept: list[tuple[Any, Sequence[int]]] = []
        read = []
        for document in documents:
            ids = self.desk.prompts.remembered(document.parts())
            *before, last = list(segments(ids, self.segment, self.last)) or [()]
            state = self.peer.empty()
            for segment in before:
                row = self._row(segment)
                state = self.peer.read(row, torch.ones_like(row, dtype=torch.bool), state)
                self.desk.advance(row.shape[1])
            kept.append((state, last))
            read.append(sum(map(len, before)))
        return Reading(kept, read, [_nbytes(state) for state, _ in kept])

    def answer(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[Answer]:
        """Answers one question after the other, each in the last segment of its document."""
        found = []
        for place, question in asked:
            state, last = reading.kept[place]
            ids = [*last, *self.desk.prompts.asked(question, alone=True)]
            found.append(Answer(self._said(ids, state), len(ids)))
            self.desk.advance(len(ids))
        return found

    def rank(self, reading: Reading, asked: Sequence[tuple[int, Question]]) -> list[list[float]]:
        """Ranks options one after the other, each in the last segment of its document."""
        found = []
        for place, question in asked:
            state, last = reading.kept[place]
            prompt = [*last, *self.desk.prompts.asked(question, alone=True, bare=True)]
            options = [self.desk.prompts.option(one) for one in question.options]
            rows = [self.peer.logits(self._row(prompt + one), state) for one in options]
            sums = (likelihoods(logits, [len(prompt)], [one])
                    for logits, one in zip(rows, options, strict=True))  # fmt: skip
            found.append([one for (one,) in sums])
        return found

    def _said(self, ids: list[int], state: Any) -> str:
        cache, special = DynamicCache(), set(self.desk.tokenizer.all_special_ids)
        new: list[int] = []
        row = self._row(ids)
        while len(new) < self.desk.max_new_tokens:
            token = int(self.peer.logits(row, state, cache)[0, -1].argmax())
            if token in special:
                break
            new.append(token)
            row = self._row([token])
        return str(self.desk.tokenizer.decode(new)).strip()

    def _row(self, ids: Sequence[int]) -> Tensor:
        return torch.tensor([list(ids)], device=self.desk.model.device)


def _nbytes(state: Any) -> int:
    tensors = [state] if isinstance(state, Tensor) else []
    if isinstance(state, list):
        tensors = [part for one in state if isinstance(one, Associations)
                   for part in (one.values, one.weight)]  # fmt: skip
    return sum(tensor.nbytes for tensor in tensors)
