"""Figures that the code computes for fixed models and texts. A refactoring must not change them.

`tests/test_unchanged.py` holds the code against `tests/golden/unchanged.json`. To compare two
versions of the code on a machine of your own, run this file in both and compare what they print:

    python tests/unchanged.py > figures.json
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from backbones import VOCABULARY, random_ids, tiny_backbone  # noqa: E402

from memformer import TRAINED, MemformerForCausalLM, MemoryConfig, MemoryState  # noqa: E402

# a tiny model with every mechanism, as the code of version 0.1.0 saved it, and a memory of its
ATTACHED = ROOT / "tests" / "golden" / "attached"
SAMPLES = 12
EXTRAS = ("evidence", "entropy", "written")
STORY = (
    "Mary went to the kitchen. John travelled to the office. Mary picked up the apple there. "
    "Sandra moved to the garden. Mary journeyed to the bathroom. John went to the hallway."
)
QUESTION, ANSWER = "Question: Where is Mary?\nAnswer:", " bathroom"


def processor() -> str:
    """The processor and the version of torch: where both are the same, all bits are."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor()
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {capability}, torch {torch.__version__.partition('+')[0]}"


def figure(value: Any) -> Any:
    """A tensor as its shape, a digest of its bits, and a few of its numbers; the rest as it is."""
    if not isinstance(value, Tensor):
        return value
    flat = value.detach().cpu().contiguous().flatten()
    picked = flat[:: max(1, -(-flat.numel() // SAMPLES))]
    bits = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return {
        "shape": list(value.shape),
        "bits": hashlib.sha256(bits).hexdigest()[:16],
        "numbers": [float(f"{number:.7g}") for number in picked.double().tolist()],
    }


def contents(memory: MemoryState) -> dict[str, Tensor]:
    """Everything in a memory, in words that no renaming touches."""
    return {
        "keys": memory.keys,
        "values": memory.values,
        "addresses": memory.addresses,
        "strength": memory.strength,
        "strength before the open segment": memory.settled,
        "usage": memory.usage,
        "reads": memory.reads,
        "reads by the open segment": memory.open_reads,
        "text clock of each slot": memory.seen_at,
        "write clock of each slot": memory.written_at,
        "token": memory.token,
        "segment": memory.segment,
        "turn": memory.turn,
        "text clock": memory.num_seen,
        "write clock": memory.num_written,
        "segments": memory.num_segments,
        "turns": memory.num_turns,
    }


def memory_figures(name: str, memory: MemoryState) -> dict[str, Any]:
    return {f"{name}: {part}": value for part, value in contents(memory).items()}


def attached() -> dict[str, Any]:
    """A tiny model with all mechanisms: every way into memory and out of it."""
    model = MemformerForCausalLM.from_pretrained(ATTACHED)
    ids = random_ids(2, 75, seed=1)
    mask = torch.ones_like(ids)
    mask[0, :9] = mask[1, -4:] = 0
    out: dict[str, Any] = {}
    with torch.no_grad():
        memory = model.memorize(ids, mask)
        out |= memory_figures("memorize", memory)
        limit = torch.ones(ids.shape)
        limit[:, 20:30] = 0.0
        limit[:, 40:] = 0.6
        out |= memory_figures("limit", model.memorize(ids, mask, memory, limit=limit))
        out |= memory_figures("ungated", model.memorize(ids[:, :21], memory=memory, gated=False))
        out |= memory_figures("recurrent", model.memorize(ids, mask, memory, segments_per_chunk=1))
        short = model(ids[:, 9:20], memory=memory)
        out |= {"short: logits": short.logits} | memory_figures("short", short.memory)
        whole = model(ids, mask, memory=memory, output_hidden_states=True)
        out |= {"long: logits": whole.logits, "long: hidden": whole.hidden_states[2]}
        out |= memory_figures("long", whole.memory)
        for name, options in (
            ("greedy", {"do_sample": False}),
            ("beams", {"num_beams": 2, "do_sample": False}),
            ("limited", {"do_sample": False, "limit": limit[:, :22], "reply_limit": 0.5}),
        ):
            said, after = model.generate(
                ids[:, 20:42],
                memory=memory,
                attention_mask=torch.ones_like(ids[:, 20:42]),
                max_new_tokens=30,
                return_memory=True,
                **options,
            )
            out |= {f"{name}: tokens": said.tolist()} | memory_figures(name, after)
    out |= training_step(model, *with_asides(ids, mask), chunks=2)
    out |= training_step(model, ids, mask, ids)
    return out


def with_asides(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Segments of 10 to 15 tokens, every third an aside, of which the last words are labels."""
    segment_ids = torch.arange(75).expand(2, -1) // 13
    remembered = segment_ids % 3 != 2
    labels = ids.where(~remembered & (torch.arange(75) % 13 > 8), -100)
    return ids, mask, labels, segment_ids, remembered


def training_step(
    model: MemformerForCausalLM,
    ids: Tensor,
    mask: Tensor,
    labels: Tensor,
    segment_ids: Tensor | None = None,
    remembered: Tensor | None = None,
    chunks: int = 1,
) -> dict[str, Any]:
    """Loss and gradients of a document with asides, or of text in a row where nothing is given."""
    name = "in a row" if segment_ids is None else "laid out"
    model.train()
    model.zero_grad()
    result = model(
        ids,
        mask,
        labels=labels,
        segment_ids=segment_ids,
        remembered=remembered,
        chunks=chunks,
    )
    result.loss.backward()
    out = {f"{name}: loss": result.loss, f"{name}: logits": result.logits}
    out |= memory_figures(name, result.memory)
    out |= {f"{name}: {part}": result[part] for part in EXTRAS if part in result}
    # in an order that does not depend on names
    grads = [figure(one.grad) for one in model.parameters() if one.grad is not None]
    out[f"{name}: gradients"] = sorted(grads, key=lambda one: (one["shape"], one["numbers"]))
    model.eval()
    return out


def adapted() -> dict[str, Any]:
    """The tiny model with a LoRA adapter that is trained, below the memory layers too."""
    from peft import LoraConfig, get_peft_model

    model = MemformerForCausalLM.from_pretrained(ATTACHED)
    wanted = LoraConfig(r=2, target_modules=["q_proj", "v_proj", "down_proj"])
    wrapped = get_peft_model(model.backbone, wanted)
    model.backbone = wrapped
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    ids = random_ids(2, 75, seed=1)
    return training_step(model, *with_asides(ids, torch.ones_like(ids)))


def families() -> dict[str, Any]:
    """Three more families as they are attached: learned positions, caps and windows, head norms."""
    out: dict[str, Any] = {}
    for family in ("gpt2", "gemma2", "qwen3"):
        config = MemoryConfig(num_slots=40, segment_tokens=16, memory_layers=(1, 2, 3))
        model = MemformerForCausalLM.from_backbone(tiny_backbone(family), config).eval()
        ids = random_ids(1, 60, seed=2)
        with torch.no_grad():
            memory = model.memorize(ids[:, :50])
            out |= memory_figures(family, memory)
            out[f"{family}: logits"] = model(ids[:, 50:], memory=memory).logits
            said = model.generate(ids[:, 50:], memory=memory, max_new_tokens=12, do_sample=False)
            out[f"{family}: tokens"] = said.tolist()
    return out


def trained() -> dict[str, Any]:
    """The checkpoint that comes with the package, on a story of its kind."""
    from transformers import AutoTokenizer

    model = MemformerForCausalLM.from_pretrained(TRAINED)
    adapter = [weight for name, weight in model.named_parameters() if "lora_" in name]
    # an unfrozen adapter is not merged: the figures are those of peft's own products
    for weight in adapter:
        weight.requires_grad_(True)
    tokenizer = AutoTokenizer.from_pretrained(TRAINED)
    story, asked, answer = (
        tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
        for text in (STORY, QUESTION, ANSWER)
    )
    out: dict[str, Any] = {}
    with torch.no_grad():
        memory = model.memorize(story)
        out |= memory_figures("memorize", memory)
        out["logits"] = model(asked, memory=memory).logits
        said, after = model.generate(
            asked, memory=memory, max_new_tokens=12, do_sample=False, return_memory=True
        )
        out["text"] = tokenizer.decode(said[0])
        out |= memory_figures("generate", after)
    for weight in adapter:
        weight.requires_grad_(False)
    ids = torch.cat([story, asked, answer], 1)
    place = torch.arange(ids.shape[1])[None]
    told = place < story.shape[1]
    segment_ids = torch.where(told, place // 20, 99)
    labels = ids.where(place >= ids.shape[1] - answer.shape[1], -100)
    return out | training_step(model, ids, torch.ones_like(ids), labels, segment_ids, told)


def figures(case: str) -> dict[str, Any]:
    """All figures of one case: "attached", "adapted", "families" or "trained"."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return {name: figure(value) for name, value in globals()[case]().items()}


def make_attached() -> None:
    """The model in `ATTACHED`: random parts that make every mechanism do something."""
    config = MemoryConfig(
        num_slots=40,
        segment_tokens=16,
        memory_layers=(1, 2, 3),
        erase=True,
        free=True,
        links=True,
        write_budget=0.3,
    )
    model = MemformerForCausalLM.from_backbone(
        tiny_backbone("llama", vocab_size=VOCABULARY), config
    )
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in model.memory.named_parameters():
            scale = 0.5 if "gate_weight" in name else 0.1
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
            if name.endswith("write_gate_bias"):
                weight.fill_(0.3)
            if name.endswith(".gate_bias"):
                weight.fill_(-1.0)
            if name.endswith("threshold"):
                weight.fill_(0.3)
    model.save_pretrained(ATTACHED)
    with torch.no_grad():
        model.memorize(random_ids(2, 75, seed=1)).save(ATTACHED / "memory_4.safetensors")


if __name__ == "__main__":
    cases = {case: figures(case) for case in ("attached", "adapted", "families", "trained")}
    opened = contents(MemoryState.load(ATTACHED / "memory_4.safetensors"))
    file = {part: figure(value) for part, value in opened.items()}
    print(json.dumps({"processor": processor(), "cases": cases, "file": file}, indent=1))
