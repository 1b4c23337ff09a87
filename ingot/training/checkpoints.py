"""Checkpoints that are whole or not there, and the files that training ends with."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path

from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ingot.console import progress
from ingot.console.progress import StageError
from ingot.training.job import everyone, first

# The file that marks a whole checkpoint: size and CRC-32 of every other file. Against damage, not against hands: the
# checksum is read at 2 GB/s, a SHA-256 at less than half of that, and a whole 7B model is 40 GB with its optimiser.
COMPLETE = "complete"


class Checkpoints(TrainerCallback):
    """Marks a checkpoint once all of its files are on the disk, and only then removes older ones.

    A run killed in mid-write leaves its checkpoint unmarked, and the one before still there. So does a power loss: what
    is written has reached the disk before the mark does.
    """

    def __init__(self, limit: int):
        self.limit = limit

    def on_save(self, args, state, control, **kwargs):
        folder = Path(args.output_dir)
        made = folder / f"checkpoint-{state.global_step}"
        everyone(None)  # each process has written its own files
        for path in (*made.rglob("*"), made):
            _to_disk(path)
        everyone(None)
        if not state.is_world_process_zero:
            return
        _mark(made)
        best = {Path(state.best_model_checkpoint)} if state.best_model_checkpoint else set()
        for old in _complete(folder)[: -self.limit]:
            if old not in best:
                shutil.rmtree(old)


def _to_disk(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _mark(checkpoint: Path) -> None:
    files = {str(path.relative_to(checkpoint)): _measure(path) for path in checkpoint.rglob("*") if path.is_file()}
    beside = checkpoint / f"{COMPLETE}.part"
    beside.write_text(json.dumps(files), encoding="utf-8")
    _to_disk(beside)
    beside.rename(checkpoint / COMPLETE)
    _to_disk(checkpoint)
    _to_disk(checkpoint.parent)


def _measure(path: Path) -> list[int]:
    """Size and CRC-32."""
    size = checksum = 0
    with path.open("rb") as file:
        while block := file.read(4 << 20):
            size, checksum = size + len(block), zlib.crc32(block, checksum)
    return [size, checksum]


def damage(checkpoint: Path) -> str | None:
    """What is wrong with a marked checkpoint, or with the best one that it refers to; None where both are whole."""
    try:
        files = json.loads((checkpoint / COMPLETE).read_text(encoding="utf-8"))
        if not files:
            return "its mark names no file"
        for name, measured in sorted(files.items()):
            if (checkpoint / name).stat().st_size != measured[0] or _measure(checkpoint / name) != measured:
                return f"{name} is not what was written"
        best = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["best_model_checkpoint"]
        if best and Path(best).name != checkpoint.name and (fault := damage(checkpoint.parent / Path(best).name)):
            return f"the best one before it, {Path(best).name}, is damaged: {fault}"
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return f"it cannot be read ({type(error).__name__}: {error})"
    return None


def _complete(folder: Path) -> list[Path]:
    """The marked checkpoints, oldest first."""
    return sorted((path for path in _checkpoints(folder) if (path / COMPLETE).exists()), key=_step)


def _checkpoints(folder: Path) -> list[Path]:
    """Those of a Trainer; a copy that somebody keeps beside them is none."""
    return [path for path in folder.glob("checkpoint-*") if re.fullmatch(r"checkpoint-\d+", path.name)]


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def last_complete(folder: Path) -> str | None:
    """The newest whole checkpoint, to go on from; torn and damaged ones are removed.

    Raises StageError where the processes that train together see different ones.
    """
    if first():
        for newest in reversed(_complete(folder)):
            if not (fault := damage(newest)):
                break
            progress.console.print(f"  {newest.name} is damaged, and is not gone on from: {fault}", markup=False)
            shutil.rmtree(newest)
    everyone(None)
    found = _complete(folder)
    if len(seen := set(everyone(_step(found[-1]) if found else None))) > 1:
        raise StageError(
            f"the processes that train together see different checkpoints in {folder} (the newest: {seen}): "
            "let all hosts share this folder, or remove it on each"
        )
    for torn in set(_checkpoints(folder)) - set(found):
        shutil.rmtree(torn, ignore_errors=True)  # two processes may do so at once
    if not found:
        return None
    progress.console.print(f"  going on from step {_step(found[-1]):,} of a run that was stopped")
    return str(found[-1])


def save(model, base: Path, out: Path | None) -> None:
    """Write the adapter as PEFT does; or, of a model without one, its weights in the base's files, names and types.

    Where each process holds a share of a tensor, all of them call this, and the one that has an `out` writes.
    """
    if hasattr(model, "peft_config"):
        shares = (each for each in model.named_parameters() if each[1].requires_grad and isinstance(each[1], DTensor))
        trained = {name: _whole(weight) for name, weight in shares}
        if out:
            model.save_pretrained(str(out), state_dict=trained or None)
        return
    from safetensors import safe_open
    from safetensors.torch import save_file

    trained = model.state_dict()
    for path in sorted(base.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as file:
            tensors = {}
            for key in file.keys():  # noqa: SIM118
                tensors[key] = _whole(trained[key]).to("cpu", file.get_tensor(key).dtype).contiguous()
        if out:
            save_file(tensors, str(out / path.name), metadata={"format": "pt"})


def _whole(weight):
    """A tensor of which each process may hold a share."""
    return (weight.full_tensor() if isinstance(weight, DTensor) else weight).detach()
