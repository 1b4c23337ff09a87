"""The verbs on a build; cli_params.py has those on params.yaml. Each prints what it did, or one error, no traceback."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ingot.console.messages import Fault, plain
from ingot.host import accept as accepting
from ingot.host import cli_params, figures, pipeline, platform_lock
from ingot.host import doctor as diagnosis
from ingot.host import repro as building
from ingot.host import verify as verifying
from ingot.host.cli_app import Stage, app, console, verb
from ingot.params.core import Name, load
from ingot.planning import plan as planning
from ingot.planning import validation
from ingot.sealing import image as images
from ingot.sealing import image_lock, llama_build, llama_source, seal
from ingot.serving import ollama as serving
from ingot.training.platform_lock import LOCK as PLATFORM_LOCK

__all__ = ["app", "cli_params"]  # with every verb


@verb
def run(stage: Stage, item: Annotated[str | None, typer.Argument()] = None) -> None:
    """Run one stage, as dvc.yaml does; ITEM is which of a list, where it has the stage once for each."""
    pipeline.run(stage, item)


@verb
def check(last: Stage = pipeline.STAGES[-1]) -> None:
    """Validate params.yaml, image.lock, platform.lock, llama.cpp and the disk for a run up to a stage, \
without running it."""
    _check(last)
    if "INGOT_LLAMA_SOURCE" not in os.environ:  # or stages take it from elsewhere, as inside the image
        llama_source.check_submodule()


def _check(last: str) -> validation.Params:
    """The sound params; raises what can be told before llama.cpp is there."""
    pipeline.asked()
    params = pipeline.check(last)
    stages = pipeline.STAGES[: pipeline.STAGES.index(last) + 1]
    planning.check_disk(params, [stage for stage in stages if not Path("build", stage).exists()])
    print(f"params.yaml is sound: {params.name}")
    for one in diagnosis.concerns(params):
        print(f"{one.state}: {one.what}: {one.said}\nhint: {one.mend}")
    return params


@verb
def repro(
    last: Stage = pipeline.STAGES[-1],
    retry: Annotated[
        str | None, typer.Option(help="smaller: out of GPU memory, write the next smaller setting and begin again")
    ] = None,
) -> None:
    """Check, build the image if it is missing, or llama.cpp for stages on this host; then `dvc repro` up to a stage.

    When it fails, what earlier runs made is brought back.
    """

    def prepare() -> None:
        params = _check(last)  # first: building takes minutes
        if not _build_missing(images.target(params.uses_cuda)):
            llama()

    if retry not in (None, "smaller"):
        raise Fault(f"RETRY={retry}: unknown\nhint: the only one is smaller")
    raise typer.Exit(building.repro(last, prepare, retry=bool(retry)))


@verb
def restore() -> None:
    """Bring back what earlier runs made, after a stage that failed."""
    building.restore()


@verb
def accept(
    stage: Stage, yes: Annotated[bool, typer.Option("--yes", help="the change cannot move the result")] = False
) -> None:
    """Take a stage's result as that of the code that is there now: shows what has changed since it ran, and asks."""
    changed = accepting.accept(stage, (lambda: True) if yes else accepting.confirmed)
    print(f"{stage}: accepted with {', '.join(changed)}" if changed else f"{stage}: nothing was accepted")


@verb
def metrics() -> None:
    """This build's figures, with what the last commit had otherwise."""
    figures.show(console())


@verb
def experiments() -> None:
    """DVC's experiments since the last commit, each with the params it changed and its figures."""
    raise typer.Exit(figures.experiments())


@verb
def dag() -> None:
    """The stages in order: what each does, and whose outputs it takes."""
    figures.stages(console())


@verb
def verify() -> None:
    """Read all that stages have made, and hold it against dvc.lock."""
    if not (outs := list(verifying.outs())):
        raise Fault(
            "dvc.lock has no outputs: there is nothing to verify\nhint: run `make repro`, or git checkout dvc.lock"
        )
    count = verifying.check(outs, "all")
    print(f"what dvc.lock has of build/ and reports/ is there as it was made: {count / 1e9:.2f} GB read")


