"""Work with llama.cpp in a process of its own: its end frees all its GPU memory, and a crash of it is a message.

There llama.cpp is loaded before anything else: its CUDA build has crashed where numpy had brought another C++ library.
"""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, Pipe
from typing import Any

from ingot.console.progress import StageError
from ingot.llama import llamacpp

ITEM, FAILED, DONE = range(3)


def each(work: Callable[..., Iterator[Any]], *given: Any) -> Iterator[Any]:
    """What the generator `work(*given)` yields, computed in a fresh process; both are pickled on the way there.

    What it raises is raised here. Raises StageError when the process dies. The process ends with this generator.
    """
    ours, its = Pipe()
    worker = subprocess.Popen(
        [sys.executable, "-m", "ingot.llama.apart", str(its.fileno())],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        pass_fds=[its.fileno()],
    )
    its.close()
    try:
        ours.send((work, given))
        while (received := ours.recv())[0] != DONE:
            kind, value = received
            if kind == FAILED:
                raise value
            yield value
    except (EOFError, BrokenPipeError, ConnectionResetError):
        raise StageError(_death(worker.wait())) from None
    finally:
        worker.kill()
        worker.wait()
        ours.close()


def _work(there: Connection) -> None:
    sent = there.recv_bytes()
    try:
        llamacpp.library()
        work, given = pickle.loads(sent)
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


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the stage, and that ends this process
    _work(Connection(int(sys.argv[1])))
