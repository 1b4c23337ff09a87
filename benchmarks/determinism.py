"""Equal hashes from fresh processes on a GPU, whatever else it and the machine are doing. From the repository's root:

    python benchmarks/determinism.py [--processes 5] [--shape small] [--only qlora lora …]

Each line is a configuration: how many processes made which adapter, and which of them moved. The last line is the
control: with the pins off the same training must move, or the test could not fail.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import shapes  # noqa: E402
from benchmarks.training import ADAPTER, run, workplace  # noqa: E402

CASES = {
    "qlora": {"packing": False},
    "qlora, packed": {},
    "qlora, packed, recomputing": {"gradient_checkpointing": "unsloth"},
    "lora": {"packing": False, "method": "lora"},
    "lora, packed": {"method": "lora"},
    "full": {"packing": False, "method": "full", "optimizer": "adamw_torch", "learning_rate": 1e-5},
    "full, packed": {"method": "full", "optimizer": "adamw_torch", "learning_rate": 1e-5},
    "peft qlora, packed": {"engine": "peft"},
    "dora, packed": {"method": "dora"},
}
# No pins, no strictness: what everybody else does.
LOOSE = (
    "import runpy, sys; import ingot.exact.pins as d; d.pin = lambda: None; import torch; "
    "torch.use_deterministic_algorithms = lambda *_, **__: None; "
    "sys.argv = ['stages.adapter']; runpy.run_module('stages.adapter', run_name='__main__')"
)
HOLD = (
    "import torch, time; x = torch.empty({share}, dtype=torch.uint8, device='cuda'); "
    "print('held', flush=True); time.sleep(3600)"
)


def trained(folder: Path, *command: str, cores: int | None = None, **environment: str) -> str:
    """The hash of what one process trains; `cores`: how many it may use."""
    before = os.sched_getaffinity(0)
    if cores:
        os.sched_setaffinity(0, set(sorted(before)[:cores]))  # of this thread, which its child inherits
    try:
        run(folder, "-m", "ingot.training.platform")
        lines = run(folder, *(command or ("-m", "stages.adapter")), **environment)
    finally:
        os.sched_setaffinity(0, before)
    from ingot.exact.files import sha256

    files = sorted((folder / "build/adapter").glob("*.safetensors")) if lines else []
    return "-".join(sha256(file)[:12] for file in files[:1]) or "failed"


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="small")
    parser.add_argument("--only", nargs="*", default=list(CASES))
    parser.add_argument("--at-once", type=int, default=5, help="processes that share the GPU")
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark/determinism")
    arguments = parser.parse_args()
    shutil.rmtree(arguments.work, ignore_errors=True)
    base = shapes.base(arguments.work / "base", arguments.shape)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {len(os.sched_getaffinity(0))} cores", flush=True
    )

    def place(name: str, number: object, **changes) -> Path:
        adapter = ADAPTER | {"batch_size": 4, "accumulation": 2} | CASES[name] | changes
        return workplace(arguments.work / f"{name}-{number}", base, 40_000, 512, adapter)

    jobs: list[tuple[str, str, Path, tuple, dict]] = []
    for name in arguments.only:
        jobs += [(name, "fresh", place(name, number), (), {}) for number in range(arguments.processes)]
    main_case = arguments.only[min(1, len(arguments.only) - 1)]
    warm = str(arguments.work / "warm")
    kernels = {"TRITON_CACHE_DIR": warm + "/triton", "TORCHINDUCTOR_CACHE_DIR": warm + "/inductor"}
    jobs += [(main_case, "2 cores", place(main_case, "cores"), (), {"cores": 2})]
    jobs += [(main_case, "caches being filled", place(main_case, "fill"), (), kernels)]
    with ThreadPoolExecutor(arguments.at_once) as pool:
        made = list(pool.map(lambda job: trained(job[2], *job[3], **job[4]), jobs))
    results: dict[str, list[tuple[str, str]]] = {}
    for (name, how, *_), hash_ in zip(jobs, made, strict=True):
        results.setdefault(name, []).append((how, hash_))
    # What must be alone: warm caches, a nearly full card, and the control.
    results[main_case].append(("warm caches", trained(place(main_case, "warm"), **kernels)))
    import subprocess

    free = torch.cuda.mem_get_info()[0]
    holder = subprocess.Popen([sys.executable, "-c", HOLD.format(share=free - 12_000_000_000)], stdout=subprocess.PIPE)
    assert holder.stdout and holder.stdout.readline()
    results[main_case].append(("12 GB of the card free", trained(place(main_case, "held"))))
    holder.kill()
    for name, found in results.items():
        counts = Counter(hash_ for _, hash_ in found)
        told = ", ".join(f"{hash_} {count} ×" for hash_, count in counts.most_common())
        rare = ", ".join(f"{how} {hash_}" for how, hash_ in found if hash_ != counts.most_common(1)[0][0])
        others = ", ".join(how for how, _ in found if how != "fresh")
        print(
            f"{name:28} {told}{f' ({others} among them)' if others else ''}{f'; moved: {rare}' if rare else ''}",
            flush=True,
        )
    loose = {trained(place(main_case, f"loose-{number}"), "-c", LOOSE) for number in range(3)}
    print(f"control, pins off: 3 processes of {main_case}: {len(loose)} hashes: {sorted(loose)}", flush=True)


if __name__ == "__main__":
    main()
