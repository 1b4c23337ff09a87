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
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docker.errors import APIError, NotFound
from docker.types import DeviceRequest, Mount
from docker.utils.socket import frames_iter
from requests.exceptions import ConnectionError as EngineGone
from ruamel.yaml import YAML

from ingot.outside.image import EngineError, Image, connect
from ingot.params.container import Container
from ingot.params.core import nearest, read

INSIDE = "/ingot"
# What of the caller's environment a stage sees; tokens and the hub's address only where the network is.
LOOKS = ("TERM", "COLORTERM", "NO_COLOR")
FETCHING = ("HF_TOKEN", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy")
WRITABLE = ("build", "reports")
# Runs the stage, passes SIGTERM on, and writes how it ended where the runner reads it. The runner holds stdin open: when
# the runner dies, by whatever signal, stdin ends and so does the stage. Background jobs cannot read stdin, hence 3.
ENTRY = """
umask {umask:04o}
exec 3<&0
python -m stages.{stage} 3<&- </dev/null &
stage=$!
trap 'kill -TERM $stage' TERM
(cat <&3 >/dev/null; kill -TERM $stage; sleep 10; kill -KILL $stage) 2>/dev/null &
status=0; wait $stage || status=$?
while kill -0 $stage 2>/dev/null; do status=0; wait $stage || status=$?; done
echo $status > build/.status
"""


class SealBroken(Exception):
    """A stage failed in its container, or wrote what it does not declare; the message says what to declare or change."""


@dataclass(frozen=True)
class Declared:
    """What dvc.yaml says of one stage. Paths are relative to the repository's root."""

    stage: str
    deps: list[str]
    outs: list[str]
    params: list[str]
    network: bool
    gpu: bool
    scratch: list[str]


def declared(stage: str, file: Path = Path("dvc.yaml")) -> Declared:
    """Read one stage of dvc.yaml; metrics and plots are outs."""
    entry = YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))["stages"][stage]
    listed = [*entry.get("outs", []), *entry.get("metrics", []), *entry.get("plots", [])]
    outs = [path for item in listed for path in (item if isinstance(item, dict) else [item])]
    meta = entry.get("meta", {})
    return Declared(
        stage, entry["deps"], outs, entry["params"], meta.get("network", False), meta.get("gpu", False),
        meta.get("scratch", []),
    )  # fmt: skip


def run(stage: str, image: Image, limits: Container, cuda: bool) -> int:
    """Run a stage sealed; its outs are in place when it returns 0. Raises SealBroken or EngineError otherwise.

    `cuda`: give a stage that asks for a GPU all that there are. A stage that was stopped returns 130 or 143.
    """
    what = declared(stage)
    client = connect()
    root = Path.cwd()
    name = f"ingot-{hashlib.sha256(str(root).encode()).hexdigest()[:10]}-{stage}"
    _remove(client, name)  # what a runner left that was killed; DVC lets one at a time work in a repository
    beside = root / f"build/.sealed-{stage}"
    shutil.rmtree(beside, ignore_errors=True)
    try:
        container = client.containers.create(
            image.id,
            ["sh", "-c", ENTRY.format(umask=_umask(), stage=stage)],
            name=name,
            auto_remove=True,
            init=True,
            stdin_open=True,
            user=_user(client),
            working_dir=INSIDE,
            hostname="ingot",
            environment=_environment(what, image),
            network_mode="bridge" if what.network else "none",
            read_only=True,
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            tmpfs={"/tmp": "rw,exec,nosuid,mode=1777"},
            shm_size=int(limits.shm_gb * 1e9),
            mem_limit=int(limits.memory_gb * 1e9) if limits.memory_gb else None,
            nano_cpus=int(limits.cpus * 1e9) if limits.cpus else None,
            mounts=_mounts(what, root, beside),
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if what.gpu and cuda else None,
            labels={"ingot.stage": stage, "ingot.repository": str(root)},
        )
        said, stopped = _attached(client, container)
        status_file = beside / "build/.status"
        status = int(status_file.read_text()) if status_file.is_file() else None
        if stopped or status in (130, 143):
            print(f"{stage} was stopped; nothing half-written is left", file=sys.stderr)
            return stopped or status or 143
        if status != 0:
            raise SealBroken(_failure(what, status, said, limits))
        _take(what, beside)
        return 0
    except EngineGone:
        raise EngineError(
            f"Docker stopped answering while {stage} ran: nothing half-written is left; start its daemon and run again"
        ) from None
    except APIError as error:
        text = str(error.explanation or error)
        if "could not select device driver" in text or "nvidia" in text.lower():
            raise EngineError(
                f"Docker cannot give a container the GPU ({text}): install the NVIDIA Container Toolkit and restart "
                "Docker, or set INGOT_RUNTIME=host"
            ) from None
        raise EngineError(f"Docker refused the container of {stage}: {text}") from None
    finally:
        _remove(client, name)
        shutil.rmtree(beside, ignore_errors=True)


