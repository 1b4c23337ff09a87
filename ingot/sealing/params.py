"""Section `container`: what a sealed stage may use of this machine. No result depends on it; no stage declares it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ingot.params.core import Section

Positive = Annotated[float, Field(gt=0, le=100_000)]


class Container(Section):
    memory_gb: Positive | None
    cpus: Annotated[float, Field(ge=0.01, le=100_000)] | None
    # /dev/shm, through which NCCL and data loaders talk; Docker's own 0.064 is too little for them.
    shm_gb: Positive
