"""From base and dataset to Q4_K_M twice, the adapter trained anew each time: equal hashes, and what each stage takes.

    python benchmarks/dag.py [--shape 7b] [--steps 4] [--work DIR]

Needs room for the base three times. The second pass merges on the other device, CPU or GPU: the bytes must be the same.
`cp` of the base's shards, timed just before each merge, is what the merge is compared with.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import shapes  # noqa: E402
from benchmarks.merge import digest  # noqa: E402
from benchmarks.training import ADAPTER, LENGTH, ROWS, run, workplace  # noqa: E402
from tests.conftest import edited  # noqa: E402

STAGES = {"adapter": "*.safetensors", "merged": "*.safetensors", "f16": "*.gguf", "gguf": "*.gguf"}


def copied(base: Path, to: Path) -> float:
    """Seconds that `cp` takes for the base's shards."""
    to.mkdir()
    began = time.monotonic()
    subprocess.run(["cp", *map(str, base.glob("*.safetensors")), str(to)], check=True)
    took = time.monotonic() - began
    shutil.rmtree(to)
    return took


def one_pass(folder: Path, base: Path, merge_on: str) -> dict[str, str]:
    """Every stage's hash; prints what each took."""
    edited(folder / "params.yaml", folder / "params.yaml", {"merged.device": merge_on})
    hashes, taken = {}, {}
    for stage, pattern in STAGES.items():
        copy = copied(base, folder / "copy") if stage == "merged" else 0.0
        began = time.monotonic()
        lines = run(folder, "-m", f"stages.{stage}")
        taken[stage] = time.monotonic() - began
        if not lines:
            sys.exit(f"{stage} failed")
        hashes[stage] = digest(folder / f"build/{stage}", pattern)
        on = f" on {merge_on}, {taken[stage] / copy:.2f} × cp ({copy:.1f} s)" if copy else ""
        print(f"{stage:8} {taken[stage]:6.1f} s  {hashes[stage]}{on}  {lines[-1].strip()[:110]}", flush=True)
        if stage == "f16":
            shutil.rmtree(folder / "build/merged")  # the next pass needs the room
    print(f"base to Q4_K_M without training: {sum(taken.values()) - taken['adapter']:.0f} s", flush=True)
    return hashes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="7b")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark")
    arguments = parser.parse_args()
    work = arguments.work / arguments.shape
    base = shapes.base(work / "base", arguments.shape)
    adapter = ADAPTER | {"batch_size": 4, "accumulation": ROWS // 4}
    folder = workplace(work / "dag", base, LENGTH * ROWS * arguments.steps, LENGTH, adapter)
    run(folder, "-m", "ingot.training.platform")
    passes = [one_pass(folder, base, device) for device in ("cuda", "cpu")]
    print("equal, from adapter to Q4_K_M" if passes[0] == passes[1] else f"DIFFERENT: {passes}", flush=True)


if __name__ == "__main__":
    main()
