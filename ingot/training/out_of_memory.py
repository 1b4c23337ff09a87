"""What to change where a GPU's memory does not suffice. Never imports torch.

`smaller.json` is how the adapter stage, which may be sealed, tells `make repro RETRY=smaller` what to try next.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ingot.exact.files import write_text
from ingot.training.memory import FILL, cheapest, estimate, same_update
from ingot.training.params import SHARDED, Adapter

SMALLER = Path(".cache/checkpoints/smaller.json")
LESS = 0.8  # of what did not fit, at most, the next setting needs: estimates are a few percent off
SHORTEST = 256  # a max_seq_length below this is no advice


def smaller(adapter: Adapter, parameters: int, length: int, config: dict[str, Any] | None) -> dict[str, Any]:
    """Params of the next smaller setting of the same update, by dotted key; none where there is no smaller one.

    It is the one that needs most of those that need a fifth less: what needs less is slower. The adapter's
    gradient_checkpointing is what was done, not `auto`.
    """
    again = adapter.gradient_checkpointing
    settings = same_update(adapter, adapter.batch_size, ("off", cheapest(adapter)) if again == "off" else (again,))
    peaks = [(estimate(one, parameters, length, config).total, one) for one in settings]
    enough = LESS * estimate(adapter, parameters, length, config).total
    found = [each for each in peaks if each[0] <= enough]
    if not found:
        return {}
    best = max(found, key=lambda each: each[0])[1]
    keys = ("batch_size", "accumulation", "gradient_checkpointing")
    return {f"adapter.{key}": getattr(best, key) for key in keys if getattr(best, key) != getattr(adapter, key)}


def leave(changes: dict[str, Any]) -> str:
    """Leave these changes for `take`; returns the hint that names them."""
    if not changes:
        return ""
    SMALLER.parent.mkdir(parents=True, exist_ok=True)
    write_text(SMALLER, json.dumps(changes))
    words = ", ".join(f"{key}: {value}" for key, value in changes.items())
    return f"\nhint: make repro RETRY=smaller writes {words} (the same update) and starts again"


def take() -> dict[str, Any]:
    """What a stage that ran out of memory has left, once; nothing where none did."""
    if not SMALLER.is_file():
        return {}
    changes = json.loads(SMALLER.read_text())
    SMALLER.unlink()
    return changes


def advice(adapter: Adapter, parameters: int, length: int, config: dict[str, Any] | None, have_bytes: int) -> str:
    """What to change, what costs least first, each with the total that it and those above it lead to."""
    lines, enough = [], FILL * have_bytes
    needed = total = estimate(adapter, parameters, length, config).total
    for lever in LEVERS:
        settings = lever(adapter, length)
        totals = [estimate(changed, parameters, shorter, config).total for _, changed, shorter in settings]
        # The mildest setting that fits, or the last. One that saves next to nothing is not worth its price.
        best = next((number for number, each in enumerate(totals) if each <= enough), -1)
        if not settings or (totals[best] > enough and totals[best] > 0.9 * total):
            continue
        (words, adapter, length), total = settings[best], totals[best]
        lines.append(f"  {words}: {_gb(total)}")
        if total <= enough:
            break
    else:
        lines.append(
            "  still too much: take a smaller base, a GPU with more memory, or more of them with adapter.shard: true"
        )
    head = f"about {_gb(needed)} are needed, the GPU has {_gb(have_bytes)}; change, in this order, until it fits:"
    return "\n".join([head, *lines])


Changes = list[tuple[str, Adapter, int]]


def _recomputing(adapter: Adapter, length: int) -> Changes:
    best = cheapest(adapter)
    if adapter.gradient_checkpointing in ("auto", best) or adapter.method == "prefix":
        return []
    words = f"adapter.gradient_checkpointing: {best} (a third slower)"
    return [(words, adapter.model_copy(update={"gradient_checkpointing": best}), length)]


def _smaller_batch(adapter: Adapter, length: int) -> Changes:
    rows, times = adapter.batch_size, adapter.accumulation
    found = []
    for fewer in (rows // part for part in range(2, rows + 1) if rows % part == 0):
        words = f"adapter.batch_size: {fewer} with accumulation: {rows * times // fewer} (the same update)"
        update = {"batch_size": fewer, "accumulation": rows * times // fewer}
        found.append((words, adapter.model_copy(update=update), length))
    return found


def _shorter(adapter: Adapter, length: int) -> Changes:
    found = []
    while (length := length // 2) >= SHORTEST:
        found.append((f"max_seq_length: {length} (longer conversations are not trained on)", adapter, length))
    return found


def _four_bit(adapter: Adapter, length: int) -> Changes:
    if adapter.method == "qlora":
        return []
    return [("adapter.method: qlora (4-bit weights)", adapter.model_copy(update={"method": "qlora"}), length)]


def _shared(adapter: Adapter, length: int) -> Changes:
    if adapter.gpus == 1 or adapter.shard or adapter.method not in SHARDED or adapter.engine == "unsloth":
        return []
    update = {"shard": True, "keep": "last", "patience": 0, "optimizer": "adamw_torch"}
    words = f"adapter.shard: true with optimizer: adamw_torch and keep: last (a share on each of {adapter.gpus} GPUs)"
    return [(words, adapter.model_copy(update=update), length)]


def _paged(adapter: Adapter, length: int) -> Changes:
    if adapter.optimizer.startswith("paged") or adapter.shard:
        return []
    update = {"optimizer": "paged_adamw_8bit"}
    return [("adapter.optimizer: paged_adamw_8bit (slower)", adapter.model_copy(update=update), length)]


LEVERS: list[Callable[[Adapter, int], Changes]] = [_recomputing, _smaller_batch, _shorter, _four_bit, _shared, _paged]


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
