"""`make doctor`, the machine: Docker, GPU, disk, memory, DVC's cache and remote, Ollama. What can be is tried."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ingot.console.messages import Fault, plain
from ingot.host import pipeline, verify
from ingot.planning import cards, fit, plan
from ingot.planning.validation import Params
from ingot.sealing import image, llama_build
from ingot.serving import ollama as serving
from ingot.serving import ollama_server

DRIVER = 580  # NVIDIA's first for CUDA 13
RAM = 1.1  # bytes of memory for each byte of a 16-bit model: a process reads the whole base before a GPU takes it


@dataclass(frozen=True)
class Finding:
    state: Literal["ok", "warn", "fail"]
    what: str
    said: str
    mend: str = ""  # a command, or what to do


def docker(params: Params) -> Finding:
    if (wanted := pipeline.asked()) == "host":
        return Finding("ok", "docker", "not used: INGOT_RUNTIME is host")
    kind = image.target(params.uses_cuda)
    try:
        client = image.connect()
        if (
            params.uses_cuda
            and "nvidia" not in client.info().get("Runtimes", {})
            and not Path("/etc/cdi/nvidia.yaml").is_file()
        ):
            return Finding(
                "fail",
                "docker",
                "knows no NVIDIA runtime",
                "install nvidia-container-toolkit, then nvidia-ctk runtime configure",
            )
        return Finding("ok", "docker", f"{image.find(kind).name} is there")
    except image.ImageMissing as error:
        return Finding("warn", "docker", first(error), "make image (make repro builds it, too)")
    except image.EngineError as error:
        state = "fail" if wanted == "sealed" else "warn"
        return Finding(
            state, "docker", f"{first(error)}: stages run on this host", "start Docker, or set INGOT_RUNTIME=host"
        )


def gpu(params: Params) -> Finding:
    if not params.uses_cuda:
        return Finding("ok", "gpu", "not used: params.yaml names device cpu")
    if not (card := cards.here()):
        return Finding(
            "fail",
            "gpu",
            "no NVIDIA card is to be seen",
            "install its driver, or set the devices in params.yaml to cpu",
        )
    said = cards.smi("driver_version,compute_cap,memory.free").split(", ")
    if len(said) == 3 and said[0].split(".")[0].isdecimal() and int(said[0].split(".")[0]) < DRIVER:
        return Finding(
            "fail", "gpu", f"driver {said[0]} is older than CUDA 13 takes", f"install NVIDIA's driver {DRIVER} or later"
        )
    if len(said) == 3 and said[1].replace(".", "") not in llama_build.ARCHITECTURES:
        known = ", ".join(f"{one[:-1]}.{one[-1]}" for one in llama_build.ARCHITECTURES)
        return Finding(
            "warn",
            "gpu",
            f"compute capability {said[1]}: llama.cpp is compiled for {known}",
            "INGOT_RUNTIME=host builds for it",
        )
    peak = fit.needed(params.adapter, params.base.parameters, params.max_seq_length, plan.config(params), card).total
    verdict = fit.verdict(peak, card)
    free = int(said[2].split()[0]) << 20 if len(said) == 3 and said[2].split()[0].isdecimal() else card.bytes
    if verdict != "does not fit" and peak + fit.CONTEXT > free:
        return Finding(
            "warn",
            "gpu",
            f"{card.name}: {_gb(free)} are free, training takes {_gb(peak + fit.CONTEXT)}",
            "nvidia-smi tells what holds it",
        )
    state = {"fits": "ok", "tight": "warn", "does not fit": "fail"}[verdict]
    return Finding(
        state,
        "gpu",
        f"{card.name}: training {verdict} ({_gb(peak + fit.CONTEXT)} of {_gb(card.bytes)})",
        "" if state == "ok" else "make plan FIT=1",
    )


def disk(params: Params) -> Finding:
    needed, free = (
        sum(need.disk for need in plan.needs(params) if not Path("build", need.stage).exists()),
        plan.free_space(),
    )
    said = f"{_gb(free)} free, {_gb(needed)} still needed"
    return (
        Finding("ok", "disk", said)
        if free >= needed
        else Finding("fail", "disk", said, "dvc gc --workspace, or a larger disk for build/ and .dvc/cache")
    )


def memory(params: Params) -> Finding:
    have = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = int(params.base.parameters * 2 * RAM) + 2_000_000_000
    said = f"{_gb(have)} of memory, about {_gb(needed)} at the peak"
    return (
        Finding("ok", "memory", said)
        if have >= needed
        else Finding("warn", "memory", said, "close other programs, or add swap")
    )


def links() -> Finding:
    """By which kind of link DVC's cache can give a file to build/: made, not guessed."""
    try:
        cache = verify.cache(Path("."))
        cache.mkdir(parents=True, exist_ok=True)
        Path("build").mkdir(exist_ok=True)
    except (OSError, Fault) as error:
        return Finding("fail", "cache", first(error), "dvc cache dir PATH")
    name = f".doctor-{uuid.uuid4().hex}"
    kept, given = cache / name, Path("build", name)
    try:
        kept.write_bytes(b"x")
        for word, link in (("hard links", os.link), ("symbolic links", os.symlink)):
            try:
                link(kept.resolve(), given)
            except OSError:
                continue
            state = "ok" if word == "hard links" or not image_needed() else "warn"
            return Finding(
                state,
                "cache",
                f"{word} to {cache}: a file stands on the disk once",
                "" if state == "ok" else "put the cache on build/'s disk",
            )
        return Finding(
            "warn",
            "cache",
            f"copies only: every file stands twice, in {cache} and in build/",
            "put both on one disk: dvc cache dir PATH",
        )
    except OSError as error:
        return Finding("fail", "cache", f"{cache}: {error.strerror}", f"make {cache} writable")
    finally:
        given.unlink(missing_ok=True)
        kept.unlink(missing_ok=True)


