"""One run at a time in a folder: locks that last as long as the process that holds them, whatever it becomes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterable
from pathlib import Path

from ingot.console.messages import Fault

FOLDER = Path(".cache")
GLANCE = 1.0  # seconds: `check` holds a lock for a moment, which is no run


class Busy(Fault):
    """A second run of something, while a first one is under way in this folder."""


def hold(what: str, folder: Path = FOLDER, patience: float = GLANCE) -> None:
    """Let no second run of `what` begin in `folder` until this process has ended, or what it becomes by exec.

    Raises Busy where one is under way and does not end within `patience` seconds.

    What is started beside it has no part in the lock, as long as it is started with its files closed.
    """
    try:
        folder.mkdir(exist_ok=True)
        lock = os.open(folder / f"{what}.lock", os.O_RDWR | os.O_CREAT, 0o666)
        _take(lock, fcntl.LOCK_EX, what, time.monotonic() + patience)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        os.set_inheritable(lock, True)
    except OSError as error:
        raise Busy(f"{what} cannot be locked against a second run: {error}") from None


def check(several: Iterable[str], patience: float = 0.0) -> None:
    """Raise Busy unless none of `several` is under way here; it may take `patience` seconds to end."""
    until = time.monotonic() + patience
    for what in several:
        if _file(what).is_file():
            with open(_file(what)) as lock:
                _take(lock.fileno(), fcntl.LOCK_SH, what, until)


def _file(what: str) -> Path:
    return FOLDER / f"{what}.lock"


def _take(lock: int, kind: int, what: str, until: float) -> None:
    """Lock the open file `lock`. Raises Busy when another holds it until the time `until`, of time.monotonic."""
    while True:
        try:
            return fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                process = os.pread(lock, 20, 0).decode()
                raise Busy(
                    f"another run of {what} is under way in this folder (process {process}): wait for it, or stop it"
                ) from None
        time.sleep(0.05)
