"""The pins that make a stage's bits independent of the machine: one place for every way a stage can be started.

`stages/__init__.py` calls `pin()` before any stage module is imported, so it holds for `dvc repro`, `python -m
stages.NAME`, a container and a debugger alike.
"""

from __future__ import annotations

import os
import random
import sys

THREADS = 4
PINS = {
    # The same machine code on every AVX2 host: without these PyTorch, oneDNN and MKL pick AVX-512 or AMX kernels where
    # the processor has them, and the adapter's bits move. STRICT also makes MKL's sums independent of the thread count.
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "MKL_CBWR": "AVX2,STRICT",
    # What cpu_math.py computes with: one set of kernels, and one thread for each product.
    "OPENBLAS_CORETYPE": "Haswell",
    "OPENBLAS_NUM_THREADS": "1",
    # PyTorch cuts sums into as many parts as there are threads, so their number is fixed; cores may be fewer or more.
    "OMP_NUM_THREADS": str(THREADS),
    "MKL_NUM_THREADS": str(THREADS),
    "MKL_DYNAMIC": "FALSE",
    # cuBLAS: one workspace layout, as torch.use_deterministic_algorithms demands.
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
    # Nothing from the caller's locale, clock zone or hash seed.
    "PYTHONHASHSEED": "0",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    # Stages are one process: forked tokenizer threads and library telemetry have no place in them.
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DVC_NO_ANALYTICS": "1",
    # The submodule stays as git left it.
    "PYTHONDONTWRITEBYTECODE": "1",
}
# Training on a CPU allocates and frees its logits at every step; by default glibc gives such blocks back to the kernel
# each time, which took a third of the time (benchmarks/allocator.py). Only here: others must return what they free.
MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "8000000000", "MALLOC_TOP_PAD_": "268435456"}
# On a GPU a block of memory may grow, so that free memory does not fall into pieces: Qwen2.5-7B in batches of 8 × 2,048
# ran out of 85 GB without it, and takes 63 with it. WSL cannot do it.
GPU_MEMORY = {} if "microsoft" in os.uname().release.lower() else {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
# Only these stages may reach a hub; the others fail at once if a library tries.
FETCHING = ("raw", "base")


def pins(stage: str) -> dict[str, str]:
    """The environment that a stage must run in."""
    offline = {} if stage in FETCHING else {"HF_HUB_OFFLINE": "1"}
    return PINS | offline | (MEMORY | GPU_MEMORY if stage == "adapter" else {})


def pin() -> None:
    """Set the pins and, for a starting `python -m stages.NAME`, begin again under them.

    Starting again is what makes the hash seed and the variables that libraries read while loading take effect.
    """
    starting = sys.argv[0] == "-m"  # what argv holds while `python -m` still imports the package
    stage = sys.orig_argv[sys.orig_argv.index("-m") + 1].removeprefix("stages.") if starting else ""
    wanted = pins(stage)
    if all(os.environ.get(key) == value for key, value in wanted.items()):
        return
    os.environ.update(wanted)
    if starting:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def seed_everything(seed: int) -> None:
    """Seed every generator that training draws from, and refuse kernels whose sums depend on timing."""
    import numpy
    import torch

    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    # Or every new tensor is filled with NaN, a tenth of a GPU's time, lest a faulty program read what it never wrote.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.set_num_threads(THREADS)  # it asks MKL, which knows better, unless it is told
    torch.backends.cudnn.benchmark = False
