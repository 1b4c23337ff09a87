"""How long a build takes on a card: arithmetic on the params, the card's figures and measured rates.

A micro-batch takes as long as its products need, or as the host needs to launch its kernels, whichever is longer. Both
were measured on H100s and H200s with 3B and 7B models (benchmarks/README.md); other cards go by their data sheets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ingot.planning.cards import Card
from ingot.planning.validation import Params
from ingot.training import memory
from ingot.training.params import Adapter
from ingot.training.platform_lock import engine

REPORT = Path("reports/dataset.json")
ASSUMED = 280  # tokens of a conversation, until the dataset is made
REACHED = 0.57  # of a card's products a second
# Seconds that a host takes for a layer of one micro-batch, forward and backward; more to recompute.
LAUNCH = {"unsloth": 0.014, "peft": 0.024}
RECOMPUTING = 1.5
START = 90  # seconds until the first step
UNPACKED = 1.3  # tokens with padding, for each one
# Seconds a gigabyte of 16-bit weights: copy, merge, convert, quantise, evaluate (a 7B on 64 cores: 9 min 10 s).
REST, REST_START = 36, 60
DOUBT = 1.5  # an estimate is good to this factor


@dataclass(frozen=True)
class Time:
    tokens: int  # trained, all epochs
    source: str  # counted, or how they were estimated
    rate: float  # tokens a second
    training: float  # seconds
    rest: float


def recomputing(adapter: Adapter, parameters: int, length: int, config: dict | None, card: Card) -> bool:
    """Whether it computes activations twice: as the params say, or for `auto` as the card has room."""
    if adapter.gradient_checkpointing != "auto":
        return adapter.gradient_checkpointing != "off"
    return adapter.method != "prefix" and memory.recompute(adapter, parameters, length, config, card.bytes)


def rate(adapter: Adapter, parameters: int, length: int, config: dict | None, card: Card) -> float:
    """Tokens a second. Of `gpus` cards together, each as fast as one."""
    again, name, shape = (
        recomputing(adapter, parameters, length, config, card),
        engine(adapter),
        memory.shape_of(parameters, config),
    )
    linear = parameters - shape.vocab * shape.hidden * (
        0 if shape.tied else 1
    )  # the output's products count, a look-up does not
    operations = (2 + 2 + (2 if again else 0) + (2 if adapter.method == "full" else 0)) * linear
    tokens = adapter.batch_size * (length if adapter.packing else min(length, ASSUMED * UNPACKED))
    products = tokens * operations / (card.tflops * 1e12 * REACHED)
    launches = shape.layers * LAUNCH[name] * (RECOMPUTING if again else 1)
    return adapter.gpus * tokens / max(products, launches)


def tokens_of(params: Params) -> tuple[int, str]:
    """Tokens to train on in one epoch, and where they are from: the report of these sets, if there is one."""
    if REPORT.is_file():
        try:
            report = json.loads(REPORT.read_text(encoding="utf-8"))
            rows = report["train"] + report["eval"]
            if (
                report["sources"].keys() == params.dataset.mix.keys()
                and 0.5 <= rows / params.dataset.total_samples <= 1
            ):
                return report["train_tokens"], "counted"
        except (ValueError, KeyError, AttributeError, TypeError):
            pass  # of another version, or of a stage that failed: not an answer
    rows = params.dataset.total_samples * (1 - params.dataset.eval_share)
    return int(
        rows * min(ASSUMED, params.max_seq_length)
    ), f"assumed: {ASSUMED} a conversation, until the dataset is made"


def time(params: Params, card: Card, config: dict | None, tokens: int | None = None) -> Time:
    """Seconds of the training and the other stages, without downloads. `tokens`: of one epoch, where known."""
    adapter, count = params.adapter, params.base.parameters
    tokens, source = (tokens, "counted in a part of the rows") if tokens else tokens_of(params)
    tokens = int(tokens * adapter.epochs)
    speed = rate(adapter, count, params.max_seq_length, config, card)
    computed = tokens if adapter.packing else tokens * UNPACKED
    return Time(tokens, source, speed, START + computed / speed, REST_START + REST * count * 2 / 1e9)


def spoken(seconds: float) -> str:
    """`40 min`, `5.5 h`, `2.1 days`."""
    if seconds < 90 * 60:
        return f"{max(1, round(seconds / 60))} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"
