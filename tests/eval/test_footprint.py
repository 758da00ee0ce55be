"""The space that a full memory takes while it is used; the sizes themselves are not asserted."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from eval import footprint
from memformer import MemformerForCausalLM, MemoryConfig
from tests.tiny import byte_tokenizer, save_tiny


def test_every_step_is_measured_with_a_full_memory(tmp_path: Path) -> None:
    model, out = str(save_tiny(tmp_path / "tiny")), tmp_path / "footprint"
    result = CliRunner().invoke(footprint.app, [model, "--megabytes", "1", "--out", str(out)])
    assert result.exit_code == 0, result.output
    report = json.loads(out.with_suffix(".json").read_text())
    assert report["slots"] == 300 and report["memory_mib"] > 0
    assert report["rows"].keys() == {*footprint.ROWS, "tokenizing"}
    # one token a byte
    assert 900_000 < report["rows"]["tokenizing"]["tokens"] < 1_100_000
    page = out.with_suffix(".md").read_text()
    assert all(name in page for name in footprint.ROWS.values())


def test_a_memory_without_bounds_is_refused(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "tiny").parent / "base"
    model = MemformerForCausalLM.from_pretrained(base, memory_config=MemoryConfig(num_slots=None))
    model.save_pretrained(tmp_path / "endless")
    byte_tokenizer().save_pretrained(tmp_path / "endless")
    result = CliRunner().invoke(footprint.app, [str(tmp_path / "endless")])
    assert result.exit_code == 2 and "it is never full" in result.output
