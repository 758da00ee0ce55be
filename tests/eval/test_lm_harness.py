"""The Evaluation Harness: a request with memory and without, and a whole task."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import byte_tokenizer, open_lively, save_tiny

pytestmark = [
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="lm-eval is not installed"),
    # what it depends on warns when it is imported
    pytest.mark.filterwarnings("ignore"),
]
SHORT = "The lamp is in the hall."
LONG = " ".join([SHORT] * 12)  # more than four segments of 64 tokens


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = save_tiny(tmp_path_factory.mktemp("model"))
    # far from uniform attention, so that the memory matters
    model = open_lively(folder)
    model.backbone.save_pretrained(folder.parent / "base")
    model.config.backbone = None
    model.save_pretrained(folder)
    return folder


def opened(folder: Path, memory: Any) -> Any:
    from eval.lm_harness import MemformerLM

    return MemformerLM(str(folder), memory, device="cpu")


def logprob(model: Any, context: str, text: str) -> float:
    from lm_eval.api.instance import Instance

    request = Instance("loglikelihood", {}, (context, text), 0)
    ((found, _),) = model.loglikelihood([request], disable_tqdm=True)
    return float(found)


def expected(model: Any, context: str, text: str) -> float:
    tokenizer = byte_tokenizer()
    ids = tokenizer(context + text, return_tensors="pt").input_ids
    new = len(tokenizer(text).input_ids)
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits[0, -new:].log_softmax(-1)
    return float(logits.gather(1, ids[0, -new:, None]).sum())


def test_a_short_request_is_that_of_the_backbone_and_a_long_one_goes_through_memory(
    folder: Path,
) -> None:
    on, off = opened(folder, "on"), opened(folder, "off")
    assert logprob(on, SHORT, " Yes.") == pytest.approx(logprob(off, SHORT, " Yes."), abs=1e-4)
    for model in (on, off):
        for context in (SHORT, LONG):
            found = logprob(model, context, " Yes.")
            assert found == pytest.approx(expected(model.model, context, " Yes."), abs=1e-4)
    assert abs(logprob(on, LONG, " Yes.") - logprob(off, LONG, " Yes.")) > 1e-3
    # what a request leaves in memory is not there in the next
    assert logprob(on, LONG, " Yes.") == logprob(on, LONG, " Yes.")


def test_with_memory_a_request_may_be_longer_than_the_window(folder: Path) -> None:
    on, off = opened(folder, True), opened(folder, False)
    assert (on.max_length, off.max_length) == (16_384, 512)
    far = f"{LONG} {LONG} {LONG}"
    assert len(far) > 512
    assert logprob(on, far, " Yes.") == pytest.approx(expected(on.model, far, " Yes."), abs=1e-4)


@pytest.fixture
def lamps(tmp_path: Path) -> Path:
    """A folder with a task of its own, `lamps`."""
    rows = [{"told": LONG, "asked": "Where is the lamp?", "label": n % 2} for n in range(3)]
    (tmp_path / "rows.json").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "lamps.yaml").write_text(
        f"""task: lamps
dataset_path: json
dataset_kwargs: {{data_files: {{test: "{tmp_path / "rows.json"}"}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{told}}}}{{{{asked}}}}"
doc_to_choice: ["In the hall.", "In the cellar."]
doc_to_target: label
metric_list: [{{metric: acc}}]
"""
    )
    return tmp_path


def test_a_whole_task_runs(folder: Path, lamps: Path) -> None:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    for memory in ("on", "off"):
        found = simple_evaluate(
            model=opened(folder, memory),
            tasks=["lamps"],
            task_manager=TaskManager(include_path=str(lamps), include_defaults=False),
            bootstrap_iters=0,
        )
        assert 0 <= found["results"]["lamps"]["acc,none"] <= 1


def test_the_command_runs_as_documented_also_without_a_gpu(
    folder: Path,
    lamps: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from eval.lm_harness import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(
        "sys.argv",
        ["lm_harness", "run", "--model", "memformer", "--tasks", "lamps", "--include_path",
         str(lamps), "--model_args", f"pretrained={folder},memory=on"],
    )  # fmt: skip
    main()
    assert "|lamps|" in capsys.readouterr().out


def test_a_mistake_is_one_sentence(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from eval import lm_harness

    def fail() -> None:
        opened(folder, "maybe")

    monkeypatch.setattr(lm_harness, "cli_evaluate", fail)
    with pytest.raises(SystemExit, match="^2$"):
        lm_harness.main()
    assert capsys.readouterr().err == "memory must be on or off; got 'maybe'.\n"
    with pytest.raises(ValueError, match="memory must be on or off; got 'maybe'"):
        opened(folder, "maybe")
    with pytest.raises(ValueError, match="the model 'no/such' can't be opened"):
        opened(Path("no/such"), "on")
