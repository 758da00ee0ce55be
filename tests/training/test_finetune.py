"""Fine-tuning: what is trained, that it can stop anywhere, that processes make no difference."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file, save_file
from tiny import save_tiny
from transformers import AutoConfig, BertConfig
from typer.testing import CliRunner

from memformer import MemformerForCausalLM
from training import finetune
from training.data.records import Question, Record, read, write
from training.finetuning import loop, preparation, resume
from training.finetuning import step as training_step
from training.finetuning.launch import LaunchFailed, launch
from training.finetuning.settings import TRAINED, Model, Optim, Settings, Stage
from training.finetuning.thaw import build, grouped, rate
from training.setup.config import BadConfig, read_config

ROOT = Path(__file__).parents[2]
PLACES = ("attic", "cellar", "garden", "harbour")
PEOPLE = ("Ada", "Ben", "Cleo", "Dov")

SHORT = "stages=[{{steps: {}, segments: 6, segment_tokens: 24}}]"


def flat(text: str) -> str:
    return " ".join(text.split())


def records(documents: int, questions: bool = True) -> list[Record]:
    found = []
    for number in range(documents):
        told = [
            f"{PEOPLE[(number + place) % 4]} is in the {PLACES[(number * place + place) % 4]}."
            for place in range(2 + number % 4)
        ]
        text = " ".join(told)
        asked = [
            Question(
                f"Where is {one.split()[0]}?", one.split()[-1][:-1], len(" ".join(told[: at + 1]))
            )
            for at, one in enumerate(told)
        ]
        found.append(Record(f"{number}", text, tuple(asked) if questions else ()))
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A tiny decoder, a checkpoint made of it, documents, and a config."""
    folder = tmp_path_factory.mktemp("finetune")
    save_tiny(folder)
    write(folder / "train.jsonl", records(40))
    write(folder / "text.jsonl", records(12, questions=False))
    write(folder / "valid.jsonl.gz", records(6))
    (folder / "rows2").mkdir()
    write(folder / "rows2" / "train.jsonl", records(3))
    settings = {
        "out": str(folder / "unused"),
        "trained": "lora",
        "model": {"name": str(folder / "memory")},
        "lora": {"rank": 4, "alpha": 8},
        "data": [{"path": str(folder / "train.jsonl")}],
        "stages": [
            {"steps": 4, "segments": 3, "segment_tokens": 24},
            {"steps": 4, "segments": 6, "segment_tokens": 32},
        ],
        "optim": {"documents": 4, "warmup": 2},
        "report_every": 1,
        "save_every": 4,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


def run(place: Path, out: str, *arguments: str):
    return CliRunner().invoke(
        finetune.app, [str(place / "config.yaml"), f"out={place / out}", *arguments]
    )


def losses(place: Path, out: str) -> list[float]:
    lines = (place / out / "log.jsonl").read_text().splitlines()
    return [entry["answer_loss"] for entry in map(json.loads, lines) if "answer_loss" in entry]


def dtypes(stored: dict[str, torch.Tensor]) -> set[torch.dtype]:
    """Of weights; tables of token ids and numbers of heads are whole numbers."""
    return {weight.dtype for weight in stored.values() if weight.is_floating_point()}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for path in sorted(folder.glob("**/*.safetensors")):
        if "checkpoints" not in path.parts:
            found |= {
                f"{path.relative_to(folder)} {name}": w for name, w in load_file(path).items()
            }
    return found


def test_a_run_learns_and_leaves_a_checkpoint(place):
    validation = [
        f"validation.sources=[{{path: {place / 'valid.jsonl.gz'}}}]",
        "validation.every=4",
    ]
    ended = run(place, "learned", *validation, "optim.memory_lr=0.01", "save_dtype=bfloat16")
    assert ended.exit_code == 0, ended.output
    found = losses(place, "learned")
    assert len(found) == 8 and found[-1] < found[0]
    report = json.loads((place / "learned" / "finetune.json").read_text())
    assert report["steps"] == 8 and report["best"]["step"] in (4, 8)
    assert report["settings"]["seed"] == 0 and "training.finetune" in report["command"]
    model = MemformerForCausalLM.from_pretrained(place / "learned")
    assert hasattr(model.backbone, "peft_config")
    stored = load_file(place / "learned" / "model.safetensors")
    assert dtypes(stored) == {torch.bfloat16}


def test_interrupted_and_resumed_is_as_if_it_had_not_been(place, monkeypatch):
    assert run(place, "whole").exit_code == 0
    learn = loop.Run.learn

    def interrupted(self):
        values = learn(self)
        if self.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return values

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "learn", interrupted)
        stopped = run(place, "parts")
    assert stopped.exit_code == 0 and "stopped at step 3" in stopped.output
    assert not (place / "parts" / "model.safetensors").exists()
    assert run(place, "parts").exit_code == 2  # it does not begin anew over what is there
    other = run(place, "parts", "--resume", "seed=1")
    assert other.exit_code == 2 and "has seed 0, not 1" in flat(other.output)
    again = run(place, "parts", "--resume")
    assert again.exit_code == 0, again.output
    assert losses(place, "parts") == losses(place, "whole")
    found, expected = weights(place / "parts"), weights(place / "whole")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_a_checkpoint_that_could_not_be_finished_leaves_the_one_before(place, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    assert run(place, "full", "save_every=2", SHORT.format(2)).exit_code == 0
    monkeypatch.setattr(resume.json, "dumps", full)
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(model.parameters())
    with pytest.raises(OSError):
        resume.save(place / "full" / "checkpoints", 4, model, optimizer, {})
    assert [path.name for path in (place / "full" / "checkpoints").iterdir()] == ["000002"]


@pytest.mark.parametrize("trained", ["memory", "lora", "all"])
def test_only_what_is_to_be_trained_changes(place, trained):
    assert run(place, f"only-{trained}", f"trained={trained}", SHORT.format(2)).exit_code == 0
    before = MemformerForCausalLM.from_pretrained(place / "memory")
    after = MemformerForCausalLM.from_pretrained(place / f"only-{trained}")
    changed = [
        name
        for name, weight in before.memory.named_parameters()
        if not torch.equal(after.memory.get_parameter(name), weight)
    ]
    assert len(changed) > 10
    # without a budget, nothing says how much to write
    assert not any("write_gate" in name for name in changed)
    assert (place / f"only-{trained}" / "adapter").exists() == (trained == "lora")
    assert (place / f"only-{trained}" / "backbone").exists() == (trained == "all")
    ids = torch.randint(3, 90, (1, 20))
    with torch.no_grad():
        same = torch.equal(before(ids).logits, after(ids).logits)
    assert same == (trained == "memory")


def torchrun(processes: int, *command_line: str, **variables: str) -> None:
    """Runs it in several processes on the CPU (`accelerate launch --cpu` starts one only)."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += [f"--nproc-per-node={processes}", *command_line]
    environment = os.environ | {
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "DS_ACCELERATOR": "cpu",
        **variables,
    }
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.parametrize("extra", [[], ["optim.checkpointing=true", "optim.at_once=1"]])
def test_two_processes_give_the_weights_of_one_with_twice_the_batch(place, extra):
    """Documents of unequal lengths, a write budget and micro-batches among them."""
    arguments = [str(place / "config.yaml"), SHORT.format(20), "save_every=20", *extra]
    arguments += ["report_every=20", "model.memory={write_budget: 0.5, segment_tokens: 64}"]
    arguments += [f"model.name={place / 'base'}"]
    names = [f"{way}{len(extra)}" for way in ("one", "two")]
    ended = CliRunner().invoke(finetune.app, [*arguments, f"out={place / names[0]}"])
    assert ended.exit_code == 0, ended.output
    torchrun(2, "-m", "training.finetune", *arguments, f"out={place / names[1]}")
    one, two = (weights(place / name) for name in names)
    start = MemformerForCausalLM.from_pretrained(place / "base").memory.state_dict()
    moved = [
        (one[f"model.safetensors memory.{name}"] - weight).abs().max()
        for name, weight in start.items()
    ]
    assert max(moved) > 1e-2
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


def test_in_mixed_precision_it_trains_nearly_alike(place):
    arguments = [str(place / "config.yaml"), SHORT.format(4)]
    ended = CliRunner().invoke(finetune.app, [*arguments, f"out={place / 'single'}"])
    assert ended.exit_code == 0, ended.output
    mixed = ["-m", "training.finetune", *arguments, f"out={place / 'mixed'}"]
    torchrun(1, *mixed, ACCELERATE_MIXED_PRECISION="bf16")
    found, expected = losses(place, "mixed"), losses(place, "single")
    assert found != expected and found == pytest.approx(expected, rel=0.01)
    assert dtypes(weights(place / "mixed")) == {torch.float32}


@pytest.mark.parametrize("trained", ["lora", "all"])
def test_sharded_by_fsdp_it_trains_alike_and_saves_what_loads_without(place, trained):
    arguments = [str(place / "config.yaml"), f"trained={trained}", SHORT.format(4)]
    names = [f"{way}-{trained}" for way in ("whole", "sharded")]
    ended = CliRunner().invoke(finetune.app, [*arguments, f"out={place / names[0]}"])
    assert ended.exit_code == 0, ended.output
    worker = str(Path(__file__).with_name("sharded.py"))
    torchrun(2, worker, *arguments, f"out={place / names[1]}")
    one, two = (weights(place / name) for name in names)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)
    ids = torch.randint(3, 90, (1, 80))
    with torch.no_grad():
        whole, sharded = (
            MemformerForCausalLM.from_pretrained(place / name)(ids).logits for name in names
        )
    torch.testing.assert_close(whole, sharded, rtol=1e-4, atol=1e-4)


@pytest.fixture
def uneven(place) -> list[str]:
    """Options for documents with and without questions, one a process, in two chunks."""
    write(place / "uneven.jsonl", [records(4)[-1], records(4, questions=False)[-1]])
    return [
        str(place / "config.yaml"),
        f"data=[{{path: {place / 'uneven.jsonl'}, text: true}}]",
        "optim.documents=2",
        "optim.chunks=2",
        SHORT.format(4),
    ]


@pytest.mark.parametrize("worker", [("-m", "training.finetune"), ("sharded.py",), ("zero.py", "3")])
def test_a_rank_whose_documents_have_no_question_keeps_step_with_the_others(place, uneven, worker):
    first, *rest = worker
    if first == "zero.py":
        pytest.importorskip("deepspeed", reason="needs `pip install deepspeed`")
    alone, together = f"alone-{worker[-1]}", f"together-{worker[-1]}"
    ended = CliRunner().invoke(finetune.app, [*uneven, f"out={place / alone}"])
    assert ended.exit_code == 0, ended.output
    if first != "-m":
        first = str(Path(__file__).with_name(first))
    torchrun(2, first, *rest, *uneven, f"out={place / together}")
    one, two = weights(place / alone), weights(place / together)
    assert one.keys() == two.keys()
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize("stage", ["2", "3"])
def test_deepspeed_trains_alike_and_goes_on(place, stage):
    pytest.importorskip("deepspeed", reason="needs `pip install deepspeed`")
    arguments = [str(place / "config.yaml"), "save_every=2", SHORT.format(4)]
    names = [f"alone-{stage}", f"zero-{stage}"]
    ended = CliRunner().invoke(finetune.app, [*arguments, f"out={place / names[0]}"])
    assert ended.exit_code == 0, ended.output
    worker = str(Path(__file__).with_name("zero.py"))
    expected = weights(place / names[0])
    for resumed in ([], ["--resume"]):
        torchrun(2, worker, stage, *arguments, f"out={place / names[1]}", *resumed)
        found = weights(place / names[1])
        assert expected.keys() == found.keys()
        for name, weight in expected.items():
            torch.testing.assert_close(found[name], weight, rtol=0, atol=1e-5)
        # and once more, from the checkpoint before the last on
        shutil.rmtree(place / names[1] / "checkpoints" / "000004", ignore_errors=True)
        (place / names[1] / "model.safetensors").unlink()


def bad_file(place: Path) -> str:
    path = place / "broken.jsonl"
    path.write_text((place / "train.jsonl").read_text().splitlines(True)[0] * 6 + "{\n")
    return str(path)


def other_backbone(place: Path) -> str:
    """A checkpoint whose backbone was exchanged for another."""
    folder = place / "exchanged"
    if not folder.exists():
        shutil.copytree(place / "memory", folder)
        config = json.loads((folder / "config.json").read_text())
        save_tiny(place / "other", seed=8)
        config["backbone"]["name"] = str(place / "other" / "base")
        (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: "optim.gate_rate=1", "no key optim.gate_rate. Did you mean optim.gate_lr?"),
        (lambda p: f"data=[{{path: {bad_file(p)}}}]", "broken.jsonl, line 7: this is not JSON"),
        (lambda p: f"data=[{{path: {p / 'none.jsonl'}}}]", "none.jsonl can't be read: No such"),
        (lambda p: f"data=[{{path: {p / 'text.jsonl'}}}]", "document 1: it has no questions"),
        (lambda p: "data=[{}]", "A source names either a path or a dataset"),
        (lambda p: f"data=[{{path: {p / 'train.jsonl'}, style: loud}}]", "style must be one of pl"),
        (lambda p: f"data=[{{path: {p / 'train.jsonl'}, weight: 0}}]", "must be above 0; got 0.0"),
        (lambda p: "data=[]", "data names no source"),
        (lambda p: "stages=[]", "stages names no stage"),
        (lambda p: "trained=some", "trained must be one of memory, lora, all; got 'some'"),
        (lambda p: "lora.targets=mlp", "lora.targets must be one of attention, all"),
        (lambda p: "validation.by=luck", "validation.by must be exact or loss"),
        (
            lambda p: f"validation.sources=[{{path: {p / 'text.jsonl'}, text: true}}]",
            "text.jsonl has no questions; set validation.by: loss",
        ),
        (
            lambda p: f"data=[{{path: {p / 'train.jsonl'}, teacher: true}}]",
            "train.jsonl has questions, which a teacher is no use for",
        ),
        (
            lambda p: [
                f"data=[{{path: {p / 'text.jsonl'}, text: true, limit: 1}}]",
                SHORT.format(1).replace("24", "64"),
            ],
            "one segment of 64 tokens and no questions",
        ),
        (
            lambda p: ["window=60", f"data=[{{path: {p / 'text.jsonl'}, text: true}}]"],
            "text.jsonl is to be learned as text, and a window only answers questions",
        ),
        (
            lambda p: f"validation.sources=[{{dataset: {p / 'rows2'}, streaming: true}}]",
            "rows2 is to be measured: it can't be streamed",
        ),
        (
            lambda p: SHORT.format(1).replace("}", ", weights: [1, 1]}"),
            "weights of stage 1 must be one for each of the 1 sources",
        ),
        (
            lambda p: f"data=[{{path: {p / 'train.jsonl'}, reread: 0}}]",
            "must be 1 or more, without text, teacher and streaming",
        ),
        (
            lambda p: f"data=[{{path: {p / 'train.jsonl'}, reread: 2}}]",
            "train.jsonl: no answer stands within 2 tokens; raise reread",
        ),
        (lambda p: "window=65", "window must be from 2 to 64 tokens; got 65"),
        (lambda p: ["window=60", "trained=memory"], "A window leaves the memory out"),
        (lambda p: "save_dtype=int8", "save_dtype must be float32 or bfloat16"),
        (lambda p: SHORT.format(1).replace("24", "65"), "segments of 65 tokens, and the model's"),
        (lambda p: "stages=[{steps: 1, segments: 1, segment_tokens: 16}]", "more than 1 segments"),
        (lambda p: f"model.name={p / 'nowhere'}", "nowhere"),
        (lambda p: f"model.name={other_backbone(p)}", "made for a backbone with fingerprint"),
        (lambda p: "lora.rank=0", "lora.rank must be 1 or more; got 0"),
        (lambda p: "save_every=0", "save_every must be 1 or more; got 0"),
        (lambda p: "stages=[{steps: 0, segments: 1, segment_tokens: 9}]", "steps of stage 1 must"),
        (lambda p: f"data=[{{path: {p / 'train.jsonl'}, limit: 0}}]", "train.jsonl must be 1 or"),
        (
            lambda p: [
                f"validation.sources=[{{path: {p / 'valid.jsonl.gz'}}}]",
                "validation.segment_tokens=65",
            ],
            "validation.segment_tokens is 65, and the model's segments have 64 tokens at most",
        ),
        (
            lambda p: [
                f"validation.sources=[{{path: {p / 'text.jsonl'}, text: true, limit: 1}}]",
                "validation.by=loss",
            ],
            "one segment of 64 tokens and no questions",
        ),
        (lambda p: f"out={p / 'train.jsonl'}", "train.jsonl is a file, and a folder is needed"),
        (lambda p: f"out={p / 'train.jsonl' / 'x'}", "can't be written, as"),
        (lambda p: "model.memory={slots: 3}", "model.memory: MemoryConfig has no key 'slots'"),
        (lambda p: "model.memory={projection_rank: 3}", "projection_rank of a model that has a"),
        (lambda p: "--resume", "There is no checkpoint in"),
    ],
)
def test_mistakes_get_a_sentence_and_leave_nothing(place, change, sentence):
    changes = change(place)
    result = run(place, "mistake", *([changes] if isinstance(changes, str) else changes))
    assert result.exit_code == 2
    assert sentence in flat(result.output)
    assert "Traceback" not in result.output
    assert not (place / "mistake").exists()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda p: f"data=[{{path: {p / 'none.jsonl'}}}]", "none.jsonl can't be read"),
        (lambda p: f"data=[{{path: {bad_file(p)}}}]", "broken.jsonl, line 7"),
        (lambda p: f"data=[{{path: {p / 'text.jsonl'}}}]", "it has no questions"),
        (
            lambda p: f"validation.sources=[{{path: {p / 'text.jsonl'}, text: true}}]",
            "has no questions; set validation.by: loss",
        ),
        (
            lambda p: f"validation.sources=[{{dataset: {p / 'rows2'}, streaming: true}}]",
            "it can't be streamed",
        ),
        (
            lambda p: f"data=[{{path: {p / 'train.jsonl'}, teacher: true}}]",
            "which a teacher is no use for",
        ),
        (lambda p: f"out={p / 'rows2'}", "rows2 is not empty; go on with --resume, or name anoth"),
        (lambda p: "--resume", "There is no checkpoint in"),
        (lambda p: "model.memory={slots: 3}", "MemoryConfig has no key 'slots'"),
        (lambda p: "seed=1.5", "seed"),
    ],
)
def test_a_mistake_in_options_or_data_is_told_before_the_model_is_looked_for(
    place, change, sentence
):
    result = run(place, "mistake", "model.name=nowhere/at-all", change(place))
    assert result.exit_code == 2 and sentence in flat(result.output)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("stages=[{steps: 1, segments: 1, segment_tokens: 16}]", "more than 1 segments of 16"),
        (SHORT.format(1).replace("24", "65"), "segments of 65 tokens, and the model's have 64"),
        ("model.name=./bert", "memformer does not know backbones of type 'bert'; it knows"),
    ],
)
def test_what_does_not_fit_the_model_is_told_before_it_is_opened(
    place, change, sentence, monkeypatch
):
    monkeypatch.setattr(MemformerForCausalLM, "from_pretrained", None)
    BertConfig().save_pretrained(place / "bert")
    monkeypatch.chdir(place)
    result = run(place, "mistake", change)
    assert result.exit_code == 2 and sentence in flat(result.output)


def test_a_folder_that_is_not_there_is_not_looked_for_at_the_hub(place, monkeypatch):
    monkeypatch.setattr(AutoConfig, "from_pretrained", None)
    result = run(place, "mistake", "model.name=./runs/nothing")
    assert result.exit_code == 2
    assert "There is no model folder ./runs/nothing." in flat(result.output)


def test_questions_that_no_segment_has_room_for_are_left_out_before_the_run(place):
    written = list(read(place / "train.jsonl"))
    first = written[0]
    asked = Question("Where is Ada?", "In the attic. " * 60, len(first.text))
    long = Record("long", first.text, (asked,))
    write(place / "some.jsonl", [*written, long])
    write(place / "long.jsonl", [long])
    result = run(place, "some", f"data=[{{path: {place / 'some.jsonl'}}}]", SHORT.format(2))
    assert result.exit_code == 0
    assert "some.jsonl: 1 with a question of over" in flat(result.output)
    result = run(place, "all", f"data=[{{path: {place / 'long.jsonl'}}}]", SHORT.format(2))
    assert result.exit_code == 2 and "have a question that takes more than" in flat(result.output)
    assert not (place / "all").exists()


def test_processes_share_the_documents_of_a_step_alike(place):
    class Three:
        num_processes = 3

    settings = read_config(Settings, place / "config.yaml")
    with pytest.raises(BadConfig, match="must be a multiple of the 3 processes; got 4"):
        preparation.prepare(settings, Three())


def test_damaged_and_foreign_checkpoints_are_refused(place, monkeypatch):
    assert run(place, "damaged", SHORT.format(2), "save_every=1").exit_code == 0
    newest = place / "damaged" / "checkpoints" / "000002"
    whole = (newest / "weights.safetensors").read_bytes()
    (newest / "weights.safetensors").write_bytes(whole[:100])
    result = run(place, "damaged", SHORT.format(2), "save_every=1", "--resume")
    assert result.exit_code == 2 and "can't be read" in flat(result.output)
    some = dict(list(load_file(newest.parent / "000001" / "weights.safetensors").items())[1:])
    save_file(some, newest / "weights.safetensors")
    result = run(place, "damaged", SHORT.format(2), "save_every=1", "--resume")
    assert result.exit_code == 2 and "is of another model: 1 weights" in flat(result.output)


def test_text_is_learned_and_a_teacher_followed(place):
    text = place / "text.jsonl"
    for name, kind in (("text", "text"), ("taught", "teacher")):
        ended = run(
            place,
            name,
            f"data=[{{path: {text}, {kind}: true}}]",
            "stages=[{steps: 30, segments: 6, segment_tokens: 24}]",
            "optim.memory_lr=0.01",
            "optim.text_weight=1",
        )
        assert ended.exit_code == 0, ended.output
        lines = map(json.loads, (place / name / "log.jsonl").read_text().splitlines())
        found = [entry[f"{kind}_loss"] for entry in lines if f"{kind}_loss" in entry]
        assert len(found) == 30
        assert "warnings" not in (place / name / "log.jsonl").read_text()
        assert sum(found[-5:]) < sum(found[:5])


def test_a_checkpoint_is_trained_on_with_other_parts(place):
    """From one run's result, adapter and all, to the next."""
    assert run(place, "first", SHORT.format(2)).exit_code == 0
    changes = "model.memory={num_slots: 100, write_budget: 0.5, links: true}"
    ended = run(place, "second", f"model.name={place / 'first'}", changes, SHORT.format(2))
    assert ended.exit_code == 0, ended.output
    first, second = (MemformerForCausalLM.from_pretrained(place / n) for n in ("first", "second"))
    assert second.memory_config.num_slots == 100 and second.memory_config.links
    assert second.memory_config.memory_layers == first.memory_config.memory_layers
    names = [name for name, _ in first.backbone.named_parameters() if "lora_B" in name]
    before, after = (dict(one.backbone.named_parameters()) for one in (first, second))
    assert names and all(not torch.equal(before[name], after[name]) for name in names)
    drift = max((before[name] - after[name]).abs().max() for name in names)
    assert drift < 0.01  # it went on from there


def test_a_checkpoint_without_a_tokenizer_takes_its_backbones(place):
    shutil.copytree(place / "memory", place / "bare")
    for file in (place / "bare").glob("tokenizer*"):
        file.unlink()
    ended = run(place, "from-bare", f"model.name={place / 'bare'}", SHORT.format(1))
    assert ended.exit_code == 0, ended.output
    assert (place / "from-bare" / "tokenizer.json").exists()


def test_a_window_instead_of_memory_trains_the_backbone_alone(place):
    validation = f"validation.sources=[{{path: {place / 'valid.jsonl.gz'}}}]"
    ended = run(place, "window", "window=60", validation, "validation.every=4", SHORT.format(8))
    assert ended.exit_code == 0, ended.output
    before = MemformerForCausalLM.from_pretrained(place / "memory")
    after = MemformerForCausalLM.from_pretrained(place / "window")
    for name, weight in before.memory.named_parameters():
        assert torch.equal(after.memory.get_parameter(name), weight)
    assert any(
        weight.any() for name, weight in after.backbone.named_parameters() if "lora_B" in name
    )
    log = (place / "window" / "log.jsonl").read_text()
    assert "warnings" not in log and "evidence" not in log and "exact" in log


def test_questions_after_words_that_are_read_again_leave_the_memory_as_it_is(place):
    pytest.importorskip("bm25s")
    data = [
        f"data=[{{path: {place / 'train.jsonl'}, reread: 120}}]",
        "model.memory.segment_tokens=300",
    ]
    valid = f"validation.sources=[{{path: {place / 'valid.jsonl.gz'}, reread: 120}}]"
    ended = run(place, "reread", *data, valid, "validation.every=4", SHORT.format(8))
    assert ended.exit_code == 0, ended.output
    log = (place / "reread" / "log.jsonl").read_text()
    assert "warnings" not in log and "evidence" not in log and "exact" in log
    before = MemformerForCausalLM.from_pretrained(place / "memory")
    after = MemformerForCausalLM.from_pretrained(place / "reread")
    for name, weight in before.memory.named_parameters():
        if "correction" not in name:  # which weight decay makes smaller
            assert torch.equal(after.memory.get_parameter(name), weight)
    assert any(
        weight.any() for name, weight in after.backbone.named_parameters() if "lora_B" in name
    )


def test_text_of_one_segment_waits_for_a_stage_in_which_it_has_more(place):
    """Lengths are drawn from one segment on, and of one alone there is nothing to learn."""
    data = f"data=[{{path: {place / 'text.jsonl'}, text: true}}]"
    stages = "stages=[{steps: 12, segments: 3, segment_tokens: 40}]"
    assert run(place, "short-text", data, stages).exit_code == 0


def test_a_stage_has_weights_of_its_own(place):
    """What waits in the first stage may be too long for it."""
    write(place / "longer.jsonl", [Record("x", "It rains in the garden. " * 9, ()) for _ in "ab"])
    data = (
        f"data=[{{path: {place / 'train.jsonl'}}}, {{path: {place / 'longer.jsonl'}, text: true}}]"
    )
    stages = (
        "stages=[{steps: 3, segments: 2, segment_tokens: 24, weights: [1, 0]}, "
        "{steps: 3, segments: 9, segment_tokens: 32, weights: [0, 1]}]"
    )
    ended = run(place, "weighted", data, stages)
    assert ended.exit_code == 0, ended.output
    lines = map(json.loads, (place / "weighted" / "log.jsonl").read_text().splitlines())
    assert ["answer_loss" in entry for entry in lines] == [True] * 3 + [False] * 3


def test_patience_ends_a_run_that_gets_no_better(place):
    validation = [
        f"validation.sources=[{{path: {place / 'valid.jsonl.gz'}}}]",
        "validation={every: 1, patience: 2, by: loss}",
    ]
    rates = ["optim.memory_lr=0", "optim.gate_lr=0", "optim.backbone_lr=0"]
    ended = run(place, "patient", *validation, *rates)
    assert ended.exit_code == 0, ended.output
    report = json.loads((place / "patient" / "finetune.json").read_text())
    assert report["steps"] == 4 and report["best"]["step"] == 1


def test_a_gradient_that_is_no_number_ends_the_run_before_it_spoils_the_weights(place, monkeypatch):
    whole = training_step.sums

    def broken(output, batch, teacher=None):
        found = whole(output, batch, teacher)
        return dataclasses.replace(found, answers=found.answers * float("nan"))

    monkeypatch.setattr(training_step, "sums", broken)
    result = run(place, "broken", SHORT.format(2))
    assert result.exit_code == 2 and "no number any more at step 0" in flat(result.output)


def test_tensorboard_has_to_be_there_if_it_is_asked_for(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    result = run(place, "logged", "tensorboard=true")
    assert result.exit_code == 2
    assert "tensorboard: true: This needs the package tensorboard" in flat(result.output)


def test_a_stream_goes_on_where_it_was(place, monkeypatch):
    """Rows of a dataset, in their order, across an interruption."""
    data = f"data=[{{dataset: {place / 'rows'}, streaming: true}}]"
    (place / "rows").mkdir()
    shutil.copy(place / "train.jsonl", place / "rows" / "train.jsonl")
    assert run(place, "streamed", data).exit_code == 0
    learn = loop.Run.learn

    def interrupted(self):
        values = learn(self)
        self.stopped = self.progress.step == 5
        return values

    with monkeypatch.context() as patched:
        patched.setattr(loop.Run, "learn", interrupted)
        assert run(place, "streamed-parts", data).exit_code == 0
    assert run(place, "streamed-parts", data, "--resume").exit_code == 0
    assert losses(place, "streamed-parts") == losses(place, "streamed")


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "finetune").glob("*.yaml")), ids=str)
def test_the_configs_can_be_read(path):
    settings = read_config(Settings, path)
    assert settings.trained in TRAINED and settings.stages
    assert f"configs/finetune/{path.name}" in path.read_text()


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "accelerate").glob("*.yaml")), ids=str)
def test_accelerate_takes_its_configs(path):
    assert load_config_from_file(str(path)).num_machines == 1


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user starts it, on the CPU."""
    return subprocess.run(
        [sys.executable, "-m", "training.finetune", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("processes", [None, 1, 2])
def test_a_run_that_fails_ends_with_its_sentence_in_any_number_of_processes(place, processes):
    options = [str(place / "config.yaml"), f"out={place / 'rows2'}"]
    if processes:
        text = (ROOT / "configs" / "accelerate" / "cpu.yaml").read_text()
        config = place / f"cpu{processes}.yaml"
        config.write_text(text.replace("num_processes: 2", f"num_processes: {processes}"))
        options += ["--launch", str(config)]
    ended = started(*options)
    assert ended.returncode == 2
    assert "Traceback" not in ended.stdout + ended.stderr
    last = ended.stderr.strip().splitlines()[-1]
    assert last == (
        f"error: {place / 'rows2'} is not empty; go on with --resume, or name another out."
    )
    assert ended.stderr.count("is not empty") == 1


def test_a_mistake_in_the_options_is_told_before_any_process_is_launched(place, monkeypatch):
    monkeypatch.setattr(finetune, "launch", None)
    result = run(place, "mistake", "save_every=0", "--launch", "configs/accelerate/cpu.yaml")
    assert result.exit_code == 2 and "save_every must be 1 or more" in flat(result.output)


def test_a_launch_trains_and_goes_on(place):
    options = [str(place / "config.yaml"), f"out={place / 'launched'}", SHORT.format(2)]
    options += ["--threads=1", "--launch", str(ROOT / "configs" / "accelerate" / "cpu.yaml")]
    ended = started(*options)
    assert ended.returncode == 0, ended.stderr
    assert "saved" in ended.stderr and (place / "launched" / "model.safetensors").exists()
    ended = started(*options, "--resume")
    assert ended.returncode == 2 and "There is no checkpoint in" in ended.stderr.splitlines()[-1]


@pytest.mark.parametrize("processes", [1, 2])
def test_a_process_that_breaks_without_a_sentence_gives_its_status(tmp_path, processes, capfd):
    text = (ROOT / "configs" / "accelerate" / "cpu.yaml").read_text()
    config = tmp_path / "cpu.yaml"
    config.write_text(text.replace("num_processes: 2", f"num_processes: {processes}"))
    with pytest.raises(LaunchFailed, match="ended with status 1; look above") as failed:
        launch(config, "training.nothing", [])
    assert failed.value.status == 1
    assert "No module named training.nothing" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "no config of accelerate"),
        ("out: x\n", "no config of accelerate"),
        ("[", "no config of accelerate"),
        ((ROOT / "configs/accelerate/ddp.yaml").read_text(), "asks for 4 processes with a GPU"),
    ],
)
def test_a_config_that_can_not_be_launched_is_one_sentence(tmp_path, text, sentence, monkeypatch):
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 1)
    config = tmp_path / "some.yaml"
    if text is not None:
        config.write_text(text)
    with pytest.raises(BadConfig, match=sentence):
        launch(config, "training.nothing", [])


def test_the_units_of_sharding_are_the_decoder_layers(place):
    model = MemformerForCausalLM.from_pretrained(place / "memory")
    assert "LlamaDecoderLayer" in model._no_split_modules


def test_rates_rise_stay_and_fall():
    optim = Optim(warmup=4, decay=0.5)
    rates = [rate(step, 20, optim) for step in range(20)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert set(rates[3:11]) == {1.0}
    assert rates[11:] == sorted(rates[11:], reverse=True) and 0 < rates[-1] < 0.2


def test_gates_have_a_rate_of_their_own_and_no_decay(place):
    model = MemformerForCausalLM.from_pretrained(place / "memory")
    model.backbone.requires_grad_(True)
    gates, memory, backbone = grouped(model, Optim())
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)].split(".")[-1] for p in gates["params"]} == {
        "log_key_strength",
        "age_slope",
        "null_logit",
        "write_gate_weight",
        "write_gate_bias",
    }
    assert gates["weight_decay"] == 0 and gates["lr"] > memory["lr"] > backbone["lr"]
    assert all("correction" in names[id(p)] for p in memory["params"])
    assert len(backbone["params"]) == len(list(model.backbone.parameters()))
    assert sum(len(group["params"]) for group in (gates, memory, backbone)) == len(names)


@pytest.mark.parametrize("is_open", [False, True])
def test_a_gate_that_drops_prose_can_be_opened(place, tmp_path, is_open):
    model = MemformerForCausalLM.from_pretrained(place / "memory")
    model.memory.table.write_gate_weight.data.fill_(1.0)
    model.memory.table.write_gate_bias.data.fill_(-9.0)
    model.save_pretrained(tmp_path / "closed")
    found = build(
        Settings(
            out="unused",
            model=Model(str(tmp_path / "closed"), open_gate=is_open),
            data=[],
            stages=[Stage(1, 1, 8)],
        )
    )
    assert (float(found.memory.table.write_gate_bias) > 0) == is_open
    assert (float(found.memory.table.write_gate_weight.abs().sum()) == 0) == is_open
