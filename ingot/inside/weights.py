"""A model folder's weights: how many, and whether 16-bit floats hold them."""

from __future__ import annotations

from math import prod
from pathlib import Path


def parameters(folder: Path) -> int:
    """How many there are in the safetensors files."""
    from safetensors import safe_open

    count = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(str(path), framework="pt") as file:
            count += sum(prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118
    return count


def beyond_f16(folder: Path) -> tuple[str, float] | None:
    """The first tensor with a value that overflows in float16, and that value; None where all fit. Reads each tensor once."""
    import torch
    from safetensors import safe_open

    most = torch.finfo(torch.float16).max
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for key in sorted(file.keys()):
                tensor = file.get_tensor(key)
                if tensor.dtype != torch.float16 and (largest := tensor.abs().max().item()) > most:
                    return key, largest
    return None
