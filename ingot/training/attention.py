"""Attention over packed rows by PyTorch's own flash kernel: one launch for all samples of a batch, none sees another.

PyTorch's `varlen_attn` is the same kernel, but neither it nor Unsloth takes it when deterministic algorithms are asked
for; the kernel below it does, by the switch that every PyTorch kernel follows: its backward then sums in a fixed order.
"""

from __future__ import annotations

import torch

NAME = "ingot_varlen"  # not "flash": transformers takes every such name for a package to import


def flash(query, key, value, starts, longest: int, scale: float | None = None, window: int | None = None):
    """Causal attention of samples that stand one after the other.

    [tokens, heads, size] and twice [tokens, key heads, size] → [tokens, heads, size], 16 bit, on a GPU. `starts`
    [samples + 1], int32: where each begins, and the end of the last; `longest`: tokens of the longest; `window`: how
    many tokens back one sees, all when None.
    """
    return torch.ops.aten._flash_attention_forward(
        query, key, value, starts, starts, longest, longest, 0.0, True, False,
        scale=scale, window_size_left=None if window is None else window - 1,
        window_size_right=None if window is None else 0,
    )[0]  # fmt: skip


def register() -> str:
    """Make `flash` known to transformers; returns the name to load a model with."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import flash_attention_mask

    AttentionInterface.register(NAME, _transformers)
    AttentionMaskInterface.register(NAME, flash_attention_mask)
    return NAME


def _transformers(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **kwargs):
    """As transformers calls it: [batch, heads, length, size] → [batch, length, heads, size], weights (none)."""
    batch, _heads, length, _size = query.shape
    starts, longest = _starts(kwargs.get("position_ids"), batch, length, query.device)
    # Norms and rotary embeddings compute in float32 for a 4-bit base; the kernel takes what the products around it do.
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else value.dtype
    rows = (each.transpose(1, 2).flatten(0, 1).to(dtype) for each in (query, key, value))
    out = flash(*rows, starts, longest, scaling, sliding_window)
    return out.unflatten(0, (batch, length)), None


_last = (None, None)  # every layer of a step asks for the same positions


def _starts(positions, batch: int, length: int, device):
    """Where samples begin: at position 0 in a packed batch of one row; at each row's start in others.

    Rows are padded at their end, so that causal attention never sees the padding.
    """
    global _last
    if positions is None or batch > 1 or positions.shape[0] > 1:
        return torch.arange(0, (batch + 1) * length, length, dtype=torch.int32, device=device), length
    if _last[0] is not positions:
        begins = (positions[0] == 0).nonzero()[:, 0].int()
        starts = torch.cat([begins, torch.tensor([length], dtype=torch.int32, device=device)])
        _last = (positions, (starts, int(starts.diff().max())))
    return _last[1]


def use_in_unsloth() -> None:
    """Let Unsloth's packed attention call `flash` where it would launch a kernel for each sample."""
    from unsloth.utils import attention_dispatch as dispatch

    def takes(query, key, value, arguments, *_):
        return query.dtype in (torch.bfloat16, torch.float16) and not arguments.get("dropout_p")

    def packed(query, key, value, samples, *, n_groups, is_causal, sliding_window, scale):
        starts, longest = dispatch.cover_padded_cu_seqlens(samples, query.shape[-2])
        starts = starts.to(query.device, torch.int32)
        rows = (each[0].transpose(0, 1) for each in (query, key, value))
        return flash(*rows, starts, longest, scale, sliding_window).unsqueeze(0)

    for name, function in (
        ("_torch_varlen_takes", takes),
        ("_torch_varlen_beats_segments", lambda *_: True),
        ("_torch_varlen_packed", packed),
    ):
        if not hasattr(dispatch, name):
            raise RuntimeError(f"this Unsloth has no {name}: its version is not the locked one")
        setattr(dispatch, name, function)
