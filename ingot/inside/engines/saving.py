"""Checkpoints that are whole or not there, and the files that training ends with."""

from __future__ import annotations

import shutil
from pathlib import Path

from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from ingot.inside import progress
from ingot.inside.engines.job import everyone
from ingot.inside.progress import StageError

COMPLETE = "complete"


class Checkpoints(TrainerCallback):
    """Marks a checkpoint once all of its files are written, and only then removes older ones.

    A run killed in mid-write leaves its checkpoint unmarked, and the one before still there.
    """

    def __init__(self, limit: int):
        self.limit = limit

    def on_save(self, args, state, control, **kwargs):
        everyone(None)  # each process has written its own files
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir)
        (folder / f"checkpoint-{state.global_step}" / COMPLETE).touch()
        best = {Path(state.best_model_checkpoint)} if state.best_model_checkpoint else set()
        for old in _complete(folder)[: -self.limit]:
            if old not in best:
                shutil.rmtree(old)


def _complete(folder: Path) -> list[Path]:
    """The whole checkpoints, oldest first."""
    return sorted((path.parent for path in folder.glob(f"checkpoint-*/{COMPLETE}")), key=_step)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.split("-")[1])


def last_complete(folder: Path) -> str | None:
    """The newest whole checkpoint, to go on from; torn ones are removed. Raises StageError where processes see others."""
    found = _complete(folder)
    if len(seen := set(everyone(_step(found[-1]) if found else None))) > 1:
        raise StageError(
            f"the processes that train together see different checkpoints in {folder} (the newest: {seen}): let all hosts "
            "share this folder, or remove it on each"
        )
    for torn in set(folder.glob("checkpoint-*")) - set(found):
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
