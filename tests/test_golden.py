"""The nine golden cases: every intermediate of the NTM, the DNC and its relatives, and gradients.

`golden/dnc_golden.npz` was made from the published equations with NumPy loops in float64; what it
holds is told in `golden/README.md`.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from memformer.classic import addressing as a
from memformer.classic.step import DNCInterface, DNCState, dnc_step
from memformer.memory.addressing import Guards, retention

ARCHIVE = np.load(Path(__file__).parent / "golden" / "dnc_golden.npz")
TOLERANCE = 1e-10
PAPER = Guards(0.0, 0.0, 0.0)
GUARDS = {
    "none": PAPER,
    "product": Guards(0.0, 1e-6, 1e-6),
    "sqrt": Guards(1e-6, 1e-6, 1e-6),
}


def golden(case: str, part: str = "") -> dict[str, torch.Tensor]:
    """The arrays of a case whose names begin with `part`, as tensors under the rest of the name."""
    prefix = f"{case}/{part}"
    found = {
        name[len(prefix) :]: torch.from_numpy(ARCHIVE[name])
        for name in ARCHIVE.files
        if name.startswith(prefix) and ARCHIVE[name].dtype.kind in "fi"
    }
    assert found
    return found


def meta(case: str) -> dict:
    return json.loads(str(ARCHIVE[f"{case}/meta"]))


def same(expected: torch.Tensor, value: torch.Tensor, what: str) -> None:
    assert value.dtype == expected.dtype
    assert value.shape == expected.shape, what
    assert (value - expected).abs().max() < TOLERANCE, what


def at_step(case: dict[str, torch.Tensor], step: int, steps: int) -> dict[str, torch.Tensor]:
    """What the case holds of one step."""
    return {name: value[step] for name, value in case.items() if value.shape[:1] == (steps,)}


def paper_state(start: dict[str, torch.Tensor], usage_gradient: bool = True) -> DNCState:
    """A golden state; its usage does not yet count the last write."""
    written = start["write_weights"]
    usage = a.usage_after(start["usage"], written if usage_gradient else written.detach())
    return DNCState(**start | {"usage": usage, "write_weights": written[:, None]})


@pytest.mark.parametrize(
    "case", ["paper_zero", "paper_warm", "guard_product", "guard_zero", "guard_sqrt", "csordas"]
)
def test_dnc(case):
    """Every quantity of every step, each from the state of the step before."""
    expected, sizes = golden(case), meta(case)
    guards, extras = GUARDS[sizes["cos_rule"]], {}
    assert guards.usage == sizes["usage_eps"]
    state = paper_state(golden(case, "init_"))
    names = {
        "write_key": "write_keys",
        "write_strength": "write_strengths",
        "write_vector": "write_vectors",
        "alloc_gate": "allocation_gates",
        "write_gate": "write_gates",
    }
    for step in range(sizes["T"]):
        at = at_step(expected, step, sizes["T"])
        interface = DNCInterface.parse(at["raw"], sizes["W"], sizes["R"])
        for name in [name[2:] for name in at if name.startswith("p_")]:
            found = getattr(interface, names.get(name, name))
            same(at[f"p_{name}"], found.reshape(at[f"p_{name}"].shape), name)
        if case == "csordas":
            extras = {
                "write_masks": at["ext_write_mask"][:, None],
                "read_masks": at["ext_read_masks"],
                "forward_sharpness": at["ext_sharp_f"],
                "backward_sharpness": at["ext_sharp_b"],
            }
            interface = interface._replace(**extras)
        before = state
        state, words = dnc_step(before, interface, guards, deallocate=case == "csordas")
        for name in ("memory", "precedence", "link", "read_weights"):
            same(at[name], getattr(state, name), f"{name} at {step}")
        same(at["write_weights"], state.write_weights[:, 0], f"write_weights at {step}")
        same(at["read_vectors"], words, "read_vectors")

        freed = retention(interface.free_gates, before.read_weights)
        same(at["retention"], freed, "retention")
        usage = before.usage * freed
        same(at["usage"], usage, "usage")
        same(at["free_list"], a.free_list(guards.usage + (1 - guards.usage) * usage), "free_list")
        same(at["allocation"], a.allocation(usage, guards), "allocation")
        content = a.content_weights(
            before.memory,
            interface.write_keys,
            interface.write_strengths,
            interface.write_masks,
            guards,
        )
        same(at["write_content"], content[:, 0], "write_content")
        content = a.content_weights(
            state.memory,
            interface.read_keys,
            interface.read_strengths,
            interface.read_masks,
            guards,
        )
        same(at["read_content"], content, "read_content")
        forward = a.forward_weights(state.link, before.read_weights)
        backward = a.backward_weights(state.link, before.read_weights)
        if extras:
            forward = a.sharpened(forward, extras["forward_sharpness"])
            backward = a.sharpened(backward, extras["backward_sharpness"])
        same(at["forward"], forward, "forward")
        same(at["backward"], backward, "backward")


@pytest.mark.parametrize("usage_gradient", [True, False], ids=["full", "detached"])
def test_dnc_gradients(usage_gradient):
    """Against central differences over 1e-5, whose rounding alone is 1.6e-10."""
    case, sizes = "paper_warm", meta("paper_warm")
    expected = golden(case, "grad_full/" if usage_gradient else "grad_detached/")
    start = {
        name: value.requires_grad_(name not in ("link", "write_weights"))
        for name, value in golden(case, "init_").items()
    }
    raw = golden(case)["raw"].requires_grad_()
    state, loss = paper_state(start, usage_gradient), torch.zeros((), dtype=torch.float64)
    for step in range(sizes["T"]):
        interface = DNCInterface.parse(raw[step], sizes["W"], sizes["R"])
        state, words = dnc_step(state, interface, PAPER, usage_gradient=usage_gradient)
        loss = loss + (words * golden(case)["grad_coef"][step]).sum()
    loss.backward()
    found = {"raw": raw.grad} | {
        f"init_{name}": value.grad for name, value in start.items() if value.grad is not None
    }
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert (found[name] - value).abs().max() < 2e-10, name


def test_parallel_write_heads():
    """Several writes in one step, as in DeepMind's code: a link and a precedence for each head."""
    case, sizes = "heads", meta("heads")
    expected, start, guards = golden(case), golden(case, "init_"), GUARDS["sqrt"]
    writes = sizes["K"]
    for step in range(sizes["T"]):
        at = at_step(expected, step, sizes["T"])
        asked = {name[2:]: value for name, value in at.items() if name.startswith("p_")}
        freed = retention(asked["free_gates"], start["read_weights"])
        same(at["retention"], freed, "retention")
        usage = start["usage"]
        for write in range(writes):
            usage = a.usage_after(usage, start["write_weights"][:, write])
        usage = usage * freed
        same(at["usage"], usage, "usage")
        gates, raised, allocated = (asked["alloc_gate"], asked["write_gate"]), usage, []
        for write in range(writes):
            allocated.append(a.allocation(raised, guards))
            taken = allocated[-1] * (gates[0] * gates[1])[:, write, None]
            raised = a.usage_after(raised, taken)
        allocated = torch.stack(allocated, 1)
        same(at["allocation"], allocated, "allocation")
        content = a.content_weights(
            start["memory"], asked["write_keys"], asked["write_strengths"], None, guards
        )
        same(at["write_content"], content, "write_content")
        writing = a.write_weights(content, allocated, *gates)
        same(at["write_weights"], writing, "write_weights")
        kept = (1 - writing[..., None] * asked["erase"][:, :, None]).prod(1)
        memory = start["memory"] * kept + writing.mT @ asked["write_vectors"]
        same(at["memory"], memory, "memory")
        link = a.link_after(start["link"], start["precedence"], writing)
        same(at["link"], link, "link")
        precedence = a.precedence_after(start["precedence"], writing)
        same(at["precedence"], precedence, "precedence")
        content = a.content_weights(
            memory, asked["read_keys"], asked["read_strengths"], None, guards
        )
        modes = asked["read_modes"]
        reading = modes[..., writes, None] * content
        for write in range(writes):
            nothing = torch.zeros_like(content)
            three = torch.stack(
                [
                    modes[..., write],
                    torch.zeros_like(modes[..., 0]),
                    modes[..., writes + 1 + write],
                ],
                -1,
            )
            reading = reading + a.read_weights(
                a.backward_weights(link[:, write], start["read_weights"]),
                nothing,
                a.forward_weights(link[:, write], start["read_weights"]),
                three,
            )
        same(at["read_weights"], reading, "read_weights")
        same(at["read_vectors"], reading @ memory, "read_vectors")
        start = {name: at[name] for name in start}