def _mounts(what: Declared, root: Path, beside: Path) -> list[Mount]:
    """Bind mounts: deps and params.yaml read-only, the outs' parents and scratch folders writable."""
    for parent in WRITABLE:
        (beside / parent).mkdir(parents=True)
    everything = read()
    (beside / "params.yaml").write_text("")
    with (beside / "params.yaml").open("w", encoding="utf-8") as file:
        YAML(typ="safe", pure=True).dump({key: everything[key] for key in what.params if key in everything}, file)
    mounts = [Mount(f"{INSIDE}/{parent}", str(beside / parent), "bind") for parent in WRITABLE]
    mounts.append(Mount(f"{INSIDE}/params.yaml", str(beside / "params.yaml"), "bind", read_only=True))
    elsewhere: set[Path] = set()
    for dep in what.deps:
        source = root / dep
        if not source.exists():
            raise SealBroken(f"{what.stage}: {dep} is missing; dvc.yaml names it as a dep")
        if Path(dep).parts[0] in WRITABLE:  # the mount point, or Docker would make it as root
            (beside / dep).mkdir(parents=True, exist_ok=True) if source.is_dir() else _touch(beside / dep)
        mounts.append(Mount(f"{INSIDE}/{dep}", str(source.resolve()), "bind", read_only=True))
        elsewhere |= set(_linked(source))
    # Files that DVC linked into its cache: each by itself, at the place the link names.
    mounts += [Mount(str(path), str(path), "bind", read_only=True) for path in sorted(elsewhere)]
    for folder in what.scratch:
        (root / folder).mkdir(parents=True, exist_ok=True)
        mounts.append(Mount(f"{INSIDE}/{folder}", str(root / folder), "bind"))
    return mounts


def _linked(dep: Path) -> Iterator[Path]:
    """Where the symbolic links inside a dep lead to, out of it."""
    for path in dep.rglob("*") if dep.is_dir() else []:
        if path.is_symlink() and path.exists() and not path.resolve().is_relative_to(dep.resolve()):
            yield path.resolve()


def _touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def _environment(what: Declared, image: Image) -> dict[str, str]:
    passed = [*LOOKS, *(FETCHING if what.network else ())]
    environment = {name: os.environ[name] for name in passed if name in os.environ}
    if sys.stdout.isatty():  # a container has no terminal of its own: one would not notice that the runner is dead
        environment |= {"TTY_COMPATIBLE": "1", "COLUMNS": str(shutil.get_terminal_size().columns)}
    return environment | {"HOME": "/tmp", "USER": "ingot", "INGOT_SEALED": image.id}


