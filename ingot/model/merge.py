"""Fold an adapter into a base's weights, with a few rows of a few tensors in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import BinaryIO

import torch

from ingot.console import progress
from ingot.model import fold, rounding
from ingot.model.fold import Adapter, Tensor

BLOCK = 1 << 21  # bytes of a tensor that a thread works on at once; with all that is formed on the way, 40 MB
THREADS = 16  # at most: more have nothing to gain, and memory grows with them


def merge(base: Path, adapter: Adapter, out: Path, through_nf4: bool) -> set[str]:
    """Write the base's shards, folded, into `out`; returns the names of the tensors that changed.

    A folded tensor has the type and shape it had, so a shard keeps its header and every tensor its place: threads write
    them in any order, and reading, folding and writing overlap.
    """
    tensors = fold.tensors_in(base)
    adapter.check_base(tensors)
    for shard in base.glob("*.safetensors"):
        start_shard(shard, out / shard.name)
    # Each thread its own queue of work for the GPU.
    own_stream = (lambda: torch.cuda.set_stream(torch.cuda.Stream())) if adapter.device == "cuda" else None
    pool = ThreadPoolExecutor(min(THREADS, len(os.sched_getaffinity(0))), initializer=own_stream)
    changed = set()
    try:
        # The largest first, so that none is left alone at the end; of one size, one from each shard in turn, for a
        # kernel lets one thread at a time write to a file.
        ordered = sorted(tensors.items(), key=lambda item: (-item[1].size, item[1].offset))
        tasks = {pool.submit(write, *item, adapter, out, through_nf4): item[0] for item in ordered}
        with progress.bar("merging") as bar:
            for task in bar.track(as_completed(tasks), total=len(tasks), description="merging"):
                if task.result():
                    changed.add(tasks[task])
    finally:
        pool.shutdown(cancel_futures=True)
    adapter.check_effect(changed)
    return changed


def start_shard(shard: Path, out: Path) -> None:
    """A file of the shard's size and with its header."""
    with shard.open("rb") as file, out.open("wb") as new:
        length = file.read(8)
        new.write(length + file.read(int.from_bytes(length, "little")))
        new.truncate(shard.stat().st_size)


def write(name: str, tensor: Tensor, adapter: Adapter, out: Path, through_nf4: bool) -> bool:
    """Write one tensor at its place, block by block; returns whether the adapter changed it.

    Raises StageError when a folded one is no longer finite.
    """
    folded = adapter.fold(name)
    rounded = through_nf4 and rounding.in_nf4(name, tensor)
    dtype = fold.TYPES[tensor.dtype] if folded or rounded else torch.uint8
    step = max(1, BLOCK // max(tensor.row, 1))
    if rounded:
        whole = rounding.nf4_step(tensor.shape)
        if tensor.rows % whole:
            raise progress.StageError(
                f"{name}: {list(tensor.shape)} is not a whole number of NF4 blocks ({rounding.NF4_BLOCK} weights)\n"
                "hint: set merged.base to original"
            )
        step = -(-step // whole) * whole
    changed = False
    with tensor.path.open("rb") as source, (out / tensor.path.name).open("r+b") as target:
        target.seek(tensor.offset)

        def blocks() -> Iterator[tuple[int, torch.Tensor]]:
            for first in range(0, tensor.rows, step):
                count = min(step, tensor.rows - first)
                yield first, read_rows(source, tensor, first, count, pinned=adapter.device == "cuda").view(dtype)

        if rounded:  # scales are quantised across the tensor: it is read twice
            scales = [each.to(adapter.device) for each in rounding.nf4_scales(rows for _, rows in blocks())]
        for first, rows in blocks():
            if folded or rounded:
                before = rows.to(adapter.device, non_blocking=True)
                if rounded:
                    row = tensor.shape[1]
                    some = slice(first * row // rounding.NF4_BLOCK, (first + len(rows)) * row // rounding.NF4_BLOCK)
                    before = after = rounding.through_nf4(before, *(each[some] for each in scales))
                if folded:
                    # By way of float32, as PyTorch itself goes to 16 bits, but here it is written down.
                    after = folded(before, first).float().to(dtype)
                    if not torch.stack(torch.aminmax(after)).isfinite().all():  # NaN is both the least and the greatest
                        raise progress.StageError(f"{name}: no longer finite after the merge: training has diverged")
                    changed = changed or not torch.equal(after, before)
                rows.copy_(after)
            target.write(rows.view(torch.uint8).numpy())
    return changed


def read_rows(file: BinaryIO, tensor: Tensor, first: int, count: int, pinned: bool = False) -> torch.Tensor:
    """Rows of a tensor as bytes, [count, bytes of a row]; pinned memory is what a GPU copies from without a detour."""
    rows = torch.empty(count, tensor.row, dtype=torch.uint8, pin_memory=pinned)
    file.seek(tensor.offset + first * tensor.row)
    if file.readinto(rows.numpy()) < rows.nbytes:
        raise progress.StageError(f"{tensor.path} ends before its tensors do: remove build/base and make it again")
    return rows
