"""`make repro`: DVC's run, one at a time in a folder; when it fails, what earlier runs made is brought back."""

from __future__ import annotations

import subprocess
import sys

from ingot.host import alone, seal, tidy, tied, verify
from ingot.host.targets import STAGES

DVC = [sys.executable, "-m", "dvc"]
PATIENCE = seal.PATIENCE + 10  # seconds that a stage which was stopped may take to end


def repro(last: str) -> int:
    """`dvc repro` up to the stage `last`; returns its status. Raises Busy before DVC has removed anything, and Damaged where
    DVC's cache gave another file than dvc.lock has.

    DVC ends with this process, and this process with the `make` that started it.
    """
    tied.tie_to_make()
    alone.hold("repro")
    alone.check(STAGES)
    tidy.remove_leftovers()
    wanted, restored = verify.choice(), verify.Restored()
    if status := tied.run([*DVC, "repro", *([last] if last != STAGES[-1] else [])]):
        restore(PATIENCE)
    else:
        verify.check(restored.outs(), wanted)  # what stages take they have checked themselves
        if unlike := verify.unlike_committed():
            print(
                f"{', '.join(unlike)}: not what the last commit's dvc.lock has for the same inputs: this machine computes "
                "otherwise, or DVC's cache of runs is wrong\n"
                f"hint: dvc repro --force --single-item --no-run-cache {unlike[0]}; it computes it anew",
                file=sys.stderr,
            )
    return status


def restore(patience: float = 0.0) -> None:
    """After a stage that failed: bring back its earlier outputs, which DVC has removed, the figures that git keeps too.

    Raises Busy while a stage is under way here: its outputs are as absent as those of one that failed.
    """
    alone.check(STAGES, patience)
    print("restoring what earlier runs made", flush=True)
    if subprocess.run([*DVC, "checkout", "--quiet", "--allow-missing"]).returncode:
        print("not everything could be restored: dvc checkout --allow-missing says why", file=sys.stderr)
    removed = subprocess.run(["git", "ls-files", "-z", "--deleted", "reports"], stdout=subprocess.PIPE).stdout
    if removed:
        names = ["--pathspec-from-file=-", "--pathspec-file-nul"]
        subprocess.run(["git", "checkout", "--quiet", *names], input=removed)
