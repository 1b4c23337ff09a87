"""What an adapter's bits depend on besides its declared inputs: the device, the engine, the libraries' versions.

platform.lock holds it and is a dep of the adapter stage, which refuses to train where it is not true. `python -m
ingot.training.platform` writes it (`-` prints it): `make platform`, in the image or on the host, whichever trains.
"""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ingot.console.messages import command
from ingot.console.progress import StageError
from ingot.exact.files import write_json
from ingot.exact.pins import PINS
from ingot.params.core import load
from ingot.training.params import Adapter
from ingot.training.platform_lock import LOCK, PlatformError, differences, engine, read

PACKAGES = ["torch", "transformers", "trl", "peft", "accelerate", "bitsandbytes", "datasets", "tokenizers", "numpy"]


def current(adapter: Adapter) -> dict[str, Any]:
    """What platform.lock should say here. Raises StageError when there are fewer GPUs than the params ask for."""
    return {
        "engine": engine(adapter),
        "attention": attention(adapter),
        "device": gpu(adapter.gpus) if adapter.device == "cuda" else cpu(),
        "versions": versions(adapter),
    }


def attention(adapter: Adapter) -> str:
    """By which kernels attention is computed."""
    if adapter.device == "cpu":
        return "formed from portable products"
    packed = adapter.packing or engine(adapter) == "unsloth"
    if adapter.attention == "flash" or (adapter.attention == "auto" and packed and adapter.precision != "fp32"):
        return "flash, variable length (PyTorch's own)"
    return "sdpa"


def cpu() -> dict[str, Any]:
    """The pinned instruction set, and nothing of this processor: that is what the pins are for."""
    return {"kind": "cpu", "instruction set": PINS["ATEN_CPU_CAPABILITY"]}


def gpu(count: int) -> dict[str, Any]:
    """The GPUs that train: their model, and by which CUDA."""
    import torch

    if not torch.cuda.is_available():
        raise StageError(
            "adapter.device: cuda: no CUDA device is visible here; set it to cpu, or run where there is one"
        )
    if count > (there := torch.cuda.device_count()):
        raise StageError(f"adapter.gpus: {count}: CUDA devices that are visible here: {there}; lower it")
    every = [torch.cuda.get_device_properties(number) for number in range(count)]
    models = sorted({(one.name, one.multi_processor_count, f"{one.major}.{one.minor}") for one in every})
    if len(models) > 1:
        raise StageError(
            f"adapter.gpus: {count}: the devices are not of one model ({', '.join(model[0] for model in models)}), "
            "so bits would depend on which does what: name some of one model by CUDA_VISIBLE_DEVICES, or lower it"
        )
    name, multiprocessors, capability = models[0]
    return {
        "kind": "cuda", "name": name, "multiprocessors": multiprocessors, "compute capability": capability,
        "gpus": count, "CUDA": torch.version.cuda, "cuDNN": torch.backends.cudnn.version(),
    }  # fmt: skip


def versions(adapter: Adapter) -> dict[str, str]:
    """Of every library that training computes with."""
    cuda = adapter.device == "cuda"
    names = PACKAGES + (["triton"] if cuda else [])
    names += ["unsloth", "unsloth_zoo"] if engine(adapter) == "unsloth" else []
    try:
        found = {name: version(name) for name in names}
    except PackageNotFoundError as error:
        lock = "cuda" if cuda else "cpu"
        raise StageError(f"{error.name} is not installed here: run `make setup LOCK={lock}`") from None
    if not cuda:  # 2.13.0+cpu and 2.13.0 are one version, as PyTorch's CPU index and the default one name it
        found["torch"] = found["torch"].partition("+")[0]
    return found


def check(adapter: Adapter) -> None:
    """Raise StageError, naming each difference, unless platform.lock is true here."""
    try:
        written = read()
    except PlatformError as error:
        raise StageError(str(error)) from None
    wrong = [
        f"  {key}: {LOCK} says {said}, here is {found}" for key, said, found in differences(written, current(adapter))
    ]
    if wrong:
        lines = [f"{LOCK} is not of this machine, and an adapter's bits depend on it:", *wrong]
        lines += ["run `make platform` to train for this machine, or train where the lock was made"]
        raise StageError("\n".join(lines))


def main(show: bool) -> None:
    found = current(load("adapter", Adapter))
    if show:
        print(json.dumps(found, indent=2, sort_keys=True))
    else:
        write_json(LOCK, found)


if __name__ == "__main__":
    with command():
        main(show=sys.argv[1:] == ["-"])
