"""A model folder's weights: how many, and whether 16-bit floats hold them."""

from __future__ import annotations

import json
import os
import shutil
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


def leave_out(path: Path, names: set[str]) -> None:
    """Write a safetensors file anew without some of its tensors; the others keep their bytes and order.

    Format: 8 bytes with the header's length, a JSON header, the data (github.com/huggingface/safetensors).
    """
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        metadata = {key: header.pop(key) for key in ("__metadata__",) if key in header}
        kept = sorted((entry["data_offsets"], name) for name, entry in header.items() if name not in names)
        new, end = {}, 0
        for (first, last), name in kept:
            new[name] = header[name] | {"data_offsets": [end, end + last - first]}
            end += last - first
        text = json.dumps(metadata | new, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        beside = path.with_name(f".{path.name}")
        with beside.open("wb") as out:
            out.write(len(text).to_bytes(8, "little") + text)
            for (first, last), _ in kept:
                file.seek(start + first)
                for size in [1 << 26] * ((last - first) >> 26) + [(last - first) % (1 << 26)]:
                    out.write(file.read(size))
    shutil.copymode(path, beside)
    os.replace(beside, path)  # never in place: it may be a link to a download


def beyond_f16(folder: Path) -> tuple[str, float] | None:
    """The first tensor with a value that overflows in float16, and that value; None where all fit."""
    import torch

    most = torch.finfo(torch.float16).max
    for name, tensor in tensors_of(folder):
        if tensor.dtype != torch.float16 and (largest := tensor.abs().max().item()) > most:
            return name, largest
    return None


def not_finite(folder: Path) -> str | None:
    """The first tensor that holds NaN or infinity."""
    return next((name for name, tensor in tensors_of(folder) if not tensor.isfinite().all()), None)


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor, one in memory at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
