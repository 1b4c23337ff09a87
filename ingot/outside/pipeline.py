"""One stage as `dvc repro` starts it: everything that can be known to be wrong is said before it begins."""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from ingot.outside import alone, image, imagelock, inputs, plan, sandbox, targets, tidy, tied, toolchain, verify
from ingot.outside.declared import declared
from ingot.params import every, platform
from ingot.params.core import ParamsError

STAGES = targets.STAGES


def check(last: str) -> every.Params:
    """The sound params of this folder, for a run that goes on to the stage `last`.

    Raises ParamsError, StaleLock or PlatformError.
    """
    params = every.validate()
    if loose := every.unpinned(params):
        raise ParamsError([f"{key}: unpinned: run `make pin`, which writes the repository's commit" for key in loose])
    imagelock.check()
    if STAGES.index(last) > STAGES.index("adapter") and (reason := every.no_gguf(params)):
        raise ParamsError([reason])
    if STAGES.index(last) >= STAGES.index("adapter"):
        platform.check(params.adapter)
    return params


def run(stage: str, item: str | None = None) -> NoReturn:
    """Check, then run the stage, sealed in a container or as `python -m stages.STAGE` here; ends with its status.

    `item`: which of a list, for a stage that dvc.yaml has once for each. Raises InputsChanged, and leaves none of the
    stage's outs, when what it takes has changed meanwhile.
    """
    if "DVC_STAGE" in os.environ:  # a DVC that is stopped would leave its stage running: stop with it
        tied.tie(os.getppid())
    last = targets.reach(stage)
    params = check(last)
    asked = {"gguf": params.gguf.types}.get(stage, [None])
    if item not in asked:
        types = f" TYPE, of gguf.types ({', '.join(params.gguf.types)})" if stage == "gguf" else ""
        raise ParamsError([f"{item}: the command is python -m ingot run {stage}{types}"])
    alone.hold(stage)
    tidy.remove_leftovers(stage)
    tidy.remove_unasked(params, last)
    plan.check_disk(params, [stage])
    what = declared(stage, item)
    taken = inputs.Inputs(what)
    if "DVC_STAGE" in os.environ:  # by hand, a stage may be tried on whatever is there
        verify.check(what.deps, verify.choice())
    found, reason = runtime(params)
    with taken.held():
        if found:
            print(f"sealed in {found.name}", flush=True)
            status = sandbox.run(what, found, params.container, params.uses_cuda)
        else:
            print(f"on this host: {reason}", flush=True)
            status = _here(stage, item)
    tidy.remove_leftovers(stage)  # of a stage that was killed
    try:
        if status == 0 or taken.seen:
            taken.check()
    except inputs.InputsChanged:
        inputs.remove_outs(what)
        raise
    sys.exit(status)


def _here(stage: str, item: str | None) -> int:
    """Run the stage on this host; returns its status."""
    if not toolchain.INSIDE.is_file():  # what the run's record says of images is not for the caller to say
        for name in ("INGOT_SEALED", "INGOT_IMAGE", "INGOT_RECIPE", "INGOT_BASE"):
            os.environ.pop(name, None)
    return tied.run([sys.executable, "-m", f"stages.{stage}", *filter(None, [item])])


def asked() -> str:
    """INGOT_RUNTIME: auto, sealed or host."""
    wanted = os.environ.get("INGOT_RUNTIME") or "auto"
    if wanted not in ("auto", "sealed", "host"):
        raise image.EngineError(f"INGOT_RUNTIME={wanted}: must be auto, sealed or host")
    return wanted


def runtime(params: every.Params) -> tuple[image.Image | None, str]:
    """The image to seal stages in, or None and why not. INGOT_RUNTIME: auto (default), sealed, host.

    Raises EngineError when sealed is asked for and cannot be had.
    """
    if (wanted := asked()) == "host":
        return None, "INGOT_RUNTIME is host"
    try:
        return image.find(image.target(params)), ""
    except image.EngineError as error:
        if wanted == "sealed":
            raise
        return None, str(error)
