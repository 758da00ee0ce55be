"""Mixed precision on a CPU: linear maps in bfloat16, the backbone's attention in float32."""

from __future__ import annotations

import pytest
import torch
from tiny import save_tiny
from transformers import AutoModelForCausalLM

from training.finetuning.attention import NAME, in_float32


@pytest.fixture
def plain(tmp_path):
    save_tiny(tmp_path)
    return AutoModelForCausalLM.from_pretrained(tmp_path / "base")


@pytest.mark.parametrize("padded", [False, True])
def test_without_autocast_nothing_changes(plain, padded):
    ids = torch.randint(3, 200, (2, 20))
    mask = torch.ones_like(ids)
    mask[0, 15:] = 0 if padded else 1
    before = plain(ids, attention_mask=mask).logits
    in_float32(plain)
    assert plain.config._attn_implementation == NAME
    after = plain(ids, attention_mask=mask).logits
    torch.testing.assert_close(after[mask.bool()], before[mask.bool()], rtol=0, atol=0)


def test_under_autocast_attention_alone_is_exact(plain, monkeypatch):
    seen = []
    kernel = torch.nn.functional.scaled_dot_product_attention

    def watched(query, key, value, *args, **kwargs):
        seen.append({query.dtype, key.dtype, value.dtype, torch.is_autocast_enabled("cpu")})
        return kernel(query, key, value, *args, **kwargs)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", watched)
    in_float32(plain)
    with torch.autocast("cpu", torch.bfloat16):
        found = plain(torch.randint(3, 200, (2, 20)))
    assert seen and all(one == {torch.float32, False} for one in seen)
    assert found.logits.dtype == torch.bfloat16
    found.logits.float().sum().backward()
    assert all(weight.grad.isfinite().all() for weight in plain.parameters())


def test_another_kind_of_attention_is_left_alone(plain):
    plain.set_attn_implementation("eager")
    in_float32(plain)
    assert plain.config._attn_implementation == "eager"
