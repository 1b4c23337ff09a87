"""Whether a training fits a card, and the fastest setting of the same update that does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ingot.planning import speed
from ingot.planning.cards import Card
from ingot.training import memory
from ingot.training.params import Adapter

CONTEXT = 600_000_000  # bytes that CUDA takes for itself; PyTorch's peaks do not count them
AT_ONCE = 256  # rows, at most: no card gains by more
TIGHT = 0.97  # of a card: what is beyond FILL and below this may fail by fragments of its memory
LENGTHS = (32_768, 16_384, 8192, 6144, 4096, 3072, 2048, 1536, 1024, 768, 512, 256)


def needed(adapter: Adapter, parameters: int, length: int, config: dict | None, card: Card) -> memory.Estimate:
    """The peak of a card, `auto` decided for this one."""
    if adapter.gradient_checkpointing == "auto":
        again = speed.recomputing(adapter, parameters, length, config, card)
        adapter = adapter.model_copy(update={"gradient_checkpointing": memory.cheapest(adapter) if again else "off"})
    return memory.estimate(adapter, parameters, length, config)


def verdict(peak: int, card: Card) -> str:
    """`fits`, `tight` or `does not fit`, of a peak in bytes."""
    if peak <= memory.FILL * card.bytes:
        return "fits"
    return "tight" if peak + CONTEXT <= TIGHT * card.bytes else "does not fit"


@dataclass(frozen=True)
class Fit:
    adapter: Adapter
    length: int
    peak: int  # bytes
    rate: float  # tokens a second

    def changes(self, adapter: Adapter, length: int) -> dict[str, Any]:
        """Keys of params.yaml that are other than these, with their new values."""
        keys = ("method", "gradient_checkpointing", "batch_size", "accumulation")
        found = {f"adapter.{key}": getattr(self.adapter, key) for key in keys}
        found = {key: value for key, value in found.items() if value != getattr(adapter, key.partition(".")[2])}
        return found | ({"max_seq_length": self.length} if self.length != length else {})


def fastest(adapter: Adapter, parameters: int, length: int, config: dict | None, card: Card) -> Fit | None:
    """The fastest setting with the same rows an update that leaves the card room; None where there is none.

    The method and the length stay as they are where anything fits with them; then a lora becomes a qlora, then
    conversations are cut shorter.
    """
    methods = [adapter.method, *(["qlora"] if adapter.method in ("lora", "dora", "full") else [])]
    for shorter in (length, *(each for each in LENGTHS if each < length)):
        for method in methods:
            given = adapter.model_copy(update={"method": method})
            if found := list(_settings(given, parameters, shorter, config, card)):
                return max(found, key=lambda one: (round(one.rate), -one.peak))
    return None


def _settings(adapter: Adapter, parameters: int, length: int, config: dict | None, card: Card) -> Iterator[Fit]:
    """Every way to make the same update, as far as it fits."""
    for setting in memory.same_update(adapter, AT_ONCE, ("off", memory.cheapest(adapter))):
        peak = memory.estimate(setting, parameters, length, config).total
        if verdict(peak, card) != "fits":
            continue
        rate = speed.rate(setting, parameters, length, config, card)
        auto = setting.model_copy(update={"gradient_checkpointing": "auto"})
        if speed.recomputing(auto, parameters, length, config, card) == (setting.gradient_checkpointing != "off"):
            setting = auto  # which decides so by itself
        yield Fit(setting, length, peak, rate)
