"""What a stage takes, as it was when the stage started, held against the end.

DVC hashes params and deps after a run: what was edited meanwhile would stand in dvc.lock beside a result of what was
there before.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ingot.console.messages import Fault
from ingot.params.core import PARAMS_FILE, ParamsError, read
from ingot.sealing.dag import Declared

# Bytes up to which a file is known by its content, too; a larger one by size, time and inode alone: 15 GB of weights
# are looked at in milliseconds.
SMALL = 4 << 20
LEFT = re.compile(r"\..*\.sw.|\.#.*|.*~")  # beside an open file, as .dvcignore has them
PAUSE = 1.0  # seconds between two looks, at least; a look takes a twentieth of the time at most
SHOWN = 60  # characters of a value


class InputsChanged(Fault):
    """What a stage takes has changed while it ran; the message names it."""


class Inputs:
    """The declared params and deps of a stage, as they are now."""

    def __init__(self, what: Declared):
        self.what = what
        self.stamp = stamp(PARAMS_FILE)
        self.params = _sections(what)
        self.files = {path: stamp(path) for path in files(what.deps)}
        self.small = {path: _content(path) for path, known in self.files.items() if _is_small(known)}
        self.seen: list[str] = []  # changes for which the stage was stopped

    def check(self) -> None:
        """Raise InputsChanged, naming what has changed since."""
        if found := self.seen or self.changes(thorough=True):
            more = f", and {len(found) - 5} more" if len(found) > 5 else ""
            kept = "put it back to go on from the last checkpoint, or " if self.what.stage == "adapter" else ""
            raise InputsChanged(
                f"{self.what.stage}: {'; '.join(found[:5])}{more}: nothing of this run is kept\n"
                f"hint: {kept}run it again, with what is there now; change nothing that a stage reads while it runs"
            )

    def changes(self, thorough: bool = False) -> list[str]:
        """What has changed since; small files are read again where their times changed, or all where `thorough`."""
        found = []
        if thorough or stamp(PARAMS_FILE) != self.stamp:
            try:
                found += [
                    f"{PARAMS_FILE} changed while it ran: {key}" for key in _differ(self.params, _sections(self.what))
                ]
            except ParamsError:  # an editor may be writing it
                found.append(f"{PARAMS_FILE} changed while it ran: it cannot be read")
        now = {path: stamp(path) for path in files(self.what.deps)}
        for path in sorted(self.files.keys() | now.keys()):
            if path not in self.files or path not in now:
                found.append(f"{path} was {'removed' if path in self.files else 'added'} while it ran")
            elif path in self.small:
                if (thorough or now[path] != self.files[path]) and _content(path) != self.small[path]:
                    found.append(f"{path} changed while it ran")
            elif now[path] != self.files[path]:
                found.append(f"{path} changed while it ran")
        return found

    @contextmanager
    def held(self) -> Iterator[None]:
        """While the block runs, look again and again; what changes ends it by SIGTERM to this process.

        At once, not after hours of training whose result could not be kept.
        """
        ended = threading.Event()

        def look() -> None:
            pause, last = PAUSE, []
            while not ended.wait(pause):
                began = time.monotonic()
                found = self.changes()
                if found and found == last:  # twice the same: nobody is in the middle of writing it
                    self.seen = found
                    return os.kill(os.getpid(), signal.SIGTERM)
                last, pause = found, max(PAUSE, 20 * (time.monotonic() - began))

        # The stage's runner has its own handlers meanwhile; a signal that comes behind them must not end this process.
        before = signal.getsignal(signal.SIGTERM)
        if before is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, lambda *_: None if self.seen else sys.exit(128 + signal.SIGTERM))
        watch = threading.Thread(target=look, daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()
            signal.signal(signal.SIGTERM, before)


def remove_outs(what: Declared) -> None:
    """Remove what a stage has written: it is of inputs that are no longer there."""
    for out in map(Path, what.outs):
        if out.is_dir() and not out.is_symlink():
            shutil.rmtree(out)
        else:
            out.unlink(missing_ok=True)


def _sections(what: Declared) -> dict[str, Any]:
    everything = read()
    return {key: everything[key] for key in what.params if key in everything}


def files(deps: list[str]) -> Iterator[str]:
    """Every file of the deps, and every link to a folder; Python's own caches and what editors leave are none."""
    for dep in deps:
        if os.path.isdir(dep):
            for place, folders, names in os.walk(dep):
                folders[:] = [name for name in folders if name != "__pycache__"]
                links = [name for name in folders if os.path.islink(os.path.join(place, name))]
                names = [name for name in names if not LEFT.fullmatch(name)]
                yield from (os.path.join(place, name) for name in names + links)
        elif os.path.lexists(dep):
            yield dep


def stamp(path: str | Path) -> tuple | None:
    """Size, time of change and inode of what a path leads to, by which a file that was put in its place is told too."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns, found.st_ino, os.path.isdir(path)


def _is_small(known: tuple | None) -> bool:
    return known is not None and not known[3] and known[0] <= SMALL


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return None


def _differ(before: Any, after: Any, key: str = "") -> Iterator[str]:
    """`key 1 → 2`, for every value that is not the same, with the path of its key."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in [*before, *(name for name in after if name not in before)]:
            yield from _differ(before.get(name), after.get(name), f"{key}.{name}".removeprefix("."))
    elif (type(before), before) != (type(after), after):
        yield f"{key} {_shown(before)} → {_shown(after)}"


def _shown(value: Any) -> str:
    text = "nothing" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
