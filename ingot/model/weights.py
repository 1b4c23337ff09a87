"""A model folder's weights: how many, whether 16-bit floats hold them, and which tokens they never learnt to say."""

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

ALIKE, CROWD = 0.95, 8  # by cosine; so many tokens alike are not trained ones
HEADS = ("lm_head.weight", "embed_tokens.weight")  # the matrix that says tokens; the second where they share one
BLOCK = 8192  # rows of a matrix at once


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


def untrained(folder: Path, token: int) -> str | None:
    """Why a token's row of the output matrix is as if it never stood in a text; None where it may have been trained.

    Such rows are zero, or the mean of all rows (where somebody has added tokens), or they all point the same way:
    training only ever pushes them down. Measured on Gemma 3 270M: of 3,000 tokens 68 had eight or more others within a
    cosine of 0.95, all of them unused ones and letters of dead scripts; <end_of_turn> had 6,210, <eos> none.
    """
    import torch
    from safetensors import safe_open

    found = {name.split(".")[-2]: (name, path) for name, path in _places(folder) if name.endswith(HEADS)}
    if not found:
        return None
    name, path = found.get("lm_head") or found["embed_tokens"]
    with safe_open(str(path), framework="pt") as file:
        matrix = file.get_slice(name)
        count = matrix.get_shape()[0]
        row = matrix[token : token + 1][0].float()
        alike, total, lengths = 0, torch.zeros_like(row), []
        for first in range(0, count, BLOCK):
            rows = matrix[first : first + BLOCK].float()
            norms = rows.norm(dim=1)
            alike += int((rows @ row >= ALIKE * norms * row.norm()).logical_and(norms > 0).sum())
            total += rows.sum(dim=0)
            lengths.append(norms)
        usual = torch.cat(lengths).median()
        if row.norm() < 1e-3 * usual:
            return f"its row of {name} is zero"
        if (row - total / count).norm() < 0.05 * row.norm():
            return f"its row of {name} is the mean of all rows"
        if alike > CROWD:  # one is itself
            return f"its row of {name} is like those of {alike - 1:,} tokens that no text has"
    return None


def _places(folder: Path) -> Iterator[tuple[str, Path]]:
    """Each tensor's name and file."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            yield from ((name, path) for name in sorted(file.keys()))


def assembled(folder: Path, base: Path, weights: Path) -> Path:
    """Make a model folder of links: the base's files, but with other weights."""
    folder.mkdir()
    for path in [*(file for file in base.iterdir() if file.suffix != ".safetensors"), *weights.glob("*.safetensors")]:
        (folder / path.name).symlink_to(path.resolve())
    return folder


def tensors_of(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor, one in memory at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            for name in sorted(file.keys()):
                yield name, file.get_tensor(name)