def image_needed() -> bool:
    """Whether stages are sealed: a container does not see what a symbolic link leads to outside."""
    return pipeline.asked() != "host"


def remote() -> Finding:
    """Whether DVC's default remote takes a file, and gives it back; the file is removed."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            if not repo.config["core"].get("remote"):
                return Finding("ok", "remote", "none: what is built stays on this machine")
            odb = repo.cloud.get_remote_odb()
            place = odb.fs.join(odb.path, f".doctor-{uuid.uuid4().hex}")
            odb.fs.makedirs(odb.path)
            odb.fs.pipe_file(place, b"x")
            same = odb.fs.cat_file(place) == b"x"
            odb.fs.rm_file(place)
    except (DvcException, OSError, ValueError, RuntimeError) as error:
        return Finding("fail", "remote", first(error), "dvc remote list; dvc remote modify")
    except Exception as error:  # every kind of storage has errors of its own
        return Finding(
            "fail", "remote", f"{type(error).__name__}: {first(error)}", "dvc remote list; dvc remote modify"
        )
    return (
        Finding("ok", "remote", f"{odb.path} takes a file and gives it back")
        if same
        else Finding("fail", "remote", f"{odb.path} gives back other bytes", "look at its storage")
    )


def ollama() -> Finding:
    import httpx

    try:
        host = ollama_server.address(os.environ.get("OLLAMA_HOST", ""))
        version = str(httpx.get(f"{host}/api/version", timeout=3).json()["version"])
    except ollama_server.OllamaError as error:
        return Finding("fail", "ollama", first(error), "set OLLAMA_HOST anew")
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return Finding("ok", "ollama", "no server answers; make chat needs none")
    numbers = tuple(int(one) for one in re.findall(r"\d+", version)[:3])
    if numbers < serving.OLDEST:
        return Finding(
            "warn",
            "ollama",
            f"{version} is older than {'.'.join(map(str, serving.OLDEST))}: it may not load new models",
            "update Ollama",
        )
    return Finding("ok", "ollama", f"{version} at {host}")


def first(error: BaseException) -> str:
    return plain(str(error).strip().split("\n")[0])[:200] or type(error).__name__


def _gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