def test_segment():
    """Free heads, three ordered writes, then every query's reads in one hop."""
    case, sizes = "segment", meta("segment")
    expected, start = golden(case), golden(case, "init_")
    nothing = torch.zeros(sizes["B"], 0, sizes["N"], dtype=torch.float64)
    state = DNCState(**start, read_weights=nothing, write_weights=nothing)
    for segment in range(sizes["S"]):
        at = at_step(expected, segment, sizes["S"])
        interface = DNCInterface(
            **{
                f"read_{part}": at[f"p_read_{part}"].flatten(1, 2) for part in ("keys", "strengths")
            },
            read_modes=at["p_read_modes"].flatten(1, 2),
            write_keys=at["p_write_keys"],
            write_strengths=at["p_write_strengths"],
            erase=at["p_erase"],
            write_vectors=at["p_write_vectors"],
            free_gates=at["p_free_gates"],
            allocation_gates=at["p_alloc_gate"],
            write_gates=at["p_write_gate"],
            free_weights=at["p_free_weights"],
        )
        freed = retention(interface.free_gates, interface.free_weights)
        same(at["retention"], freed, "retention")
        same(at["allocation"][:, 0], a.allocation(state.usage * freed, PAPER), "allocation")
        state, words = dnc_step(state, interface, PAPER, anchored=True, usage_gradient=True)
        for name in ("memory", "usage", "precedence", "link", "write_weights"):
            same(at[name], getattr(state, name), f"{name} of {segment}")
        same(at["read_weights"].flatten(1, 2), state.read_weights, "read_weights")
        same(at["read_vectors"].flatten(1, 2), words, "read_vectors")


def test_ntm():
    case, sizes = "ntm", meta("ntm")
    expected, start = golden(case), golden(case, "init_")
    memory, weights = start["memory"], start["weights"]
    for step in range(sizes["T"]):
        at = at_step(expected, step, sizes["T"])
        content = a.content_weights(memory, at["p_key"][None], at["p_beta"][None], None, PAPER)[0]
        same(at["content"], content, "content")
        gated = a.interpolated(content, weights, at["p_g"])
        same(at["gated"], gated, "gated")
        moved = a.shifted(gated, at["p_shift"])
        same(at["shifted"], moved, "shifted")
        weights = a.sharpened(moved, at["p_gamma"])
        same(at["weights"], weights, "weights")
        same(at["read"], weights @ memory, "read")
        memory = a.erase_and_add(memory, weights[None], at["p_erase"][None], at["p_add"][None])
        same(at["memory"], memory, "memory")
