"""What a build will need, by arithmetic on params.yaml: said before anything is fetched, asked again before each stage."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from ingot.params.every import Params, unpinned

# Bits a weight by type, over all tensors of a model of 7B or more. Read from llama-quantize's own list (tools/quantize).
BITS = {
    "Q8_0": 8.5, "Q6_K": 6.57, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q4_K_M": 4.92, "Q4_K_S": 4.64, "Q3_K_M": 3.98, "Q2_K": 3.19
}  # fmt: skip
# A LoRA of rank 32 on all seven linear layers of Qwen2.5-7B has 80.7 M parameters: 1.06 % of 7.6 B.
ADAPTER_SHARE = 0.0106 / 32
# Small models are mostly embedding, which the K-quants keep at 6 bits and more.
SMALL = 1_000_000_000


@dataclass(frozen=True)
class Need:
    stage: str
    disk: int  # bytes that its outputs take
    note: str


class NoRoom(Exception):
    """Too little disk for the next stage."""


def needs(params: Params) -> list[Need]:
    """Disk by stage, in pipeline order. DVC's cache links to the same files, so it takes nothing more."""
    count = params.base.parameters
    trained = int(count * ADAPTER_SHARE * params.adapter.r)
    # Adapters are float32; a checkpoint also holds the optimiser's two moments, in 8 bits or in 32.
    adapter = trained * 4
    checkpoints = params.adapter.save_total_limit * trained * (4 + _moments(params))
    quants = {kind: int(count * (8.5 if count < SMALL else BITS[kind]) / 8) for kind in params.gguf.types}
    origin = {
        "tiny": "drawn from a seed",
        "hub": f"downloaded from {params.base.repo}",
        "local": f"copied from {params.base.path}",
    }
    return [
        Need("base", count * 2 + 20_000_000, f"{count / 1e9:.2f} B parameters, 16 bit, {origin[params.base.source]}"),
        Need("adapter", adapter + checkpoints, f"with {params.adapter.save_total_limit} checkpoints while it trains"),
        Need("merged", count * 2 + 20_000_000, "16 bit"),
        Need("f16", count * 2 + 20_000_000, "16 bit"),
        Need("gguf", sum(quants.values()), ", ".join(f"{kind} {_gb(size)}" for kind, size in quants.items())),
    ]


def gpu(params: Params) -> str:
    """What training asks of a GPU, without the activations, which the sequence length and batch decide."""
    if params.adapter.device == "cpu":
        return "no GPU: the params name device cpu"
    weights = params.base.parameters * (0.62 if params.adapter.method == "qlora" else 2)
    trained = params.base.parameters * ADAPTER_SHARE * params.adapter.r
    rest = trained * (4 + 4 + _moments(params))  # weights, gradients, moments
    return (
        f"a CUDA GPU with {_gb(weights + rest)} for weights ({params.adapter.method}), adapter and optimiser, "
        f"and room for {params.adapter.batch_size} × {params.max_seq_length} tokens of activations"
    )


def _moments(params: Params) -> int:
    """Bytes of the optimiser's state for each trained parameter."""
    return 2 if "8bit" in params.adapter.optimizer else 8


def summary(params: Params) -> str:
    """Text for `make use` and `make plan`."""
    steps = needs(params)
    lines = [f"{params.name}: {params.dataset.total_samples:,} samples of {len(params.dataset.mix)} datasets"]
    lines += [f"  {need.stage:8}  {_gb(need.disk):>9}  {need.note}" for need in steps]
    total = sum(need.disk for need in steps)
    free = shutil.disk_usage(".").free
    lines += [f"  {'disk':8}  {_gb(total):>9}  and the datasets; {_gb(free)} are free here"]
    lines += [f"  {'training':8}  {gpu(params)}"]
    if free < total:
        lines += [f"  too little disk: {_gb(total - free)} more are needed"]
    hub = [name for name, source in params.raw.datasets.items() if source.repo]
    if hub or params.base.source == "hub":
        lines += ["  network   the raw and base stages download; set HF_TOKEN for gated or private repositories"]
    if loose := unpinned(params):
        lines += [f"  {len(loose)} revisions are unpinned: run `make pin` before `make repro`"]
    return "\n".join(lines)


def check_disk(params: Params, stage: str | None = None) -> None:
    """Raise NoRoom unless the outputs of `stage`, or of all stages that have none yet, fit.

    What they replace frees nothing: DVC's cache keeps it.
    """
    asked = [need for need in needs(params) if need.stage == stage]
    if stage is None:
        asked = [need for need in needs(params) if not (Path("build") / need.stage).exists()]
    free = shutil.disk_usage(".").free
    if free < (total := sum(need.disk for need in asked)):
        parts = "; ".join(f"{need.stage} {_gb(need.disk)} ({need.note})" for need in asked)
        raise NoRoom(
            f"{_gb(total)} of disk are needed and {_gb(free)} are free on this volume: {parts}. "
            "Free some, or drop what DVC keeps of earlier runs: dvc gc --workspace"
        )


def gpu_missing(params: Params) -> bool:
    """Whether training or evaluation asks for a GPU and the driver shows none here."""
    return params.uses_cuda and not Path("/proc/driver/nvidia").is_dir() and not Path("/dev/nvidiactl").exists()


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"
