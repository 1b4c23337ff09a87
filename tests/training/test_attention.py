"""How transformers calls the flash kernel for samples that stand one after the other; the kernel itself needs a GPU."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.proof


def test_each_sample_is_told_apart_and_computed_alone(base, monkeypatch):
    import torch
    from transformers import AutoModelForCausalLM

    from ingot.training import attention

    seen = []

    def flash(query, key, value, starts, longest, scale, window):
        """What the kernel computes, sample by sample."""
        seen.append((starts.tolist(), longest))
        times = query.shape[1] // key.shape[1]
        heads = [query, key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)]
        places = zip(starts.tolist(), starts.tolist()[1:], strict=False)
        samples = ([each[begin:end].transpose(0, 1) for each in heads] for begin, end in places)
        product = torch.nn.functional.scaled_dot_product_attention
        return torch.cat([product(*sample, is_causal=True, scale=scale).transpose(0, 1) for sample in samples])

    monkeypatch.setattr(attention, "flash", flash)
    ours, theirs = (
        AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation=name)
        for name in (attention.register(), "sdpa")
    )
    ids = torch.arange(24)[None] * 37 % 1000
    places = torch.cat([torch.arange(5), torch.arange(9), torch.arange(6), torch.arange(4)])[None]
    with torch.no_grad():
        packed = [model(input_ids=ids, position_ids=places, use_cache=False).logits for model in (ours, theirs)]
    assert seen[0] == ([0, 5, 14, 20, 24], 9) and torch.allclose(*packed, atol=1e-4)
    seen.clear()
    rows, mask = ids.view(3, 8), torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0
    with torch.no_grad():
        padded = [
            model(input_ids=rows, attention_mask=mask, use_cache=False).logits[mask == 1] for model in (ours, theirs)
        ]
    assert seen[0] == ([0, 8, 16, 24], 8) and torch.allclose(*padded, atol=1e-4)
