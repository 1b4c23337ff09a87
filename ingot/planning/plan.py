"""What a build will need, by arithmetic on params.yaml: said before anything is fetched, and before each stage."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ingot.console import bounds
from ingot.console.messages import Fault
from ingot.exact.files import write_text
from ingot.params.core import PARAMS_FILE, read
from ingot.planning import cards, fit, recipe, speed
from ingot.planning.cards import Card
from ingot.planning.validation import Params, no_gguf, unpinned
from ingot.training import memory, platform_lock
from ingot.training.params import Adapter

# Bits a weight by type, over all tensors of a model of 7B or more. Read from llama-quantize's own list.
BITS = {
    "F16": 16, "BF16": 16,
    "Q8_0": 8.5, "Q6_K": 6.57, "Q5_K_M": 5.69, "Q5_K_S": 5.54, "Q4_K_M": 4.92, "Q4_K_S": 4.64, "Q3_K_M": 3.98,
    "Q2_K": 3.19, "IQ4_NL": 4.68, "IQ4_XS": 4.46, "IQ3_M": 3.76, "IQ3_S": 3.66, "IQ3_XS": 3.5, "IQ3_XXS": 3.25,
    "IQ2_M": 2.93, "IQ2_S": 2.74,
    "IQ2_XS": 2.59, "IQ2_XXS": 2.38, "IQ1_M": 2.15, "IQ1_S": 2.0,
}  # fmt: skip
BASES = Path(__file__).parent / "bases.yaml"
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
    """What the base's config.json says of its shape, or will: None where the base is not here yet."""
    if tiny := params.base.tiny:
        return {
            "hidden_size": tiny.hidden_size, "num_hidden_layers": tiny.layers,
            "intermediate_size": tiny.intermediate_size,
            "num_attention_heads": tiny.heads, "num_key_value_heads": tiny.kv_heads, "vocab_size": QWEN2_WORDS,
            "tie_word_embeddings": True,
        }  # fmt: skip
    if params.base.repo:
        return _bases().get(params.base.repo)
    try:
        found = bounds.read_json(Path(params.base.path or "", "config.json"), "")
        memory.Shape.of(found or {})
    except (
        KeyError,
        TypeError,
        ZeroDivisionError,
        OSError,
        bounds.Broken,
    ):  # what is wrong with it the base stage says
        return None
    return found


@cache
def _bases() -> dict:
    """The shapes of bases.yaml, by repository."""
    return read(BASES)


def training(params: Params, card: Card | None, known: int | None = None) -> list[tuple[str, str]]:
    """Lines on the training, each with its label: memory by its parts; of a card whether it fits, time, money."""
    adapter, length, count = params.adapter, params.max_seq_length, params.base.parameters
    if adapter.device == "cpu":
        return [("training", "no GPU: the params name device cpu")]
    shape, gpus = config(params), adapter.gpus
    if not card:
        least = memory.estimate(adapter, count, length, shape)
        off = adapter.model_copy(update={"gradient_checkpointing": "off"})
        faster = memory.estimate(off, count, length, shape).total
        text = f"on each of {gpus} GPUs" if gpus > 1 else "on one GPU"
        lines = [("training", f"{text} with {_gb((least.total + fit.CONTEXT) / memory.FILL)} or more")]
        if adapter.gradient_checkpointing == "auto" and adapter.method != "prefix":
            more = f"from {_gb((faster + fit.CONTEXT) / memory.FILL)} on nothing is computed twice: a third faster"
            lines += [("", more)]
        lines += [("memory", _parts(params, least)), ("", "name a card for time and cost: make plan GPU=rtx3090")]
        return lines
    peak = fit.needed(adapter, count, length, shape, card)
    word = fit.verdict(peak.total, card)
    lines = [
        ("training", f"{card.name}, {_gb(card.bytes)}: {word}: {_gb(peak.total + fit.CONTEXT)} at the peak"),
        ("memory", f"{_parts(params, peak)}, {_gb(fit.CONTEXT)} CUDA"),
    ]
    if word != "fits":
        best = fit.fastest(adapter, count, length, shape, card)
        changes = best.changes(adapter, length).items() if best else ()
        told = ", ".join(f"{key}: {value}" for key, value in changes)
        lines += [
            ("", f"what fits: {told} (make plan FIT=1 writes it)" if best else "nothing fits: take a smaller base")
        ]
    if word == "does not fit":
        return lines
    took = speed.time(params, card, shape, known)
    tokens = f"{took.tokens / 1e6:,.1f} million tokens" if took.tokens >= 1e5 else f"{took.tokens:,} tokens"
    lines += [
        ("time", f"{speed.spoken(took.training)} at about {took.rate:,.0f} tokens/s: {tokens} ({took.source})"),
        ("", f"other stages {speed.spoken(took.rest)}, downloads left out; each to a factor of {speed.DOUBT}"),
    ]
    if card.prices:
        hours = (took.training + took.rest) / 3600 * gpus
        costs = [f"${hours * price:,.2f} ({provider}, {date})" for provider, price, date, _ in card.prices]
        lines += [("cost", ", ".join(costs))]
    return lines


