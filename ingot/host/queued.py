"""Queued experiments: DVC builds each in a copy of git's files, which lacks what git does not keep."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from ingot.host import alone
from ingot.sealing import llama_build, llama_source

EXPERIMENTS = ("exps", "tmp", ".dvc")  # a copy's folders, from the inside


def workspace() -> Path:
    """The folder whose queue this one is a copy of; this folder where it is none."""
    here = Path.cwd()
    return here.parents[3] if tuple(one.name for one in here.parents[:3]) == EXPERIMENTS else here


def equip() -> None:
    """Give a copy the workspace's llama.cpp, and links to the files in its data/ and models/ that git does not keep."""
    if (home := workspace()) == Path.cwd():
        return
    os.environ.setdefault("INGOT_LLAMA_SOURCE", str(home / llama_source.SUBMODULE))
    os.environ.setdefault("INGOT_LLAMA_BUILD", str(home / llama_build.BUILD))
    for name in ("data", "models"):
        if (home / name).is_dir():
            shutil.copytree(home / name, name, copy_function=_linked, dirs_exist_ok=True)


def wait_for_the_gpu() -> None:
    """Hold the GPUs until this process has ended: stages of the workspace and of its queue take them in turn."""
    folder = workspace() / alone.FOLDER
    try:
        alone.hold("gpu", folder)
    except alone.Busy as busy:
        print(f"waiting for the GPU: {busy}", flush=True)
        alone.hold("gpu", folder, math.inf)


def _linked(source: str, target: str) -> None:
    if os.path.lexists(target):
        return
    try:
        os.link(source, target)
    except OSError:  # another volume
        shutil.copy2(source, target)
