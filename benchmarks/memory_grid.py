"""Peaks of training memory on a GPU against the planner's estimates. From the repository's root:

    python benchmarks/memory_grid.py --work /tmp/grid --at-once 2 [--shapes 0.5b 3b 7b]
    python benchmarks/memory_grid.py --work /tmp/grid --at-once 3 --shapes 7b --limits 8 12 16 24 48

Every line is a fresh process of the adapter stage: packed rows, three updates. A peak is PyTorch's
(max_memory_allocated). What else runs on the card does not change it. `--limits`: what gradient_checkpointing `auto`
does where PyTorch is given so many GB and no more.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import shapes, training  # noqa: E402

ACCUMULATION, UPDATES = 2, 3
# Engine, method, gradient_checkpointing, rows at once, length.
CONFIGS = [
    ("unsloth", "qlora", "off", 4, 2048),
    ("unsloth", "qlora", "unsloth", 2, 2048),
    ("unsloth", "qlora", "unsloth", 8, 2048),
    ("unsloth", "qlora", "on", 4, 2048),
    ("unsloth", "lora", "off", 2, 2048),
    ("unsloth", "lora", "unsloth", 4, 2048),
    ("peft", "qlora", "off", 2, 2048),
    ("peft", "qlora", "on", 4, 2048),
    ("peft", "lora", "on", 2, 1024),
]
AUTO = ("unsloth", "qlora", "auto", 2, 2048)
LIMITED = (
    "import torch; "
    "torch.cuda.set_per_process_memory_fraction({gb} * 1e9 / torch.cuda.get_device_properties(0).total_memory); "
    "import runpy, sys; sys.argv = ['stages.adapter']; runpy.run_module('stages.adapter', run_name='__main__')"
)


def measured(shape: str, base: Path, work: Path, config: tuple, gpu: str, limit: float | None) -> str:
    """A line: the peak, what was planned, and their ratio."""
    from ingot.params.core import load
    from ingot.training import memory
    from ingot.training.params import Adapter

    engine, method, again, rows, length = config
    given = training.ADAPTER | {"engine": engine, "method": method, "gradient_checkpointing": again, "batch_size": rows}
    given["accumulation"] = ACCUMULATION
    name = "-".join(map(str, config)) + (f"-in-{limit:g}-GB" if limit else "")
    folder = training.workplace(work / name, base, length * rows * ACCUMULATION * UPDATES, length, given)
    one = {"CUDA_VISIBLE_DEVICES": gpu}
    training.run(folder, "-m", "ingot.training.platform", **one)
    command = ("-c", LIMITED.format(gb=limit)) if limit else ("-m", "stages.adapter")
    lines = training.run(folder, *command, **one)
    peaks = [float(found[1]) for line in lines if (found := re.search(r"tokens/s, ([\d.]+) GB", line))]
    adapter = load("adapter", Adapter, folder / "params.yaml")
    size = shapes.parameters(base)
    if again == "auto":
        few = memory.recompute(adapter, size, length, None, int(limit * 1e9))
        adapter = adapter.model_copy(update={"gradient_checkpointing": "unsloth" if few else "off"})
    planned = memory.estimate(adapter, size, length, None).total / 1e9
    peak = max(peaks, default=0.0)
    return (
        f"{shape:5} {name:38} {adapter.gradient_checkpointing:8} measured {peak:5.1f} GB  planned {planned:5.1f} GB  "
        f"{planned / peak if peak else 0:.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="*", choices=shapes.SHAPES, default=["0.5b", "7b"])
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--at-once", type=int, default=1, help="processes on each card")
    parser.add_argument("--limits", nargs="*", type=float, default=[], metavar="GB")
    arguments = parser.parse_args()
    cards = (os.environ.get("CUDA_VISIBLE_DEVICES") or "0").split(",")
    bases = {shape: shapes.base(arguments.work / shape / "base", shape) for shape in arguments.shapes}
    jobs = [(shape, AUTO, limit) for shape in arguments.shapes for limit in arguments.limits]
    jobs = jobs or [(shape, config, None) for shape in arguments.shapes for config in CONFIGS]
    with ThreadPoolExecutor(len(cards) * arguments.at_once) as pool:

        def one(number: int, shape: str, config: tuple, limit: float | None) -> None:
            card = cards[number % len(cards)]
            print(measured(shape, bases[shape], arguments.work / shape, config, card, limit), flush=True)

        for line in [pool.submit(one, number, *job) for number, job in enumerate(jobs)]:
            line.result()


if __name__ == "__main__":
    main()
