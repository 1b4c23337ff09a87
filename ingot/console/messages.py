"""What reaches the terminal: faults as one message each, and nothing in it that a terminal would obey."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

# What a terminal obeys (C0 but tab and newline, DEL, C1), what turns a line's order round, and halves of characters.
OBEYED = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

ROOM = "make room: dvc gc --workspace drops what earlier runs made; `df -h` and `df -i` show what is full"
HINTS = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: "this file system holds no file of that size: work on another",
    errno.EROFS: "write to a folder on a volume that can be written to",
    errno.EACCES: "give yourself the right to it (chmod, chown), or work in a folder of your own",
    errno.EPERM: "give yourself the right to it (chmod, chown), or work in a folder of your own",
    errno.EMFILE: "raise the number of open files: ulimit -n 4096",
    errno.ENFILE: "close other programs: the system has no more open files to give",
    errno.EIO: "the disk may be failing: copy what you need, then run again",
    errno.ENAMETOOLONG: "take a shorter name, or work in a folder with a shorter path",
    errno.ENOTDIR: "a file stands where a folder is needed: move it away",
    errno.EISDIR: "a folder stands where a file is needed: move it away",
    errno.EEXIST: "something else stands there: move it away",
    errno.ENOTEMPTY: "something else stands there, or another run writes to it: wait for it, or move it away",
    errno.ELOOP: "its links lead round in a circle: remove them",
    errno.ENOENT: "it is not there, or was removed meanwhile: run again",
    errno.ENOMEM: "close other programs, or run where there is more memory",
}
# Faults of the disk, which libraries hide in errors of their own.
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EIO)


class Fault(Exception):
    """What the user can mend: the message names the value and the reason, and what to do."""


class Terminal(Console):
    """Rich's console, for texts that may hold what strangers wrote."""

    def print(self, *objects, **options) -> None:
        super().print(*(plain(text) if isinstance(text, str) else text for text in objects), **options)


def terminal(**options) -> Terminal:
    """Without colours of its own choice, and without breaking lines."""
    return Terminal(highlight=False, soft_wrap=True, **options)


def plain(text: object) -> str:
    """The text with what a terminal would obey written out, as \\x1b is."""
    return OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def expected(error: BaseException) -> str | None:
    """The message for what goes wrong outside the program (disk, memory, rights, input); None for its own mistakes."""
    if isinstance(error, Fault):
        return str(error)
    if isinstance(error, MemoryError):
        return f"the memory does not suffice ({_first(error)})\nhint: {HINTS[errno.ENOMEM]}"
    if isinstance(error, OSError) and error.errno in errno.errorcode:
        # A library's own text may be long; the path is what counts.
        names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, str | bytes)]
        what = " → ".join(map(_shown, names)) or _first(error)
        return _disk(what, error.errno)
    if (number := _hidden(error)) is not None:
        return _disk(_first(error), number)
    return expected(error.__cause__) if isinstance(error.__cause__, OSError | MemoryError) else None


@contextmanager
def command(name: str = "") -> Iterator[None]:
    """Frame a program that is no stage: what goes wrong outside of it ends it with its message alone and status 1."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # who read it has gone; nor is there anybody for Python's last flush
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if (said := expected(error)) is None:
            raise
        sys.exit(plain(f"{name}: {said}" if name else said))


def _disk(what: str, number: int) -> str:
    reason = os.strerror(number)
    hint = HINTS.get(number)
    return (what if reason in what else f"{what}: {reason}") + (f"\nhint: {hint}" if hint else "")


def _hidden(error: BaseException) -> int | None:
    """The number of the disk's fault that a library tells in words: safetensors, Arrow, PyTorch's archives."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        text = str(error)
        for number in DISK:
            if f"(os error {number})" in text or os.strerror(number) in text or getattr(error, "errno", 0) == number:
                return number
        if "PytorchStreamWriter failed writing" in text:
            return errno.ENOSPC
        error = error.__cause__ or error.__context__
    return None


def _shown(name: str) -> str:
    """A path as the user would write it: from here."""
    path, here = Path(name), Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) and path != here else name


def _first(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
