"""The merged stage against `cp` of the same shards. Run from the repository's root:

    python benchmarks/merge.py BASE ADAPTER           # folders as build/base and build/adapter
    python benchmarks/merge.py --draw 7b              # draws both at random, in Qwen2.5-7B's shape (or: 1.5b, small)

`--work` names the folder that is written to, on the disk to be measured; it needs room for the base twice, and keeps
what it drew for the next time. Cold means that the kernel was asked to forget the base's pages.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

# The stage, and then its peak of memory: what wait4 tells of a child begins with its parent's own.
STAGE = """
from stages import merged
merged.main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
ROOT = Path(__file__).resolve().parent.parent
# hidden, intermediate, keys' and values' width, layers, vocabulary, layers a shard
SHAPES = {
    "7b": (3584, 18944, 512, 28, 152064, 8),
    "1.5b": (1536, 8960, 256, 28, 151936, 10),
    "small": (1024, 2816, 256, 8, 32000, 3),
}
RANK = 32


def draw(shape: str, folder: Path) -> tuple[Path, Path]:
    """A random base in bfloat16 and a LoRA of all its linear layers in float32, as files alone; made once."""
    import torch
    from safetensors.torch import save_file

    base, adapter = folder / "base", folder / "adapter"
    if (adapter / "chat_template.jinja").is_file():
        return base, adapter
    hidden, middle, narrow, layers, vocabulary, a_shard = SHAPES[shape]
    linear = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden), "mlp.down_proj": (hidden, middle),
    }  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def normal(*size: int, std: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(size, device=device, dtype=dtype).normal_(std=std).cpu()

    shutil.rmtree(folder, ignore_errors=True)
    base.mkdir(parents=True)
    adapter.mkdir()
    matrices = {}
    shards = [range(first, min(first + a_shard, layers)) for first in range(0, layers, a_shard)]
    for number, some in enumerate(shards):
        weights = {}
        for layer in some:
            for name, (rows, columns) in linear.items():
                path = f"model.layers.{layer}.{name}"
                weights[f"{path}.weight"] = normal(rows, columns, std=0.02, dtype=torch.bfloat16)
                key = f"base_model.model.{path}"
                matrices[f"{key}.lora_A.weight"] = normal(RANK, columns, std=0.02, dtype=torch.float32)
                matrices[f"{key}.lora_B.weight"] = normal(rows, RANK, std=0.02, dtype=torch.float32)
        if number in (0, len(shards) - 1):
            name = "lm_head.weight" if number else "model.embed_tokens.weight"
            weights[name] = normal(vocabulary, hidden, std=0.02, dtype=torch.bfloat16)
        save_file(weights, base / f"model-{number + 1:05}-of-{len(shards):05}.safetensors", metadata={"format": "pt"})
    save_file(matrices, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 16, "bias": "none"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "chat_template.jinja").write_text("")
    return base, adapter


def settle(shards: list[Path], cold: bool) -> None:
    """Write out what is pending; then forget the shards' pages, or read them all."""
    os.sync()
    for shard in shards:
        with shard.open("rb") as file:
            if cold:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                while file.read(1 << 24):
                    pass


def timed(command: list[str], cwd: Path, **environment: str) -> tuple[float, list[str]]:
    """Seconds and lines of a process."""
    began = time.monotonic()
    ran = subprocess.run(
        command, cwd=cwd, env=os.environ | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert ran.returncode == 0, ran.stdout
    return time.monotonic() - began, ran.stdout.splitlines()


def digest(folder: Path, pattern: str) -> str:
    """One hash of all files that match."""

    def sha256(path: Path) -> bytes:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()

    with ThreadPoolExecutor() as pool:
        return hashlib.sha256(b"".join(pool.map(sha256, sorted(folder.glob(pattern))))).hexdigest()[:16]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path, metavar="BASE ADAPTER")
    parser.add_argument("--draw", choices=SHAPES)
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark")
    parser.add_argument("--base", choices=("original", "nf4"), default="original", help="merged.base")
    parser.add_argument("--rounds", type=int, default=1, help="of every measurement; the least counts")
    arguments = parser.parse_args()
    if bool(arguments.draw) == (len(arguments.folders) == 2):
        parser.error("name BASE and ADAPTER, or --draw")
    work = arguments.work.resolve()
    base, adapter = (
        draw(arguments.draw, work / arguments.draw) if arguments.draw else map(Path.resolve, arguments.folders)
    )
    shards = sorted(base.glob("*.safetensors"))
    size, largest = sum(path.stat().st_size for path in shards), max(path.stat().st_size for path in shards)
    gpu = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    devices = ["cpu", "cuda"] if timed(gpu, ROOT)[1][-1] == "True" else ["cpu"]
    print(f"{size / 1e9:.2f} GB in {len(shards)} shards, {len(os.sched_getaffinity(0))} cores, {', '.join(devices)}")

    place = work / "stage"
    for cold in (True, False):
        heat = "cold" if cold else "warm"
        copied = float("inf")
        for _ in range(arguments.rounds):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
            settle(shards, cold)
            copied = min(copied, timed(["cp", *map(str, shards), str(place)], ROOT)[0])
        print(f"{heat}  cp    {copied:6.2f} s  {size / copied / 1e9:5.2f} GB/s")
        for device in devices:
            took = float("inf")
            for _ in range(arguments.rounds):
                shutil.rmtree(place)
                (place / "build").mkdir(parents=True)
                (place / "build/base").symlink_to(base)
                (place / "build/adapter").symlink_to(adapter)
                (place / "params.yaml").write_text(f"merged: {{base: {arguments.base}, device: {device}}}\n")
                settle(shards, cold)
                seconds, lines = timed(
                    [sys.executable, "-c", STAGE], place, PYTHONPATH=f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"
                )
                took, peak = min(took, seconds), int(lines[-1]) * 1024
            print(
                f"{heat}  {device:4}  {took:6.2f} s  {size / took / 1e9:5.2f} GB/s  {took / copied:5.2f} × cp  "
                f"peak {peak / 1e9:.2f} GB = {peak / largest:.2f} shards  "
                f"{digest(place / 'build/merged', '*.safetensors')}  ({lines[-2].strip()})"
            )
    shutil.rmtree(place)


if __name__ == "__main__":
    main()
