"""What does not belong into build/: leftovers of killed runs, and files of types that are asked for no more."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from ingot.console.messages import Fault
from ingot.exact.files import leftovers
from ingot.host import alone, verify
from ingot.planning.validation import Params
from ingot.sealing.dag import STAGES

GGUF = Path("build/gguf")
HALF = re.compile(r"\.[A-Za-z][A-Za-z0-9._-]*\.gguf\.part")  # what a killed gguf stage left half-written


class Foreign(Fault):
    """build/gguf holds what this pipeline has not made."""


def remove_leftovers(running: str | None = None) -> None:
    """Remove what killed runs left in build/, up to a model's size each; nothing of a stage that is under way.

    `running`: the stage that this process itself holds the lock of.
    """
    for stage in STAGES:
        found = leftovers(Path("build", stage))
        if running == stage or _idle(stage):
            found += [path for path in (Path(f"build/.sealed-{stage}"),) if path.is_dir()]
            if stage == "gguf":
                found += [path for path in GGUF.glob(".*") if HALF.fullmatch(path.name) and not path.is_dir()]
        for path in found:
            print(f"removing {path}, which a run that was killed left", flush=True)
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()


def _idle(stage: str) -> bool:
    try:
        alone.check([stage])
        return True
    except alone.Busy:
        return False


def check_foreign(params: Params) -> None:
    """Raise Foreign where build/gguf holds what no stage has made: later ones read the whole folder."""
    if foreign := [path for path, known in _unasked(params).items() if not known]:
        raise Foreign(
            f"{foreign[0]}: no stage has made it, and later ones read this folder\n"
            "hint: move it elsewhere: build/ is for what stages make"
        )


def remove_unasked(params: Params) -> None:
    """Remove quantised files of types params.yaml asks for no more: stages read the folder, DVC leaves them there.

    Only what can be had again: DVC's cache or dvc.lock knows it. The caller holds gguf's lock.
    """
    for path in [path for path, known in _unasked(params).items() if known]:
        print(f"removing {path}, which gguf.types asks for no more", flush=True)
        path.unlink()


def _unasked(params: Params) -> dict[Path, bool]:
    """What build/gguf holds beside the files of gguf.types, and of each whether it can be had again."""
    asked = {f"{params.name}-{kind}.gguf" for kind in params.gguf.types}
    there = sorted(GGUF.iterdir()) if GGUF.is_dir() else []
    return {
        path: _known(path)
        for path in there
        if not HALF.fullmatch(path.name) and (path.name not in asked or path.is_dir())
    }


def _known(path: Path) -> bool:
    """Whether DVC's cache holds this very file, linked, or dvc.lock has its path and hash."""
    cache = verify.cache(Path.cwd())
    if path.is_symlink():
        return path.resolve().is_relative_to(cache.resolve())
    if not path.is_file():
        return False
    if path.stat().st_nlink > 1 and any(_same(path, other) for other in cache.glob("??/*")):
        return True
    expected = verify.outs().get(str(path))
    return expected is not None and verify.md5_of(str(path)) == expected


def _same(path: Path, other: Path) -> bool:
    try:
        return path.samefile(other)
    except OSError:
        return False
