"""A model folder's weights: how many, and whether 16-bit floats hold them."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def parameters(folder: Path) -> int:
    """How many there are in the safetensors files."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            count += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count


def beyond_f16(folder: Path) -> tuple[str, float] | None:
    """The first tensor with a value that overflows in float16, and that value; None where all fit."""
    import torch

    most = torch.finfo(torch.float16).max
    for name, tensor in _tensors(folder):
        if tensor.dtype != torch.float16 and (largest := tensor.abs().max().item()) > most:
            return name, largest
    return None


def not_finite(folder: Path) -> str | None:
    """The first tensor that holds NaN or infinity."""
    return next((name for name, tensor in _tensors(folder) if not tensor.isfinite().all()), None)


def _tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor, one in memory at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