def _user(client) -> str:
    """The caller, so that what is made is the caller's. Rootless engines map the caller to the container's root."""
    told = client.info()  # Docker says it among the security options, Podman by a key of its own
    rootless = told.get("Rootless") or any("rootless" in option for option in told.get("SecurityOptions") or [])
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _attached(client, container) -> tuple[str, int]:
    """Start the container and pass on what it says until it ends; returns its last words and the signal's status.

    SIGINT and SIGTERM are passed on as SIGTERM, by which a stage puts away what is half-written; a second one kills.
    """
    stopped = 0

    def stop(number: int, _frame) -> None:
        nonlocal stopped
        again, stopped = stopped, 128 + number
        with contextlib.suppress(APIError, NotFound):  # it may have ended by itself in this moment
            container.kill(signal="SIGKILL" if again else "SIGTERM")

    socket = client.api.attach_socket(container.id, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    said: deque[bytes] = deque(maxlen=400)
    try:
        container.start()
        for _stream, data in frames_iter(socket, tty=False):
            said.append(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        # The output ends a moment before the container does.
        with contextlib.suppress(NotFound):
            container.wait(condition="removed")
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        socket.close()
    return b"".join(said).decode("utf-8", "replace"), stopped


def _take(what: Declared, beside: Path) -> None:
    """Move the outs into place. Raises SealBroken when one is missing, or when something else was written."""
    expected = [*what.outs, f"reports/runs/{what.stage}.json"]
    stray = [
        str(path.relative_to(beside))
        for parent in WRITABLE
        for path in sorted((beside / parent).rglob("*"))
        if path.is_file()
        and path.name != ".status"
        and not any(path.is_relative_to(beside / known) for known in [*expected, *what.deps])
    ]
    if stray:
        raise SealBroken(
            f"{what.stage} wrote {', '.join(stray[:5])}, which dvc.yaml does not declare: "
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


def _failure(what: Declared, status: int | None, said: str, limits: Container) -> str:
    """Why a stage failed, as far as its last words tell, and what to declare."""
    head = f"{what.stage} failed in its container"
    if status is None:
        return f"{head}: the container was ended from outside, or Docker was; run again"
    if status == 137:
        bound = f"container.memory_gb is {limits.memory_gb:g}" if limits.memory_gb else "this machine's memory is full"
        return (
            f"{head}: out of memory (killed, status 137; {bound}): lower adapter.batch_size or max_seq_length, set "
            "adapter.gradient_checkpointing, or give it more memory"
        )
    hints = _hints(what, said)
    return f"{head} with status {status}" + "".join(f"\n  {hint}" for hint in hints)


def _hints(what: Declared, said: str) -> list[str]:
    hints = []
    place = f"dvc.yaml, stages.{what.stage}"
    for module in dict.fromkeys(re.findall(r"No module named '((?:ingot|stages)[\w.]*)'", said)):
        path = Path(*module.split("."))
        found = path if path.is_dir() else path.with_suffix(".py")
        hints.append(f"it imports {module}, which is not declared: name {found} in the deps ({place})")
    for module, name in dict.fromkeys(re.findall(r"cannot import name '(\w+)' from '((?:ingot|stages)[\w.]*)'", said)):
        path = Path(*name.split("."), module)
        found = path if path.is_dir() else path.with_suffix(".py")
        if found.exists():
            hints.append(f"it imports {name}.{module}, which is not declared: name {found} in the deps ({place})")
    for path in dict.fromkeys(re.findall(r"No such file or directory: '([^']+)'", said)):
        relative = Path(path.removeprefix(f"{INSIDE}/"))
        if relative.is_absolute() and relative.exists():
            hints.append(f"it reads {path}, which lies outside the repository: put it into the repository as a dep")
        elif not relative.is_absolute() and relative.exists():
            hints.append(f"it reads {relative}, which is not declared: name it in the deps ({place})")
    for path in dict.fromkeys(re.findall(r"Read-only file system: '([^']+)'", said)):
        hints.append(f"it writes {path}: a stage writes its outs and /tmp alone; name it in the outs ({place})")
    for key in dict.fromkeys(re.findall(r"^\s*(\w+): missing; every stage's section", said, re.M)):
        if key in read():
            hints.append(f"it reads the params key {key}, which is not declared: name it in the params ({place})")
        else:
            hints.append(f"params.yaml has no {key}{nearest(key, list(read()))}")
    if not what.network and re.search(
        r"Network is unreachable|Temporary failure in name resolution|Name or service not known|ConnectError", said
    ):
        hints.append("it uses the network, which only fetching stages may (meta.network in dvc.yaml: raw and base)")
    for name in dict.fromkeys(re.findall(r"KeyError: '([A-Z][A-Z0-9_]*)'", said)):
        if name in os.environ:
            hints.append(f"it reads the environment variable {name}: what a stage needs to know stands in params.yaml")
    return hints


def _remove(client, name: str) -> None:
    with contextlib.suppress(NotFound, APIError, EngineGone):
        client.containers.get(name).remove(force=True)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
