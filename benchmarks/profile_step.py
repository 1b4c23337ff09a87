"""Where the time of one training update goes, on a GPU: PyTorch's profiler over the adapter stage. From the root:

    python benchmarks/profile_step.py --shape 7b --rows 4 --work /tmp/profile

Kernels by their time, then what the CPU did by its own time; busy is the share of the update in which any kernel ran.
Before it, without the profiler: how long the CPU had to wait for the GPU at the end of an update. No wait means that
the CPU is what holds it. `--trace FILE.json.gz` keeps every kernel with its time.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from benchmarks import shapes, training  # noqa: E402

PROFILED = """
import os
import time
TRACE = os.environ.get("TRACE")
import stages.adapter as stage
import torch
from torch.profiler import ProfilerActivity, profile
begin = stage.begin
def begun(*given):
    engine = begin(*given)
    from ingot.training import watch
    before = watch.Watch.on_step_end
    tool = profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])
    began = [0.0]
    def after(self, args, state, control, **kwargs):
        before(self, args, state, control, **kwargs)
        torch.cuda.synchronize()
        if state.global_step == 4:
            tool.__enter__()
            began[0] = time.monotonic()
        if state.global_step == 5:
            took = time.monotonic() - began[0]
            tool.__exit__(None, None, None)
            if TRACE:
                tool.export_chrome_trace(TRACE)
            table = tool.key_averages()
            kernels = sum(each.self_device_time_total for each in table if each.device_type.name == "CUDA") / 1e6
            print(f"update {took:.3f} s, kernels {kernels:.3f} s, busy {kernels / took:.0%}", flush=True)
            print(table.table(sort_by="self_cuda_time_total", row_limit=28, max_name_column_width=70), flush=True)
            print(table.table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=50), flush=True)
    watch.Watch.on_step_end = after
    sound = watch.Sound.on_pre_optimizer_step
    def waited(self, args, state, control, **kwargs):
        arrived = time.monotonic()
        torch.cuda.synchronize()
        print(f"waited {time.monotonic() - arrived:.3f} s for the GPU", flush=True)
        sound(self, args, state, control, **kwargs)
    watch.Sound.on_pre_optimizer_step = waited
    return engine
stage.begin = begun
stage.progress.start(stage.main)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="7b")
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--case", choices=training.CASES, default="fast")
    parser.add_argument("--trace", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    base = shapes.base(arguments.work / arguments.shape / "base", arguments.shape)
    adapter, length = training.settings(arguments.case, arguments.rows)
    tokens = length * adapter["batch_size"] * adapter["accumulation"] * 8  # packing leaves some out
    folder = training.workplace(arguments.work / "place", base, tokens, length, adapter)
    training.run(folder, "-m", "ingot.training.platform")
    kept = {"TRACE": str(arguments.trace.resolve())} if arguments.trace else {}
    lines = training.run(folder, "-c", PROFILED, **kept)
    began = next((number for number, line in enumerate(lines) if line.startswith("waited ")), 0)
    print("\n".join(lines[began:]))


if __name__ == "__main__":
    main()
