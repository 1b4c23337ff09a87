"""What a build needs, by arithmetic on params.yaml: said before anything is fetched, asked again before each stage."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from ingot.console.messages import Fault
from ingot.host.every import Params, no_gguf, unpinned
from ingot.training import memory, platform_lock

# Bits a weight by type, over all tensors of a model of 7B or more. From llama-quantize's own list (tools/quantize).
BITS = {
    "F16": 16, "BF16": 16, "Q8_0": 8.5,
    "Q6_K": 6.57, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q4_K_M": 4.92, "Q4_K_S": 4.64, "Q3_K_M": 3.98, "Q2_K": 3.19,
    "IQ4_NL": 4.68, "IQ4_XS": 4.46, "IQ3_M": 3.76, "IQ3_S": 3.66, "IQ3_XS": 3.5, "IQ3_XXS": 3.25, "IQ2_M": 2.93,
    "IQ2_S": 2.74, "IQ2_XS": 2.59, "IQ2_XXS": 2.38, "IQ1_M": 2.15, "IQ1_S": 2.0,
}  # fmt: skip
QWEN2_WORDS = 151_936
# Small models are mostly embedding, which the K-quants keep at 6 bits and more.
SMALL = 1_000_000_000


@dataclass(frozen=True)
class Need:
    stage: str
    disk: int  # bytes that its outputs take, or its scratch files where those are larger
    note: str


class NoRoom(Fault):
    """Too little disk for the next stage."""


def needs(params: Params) -> list[Need]:
    """Disk by stage, in pipeline order. DVC's cache links to the same files, so it takes nothing more."""
    count = params.base.parameters
    trained = memory.trained(params.adapter, count, config(params))
    # Adapters are float32, a whole model is written in 16 bit; a checkpoint also holds the optimiser's two moments.
    adapter = trained * (2 if params.adapter.method == "full" else 4)
    checkpoints = params.adapter.save_total_limit * trained * (4 + memory.moments(params.adapter.optimizer))
    quants = {
        kind: int(count * (max(8.5, BITS[kind]) if count < SMALL else BITS[kind]) / 8) for kind in params.gguf.types
    }
    origin = {
        "tiny": "drawn from a seed",
        "hub": f"downloaded from {params.base.repo}",
        "local": f"copied from {params.base.path}",
    }
    steps = [
        Need("base", count * 2 + 20_000_000, f"{count / 1e9:.2f} B parameters, 16 bit, {origin[params.base.source]}"),
        Need("adapter", adapter + checkpoints, f"with {params.adapter.save_total_limit} checkpoints while it trains"),
        Need("merged", count * 2 + 20_000_000, "16 bit"),
        Need("f16", count * 2 + 20_000_000, "16 bit"),
        Need("gguf", sum(quants.values()), ", ".join(f"{kind} {_gb(size)}" for kind, size in quants.items())),
    ]
    if params.evaluation.score:
        scored = count * 2 + 20_000_000 + quants[params.gguf.types[0]]
        steps.append(
            Need("evaluation", scored, "while it asks the base: its 16-bit and quantised GGUF (evaluation.score)")
        )
    return steps[:2] if no_gguf(params) else steps


def config(params: Params) -> dict | None:
    """What the tiny base's config.json will say of its shape; another base's may not be here yet."""
    if not (tiny := params.base.tiny):
        return None
    return {
        "hidden_size": tiny.hidden_size, "num_hidden_layers": tiny.layers, "intermediate_size": tiny.intermediate_size,
        "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.kv_heads, "vocab_size": QWEN2_WORDS,
        "tie_word_embeddings": True,
    }  # fmt: skip


def gpu(params: Params) -> str:
    """What training asks of a GPU."""
    adapter, length = params.adapter, params.max_seq_length
    if adapter.device == "cpu":
        return "no GPU: the params name device cpu"
    least = memory.estimate(adapter, params.base.parameters, length, config(params))
    parts = {
        f"weights ({adapter.method})": least.weights,
        "what is trained and its optimiser": least.trained + least.gradients + least.optimizer,
        f"{adapter.batch_size} × {length} tokens": least.activations + least.logits,
    }
    each = "a CUDA GPU" if adapter.gpus == 1 else f"{adapter.gpus} CUDA GPUs, each"
    told = ", ".join(f"{_gb(size)} {name}" for name, size in parts.items())
    text = f"{each} with {_gb(least.total / memory.FILL)}: {told}, the rest to spare"
    if adapter.gradient_checkpointing == "auto" and adapter.method != "prefix":
        off = adapter.model_copy(update={"gradient_checkpointing": "off"})
        faster = memory.estimate(off, params.base.parameters, length, config(params)).total
        text += f"; faster on one with {_gb(faster / memory.FILL)}, where nothing is computed twice"
    return text


def summary(params: Params) -> str:
    """Text for `make use` and `make plan`."""
    steps = needs(params)
    lines = [f"{params.name}: {params.dataset.total_samples:,} samples of {len(params.dataset.mix)} datasets"]
    lines += [f"  {need.stage:10}  {_gb(need.disk):>9}  {need.note}" for need in steps]
    total = sum(need.disk for need in steps)
    free = free_space()
    lines += [f"  {'disk':10}  {_gb(total):>9}  and the datasets; {_gb(free)} are free here"]
    lines += [f"  {'training':10}  {gpu(params)}"]
    if free < total:
        lines += [f"  too little disk: {_gb(total - free)} more are needed"]
    hub = [name for name, source in params.raw.datasets.items() if source.repo]
    if hub or params.base.source == "hub":
        lines += ["  network     the raw and base stages download; set HF_TOKEN for gated or private repositories"]
    if loose := unpinned(params):
        lines += [f"  {len(loose)} revisions are unpinned: run `make pin` before `make repro`"]
    try:
        platform_lock.check(params.adapter)
    except platform_lock.PlatformError:
        lines += ["  platform.lock is not of what these params train on: run `make platform` there before `make repro`"]
    if reason := no_gguf(params):
        lines += [f"  no GGUF: {reason}"]
    return "\n".join(lines)


def free_space() -> int:
    """Bytes that are free where outputs go: build/ may be a volume of its own."""
    return shutil.disk_usage("build" if os.path.isdir("build") else ".").free


def check_disk(params: Params, stages: list[str]) -> None:
    """Raise NoRoom unless the outputs of these stages fit. What they replace frees nothing: DVC's cache keeps it."""
    asked = [need for need in needs(params) if need.stage in stages]
    free = free_space()
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
