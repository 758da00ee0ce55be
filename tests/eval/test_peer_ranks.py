"""A peer ranks options as it answers: in the last segment, after the question."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import DynamicCache

from eval.harness.benchmark import Document, Question
from eval.harness.desk import Desk
from eval.harness.prompts import Plain
from eval.peers.rmt import RMT
from eval.peers.system import Saved
from tests.tiny import byte_tokenizer, open_lively


def test_a_peer_ranks_options_token_by_token(folder: Path) -> None:
    tokenizer = byte_tokenizer()
    desk = Desk(open_lively(folder), tokenizer, Plain(tokenizer, ""), 4)
    torch.manual_seed(1)
    peer = Saved.__new__(Saved)
    peer.desk, peer.segment, peer.last = desk, 16, {tokenizer(".").input_ids[0]}
    peer.peer = RMT(desk.model.backbone, 3).eval()
    options = ("Ada", "Otto and Eve")
    question = Question("0", "Who? (A) ...", ("Ada",), {}, options=options, bare="Who?")
    document = Document.of("0", ["Ada dug. Otto rowed over the sea."], [question])
    with torch.inference_mode():
        reading = peer.read([document])
        (found,) = peer.rank(reading, [(0, question)])
        (state, last), wanted = reading.kept[0], []
        for option in options:
            cache, total = DynamicCache(), 0.0
            ids = [*last, *desk.prompts.asked(question, alone=True, bare=True)]
            for token in desk.prompts.option(option):
                logits = peer.peer.logits(torch.tensor([ids]), state, cache)[0, -1]
                total += float(logits.log_softmax(-1)[token])
                ids = [token]
            wanted.append(total)
    assert found == pytest.approx(wanted, abs=2e-3)
