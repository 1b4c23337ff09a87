"""llama.cpp's source: the submodule filled and checked, from upstream or llama-cpp-python's source distribution."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

from ingot.console.messages import Fault, plain

SUBMODULE = Path("llama.cpp")
SDIST = Path(".cache/sdist")
REQUIREMENT = Path("requirements/llama-cpp-python.txt")


class ToolchainError(Fault):
    """What is missing, and the command that mends it."""


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
            "this folder is no git clone: a ZIP download lacks the commit that llama.cpp is pinned to, "
            "and DVC stands on git\n"
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
