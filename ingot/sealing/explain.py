"""Why a sealed stage failed, as far as its last words tell, and what to declare."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from ingot.params.core import nearest, read
from ingot.sealing.dag import INSIDE, Declared
from ingot.sealing.params import Container

NO_NETWORK = "Network is unreachable|Temporary failure in name resolution|Name or service not known|ConnectError"
NO_NETWORK += "|outgoing traffic has been disabled|OfflineModeIsEnabled"


def failure(what: Declared, status: int | None, kills: int, said: str, limits: Container) -> str:
    """The message for a stage that ended with `status` (None: unknown), `kills` processes of it killed for memory."""
    head = f"{what.stage} failed in its container"
    if kills or status == 137:
        bound = f"container.memory_gb is {limits.memory_gb:g}" if limits.memory_gb else "this machine's memory is full"
        lower = "lower adapter.batch_size or max_seq_length, set adapter.gradient_checkpointing, or "
        lower = lower if what.stage == "adapter" else ""
        return f"{head}: out of memory (killed, status {status}; {bound}): {lower}give it more memory"
    if status is None:
        return f"{head}: the container was ended from outside, or Docker was; run again"
    return f"{head} with status {status}" + "".join(f"\n  {hint}" for hint in dict.fromkeys(_hints(what, said)))


def _hints(what: Declared, said: str) -> Iterator[str]:
    place = f"dvc.yaml, stages.{what.stage}"
    module = r"((?:ingot|stages)[\w.]*)'"
    imported = re.findall(rf"No module named '{module}", said)
    imported += [
        f"{package}.{name}" for name, package in re.findall(rf"cannot import name '(\w+)' from '{module}", said)
    ]
    for name in imported:
        room = Path(*name.split(".")[:2])
        if room.is_dir() or (room := room.with_suffix(".py")).is_file():
            yield f"it imports {name}, which is not declared: name {room} in the deps ({place})"
    written = [Path(path.removeprefix(f"{INSIDE}/")) for path in re.findall(r"Read-only file system: '([^']+)'", said)]
    for path in written:
        if what.reads(path):
            yield f"it writes {path}, which is a dep: a stage leaves what it reads as it is"
        else:
            yield f"it writes {path}: a stage writes its outs and /tmp alone; name it in the outs ({place})"
    # Whatever file of the repository its last words name: each library has its own way to say that it is not there.
    missing = re.findall(rf"No such file or directory: '(?:{INSIDE}/)?([^'/][^']*)'", said)
    named = re.findall(rf"(?:{INSIDE}/)?([\w][\w./-]*)", said)
    for token in [*missing, *filter(os.path.isfile, named)]:
        path = Path(token)
        if path in written or what.reads(path) or token in ("params.yaml", "dvc.yaml"):
            continue
        if token in missing and os.path.exists(path):
            yield f"it reads {path}, which is not declared: name it in the deps ({place})"
        elif token not in missing:
            yield f"it names {path}, which is not declared: if it reads it, name it in the deps ({place})"
    for path in map(Path, re.findall(r"No such file or directory: '(/[^']+)'", said)):
        if os.path.exists(path) and not path.is_relative_to(INSIDE):
            yield f"it reads {path}, which lies outside the repository: put it into the repository as a dep"
    for key in re.findall(r"^\s*(\w+): missing; every stage's section", said, re.M):
        if key in read():
            yield f"it reads the params key {key}, which is not declared: name it in the params ({place})"
        else:
            yield f"params.yaml has no {key}{nearest(key, list(read()))}"
    if not what.network and re.search(NO_NETWORK, said):
        yield "it uses the network, which only fetching stages may (meta.network in dvc.yaml: raw and base)"
    if "No space left on device" in said:
        yield "the disk of build/ is full, or /tmp has grown to the memory's end: make room and run again"
    for name in re.findall(r"KeyError: '([A-Za-z][A-Za-z0-9_]*)'", said):
        if name in os.environ:
            yield f"it reads the environment variable {name}: what a stage needs to know stands in params.yaml"