def _parts(params: Params, peak: memory.Estimate) -> str:
    adapter = params.adapter
    parts = {
        f"weights ({adapter.method})": peak.weights,
        "adapter": peak.trained,
        "gradients": peak.gradients,
        "optimiser": peak.optimizer,
        f"activations ({adapter.batch_size} × {params.max_seq_length} tokens)": peak.activations,
        "logits": peak.logits,
    }
    return ", ".join(f"{_gb(size)} {name}" for name, size in parts.items() if size)


def cheapest(params: Params, tokens: int | None) -> str:
    """The card with a price on which these params cost least, as a line; empty where they fit none."""
    found = []
    for card in cards.known().values():
        price, peak = (
            card.cheapest,
            fit.needed(params.adapter, params.base.parameters, params.max_seq_length, config(params), card),
        )
        if price and fit.verdict(peak.total, card) == "fits":
            took = speed.time(params, card, config(params), tokens)
            hours = (took.training + took.rest) / 3600
            found.append((hours * price[1] * params.adapter.gpus, card.name, hours, price[0]))
    if not found:
        return ""
    cost, name, hours, provider = min(found)
    return f"cheapest card that fits: {name}, ${cost:,.2f} in {speed.spoken(hours * 3600)} ({provider})"


def summary(params: Params, card: Card | None = None, tokens: int | None = None) -> str:
    """Text for `make new`, `make use` and `make plan`. `tokens`: of one epoch, where they are known."""
    steps = needs(params)
    lines = [f"{params.name}: {params.dataset.total_samples:,} samples of {len(params.dataset.mix)} datasets"]
    lines += [f"  {need.stage:10}  {_gb(need.disk):>9}  {need.note}" for need in steps]
    total = sum(need.disk for need in steps)
    free = free_space()
    lines += [f"  {'disk':10}  {_gb(total):>9}  and the datasets; {_gb(free)} are free here"]
    lines += [f"  {label:10}  {line}" for label, line in training(params, card, tokens)]
    if params.adapter.device == "cuda" and (line := cheapest(params, tokens)):
        lines += [f"  {'':10}  {line}"]
    if free < total:
        lines += [f"  too little disk: {_gb(total - free)} more are needed"]
    hub = [name for name, source in params.raw.datasets.items() if source.repo]
    if hub or params.base.source == "hub":
        lines += ["  network     the raw and base stages download; set HF_TOKEN for gated or private repositories"]
    if loose := unpinned(params):
        lines += [f"  {len(loose)} revisions are unpinned: run `make pin` before `make repro`"]
    if not locked(params.adapter):
        lines += ["  platform.lock is not of what these params train on: run `make platform` there before `make repro`"]
    if reason := no_gguf(params):
        lines += [f"  no GGUF: {reason}"]
    return "\n".join(lines)


def locked(adapter: Adapter) -> bool:
    """Whether platform.lock is of what these params train on."""
    try:
        platform_lock.check(adapter)
    except platform_lock.PlatformError:
        return False
    return True


def refit(params: Params, card: Card, path: Path = PARAMS_FILE) -> list[str]:
    """Write the fastest setting that fits the card into the file; returns a line for each key that changed.

    Raises Fault where nothing fits.
    """
    adapter, length, count = params.adapter, params.max_seq_length, params.base.parameters
    if adapter.device == "cpu":
        raise Fault("adapter.device: cpu: there is no card to fit\nhint: set it to cuda")
    if not (best := fit.fastest(adapter, count, length, config(params), card)):
        raise Fault(
            f"{params.name}: nothing fits {card.name} ({_gb(card.bytes)}), not even 1 × {fit.LENGTHS[-1]} tokens\n"
            "hint: take a smaller base, or a card with more memory"
        )
    changes = best.changes(adapter, length)
    before = {key: recipe.at(params.model_dump(), key) for key in changes}
    write_text(path, recipe.changed(path.read_bytes().decode(), changes))  # bytes: its line ends stay
    why = {
        "adapter.method": "16-bit weights do not fit",
        "adapter.gradient_checkpointing": "the fastest that fits",
        "adapter.batch_size": "the fastest that fits",
        "adapter.accumulation": "the same rows an update",
        "max_seq_length": "no longer one fits; longer conversations are not trained on",
    }
    return [f"{key}: {before[key]} → {value} ({why[key]})" for key, value in changes.items()]


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
