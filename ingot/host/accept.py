"""`ingot accept STAGE`: take what a stage has made as the result of the code there is now, without running it again.

A comment in a module that training imports makes DVC train anew, for hours, to the same bits. Whoever has read the
change may say so. Only code and locks can be accepted: other data or params are another result.
"""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from collections.abc import Callable

from ingot.console.messages import Fault
from ingot.host import verify
from ingot.host.repro import DVC

CODE = ("ingot/", "stages/", "image.lock", "platform.lock")
COMMITS = 500  # at most, in which the code of the run is looked for


class Refused(Fault):
    """A stage's result cannot be taken as that of what is there now."""


def accept(stage: str, sure: Callable[[], bool]) -> list[str]:
    """Show what of a stage's code has changed since it ran; write the new hashes into dvc.lock if the caller is `sure`.

    Returns what has changed: nothing where the stage is up to date, or the caller was not sure. Raises Refused, and
    Damaged where an output is not what the stage has made.
    """
    entries = {name: one for name, one in verify.stages().items() if name.split("@")[0] == stage}
    if not entries:
        raise Refused(f"{stage}: dvc.lock has no result of it\nhint: run it: dvc repro {stage}")
    changed: dict[str, str] = {}
    for name in entries:
        for dep, how in _changes(name).items():
            if not dep.startswith(CODE):
                raise Refused(
                    f"{name}: {dep} is {how} since it ran: its result is of other inputs\n"
                    f"hint: run it again: dvc repro {name}; only code and locks can be accepted"
                )
            changed[dep] = how
    verify.check([out["path"] for one in entries.values() for out in one["outs"]], "all")
    if not changed:
        return []
    known = {dep["path"]: dep["md5"] for one in entries.values() for dep in one["deps"]}
    for dep in sorted(changed):
        _show(dep, known.get(dep))
    if not sure():
        return []
    subprocess.run([*DVC, "commit", "--quiet", "--force", *entries], check=True)
    return sorted(changed)


def _changes(name: str) -> dict[str, str]:
    """What DVC sees as changed of a stage since it ran, and how."""
    ran = subprocess.run([*DVC, "status", "--json", name], stdout=subprocess.PIPE, text=True)
    if ran.returncode:
        raise Refused(f"{name}: DVC cannot tell its status\nhint: mend what it says above, then try again")
    found: dict[str, str] = {}
    for entry in json.loads(ran.stdout).get(name, []):
        if isinstance(entry, str):  # the command
            found["dvc.yaml"] = f"another ({entry})"
            continue
        for what, how in (entry.get("changed deps", {}) | entry.get("changed outs", {})).items():
            found |= {f"{what}: {key}": one for key, one in how.items()} if isinstance(how, dict) else {what: how}
    return found


def _show(dep: str, md5: str | None) -> None:
    """The change of a file or folder since a commit in which it was as dvc.lock has it."""
    print(f"{dep} has changed since it ran:", flush=True)
    if commit := _commit_of(dep, md5):
        subprocess.run(["git", "--no-pager", "diff", "--stat", "--patch", commit, "--", dep])
    else:
        print(f"  no commit of the last {COMMITS} has it as it was then, so the change cannot be shown")


def _commit_of(dep: str, md5: str | None) -> str | None:
    log = subprocess.run(["git", "log", f"-{COMMITS}", "--format=%H", "--", dep], stdout=subprocess.PIPE, text=True)
    return next((commit for commit in log.stdout.split() if _hash_in(commit, dep) == md5), None)


def _hash_in(commit: str, dep: str) -> str | None:
    """The hash that DVC would have of a file or folder as a commit has it."""
    tree = subprocess.run(["git", "ls-tree", "-rz", commit, "--", dep], stdout=subprocess.PIPE, text=True).stdout
    files = {}
    for line in filter(None, tree.split("\0")):
        head, path = line.split("\t", 1)
        files[path] = _md5_of_blob(head.split()[2])
    if dep in files:
        return files[dep]
    listed = [{"md5": one, "relpath": path.removeprefix(f"{dep}/")} for path, one in sorted(files.items())]
    return verify.folder_hash(listed)


@functools.cache
def _md5_of_blob(blob: str) -> str:
    """Most files are the same in one commit as in the next."""
    content = subprocess.run(["git", "cat-file", "blob", blob], stdout=subprocess.PIPE).stdout
    return hashlib.md5(content).hexdigest()


def confirmed() -> bool:
    """Whether somebody at a terminal says yes."""
    if not sys.stdin.isatty():
        raise Refused("nobody is there to be asked\nhint: say that the change cannot move the result: --yes")
    return input("none of this can change what the stage made? [y/N] ").strip().lower() in ("y", "yes")
