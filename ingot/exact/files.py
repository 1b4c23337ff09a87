"""Files that hash the same everywhere: canonical writing, whole-or-nothing outputs, checksums."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


def sha256(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def contents(root: Path, patterns: Iterable[str]) -> dict[str, str]:
    """SHA-256 of each matching file below a folder, by path; of a link, where it leads. Python's caches are none."""
    found = {}
    for path in sorted({path for pattern in patterns for path in root.glob(pattern)}):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = f"-> {os.readlink(path)}"
        elif path.is_file() and "__pycache__" not in path.parts:
            found[name] = sha256(path)
    return found


def write_text(path: Path, text: str) -> None:
    """UTF-8 with the newlines given, whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8", newline="")
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, two spaces, one final newline; NaN and infinity refused, as JSON has neither."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n")


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` when the block ends well and vanishes when it does not.

    What killed processes left beside is removed first. The folder is locked as long as this process lives, so that
    nobody takes it for such a one.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in leftovers(out):
        shutil.rmtree(left)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    lock = os.open(beside, os.O_RDONLY)
    try:
        _free(lock)
        beside.chmod(0o777 & ~_umask())
        yield beside
        for path in beside.rglob("*"):  # some libraries write files that only their owner may read
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        os.close(lock)


def leftovers(out: Path) -> list[Path]:
    """The folders beside `out` that killed processes were making it in; none that a living one holds."""
    found = []
    for path in sorted(out.parent.glob(f".{out.name}.*")):
        ours = re.fullmatch(r"[a-z0-9_]{8}", path.name.removeprefix(f".{out.name}."))  # mkdtemp's names
        if ours and path.is_dir() and not path.is_symlink():
            lock = os.open(path, os.O_RDONLY)
            try:
                found += [path] if _free(lock) else []
            finally:
                os.close(lock)
    return found


def _free(lock: int) -> bool:
    """Lock an open folder; False where another process has. True where the file system lacks locks (some network's)."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


@contextmanager
def output_file(out: Path) -> Iterator[Path]:
    """Yield a path beside `out`; the file made there becomes `out` when the block ends well, else it vanishes."""
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.part")  # of one length, and one name: what a killed run left is written over
    try:
        yield beside
        beside.replace(out)
    finally:
        beside.unlink(missing_ok=True)


def _umask() -> int:
    """The caller's umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def linked_folder(path: Path) -> Path | None:
    """The first of a path and the folders above it that is a link to a folder.

    DVC does not look through one: what is in it could change, and no stage would be run again.
    """
    return next((part for part in (path, *path.parents) if part.is_symlink() and part.is_dir()), None)


def is_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer in a file's place (git-lfs/docs/spec.md)."""
    with path.open("rb") as file:
        return file.read(40).startswith(
            (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
        )


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, or of one file."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
