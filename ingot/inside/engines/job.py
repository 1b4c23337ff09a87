"""What every engine is given and gives back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ingot.inside.chat import Encoded
from ingot.params.adapter import Adapter


@dataclass(frozen=True)
class Job:
    params: Adapter
    seed: int
    max_seq_length: int
    base: Path  # the model folder
    rows: list[Encoded]  # in training order
    checkpoints: Path  # outside the stage's outputs, its own for these inputs
    live: Path  # where DVCLive writes its metrics and plots


@dataclass(frozen=True)
class Result:
    steps: int
    trainable: int  # parameters
    final_loss: float
