"""`make doctor`: what a build needs of params, locks and this machine, a line each with the command that mends it.

Nothing is built or changed.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ingot.console.messages import Fault
from ingot.host import verify
from ingot.host.doctor_machine import Finding, disk, docker, first, gpu, links, memory, ollama, remote
from ingot.params.core import PARAMS_FILE, ParamsError
from ingot.planning import validation
from ingot.planning.validation import Params
from ingot.sealing import image_lock, llama_source
from ingot.training import platform_lock

PYTHONS = ((3, 11), (3, 12))  # for which there are locks


def findings() -> Iterator[Finding]:
    """Every check in turn; those on params need sound ones."""
    yield python()
    yield compiler()
    try:
        params = validation.validate()
        yield Finding("ok", "params.yaml", f"{params.name}: sound")
    except ParamsError as error:
        yield Finding(
            "fail",
            "params.yaml",
            str(error).split("\n", 1)[-1].strip().split("\n")[0],
            "edit params.yaml; make check tells all"
            if PARAMS_FILE.is_file()
            else "make use RECIPE=…, or make new DATA=…",
        )
        params = None
    checks: list[Callable[[], Finding]] = [locks, source]
    if params:
        for_params = [pins, platform, data, base, docker, gpu, disk, memory, token]
        checks += [lambda check=check: check(params) for check in for_params]  # type: ignore[misc]
    for check in [*checks, links, remote, ollama]:
        yield check()


def concerns(params: Params) -> Iterator[Finding]:
    """What of the quick checks `make repro` tells before it begins: none stops it, for DVC's cache may have it all."""
    for check in (data, base, gpu, memory, token):
        if (found := check(params)).state != "ok":
            yield found


def python() -> Finding:
    version = sys.version_info[:2]
    there = next((path.name.removeprefix("installed-") for path in Path(sys.prefix).glob("installed-*")), "")
    said = f"Python {version[0]}.{version[1]}, {there or 'no'} lock installed"
    if version not in PYTHONS:
        return Finding("fail", "python", said, "make setup PYTHON=python3.12")
    return Finding("ok" if there else "warn", "python", said, "" if there else "make setup")


def compiler() -> Finding:
    if found := shutil.which("c++") or shutil.which("g++"):
        return Finding("ok", "compiler", found)
    return Finding(
        "warn", "compiler", "no c++: llama.cpp cannot be built here, only in the image", "apt-get install g++"
    )


def locks() -> Finding:
    try:
        image_lock.check()
        verify.stages()
    except Fault as error:
        return Finding("fail", "locks", first(error), "make image.lock, or git checkout image.lock dvc.lock")
    return Finding("ok", "locks", "image.lock is current, dvc.lock can be read")


def source() -> Finding:
    if "INGOT_LLAMA_SOURCE" in os.environ:
        return Finding("ok", "llama.cpp", f"from {os.environ['INGOT_LLAMA_SOURCE']}")
    try:
        commit = llama_source.check_submodule()
    except Fault as error:
        return Finding("warn", "llama.cpp", first(error), "make llama")
    return Finding("ok", "llama.cpp", f"at {commit[:12]}")


def pins(params: Params) -> Finding:
    if loose := validation.unpinned(params):
        return Finding("fail", "revisions", f"unpinned: {', '.join(loose)}", "make pin")
    return Finding("ok", "revisions", "every repository is pinned to a commit")


def platform(params: Params) -> Finding:
    try:
        platform_lock.check(params.adapter)
    except platform_lock.PlatformError as error:
        return Finding("fail", "platform", first(error), "make platform (where the adapter is trained)")
    return Finding("ok", "platform", "platform.lock is of what params.yaml trains on")


def data(params: Params) -> Finding:
    local = [source.path for source in params.raw.datasets.values() if source.path]
    if missing := [path for path in local if not Path(path).exists()]:
        return Finding("fail", "data", f"not there: {', '.join(missing)}", "put the files back, or edit raw.datasets")
    return Finding("ok", "data", f"{len(params.raw.datasets)} sets, {len(local)} of them here")


def base(params: Params) -> Finding:
    if params.base.source != "local" or Path(params.base.path, "config.json").is_file():
        made = "checked by its stage" if Path("build/base/config.json").is_file() else "its stage will check it"
        return Finding("ok", "base", f"{params.base.source}: {made}")
    return Finding(
        "fail", "base", f"{params.base.path} holds no config.json", f"put the model's folder at {params.base.path}"
    )


def token(params: Params) -> Finding:
    hub = params.base.source == "hub" or any(one.repo for one in params.raw.datasets.values())
    if not hub:
        return Finding("ok", "hub", "not used: all is local")
    from huggingface_hub import get_token

    if get_token():
        return Finding("ok", "hub", "a token is set")
    return Finding("warn", "hub", "no token: gated and private repositories will refuse", "export HF_TOKEN=…")
