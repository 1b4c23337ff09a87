"""Work with llama.cpp in a process of its own: its end frees all its GPU memory, and a crash of it is a message."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

from ingot.console.progress import StageError

ITEM, FAILED, DONE = range(3)


def each(work: Callable[..., Iterator[Any]], *given: Any) -> Iterator[Any]:
    """What the generator `work(*given)` yields, computed in a fresh process; both are pickled on the way there.

    What it raises is raised here. Raises StageError when the process dies. The process ends with this generator.
    """
    fresh = multiprocessing.get_context("spawn")
    ours, its = fresh.Pipe(duplex=False)
    worker = fresh.Process(target=_work, args=(its, work, given), daemon=True)
    worker.start()
    its.close()
    try:
        while True:
            try:
                kind, value = ours.recv()
            except EOFError:
                worker.join()
                raise StageError(_death(worker.exitcode or 0)) from None
            if kind == DONE:
                return
            if kind == FAILED:
                raise value
            yield value
    finally:
        worker.kill()
        worker.join()


def _work(there: Connection, work: Callable[..., Iterator[Any]], given: tuple[Any, ...]) -> None:
    try:
        for item in work(*given):
            there.send((ITEM, item))
        there.send((DONE, None))
    except BrokenPipeError:  # nobody listens any more
        pass
    except Exception as error:
        there.send((FAILED, error))


def _death(status: int) -> str:
    how = f"signal {-status} ({signal.Signals(-status).name})" if status < 0 else f"status {status}"
    if status == -signal.SIGKILL:
        hint = "the kernel kills what takes too much memory: lower evaluation.rows or modelfile.num_ctx, or free memory"
    else:
        hint = "its last words stand above; on a GPU, try evaluation.device: cpu"
    return f"llama.cpp's process ended with {how}\nhint: {hint}"
