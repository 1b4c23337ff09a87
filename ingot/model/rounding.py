"""Weights through NF4 and back, as a QLoRA has trained on them: a few rows at a time, the bits of the whole tensor."""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Iterable

import torch

from ingot.model.fold import Tensor


def in_nf4(name: str, tensor: Tensor) -> bool:
    """Whether a 4-bit base holds this tensor in NF4: every linear layer's weight, but the output's, adapted or not."""
    return ".layers." in name and name.endswith(".weight") and len(tensor.shape) == 2


NF4_BLOCK = 64  # weights that share a scale
_one_at_a_time = threading.Lock()  # bitsandbytes is imported, and quantises scales, in one thread


def nf4_step(shape: tuple[int, ...]) -> int:
    """The fewest rows of a weight that are whole NF4 blocks."""
    return NF4_BLOCK // math.gcd(NF4_BLOCK, shape[1])


def nf4_scales(rows: Iterable[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Each block's largest magnitude, and what double quantisation keeps of it: [blocks] float32, on the CPU.

    `rows` are all rows of a weight, in order, whole blocks at a time. The scales are few, and rounded by bitsandbytes
    itself, always on the CPU: a GPU's kernels need not round alike.
    """
    largest = torch.cat([some.reshape(-1, NF4_BLOCK).abs().amax(dim=1).float() for some in rows])
    with _one_at_a_time:
        from bitsandbytes.functional import dequantize_blockwise, quantize_blockwise

        offset = largest.mean()
        packed, state = quantize_blockwise(largest - offset, blocksize=256)
        return largest, dequantize_blockwise(packed, state) + offset


def through_nf4(rows: torch.Tensor, largest: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Rows of a weight as the 4-bit base held them: quantised to NF4 with double quantisation, and back.

    `largest` and `scales` [blocks of these rows] come from `nf4_scales`. These are the operations of bitsandbytes'
    `quantize_4bit` and `dequantize_4bit`, each correctly rounded for each element: a GPU makes a CPU's bytes.
    """
    values = _nf4_values(rows.device)
    bounds = (values[:-1] + values[1:]) / 2
    blocks = rows.reshape(-1, NF4_BLOCK).float() * (1.0 / largest.clamp(min=1e-38))[:, None]
    nearest = values[torch.bucketize(blocks.clamp_(-1, 1), bounds, out_int32=True)]
    return nearest.mul_(scales[:, None]).to(rows.dtype).view(rows.shape)


@functools.cache
def _nf4_values(device: torch.device) -> torch.Tensor:
    with _one_at_a_time:
        from bitsandbytes.functional import get_4bit_type

        return get_4bit_type("nf4", device=device)
