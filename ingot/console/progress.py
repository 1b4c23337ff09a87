"""What a stage says: its task first, a bar on long work, one line of what it made last; errors without a traceback."""

from __future__ import annotations

import fcntl
import logging
import os
import platform
import re
import resource
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ingot.console.messages import Fault, expected, terminal
from ingot.exact.files import write_json

console = terminal()


class StageError(Fault):
    """A fault that the user can mend: the message names the value, the reason and the fix."""


@contextmanager
def stage(name: str, task: str) -> Iterator[list[str]]:
    """Frame a stage: say what it does; yield a list to which it adds what it made; say that, and the seconds taken."""
    console.print(f"[bold]{name}[/]  {task}")
    began = time.monotonic()
    made: list[str] = []
    yield made
    console.print(f"[bold green]{name}[/]  {', '.join(made)}, {time.monotonic() - began:.1f} s")


def start(main: Callable[[], None]) -> None:
    """Run a stage's main function as a process: mistakes end it with their message alone and status 1."""
    quiet_libraries()
    sys.stdout.reconfigure(errors="backslashreplace")  # what a terminal cannot show must not end a stage
    stopped = False

    def stop(*_) -> None:
        nonlocal stopped
        stopped = True
        sys.exit(143)  # so that what is half-written is removed then, too

    signal.signal(signal.SIGTERM, stop)
    began = time.monotonic()
    try:
        with alone():
            main()
            record(time.monotonic() - began)
    except KeyboardInterrupt:
        console.print("[bold red]interrupted[/]  nothing half-written is left; run again to go on")
        sys.exit(130)
    except BaseException as error:
        if stopped:  # a library that was being imported may have made another error of it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
            sys.exit(143)
        if (said := expected(error)) is None:
            raise
        console.quiet = False
        console.print("[bold red]failed[/]  ", end="")
        console.print(said, markup=False)
        sys.exit(1)


@contextmanager
def foreign(what: str, hint: str) -> Iterator[None]:
    """Make a StageError of whatever a library ends with over a stranger's files: nobody has counted the ways.

    What the disk, the memory or a signal does stays what it is.
    """
    try:
        yield
    except (Fault, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a Rust library is no Exception
        if expected(error) is not None:
            raise
        said = " ".join(str(error).split())[:500]
        raise StageError(f"{what}: {type(error).__name__}: {said}\nhint: {hint}") from None


@contextmanager
def alone() -> Iterator[None]:
    """Let no second `python -m stages.STAGE` run in this folder: each would take the other's files for left ones."""
    spec = sys.modules["__main__"].__spec__
    # No stage, or one whose starter has seen to it: the seal, or the launcher of a training on several GPUs.
    if spec is None or not spec.name.startswith("stages.") or {"INGOT_SEALED", "LOCAL_RANK"} & os.environ.keys():
        yield
        return
    path = Path(f".cache/{spec.name}.lock")
    path.parent.mkdir(exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            name = spec.name.partition(".")[2]
            raise StageError(
                f"{name}: another run of it is under way in this folder: wait for it, or stop it"
            ) from None
        yield


def record(seconds: float) -> None:
    """Write reports/runs/STAGE.json: where and with what this run was made.

    Git and DVC ignore it, for it differs each time.
    """
    spec = sys.modules["__main__"].__spec__
    if spec is None or not Path("image.lock").is_file():
        return  # not started as a stage
    used, below = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    told = os.environ.get
    inside = told("INGOT_RECIPE")  # the image's own word
    write_json(
        Path(f"reports/runs/{'@'.join([spec.name.rsplit('.', 1)[-1], *sys.argv[1:]])}.json"),
        {
            "runtime": "sealed" if told("INGOT_SEALED") else "image" if inside else "host",
            "image": {"recipe": inside, "base": told("INGOT_BASE"), "id": told("INGOT_IMAGE")} if inside else None,
            "platform": {
                "system": platform.platform(),
                "python": platform.python_version(),
                "processor": model[1] if model else platform.machine(),
                "cores": len(os.sched_getaffinity(0)),
            },
            "used": {
                "seconds": round(seconds, 1),
                "cpu_seconds": round(used.ru_utime + used.ru_stime + below.ru_utime + below.ru_stime, 1),
                "peak_bytes": max(used.ru_maxrss, below.ru_maxrss) * 1024,
            },
        },
    )


def quiet_libraries() -> None:
    """Leave the libraries' bars to terminals, and their notes on what every run of ours does anyway to nobody."""
    if not (console.is_terminal and sys.stderr.isatty()):  # where they write
        os.environ["TQDM_DISABLE"] = os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    # Says in every process that it has no downloaded CPU kernel, which is as it should be: nothing unpinned is fetched.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def bar(description: str) -> Progress:
    """A progress bar that counts items."""
    return Progress(
        TextColumn("  {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def quantity(number: int, unit: str) -> str:
    """`1,234 rows`, `1 row`: `unit` is given in the plural."""
    return f"{number:,} {unit if number != 1 else unit.removesuffix('s')}"


def bytes_(number: int) -> str:
    """Decimal units, as disks and model pages count."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.2f} GB"


def run(
    command: list[str],
    description: str,
    counter: str,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
) -> str:
    """Run a tool, in `folder`, that reports `counter`; returns its output.

    `counter` is a regex with the group done, and total unless it counts percent. Raises StageError with the output's
    end when it fails.
    """
    tool = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=environment, cwd=folder
    )
    assert tool.stdout is not None
    lines: deque[str] = deque(maxlen=5000)
    try:
        with bar(description) as progress:
            task = progress.add_task(description, total=100)
            total = 100
            for line in _lines(tool.stdout):
                lines.append(line)
                if match := re.search(counter, line):
                    total = int(match.groupdict().get("total", 100))
                    progress.update(task, completed=int(match["done"]), total=total)
            if (status := tool.wait()) == 0:
                progress.update(task, completed=total)
    finally:
        tool.kill()
        tool.wait()
    if status:
        tail = "\n".join(list(lines)[-15:])
        raise StageError(f"{description}: {Path(command[0]).name} ended with status {status}; its last words:\n{tail}")
    return "\n".join(lines)


def _lines(stream) -> Iterator[str]:
    """Lines of a binary stream, ended by newlines or by the carriage returns of a progress bar."""
    rest = b""
    while chunk := stream.read1(65536):
        *whole, rest = re.split(rb"[\r\n]+", rest + chunk)
        yield from (line.decode("utf-8", "replace") for line in whole)
    if rest:
        yield rest.decode("utf-8", "replace")
