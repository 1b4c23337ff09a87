"""What earlier stages made, held against the hashes in dvc.lock: DVC itself looks at sizes and times alone.

A bit that has flipped on the disk, in build/ or in DVC's cache (the same file, where they are linked), would be built
from as if nothing had happened.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ingot.console.messages import Fault
from ingot.host.inputs import files, stamp

LOCK = Path("dvc.lock")
# Bytes that a stage takes, up to which `auto` reads them all: about a minute on two cores. Beyond, files up to FEW.
MOST, FEW = 20_000_000_000, 250_000_000


class Damaged(Fault):
    """A file is not what dvc.lock says that a stage has made."""


class Unreadable(Fault):
    """dvc.lock is not what DVC writes."""


class Out(BaseModel):
    path: str
    md5: str


class Dep(BaseModel, extra="allow"):
    path: str
    md5: str | None = None  # DVC has none of what lies elsewhere


class Stage(BaseModel, extra="allow"):
    """An entry of dvc.lock."""

    deps: list[Dep] = []
    outs: list[Out] = []


class Stages(BaseModel):
    """dvc.lock, as far as it is read here."""

    stages: dict[str, Stage] = {}


class WrongChoice(Fault):
    """INGOT_VERIFY is no choice."""


def choice() -> str:
    """INGOT_VERIFY: auto, all or none."""
    wanted = os.environ.get("INGOT_VERIFY") or "auto"
    if wanted not in ("auto", "all", "none"):
        raise WrongChoice(f"INGOT_VERIFY={wanted}: must be auto, all or none")
    return wanted


def check(paths: Iterable[str], wanted: str) -> int:
    """Hold what stages have made below `paths` against dvc.lock; returns the bytes that were read.

    `wanted`: all; none; auto, which leaves large files to their size where all would take too long. Raises Damaged.
    """
    if wanted == "none":
        return 0
    several = list(paths)
    known = {}  # of each file its out and its hash; of a folder whose list of files is lost, its own hash
    for out, md5 in outs().items():
        if not any(Path(out).is_relative_to(path) or Path(path).is_relative_to(out) for path in several):
            continue
        listed = _listed(md5) if md5.endswith(".dir") else {".": md5}
        for name, one in ({".": md5} if listed is None else listed).items():
            file = os.path.normpath(os.path.join(out, name))
            if listed is None or any(Path(file).is_relative_to(path) for path in several):
                known[file] = (out, one)
    # What is missing is DVC's to see: dvc.lock keeps entries of types that are asked for no more.
    sizes = {file: size for file in known if (size := _size(file)) is not None}
    if wanted == "auto" and sum(sizes.values()) > MOST:
        left = [file for file in sizes if sizes[file] > FEW]
        print(f"{len(left)} large files are not read to be verified; INGOT_VERIFY=all reads them", flush=True)
        sizes = {file: size for file, size in sizes.items() if file not in left}
    with ThreadPoolExecutor(min(8, len(os.sched_getaffinity(0)))) as pool:
        for file, md5 in zip(sizes, pool.map(md5_of, sizes), strict=True):
            if md5 != known[file][1]:
                pool.shutdown(cancel_futures=True)
                raise Damaged(_said(file, *known[file]))
    return sum(sizes.values())


def _said(file: str, out: str, md5: str) -> str:
    """Of a damaged file, with the way back: DVC would give the same again, if its cache holds the same."""
    remove = [out]
    if (cached := _cached(md5)).exists() and md5_of(str(cached)) != md5:
        remove.append(str(cached))
    return (
        f"{file}: its content is not what dvc.lock has for it: it is damaged, or was edited\n"
        f"hint: rm -rf {' '.join(remove)}; then run again, which brings it back or makes it anew"
    )


def outs() -> dict[str, str]:
    """The hash of each output that dvc.lock has, by its path."""
    return {out["path"]: out["md5"] for stage in stages().values() for out in stage.get("outs", [])}


def deps_and_outs() -> dict[str, tuple[list[str], list[str]]]:
    """Of each stage in dvc.lock the paths it has read, and those it has written."""
    return {
        name: ([dep["path"] for dep in stage["deps"]], [out["path"] for out in stage.get("outs", [])])
        for name, stage in stages().items()
    }


def is_cached(out: str) -> bool:
    """Whether DVC's cache holds the output; it does not where dvc.yaml says `cache: false`."""
    return _cached(outs()[out]).exists()


