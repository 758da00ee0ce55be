"""Speed of decoding over the bare model; the speeds themselves are not asserted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from eval import decoding
from memformer import MemformerForCausalLM
from tests.tiny import save_tiny


def test_every_number_of_slots_has_its_ratio(tmp_path: Path) -> None:
    model, out = str(save_tiny(tmp_path / "tiny")), tmp_path / "decoding"
    options = ["--slots", "1500,0", "--tokens", "3", "--rounds", "3", "--out", str(out)]
    result = CliRunner().invoke(decoding.app, [model, *options])
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert [cell["slots"] for cell in report["cells"]] == [0, 1500]
    for cell in report["cells"]:
        assert len(cell["ratios"]) == 3
        assert cell["ratios"][0] <= cell["ratio"] <= cell["ratios"][-1]
        assert cell["cpu_ratio"] > 0
    assert "1,500" in out.with_suffix(".md").read_text()


@pytest.mark.parametrize("slots", [0, 20, 1500])
def test_a_memory_of_any_size_can_be_read_and_has_clocks_that_go_on(
    tmp_path: Path, slots: int
) -> None:
    model = MemformerForCausalLM.from_pretrained(save_tiny(tmp_path / "tiny"))
    text = torch.randint(0, 200, (1, decoding.READ_TOKENS))
    memory = decoding.of_slots(model, text, slots)
    assert int(memory.occupied.sum()) == slots
    assert memory.seen_at[0].tolist() == list(range(slots))
    with torch.no_grad():
        assert torch.isfinite(model(text[:, :4], memory=memory).logits).all()
