"""The seal: one stage in one container, which holds what dvc.yaml declares for the stage and nothing else.

Declared deps are mounted read-only, outs are written into a folder beside build/ and moved into place when the stage
has ended well, params.yaml holds the declared keys alone. Of the rest of the repository, the caller's environment and
the network, nothing is there. `meta` in dvc.yaml names the exceptions: `network`, `gpu`, and `scratch`, folders that
outlive a run that was stopped.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import stat
import sys
from collections import deque
from pathlib import Path
from socket import SHUT_RDWR

from docker.errors import APIError, NotFound
from docker.types import DeviceRequest
from docker.utils.socket import frames_iter
from requests.exceptions import ConnectionError as EngineGone
from requests.exceptions import RequestException

from ingot.sealing.dag import INSIDE, WRITABLE, Declared, SealBroken, mounts
from ingot.sealing.explain import failure
from ingot.sealing.image import EngineError, Image, connect
from ingot.sealing.params import Container

# What of the caller's environment a stage sees; tokens and the hub's address only where the network is.
LOOKS = ("TERM", "COLORTERM", "NO_COLOR")
FETCHING = ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
# Runs the stage, passes SIGTERM on, and writes how it ended, and how many processes were killed for want of memory,
# where the runner reads it. What a fetching stage may know comes first on stdin and so stands in no description of the
# container. The runner then holds stdin open: when it dies, by whatever signal, stdin ends and so does the stage.
# Background jobs cannot read stdin, hence 3.
ENTRY = """
umask {umask:04o}
while IFS= read -r line && [ -n "$line" ]; do export "$line"; done
exec 3<&0
echo "                " > build/.status  # room for the last line, should the stage fill the disk
python -m stages.{stage} {item} 3<&- </dev/null &
stage=$!
trap 'kill -TERM $stage' TERM
(cat <&3 >/dev/null; kill -TERM $stage; sleep 10; kill -KILL $stage) 2>/dev/null &
status=0; wait $stage || status=$?
while kill -0 $stage 2>/dev/null; do status=0; wait $stage || status=$?; done
kills=$(sed -n 's/^oom_kill //p' /sys/fs/cgroup/memory.events /sys/fs/cgroup/memory/memory.oom_control 2>/dev/null)
echo $status ${{kills:-0}} 1<> build/.status
"""
# Between the first signal and SIGKILL, in seconds: to put a half-written model away.
PATIENCE = 30


def run(what: Declared, image: Image, limits: Container, cuda: bool) -> int:
    """Run a stage sealed; its outs are in place when it returns 0. Raises SealBroken or EngineError otherwise.

    The caller sees to it that no second run of the stage is under way in this folder.
    `cuda`: give a stage that asks for a GPU all that there are. A stage that was stopped returns 128 + the signal.
    """
    stage, item = what.stage, what.item
    client = connect()
    root = Path.cwd()
    name = f"ingot-{hashlib.sha256(str(root).encode()).hexdigest()[:10]}-{stage}"
    beside = root / f"build/.sealed-{stage}"
    memory = int(limits.memory_gb * 1e9) if limits.memory_gb else None
    with Signals() as signals:
        _remove(client, name)  # what a runner left that was killed
        try:
            if beside.exists():
                shutil.rmtree(beside)
            container = client.containers.create(
                image.id,
                ["sh", "-c", ENTRY.format(umask=_umask(), stage=stage, item=item or "")],
                name=name,
                auto_remove=True,
                init=True,
                stdin_open=True,
                **user(client),
                working_dir=INSIDE,
                hostname="ingot",
                environment=_environment(image),
                use_config_proxy=False,
                network_mode="bridge" if what.network else "none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                tmpfs={"/tmp": "rw,exec,nosuid,mode=1777"},
                shm_size=int(limits.shm_gb * 1e9),
                mem_limit=memory,
                memswap_limit=memory,  # or Docker adds as much again of swap
                nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
                mounts=mounts(what, root, beside),
                device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if what.gpu and cuda else None,
                labels={"ingot.stage": stage, "ingot.repository": str(root)},
            )
            said = _attached(client, container, signals, _secrets(what))
            status, kills = _ended(beside / "build/.status")
            if signals.caught or status in (130, 143):
                print(f"{stage} was stopped; nothing half-written is left", file=sys.stderr)
                return 128 + signals.caught if signals.caught else 143
            if status != 0:
                _take_reports(what, beside)
                raise SealBroken(failure(what, status, kills, said, limits))
            _take(what, beside)
            return 0
        except EngineGone:
            raise EngineError(
                f"Docker stopped answering while {stage} ran: nothing half-written is left; "
                "start its daemon and run again"
            ) from None
        except APIError as error:
            raise EngineError(refused(stage, str(error.explanation or error))) from None
        except OSError as error:  # after Docker's errors, which are OSErrors too
            raise SealBroken(f"{stage}: the runner failed: {error}") from None
        finally:
            try:
                _remove(client, name)
            finally:
                shutil.rmtree(beside, ignore_errors=True)


def _ended(file: Path) -> tuple[int | None, int]:
    """The stage's status (None: its container did not live to write it), how many processes memory cost; removes it."""
    if file.is_symlink() or not file.is_file():
        return None, 0
    words = file.read_text(errors="replace").split()
    file.unlink()
    return (int(words[0]), int(words[1])) if len(words) == 2 and all(map(str.isdecimal, words)) else (None, 0)