@verb
def doctor(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """What a build needs of params, locks and this machine: a line each, with the command that mends it."""
    found = list(diagnosis.findings())
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
    else:
        for one in found:
            print(f"{one.state:4}  {one.what:11} {one.said}" + (f"\n{'':18}mend: {one.mend}" if one.mend else ""))
    raise typer.Exit(int(any(one.state == "fail" for one in found)))


@verb
def platform() -> None:
    """Write platform.lock: what of the machine that trains an adapter's bits depend on."""
    where, changed = platform_lock.write(validation.validate())
    print(f"{PLATFORM_LOCK} is written ({where})")
    print("changed, so the adapter stage will train anew:" if changed else "nothing has changed in it")
    for line in changed:
        print(f"  {plain(line)}")


@verb
def llama(
    library: Annotated[bool, typer.Option("--library", help="only what `make chat` loads: no programs")] = False,
) -> None:
    """Fill the llama.cpp submodule, build it once or take the image's build, install llama-cpp-python on it."""
    with _building():
        llama_build.make(library, images.bring_llama)


@contextmanager
def _building() -> Iterator[None]:
    """One at a time: two would write into the same folder."""
    Path(".cache").mkdir(exist_ok=True)
    with open(".cache/llama.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@verb
def image(
    if_missing: Annotated[
        bool, typer.Option("--if-missing", help="only where stages will be sealed and have none")
    ] = False,
) -> None:
    """Build the image that params.yaml needs, try it out and tag it."""
    target = images.target(validation.validate().uses_cuda)
    if if_missing:
        _build_missing(target)
        return
    with _building():
        made = images.build(target)
    print(f"{made.name} is there: `make repro` runs its stages in it")


def _build_missing(target: str) -> bool:
    """Build the image if Docker is running and the image is missing; returns whether stages will be sealed in it.

    If it cannot be built, prints why; raises EngineError where INGOT_RUNTIME is sealed.
    """
    if (wanted := pipeline.asked()) == "host" or llama_build.INSIDE.is_file():
        return False
    try:
        images.find(target)
        return True
    except images.ImageMissing as missing:
        print(f"{str(missing).splitlines()[0]}: building it, once (INGOT_RUNTIME=host does without)", flush=True)
    except images.EngineError:
        if wanted == "sealed":
            raise
        return False  # each stage says why
    try:
        with _building():
            images.build(target)
        return True
    except images.EngineError as error:
        if wanted == "sealed":
            raise
        print(f"no image can be had, so stages run on this host: {error}", flush=True)
        return False


@verb
def ollama(
    model: Annotated[str | None, typer.Option(help="its name there; params.yaml's `name` in small letters")] = None,
    host: Annotated[str | None, typer.Option(help="the server, as in OLLAMA_HOST")] = None,
    cli: Annotated[bool, typer.Option("--cli", help="register by the command `ollama`")] = False,
) -> None:
    """Register the built model with an Ollama server, and compare what it renders and answers."""
    serving.serve(model or load("name", Name).lower(), host, cli)


@verb
def shell() -> None:
    """A shell inside the image, this repository mounted and writable, no network."""
    params = validation.validate()
    found = images.find(images.target(params.uses_cuda))
    if not shutil.which("docker"):
        raise images.EngineError(
            "the docker command is not on the path (sealed stages do without it, a shell does not)"
        )
    quoted = str(Path.cwd()).replace('"', '""')
    command = ["docker", "run", "--rm", "--interactive", "--network", "none", "--user", f"{os.getuid()}:{os.getgid()}"]
    command += ["--tty"] if sys.stdin.isatty() else []
    command += ["--gpus", "all"] if params.uses_cuda and not planning.gpu_missing(params) else []
    command += ["--shm-size", str(int(params.container.shm_gb * 1e9))]
    command += ["--mount", f'type=bind,"src={quoted}",dst={seal.INSIDE}', "--env", f"INGOT_IMAGE={found.id}"]
    os.execvp("docker", [*command, "--env", "HOME=/tmp", "--env", "USER=ingot", found.id, "bash"])


@verb
def lock_image() -> None:
    """Write image.lock from the Dockerfile, the requirements and the llama.cpp commit."""
    image_lock.write()
    print(f"image.lock: recipe {image_lock.current()['recipe'][:12]}")
