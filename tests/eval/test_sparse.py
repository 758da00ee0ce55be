"""A step of SAM and of the dense machines against slots: every cell measured, limits kept."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from eval import sparse


def test_each_machine_is_measured_up_to_its_limit(tmp_path: Path) -> None:
    arguments = ["--slots", "20,60", "--linked-max", "0", "--dense-max", "20", "--min-seconds", "0"]
    result = CliRunner().invoke(sparse.app, [*arguments, "--out", str(tmp_path / "s")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "s.json").read_text())
    assert report["finished"]
    measured = [(cell["machine"], cell["slots"]) for cell in report["cells"]]
    assert measured == [(sparse.SAM_ROW, 20), (sparse.SAM_ROW, 60), (sparse.DENSE, 20)]
    assert all(cell["milliseconds"] > 0 for cell in report["cells"])
    assert (tmp_path / "s.png").is_file()
