"""Processes that end with the one that started them, however that one ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
from pathlib import Path

PR_SET_PDEATHSIG = 1  # of Linux; it stands when the process becomes another
LIBC = ctypes.CDLL(None)


def tie(parent: int) -> None:
    """Have this process sent SIGTERM when its parent, process `parent`, ends; at once where it has ended already."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        os._exit(128 + signal.SIGTERM)


def make_above() -> int | None:
    """The `make` that started this process, to tie it to. No other parent: what nohup started outlives its shell."""
    parent = os.getppid()
    try:
        name = Path(f"/proc/{parent}/comm").read_text().strip()
    except OSError:  # it has ended, or /proc hides it
        return None
    return parent if name in ("make", "gmake") else None


def run(command: list[str]) -> int:
    """Run a command to its end, as this process's own; returns its status, 128 + the number where a signal ended it.

    SIGTERM and SIGHUP are passed on, both as SIGTERM, by which a stage puts away what is half-written. SIGINT is not:
    the terminal sends it to both. Open files, a lock's among them, are the command's, too.
    """
    process, caught, mine = None, [], os.getpid()

    def pass_on(number: int, _frame) -> None:
        if number != signal.SIGINT:
            caught.append(number)
            if process:
                process.terminate()

    asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    # What the caller has ignored stays ignored: nohup means it.
    numbers = [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        process = subprocess.Popen(command, close_fds=False, preexec_fn=lambda: tie(mine))
        if caught:  # while it was being started
            process.terminate()
        status = process.wait()
        return 128 - status if status < 0 else status
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
