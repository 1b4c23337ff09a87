"""One stage as `dvc repro` starts it: everything that can be known to be wrong is said before it begins."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from ingot.console.messages import Fault
from ingot.host import alone, inputs, queued, tidy, tied, verify
from ingot.params.core import ParamsError, nearest
from ingot.planning import plan, validation
from ingot.sealing import image, image_lock, llama_build, llama_source, seal
from ingot.sealing.dag import STAGES, declared
from ingot.training import platform_lock

LLAMA = ("base", "f16", "imatrix", "gguf", "modelfile", "evaluation")  # what runs llama.cpp


def check(last: str) -> validation.Params:
    """The sound params of this folder, for a run that goes on to the stage `last`.

    Raises ParamsError, StaleLock or PlatformError.
    """
    params = validation.validate()
    if loose := validation.unpinned(params):
        raise ParamsError([f"{key}: unpinned: run `make pin`, which writes the repository's commit" for key in loose])
    image_lock.check()
    if STAGES.index(last) > STAGES.index("adapter") and (reason := validation.no_gguf(params)):
        raise ParamsError([reason])
    if STAGES.index(last) >= STAGES.index("adapter"):
        platform_lock.check(params.adapter)
    return params


def run(stage: str, item: str | None = None) -> NoReturn:
    """Check, then run the stage, sealed in a container or as `python -m stages.STAGE` here; ends with its status.

    `item`: which of a list, for a stage that dvc.yaml has once for each. Raises InputsChanged, and leaves none of the
    stage's outs, when what it takes has changed meanwhile.
    """
    if "DVC_STAGE" in os.environ:  # a DVC that is stopped would leave its stage running: stop with it
        tied.tie(os.getppid())
    queued.equip()
    last = reach(stage)
    try:
        params = check(last)
    except Fault as error:
        if last == stage or os.environ.get("INGOT_LAST"):
            raise
        check(stage)
        raise Fault(
            f"{error}\nhint: dvc itself is held to all stages; to go up to one: python -m ingot repro {stage}"
        ) from None
    asked = {"gguf": params.gguf.types}.get(stage, [None])
    if item not in asked:
        types = f" TYPE, of gguf.types ({', '.join(params.gguf.types)})" if stage == "gguf" else ""
        raise ParamsError([f"{item}: the command is python -m ingot run {stage}{types}"])
    what = declared(stage, item)
    alone.hold(stage)
    tidy.remove_leftovers(stage)
    if STAGES.index(last) >= STAGES.index("evaluation"):
        tidy.check_foreign(params)
    if reads := what.reads(tidy.GGUF):
        alone.hold("gguf")  # nothing is written into the folder while it is read
    if reads or stage == "gguf":
        tidy.remove_unasked(params)
    ahead = STAGES[STAGES.index(stage) : STAGES.index(last) + 1]
    plan.check_disk(params, [each for each in ahead if each == stage or not Path("build", each).exists()])
    if what.gpu:
        queued.wait_for_the_gpu()
    taken = inputs.Inputs(what)
    if "DVC_STAGE" in os.environ:  # by hand, a stage may be tried on whatever is there
        verify.check(what.deps, verify.choice())
    found, reason = runtime(params)
    if not found:
        _llama_ready(ahead)
    with taken.held():
        if found:
            print(f"sealed in {found.name}", flush=True)
            status = seal.run(what, found, params.container, params.uses_cuda)
        else:
            print(f"on this host: {reason.splitlines()[0]}", flush=True)
            status = _here(stage, item)
    tidy.remove_leftovers(stage)  # of a stage that was killed
    try:
        if status == 0 or taken.seen:
            taken.check()
    except inputs.InputsChanged:
        inputs.remove_outs(what)
        raise
    sys.exit(status)


def reach(stage: str) -> str:
    """The last stage, in pipeline order, that this run of `stage` leads to: the stage itself where no DVC runs it.

    `ingot repro` hands it on as INGOT_LAST. Of its own targets DVC tells its stages nothing: a plain one leads to all.
    """
    if "DVC_STAGE" not in os.environ:
        return stage
    last = os.environ.get("INGOT_LAST") or STAGES[-1]
    if last not in STAGES:
        raise Fault(
            f"INGOT_LAST={last}: no such stage{nearest(last, STAGES)}\nhint: `ingot repro STAGE` sets it: unset it"
        )
    return max(stage, last, key=STAGES.index)


def _llama_ready(ahead: list[str]) -> None:
    """Raise ToolchainError where a stage that lies ahead would not find llama.cpp here: training may lie between.

    Those behind `merged` look for themselves.
    """
    if not {"base", "dataset", "adapter", "merged"} & set(ahead) or not set(LLAMA) & set(ahead):
        return
    command = [sys.executable, "-m", "ingot.llama.llamacpp", *ahead]
    looked = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if looked.returncode:
        raise llama_source.ToolchainError(looked.stderr.strip())


def _here(stage: str, item: str | None) -> int:
    """Run the stage on this host; returns its status."""
    if not llama_build.INSIDE.is_file():  # what the run's record says of images is not for the caller to say
        for name in ("INGOT_SEALED", "INGOT_IMAGE", "INGOT_RECIPE", "INGOT_BASE"):
            os.environ.pop(name, None)
    return tied.run([sys.executable, "-m", f"stages.{stage}", *filter(None, [item])])


def asked() -> str:
    """INGOT_RUNTIME: auto, sealed or host."""
    wanted = os.environ.get("INGOT_RUNTIME") or "auto"
    if wanted not in ("auto", "sealed", "host"):
        raise image.EngineError(f"INGOT_RUNTIME={wanted}: must be auto, sealed or host")
    return wanted


def runtime(params: validation.Params) -> tuple[image.Image | None, str]:
    """The image to seal stages in, or None and why not. INGOT_RUNTIME: auto (default), sealed, host.

    Raises EngineError when sealed is asked for and cannot be had.
    """
    if (wanted := asked()) == "host":
        return None, "INGOT_RUNTIME is host"
    try:
        return image.find(image.target(params.uses_cuda)), ""
    except image.EngineError as error:
        if wanted == "sealed":
            raise
        return None, str(error)
