"""A model folder's weights, by the headers of its files."""

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
