"""One stage as `dvc repro` starts it: everything that can be known to be wrong is said before it begins."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ingot.outside import imagelock, plan
from ingot.params import every
from ingot.params.core import ParamsError

STAGES = ["raw", "base", "dataset", "adapter", "merged", "f16", "gguf", "modelfile", "evaluation"]


def check(stage: str | None = None) -> every.Params:
    """The sound params of this folder. Raises ParamsError, StaleLock or NoRoom (for `stage`, or for all)."""
    params = every.validate()
    if loose := every.unpinned(params):
        raise ParamsError([f"{key}: unpinned: run `make pin`, which writes the repository's commit" for key in loose])
    imagelock.check()
    plan.check_disk(params, stage)
    return params


def run(stage: str) -> NoReturn:
    """Check, then become `python -m stages.STAGE`."""
    check(stage)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", f"stages.{stage}"])
