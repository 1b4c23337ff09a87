"""`make repro`: DVC's run, one at a time in a folder; when it fails, what earlier runs made is brought back."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ingot.host import alone, tidy, tied, verify
from ingot.planning import recipe
from ingot.sealing import seal
from ingot.sealing.dag import STAGES
from ingot.training import out_of_memory

DVC = [sys.executable, "-m", "dvc"]
MOST = 1_000_000  # bytes of a report that is kept while a run may fail
PATIENCE = seal.PATIENCE + 10  # seconds that a stage which was stopped may take to end


def repro(last: str, prepare: Callable[[], None], retry: bool = False) -> int:
    """What `prepare` does, then `dvc repro` up to the stage `last`; returns its status. Raises Busy before DVC has
    removed anything, and Damaged where DVC's cache gave another file than dvc.lock has.

    `retry`: where training runs out of a GPU's memory, write the next smaller setting into params.yaml and begin again.

    DVC ends with this process, and this process with the `make` that started it.
    """
    make = tied.make_above()
    alone.hold("repro")
    prepare()
    sys.stdout.flush()
    if make:  # not before: a compiler would go on without this process
        tied.tie(make)
    alone.check(STAGES)
    tidy.remove_leftovers()
    os.environ["INGOT_LAST"] = last  # of which DVC tells its stages nothing
    wanted, before = verify.choice(), Before()
    out_of_memory.take()  # of a run before
    while status := tied.run([*DVC, "repro", *([last] if last != STAGES[-1] else [])]):
        if not retry or not (changes := out_of_memory.take()):
            break
        print(f"out of memory: {recipe.record(changes, 'make repro RETRY=smaller')}\nstarting again", flush=True)
    if status:
        restore(before, PATIENCE)
    else:
        verify.check(before.restored(), wanted)  # what stages take they have checked themselves
        if unlike := verify.unlike_committed():
            print(
                f"{', '.join(unlike)}: not what the last commit's dvc.lock has for the same inputs: this machine "
                "computes otherwise, or DVC's cache of runs is wrong\n"
                f"hint: dvc repro --force --single-item --no-run-cache {unlike[0]}; it computes it anew",
                file=sys.stderr,
            )
    return status


class Before:
    """What was there before a run: hashes and stamps of all outputs, the records of the runs that made them, and the
    reports: DVC does not check metrics out.
    """

    def __init__(self):
        self.outs = verify.outs()
        self.stamps = {out: verify.stamps([out]) for out in self.outs}
        self.records = _records()
        reports = [Path(out) for out in self.outs if out.startswith("reports/") and os.path.isfile(out)]
        self.reports = {path: path.read_bytes() for path in reports if path.stat().st_size <= MOST}

    def restored(self) -> list[str]:
        """Outputs that DVC has brought from its cache since: other files are there, and their stage has not run."""
        return [
            out
            for out, record in _records().items()
            if verify.stamps([out]) != self.stamps.get(out) and record == self.records.get(out, record)
        ]

    def stale(self) -> list[str]:
        """Outputs of before whose stage has read what is another now: they do not belong to what is there."""
        now = verify.outs()
        changed = {out for out, md5 in now.items() if self.outs.get(out) != md5}
        return [
            out
            for deps, outs in verify.deps_and_outs().values()
            if any(Path(one).is_relative_to(dep) or Path(dep).is_relative_to(one) for dep in deps for one in changed)
            for out in outs
            if out not in changed and out in self.outs and self._old(out)
        ]

    def _old(self, out: str) -> bool:
        """Whether it is as it was, or DVC has removed it; what a stage wrote that failed behind it is its own."""
        return not os.path.lexists(out) or verify.stamps([out]) == self.stamps[out]


def _records() -> dict[str, dict]:
    """Of each output in dvc.lock the stamp of reports/runs/STAGE.json, which its stage writes when it runs."""
    return {
        out: verify.stamps([f"reports/runs/{name}.json"])
        for name, (_, outs) in verify.deps_and_outs().items()
        for out in outs
    }


def restore(before: Before | None = None, patience: float = 0.0) -> None:
    """After a failed stage: bring back its earlier outputs, which DVC has removed, and remove those of another build.

    What the stage has written itself stays. Raises Busy while a stage is under way here: its outputs are as absent as
    those of one that failed.
    """
    alone.check(STAGES, patience)
    print("restoring what earlier runs made", flush=True)
    stale = before.stale() if before else []
    for out in stale:
        if os.path.lexists(out) and out.startswith("build/"):
            print(f"removing {out}: it is of another build than what is there now", flush=True)
            shutil.rmtree(out) if os.path.isdir(out) else os.unlink(out)
    missing = [out for out in verify.outs() if out not in stale and not os.path.lexists(out)]
    cached = [out for out in missing if verify.is_cached(out)]
    if cached and subprocess.run([*DVC, "checkout", "--quiet", "--allow-missing", *cached]).returncode:
        print("not everything could be restored: dvc checkout --allow-missing says why", file=sys.stderr)
    for path, content in before.reports.items() if before else ():
        if not path.exists() and str(path) not in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    _committed([out for out in missing if not os.path.lexists(out)])


def _committed(outs: list[str]) -> None:
    """Take the metrics from git, where it has them as dvc.lock does."""
    for out in outs:
        if subprocess.run(["git", "checkout", "--quiet", "--", out], stderr=subprocess.DEVNULL).returncode:
            continue
        if verify.md5_of(out) != verify.outs()[out]:
            shutil.rmtree(out) if os.path.isdir(out) else os.unlink(out)
