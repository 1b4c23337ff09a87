"""image.lock: what the stages run in, as one recipe hash that every stage depends on.

DVC's cache keys know commands, files and params but no environment: without this file a result of another torch or
llama.cpp would be taken for current.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from ingot.console.bounds import Broken, read_json
from ingot.console.messages import Fault
from ingot.exact.files import sha256, write_json
from ingot.sealing import llama_build, llama_source

LOCK = Path("image.lock")
LOCKS = ["cpu", "torch-cpu", "torch-cuda", "cuda", "nvcc", "converter", "llama-cpp-python", "go"]
RECIPE = [
    Path("Dockerfile"),
    *(Path("requirements") / f"{name}.txt" for name in LOCKS),
    Path("requirements/install.sh"),
    *llama_build.RENDERERS,
]
# Shown for people; the recipe's hashes are what counts.
SHOWN = ["torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "accelerate", "tokenizers", "safetensors"]
SHOWN += ["numpy", "gguf", "unsloth"]


class StaleLock(Fault):
    """image.lock does not describe the files beside it."""


def current() -> dict[str, Any]:
    """What image.lock should hold now."""
    commit = llama_source.pinned()
    if missing := [str(path) for path in RECIPE if not path.is_file()]:
        raise StaleLock(f"{missing[0]} is missing, and image.lock stands on it\nhint: run `git checkout {missing[0]}`")
    files = {str(path): sha256(path) for path in RECIPE}
    llama = {
        "commit": commit,
        "targets": llama_build.TARGETS,
        "options": llama_build.OPTIONS,
        "cuda": [*llama_build.CUDA_OPTIONS, *llama_build.ARCHITECTURES],
    }
    recipe = hashlib.sha256(json.dumps([files, llama], sort_keys=True).encode()).hexdigest()
    locked = dict(re.findall(r"^([\w.-]+)==(\S+)", (Path("requirements/cuda.txt")).read_text(), re.M))
    return {
        "recipe": recipe,
        "files": files,
        "llama.cpp": llama,
        "versions": {name: locked[name] for name in SHOWN},
    }


def write() -> None:
    write_json(LOCK, current())


def read() -> dict[str, Any]:
    """What image.lock holds. Raises StaleLock when it is missing or holds no lock."""
    if not LOCK.is_file():
        raise StaleLock("image.lock is missing\nhint: run `make image.lock`")
    try:
        written = read_json(LOCK, "run `make image.lock`")
        written["recipe"], written["files"].items()
        return written
    except (Broken, TypeError, KeyError, AttributeError):
        raise StaleLock("image.lock cannot be read (a merge's conflict marks?)\nhint: run `make image.lock`") from None


def check() -> None:
    """Raise StaleLock, naming what has changed, unless image.lock is current."""
    written, now = read(), current()
    if written == now:
        return
    changed = [name for name, value in now["files"].items() if written.get("files", {}).get(name) != value]
    if written.get("llama.cpp") != now["llama.cpp"]:
        changed.append("llama.cpp")
    raise StaleLock(f"image.lock is stale ({', '.join(changed) or 'edited by hand'})\nhint: run `make image.lock`")
