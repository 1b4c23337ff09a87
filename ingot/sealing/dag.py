"""What dvc.yaml declares for a stage, and the mounts by which its container holds just that."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.types import Mount
from ruamel.yaml import YAML

from ingot.console.messages import Fault
from ingot.params.core import read

STAGES = ["raw", "base", "dataset", "adapter", "merged", "f16", "imatrix", "gguf", "modelfile", "evaluation", "card"]
INSIDE = "/ingot"
WRITABLE = ("build", "reports")
# A dep that holds links is mounted file by file; Linux takes some tens of thousands of mounts, slowly.
MOST_LINKED = 20_000


class SealBroken(Fault):
    """A stage failed in its container, or wrote what is not declared; the message says what to declare or change."""


@dataclass(frozen=True)
class Declared:
    """What dvc.yaml says of one stage. Paths are relative to the repository's root."""

    stage: str
    item: str | None  # of a stage that dvc.yaml has once for each item of a list (foreach)
    deps: list[str]
    outs: list[str]
    params: list[str]
    network: bool
    gpu: bool
    scratch: list[str]

    def reads(self, path: Path) -> bool:
        return any(path.is_relative_to(dep) for dep in self.deps)


def declared(stage: str, item: str | None = None, file: Path = Path("dvc.yaml")) -> Declared:
    """Read one stage of dvc.yaml, for one item where it has a list; metrics and plots are outs."""
    entry = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))["stages"][stage]
    if "foreach" in entry:
        entry = entry["do"]
    entry = _filled(entry, {"item": item} | read())
    listed = [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]
    outs = [path for item in listed for path in (item if isinstance(item, dict) else [item])]
    if strange := [key for key in entry["params"] if not isinstance(key, str) or "." in key]:
        raise SealBroken(f"{file}, stages.{stage}.params: {strange[0]}: name whole sections of params.yaml")
    meta = entry.get("meta", {})
    return Declared(
        stage, item, entry["deps"], outs, entry["params"], meta.get("network", False), meta.get("gpu", False),
        meta.get("scratch", []),
    )  # fmt: skip


def _filled(value: Any, known: dict[str, Any]) -> Any:
    """A part of dvc.yaml with DVC's ${key}, ${key.key} and ${key[0]} put in from params.yaml."""
    if isinstance(value, dict):
        return {_filled(key, known): _filled(one, known) for key, one in value.items()}
    if isinstance(value, list):
        return [_filled(one, known) for one in value]
    if not isinstance(value, str):
        return value

    def found(match: re.Match) -> str:
        place: Any = known
        for key in re.findall(r"[^.\[\]]+", match[1]):
            place = place[int(key)] if isinstance(place, list) else place[key]
        return str(place)

    return re.sub(r"\$\{([^}]+)\}", found, value)


def mounts(what: Declared, root: Path, beside: Path) -> list[Mount]:
    """Bind mounts: deps and params.yaml read-only, the outs' parents (below `beside`) and scratch folders writable."""
    for parent in WRITABLE:
        (beside / parent).mkdir(parents=True)
    everything = read()
    shown = {key: everything[key] for key in what.params if key in everything}
    yaml = YAML(typ="safe", pure=True)
    yaml.width, yaml.allow_unicode = 2**30, False  # a folded line can lose a backslash, a rare character its code
    with (beside / "params.yaml").open("w", encoding="utf-8") as file:
        yaml.dump(shown, file)
    if read(beside / "params.yaml") != shown:
        raise SealBroken(f"{what.stage}: its params cannot be written as YAML without a change; simplify their texts")
    found = [Mount(f"{INSIDE}/{parent}", str(beside / parent), "bind") for parent in WRITABLE]
    found.append(Mount(f"{INSIDE}/params.yaml", str(beside / "params.yaml"), "bind", read_only=True))
    for dep in what.deps:
        source = root / dep
        if not source.exists():
            raise SealBroken(f"{what.stage}: {dep} is missing; dvc.yaml names it as a dep")
        if Path(dep).parts[0] in WRITABLE:  # the mount point, or Docker would make it as root
            _place(beside / dep, source)
        inside = [Path(at) / name for at, folders, files in os.walk(source) for name in folders + files]
        if mounted := [path for path in inside if os.path.ismount(path)]:  # of links, False
            raise SealBroken(
                f"{what.stage}: {mounted[0]} is mounted inside a dep, where it could be written: copy it instead"
            )
        if any(path.is_symlink() for path in inside):
            found += _file_by_file(what, dep, source, beside / "linked" / dep)
        else:
            found.append(Mount(f"{INSIDE}/{dep}", str(source.resolve()), "bind", read_only=True))
    for folder in what.scratch:
        (root / folder).mkdir(parents=True, exist_ok=True)
        found.append(Mount(f"{INSIDE}/{folder}", str(root / folder), "bind"))
    return found


def _file_by_file(what: Declared, dep: str, source: Path, skeleton: Path) -> list[Mount]:
    """A dep with links (into DVC's cache, or a hub's): its tree, each file at its place from where it really lies."""
    found = [Mount(f"{INSIDE}/{dep}", str(skeleton), "bind", read_only=True)]
    skeleton.mkdir(parents=True)
    for path in _followed(source, set()):
        target = skeleton / path.relative_to(source)
        if path.is_dir():
            target.mkdir(exist_ok=True)
            continue
        real = Path(os.path.realpath(path))
        if not real.is_file():
            raise SealBroken(f"{what.stage}: {path} leads to {real}, which is no file: a dep holds files and folders")
        if len(found) > MOST_LINKED:
            raise SealBroken(f"{what.stage}: {dep} holds more than {MOST_LINKED} files and links: copy it instead")
        _place(target, real)
        found.append(Mount(f"{INSIDE}/{dep}/{path.relative_to(source)}", str(real), "bind", read_only=True))
    return found


def _followed(folder: Path, above: set[Path]) -> Iterator[Path]:
    """Every folder and file below a folder, links to folders followed, but not in circles."""
    here = above | {folder.resolve()}
    for path in sorted(folder.iterdir()):
        if not path.is_dir():
            yield path
        elif path.resolve() not in here:
            yield path
            yield from _followed(path, here)


def _place(target: Path, source: Path) -> None:
    """An empty folder or file to mount `source` on."""
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
