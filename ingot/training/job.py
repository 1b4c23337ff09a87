"""An engine, what it is given and what training gives back."""

from __future__ import annotations

import importlib
import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

from ingot.model.weights import parameters
from ingot.training.memory import recompute
from ingot.training.params import Adapter
from ingot.training.platform_lock import engine

# A GPU multiplies matrices by blocks; at other numbers of tokens it takes kernels made for odd sizes.
MULTIPLE = 64


def begin(name: str, params: Adapter, length: int) -> ModuleType:
    """The engine, ready for samples of at most `length` tokens. Before transformers is imported: Unsloth changes it."""
    engine = importlib.import_module(f"ingot.training.{name}")
    engine.begin(params, length)
    return engine


@dataclass(frozen=True)
class Job:
    params: Adapter
    seed: int
    max_seq_length: int
    base: Path  # the model folder
    rows: Path  # token files, as ingot/chat/token_files.py writes them
    held_out: Path | None  # None where no row is held out
    checkpoints: Path  # outside the stage's outputs, its own for these inputs
    live: Path  # where DVCLive writes its metrics and plots

    @cached_property
    def config(self) -> dict[str, Any]:
        """The base's config.json."""
        return json.loads((self.base / "config.json").read_text(encoding="utf-8"))

    @cached_property
    def dtype(self):
        """What is computed in: fp32 on a CPU; on a GPU bf16, or fp16 where it has no bf16."""
        import torch

        names = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
        if self.params.precision != "auto":
            return names[self.params.precision]
        if self.params.device == "cpu":
            return torch.float32
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16

    @property
    def device(self) -> str:
        return "cpu" if self.params.device == "cpu" else f"cuda:{rank()}"

    @property
    def memory(self) -> int:
        """Bytes of the GPU that this process may use: all of them, unless PyTorch was given a share."""
        import torch

        whole = torch.cuda.get_device_properties(rank()).total_memory
        return int(whole * torch.cuda.get_per_process_memory_fraction(rank()))

    @cached_property
    def recompute(self) -> bool | str:
        """False, True or "unsloth" (recompute, and keep what is needed for it in the CPU's memory)."""
        wanted = self.params.gradient_checkpointing
        if wanted != "auto":
            return {"off": False, "on": True, "unsloth": "unsloth"}[wanted]
        if self.params.device == "cpu" or self.params.method == "prefix":
            return False
        if not recompute(self.params, parameters(self.base), self.max_seq_length, self.config, self.memory):
            return False
        return "unsloth" if engine(self.params) == "unsloth" else True


@dataclass(frozen=True)
class Result:
    steps: int
    trainable: int  # parameters
    final_loss: float
    held_out_loss: float | None  # None when no row is held out


def rank() -> int:
    """This process's place among the GPUs of its host; 0 when it is the only one."""
    return int(os.environ.get("LOCAL_RANK", 0))


def everyone(value: Any) -> list[Any]:
    """The value of each process that trains; of the only one where there is one."""
    import torch.distributed as dist

    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def processes() -> int:
    """How many train together, on all hosts."""
    return int(os.environ.get("WORLD_SIZE", 1))


def first() -> bool:
    """Whether this process is the one that writes: the only one, or the first of all hosts'."""
    return int(os.environ.get("RANK", 0)) == 0
