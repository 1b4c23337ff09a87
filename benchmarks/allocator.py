"""How much of a CPU training step goes into handing memory back and forth: the adapter stage with and without its
allocator settings (ingot.exact.pins.MEMORY), in turn. The hashes must be equal.

    make repro && .venv/bin/python benchmarks/allocator.py [rounds]

Prints seconds for each run, and the ratio of the medians.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from ingot.exact.files import sha256  # noqa: E402
from ingot.exact.pins import pins  # noqa: E402

# The stage without pin(), which would put the settings back.
BARE = "import runpy, sys; import ingot.exact.pins as d; d.pin = lambda: None; "
BARE += "sys.argv = ['stages.adapter']; runpy.run_module('stages.adapter', run_name='__main__')"


def main(rounds: int) -> None:
    seconds: dict[str, list[float]] = {"with": [], "without": []}
    hashes = set()
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        for name in ("stages", "ingot", "image.lock", "params.yaml"):
            (work / name).symlink_to(ROOT / name)
        (work / "build").mkdir()
        for name in ("base", "dataset"):
            (work / "build" / name).symlink_to(ROOT / "build" / name)
        for _ in range(rounds):
            for label, stage in (("with", "adapter"), ("without", "merged")):  # merged: the same pins less MEMORY
                environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")} | pins(stage)
                start = time.monotonic()
                subprocess.run([sys.executable, "-c", BARE], cwd=work, env=environment, check=True, capture_output=True)
                seconds[label].append(time.monotonic() - start)
                hashes.add(sha256(work / "build/adapter/adapter_model.safetensors"))
                shutil.rmtree(work / "build/adapter")
                print(f"{label:8} {seconds[label][-1]:6.1f} s", flush=True)
    assert len(hashes) == 1, "the settings changed the adapter"
    ratio = statistics.median(seconds["without"]) / statistics.median(seconds["with"])
    print(f"without / with: {ratio:.2f}; one hash: {hashes.pop()[:16]}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