def unlike_committed() -> list[str]:
    """Stages whose outputs are others than in the last commit's dvc.lock, though command, params and deps are the same.

    Then this machine computes otherwise, or DVC's cache of runs gave what another run has made: its entries are not
    signed.
    """
    now, inputs = stages(), ("cmd", "deps", "params")
    return [
        name
        for name, stage in _committed().items()
        if name in now
        and all(stage.get(key) == now[name].get(key) for key in inputs)
        and stage.get("outs") != now[name].get("outs")
    ]


def committed_files() -> dict[str, Path]:
    """By output, the file in DVC's cache that the last commit's dvc.lock has for it; none where the cache has none."""
    outs = [out for stage in _committed().values() for out in stage.get("outs", [])]
    return {out["path"]: file for out in outs if (file := _cached(out["md5"])).is_file()}


def _committed() -> dict[str, Any]:
    """The stages of the last commit's dvc.lock."""
    shown = subprocess.run(["git", "show", f"HEAD:./{LOCK}"], capture_output=True)
    return _parsed(shown.stdout) if shown.returncode == 0 else {}


def stages() -> dict[str, Any]:
    return _parsed(LOCK.read_bytes()) if LOCK.exists() else {}


def _parsed(text: bytes) -> dict[str, Any]:
    try:
        content = YAML(typ="safe").load(text.decode()) or {}
        return Stages.model_validate(content).model_dump()["stages"]
    except (YAMLError, ValueError, RecursionError) as error:  # pydantic's and UTF-8's are ValueErrors
        reason = (
            "it holds the marks of a merge's conflict" if b"\n<<<<<<< " in b"\n" + text else f"{error}".split("\n")[0]
        )
        raise Unreadable(
            f"{LOCK}: cannot be read as what DVC writes ({reason[:120]})\n"
            f"hint: git checkout {LOCK}; DVC writes it anew as stages run"
        ) from None


def stamps(paths: list[str]) -> dict[str, tuple | None]:
    return {path: stamp(path) for path in files(paths)}


def _listed(md5: str) -> dict[str, str] | None:
    """The files of a folder in DVC's cache, with their hashes; None where the list is not there or is damaged."""
    try:
        text = _cached(md5).read_bytes()
        if hashlib.md5(text).hexdigest() == md5.removesuffix(".dir"):
            return {entry["relpath"]: entry["md5"] for entry in json.loads(text)}
    except OSError:
        pass
    return None


def _cached(md5: str) -> Path:
    return cache(Path.cwd()) / md5[:2] / md5[2:]


def _size(path: str) -> int | None:
    if os.path.isdir(path):
        return sum(file.stat().st_size for file in Path(path).rglob("*") if file.is_file())
    return os.stat(path).st_size if os.path.isfile(path) else None


def md5_of(path: str) -> str:
    """As DVC takes it of a file; of a folder the hash of the list of its files."""
    if os.path.isdir(path):
        listed = [{"md5": md5_of(file), "relpath": Path(file).relative_to(path).as_posix()} for file in files([path])]
        return folder_hash(sorted(listed, key=lambda entry: entry["relpath"]))
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def folder_hash(listed: list[dict[str, str]]) -> str:
    """DVC's hash of a folder: of the list of its files, each with its hash, in the order of their paths."""
    return hashlib.md5(json.dumps(listed, sort_keys=True).encode()).hexdigest() + ".dir"


@functools.cache
def cache(root: Path) -> Path:
    """DVC's cache of the repository `root`, wherever its configuration puts it."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)
