"""platform.lock against params.yaml, as far as that can be told without torch and without the machine.

The file says what an adapter's bits depend on besides declared inputs; `ingot.training.platform` looks and writes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ingot.console.bounds import Broken, read_json
from ingot.console.messages import Fault
from ingot.training.params import Adapter

LOCK = Path("platform.lock")
# What unsloth trains; the other methods are PEFT's alone.
UNSLOTHS = ("qlora", "lora")


class PlatformError(Fault):
    """platform.lock is missing, is no lock, or is of another platform than the one that is asked for."""


def engine(adapter: Adapter) -> str:
    """The engine that trains: the one that is named, or for `auto` unsloth where it can, PEFT elsewhere."""
    if adapter.engine != "auto":
        return adapter.engine
    fast = adapter.device == "cuda" and adapter.method in UNSLOTHS and not adapter.shard
    return "unsloth" if fast else "peft"


def asked(adapter: Adapter) -> dict[str, Any]:
    """What the params alone decide of the lock."""
    gpus = {"gpus": adapter.gpus} if adapter.device == "cuda" else {}
    return {"engine": engine(adapter), "device": {"kind": adapter.device} | gpus}


def read() -> dict[str, Any]:
    """What the lock holds. Raises PlatformError when it is missing or holds no lock."""
    try:
        if not LOCK.is_file():
            raise PlatformError(f"{LOCK} is missing\nhint: run `make platform` on the machine that trains")
        written = read_json(LOCK, "run `make platform`")
        _flat(written)
        return written
    except (Broken, RecursionError):
        raise PlatformError(f"{LOCK} cannot be read (a merge's conflict marks?)\nhint: run `make platform`") from None


def check(adapter: Adapter) -> None:
    """Raise PlatformError unless the lock is of the platform that the params ask for."""
    wanted = _flat(asked(adapter))
    wrong = [
        f"  {key}: {LOCK} says {said}, params.yaml asks for {wanted[key]}"
        for key, said, _ in differences(read(), asked(adapter))
        if key in wanted
    ]
    if wrong:
        lines = [f"{LOCK} is of another platform than params.yaml asks for:", *wrong]
        lines += ["hint: run `make platform` on the machine that trains; an adapter's bits depend on it"]
        raise PlatformError("\n".join(lines))


def differences(written: dict[str, Any], here: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, what the lock says, what is here) of each value in which they differ; `nothing` where one has none."""
    said, found = _flat(written), _flat(here)
    return [
        (key.removeprefix("versions."), said.get(key, "nothing"), found.get(key, "nothing"))
        for key in sorted(said.keys() | found.keys())
        if said.get(key) != found.get(key)
    ]


def _flat(values: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        flat |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return flat
