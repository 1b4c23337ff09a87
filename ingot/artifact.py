"""Files that hash the same everywhere: canonical writing, whole-or-nothing outputs, checksums. Serves both wings."""

from __future__ import annotations

import hashlib
import json
import os
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


def write_text(path: Path, text: str) -> None:
    """UTF-8 with the newlines given, whole or not at all: written beside, then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text, encoding="utf-8", newline="")
    os.replace(beside, path)


def write_json(path: Path, value: Any) -> None:
    """Sorted keys, two spaces, one final newline; NaN and infinity refused, as JSON has neither."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, allow_nan=False) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """One compact object a line, keys in the order given. Returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> list[Any]:
    # split("\n"), not splitlines(): U+2028 and its kin stand inside strings and end no line.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


@contextmanager
def output_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` when the block ends well and vanishes when it does not.

    One process at a time makes an output (DVC sees to it), so what a killed one left beside is removed first.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    for left in out.parent.glob(f".{out.name}.*"):
        shutil.rmtree(left)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    beside.chmod(0o777 & ~_umask())
    try:
        yield beside
        for path in beside.rglob("*"):  # some libraries write files that only their owner may read
            path.chmod((0o777 if path.is_dir() else 0o666) & ~_umask())
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextmanager
def output_file(out: Path) -> Iterator[Path]:
    """Yield a path beside `out`; the file made there becomes `out` when the block ends well and vanishes when it does not."""
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


def is_pointer(path: Path) -> bool:
    """Whether Git LFS has left a pointer in a file's place (git-lfs/docs/spec.md)."""
    with path.open("rb") as file:
        return file.read(40).startswith(b"version https://git-lfs.github.com/spec/")


def size_of(folder: Path) -> int:
    """Bytes of all files below a folder, or of one file."""
    if folder.is_file():
        return folder.stat().st_size
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