class Signals:
    """SIGINT, SIGTERM and SIGHUP, from before the container is made until everything is put away.

    The first is passed on as SIGTERM, by which a stage puts away what is half-written; a second one, or patience at its
    end, kills. `caught` is the first one's number, or 0.
    """

    def __init__(self) -> None:
        self.caught = 0
        self.container = None

    def __enter__(self) -> Signals:
        asked = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        # What the caller has ignored stays ignored: nohup means it.
        numbers = [number for number in asked if signal.getsignal(number) is not signal.SIG_IGN] + [signal.SIGALRM]
        self.before = {number: signal.signal(number, self.handle) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        signal.alarm(0)
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def handle(self, number: int, _frame) -> None:
        if not self.caught:
            self.caught = number
            signal.alarm(PATIENCE)
            self.pass_on("SIGTERM")
        else:
            self.pass_on("SIGKILL")

    def pass_on(self, name: str) -> None:
        with contextlib.suppress(RequestException):  # it is not started yet, or has ended in this moment
            if self.container:
                self.container.kill(signal=name)


def _environment(image: Image) -> dict[str, str]:
    environment = {name: os.environ[name] for name in LOOKS if name in os.environ}
    if sys.stdout.isatty():  # a container has no terminal of its own: one would not notice that the runner is dead
        environment |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(shutil.get_terminal_size().columns)}
    return environment | {"HOME": "/tmp", "USER": "ingot", "INGOT_SEALED": "1", "INGOT_IMAGE": image.id}


def _secrets(what: Declared) -> bytes:
    """Lines for ENTRY: what a fetching stage may know, then an empty one."""
    known = {name: os.environ[name].strip() for name in FETCHING if what.network and name in os.environ}
    if broken := [name for name, value in known.items() if "\n" in value]:
        raise EngineError(f"{broken[0]} has a line break in it: set it anew")
    return os.fsencode("".join(f"{name}={value}\n" for name, value in known.items()) + "\n")


def user(client) -> dict:
    """The caller with his groups, so that what is made is his. Rootless engines map him to the container's root."""
    told = client.info()  # Docker says it among the security options, Podman by a key of its own
    rootless = told.get("Rootless") or any("rootless" in option for option in told.get("SecurityOptions") or [])
    return {"user": "0:0"} if rootless else {"user": f"{os.getuid()}:{os.getgid()}", "group_add": os.getgroups()}


def _attached(client, container, signals: Signals, first: bytes) -> str:
    """Start the container, give it its first lines, and pass on what it says until it ends; returns its last words."""
    socket = client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    said: deque[bytes] = deque(maxlen=400)
    try:
        if signals.caught:
            return ""
        container.start()
        signals.container = container
        if signals.caught:  # while it was being started
            signals.pass_on("SIGTERM")
        getattr(socket, "_sock", socket).sendall(first)
        for _stream, data in frames_iter(socket, tty=False):
            said.append(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        # The output ends a moment before the container does.
        with contextlib.suppress(NotFound):
            container.wait(condition="removed")
    finally:
        with contextlib.suppress(OSError):  # or Docker waits for somebody to read what is still to come
            getattr(socket, "_sock", socket).shutdown(SHUT_RDWR)
        socket.close()
    return b"".join(said).decode("utf-8", "replace")


def _take(what: Declared, beside: Path) -> None:
    """Move the outs into place. Raises SealBroken when one is missing, or when something else was written."""
    expected = [*what.outs, f"reports/runs/{'@'.join(filter(None, [what.stage, what.item]))}.json"]
    mine = [beside / path for path in [*expected, *what.deps]]
    for parent in WRITABLE:
        for path in sorted((beside / parent).rglob("*")):
            name, kind = path.relative_to(beside), path.lstat().st_mode
            if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
                raise SealBroken(f"{what.stage} made {name} a link or another thing that is no file: write its content")
            if stat.S_ISREG(kind) and not any(path.is_relative_to(known) for known in mine):
                raise SealBroken(
                    f"{what.stage} wrote {name}, which dvc.yaml does not declare: "
                    f"name it under the outs, metrics or plots of {what.stage}, or do not write it"
                )
    if missing := [out for out in what.outs if not (beside / out).exists()]:
        raise SealBroken(f"{what.stage} ended well but did not write {', '.join(missing)}, which dvc.yaml declares")
    for out in expected:
        target = Path(out)
        if not (beside / out).exists():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            shutil.rmtree(target)
        else:
            target.unlink(missing_ok=True)
        shutil.move(beside / out, target)


def _take_reports(what: Declared, beside: Path) -> None:
    """Of a failed stage, the declared reports that it wrote to say why: they are small, nothing is built of them."""
    for out in what.outs:
        path = beside / out
        real = path.resolve()
        if out.startswith("reports/") and path.is_file() and real == beside.resolve() / out:  # by way of no link
            Path(out).parent.mkdir(parents=True, exist_ok=True)
            Path(out).unlink(missing_ok=True)
            shutil.move(real, out)


def refused(stage: str, text: str) -> str:
    """What to do when Docker will not make or start the container."""
    if "could not select device driver" in text or "nvidia" in text.lower():
        return (
            f"Docker cannot give a container the GPU ({text}): install the NVIDIA Container Toolkit and restart "
            "Docker, or set INGOT_RUNTIME=host"
        )
    key = "container.memory_gb: " if "memory limit" in text.lower() else "container.cpus: " if "CPU" in text else ""
    return f"Docker refused the container of {stage}: {key}{text}"


def _remove(client, name: str) -> None:
    with contextlib.suppress(RequestException):
        client.containers.get(name).remove(force=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
