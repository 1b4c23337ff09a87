"""The image that stages are sealed in: found, built, checked, then tagged by the recipe that image.lock names."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from docker.types import Mount

from ingot.console.messages import Fault
from ingot.sealing import image_lock, llama_build, llama_source

LABEL, KIND = "org.ingot.recipe", "org.ingot.kind"


class EngineError(Fault):
    """Docker is absent, does not answer or refused; the message says which, and what to do."""


class ImageMissing(EngineError):
    """Docker answers, but holds no image of this recipe."""


@dataclass(frozen=True)
class Image:
    name: str
    id: str


def target(uses_cuda: bool) -> str:
    """Which of the Dockerfile's targets is needed: cuda or cpu."""
    return "cuda" if uses_cuda else "cpu"


def connect() -> docker.DockerClient:
    """The engine that DOCKER_HOST names, or the local one (Docker, rootless Docker, Podman's socket)."""
    if llama_build.INSIDE.is_file():
        raise EngineError("this is the image's own inside: stages run directly here, and images are made outside")
    try:
        client = docker.from_env(timeout=600)
        client.ping()
        return client
    except DockerException as error:
        where = os.environ.get("DOCKER_HOST", "its default socket")
        if "Permission denied" in str(error):
            raise EngineError(f"this user may not talk to Docker at {where}\nhint: join the docker group") from None
        if "No such file" in str(error):
            raise EngineError(
                f"there is no Docker at {where}\nhint: install or start it, or name it by DOCKER_HOST"
            ) from None
        raise EngineError(f"Docker at {where} does not answer ({error})\nhint: start its daemon") from None


def find(kind: str) -> Image:
    """The image of the present recipe. Raises ImageMissing, or EngineError when Docker does not answer."""
    recipe = image_lock.read()["recipe"]
    name = f"ingot:{kind}-{recipe[:12]}"
    try:
        found = connect().images.get(name)
    except ImageNotFound:
        raise ImageMissing(f"there is no image {name}\nhint: run `make image`") from None
    except APIError as error:
        raise EngineError(f"Docker refused to look {name} up: {error.explanation or error}") from None
    if (found.labels.get(LABEL), found.labels.get(KIND)) != (recipe, kind):
        raise ImageMissing(f"{name} was not made from this recipe\nhint: run `make image`")
    return Image(name, found.id)


def build(kind: str) -> Image:
    """Build the target `kind`, try it out, and only then tag it.

    BASE names another base image (a mirror's, with the same digest); BUILD_NETWORK the network of the build's steps.
    """
    image_lock.write()
    lock = image_lock.read()
    llama_source.fill_submodule()
    client = connect()
    arguments = {"KIND": kind, "RECIPE": lock["recipe"], "LLAMA_COMMIT": lock["llama.cpp"]["commit"]}
    if base := os.environ.get("BASE"):
        arguments["BASE"] = base
    made = None
    print(f"building the {kind} image (minutes, once)", flush=True)
    try:
        for line in client.api.build(
            path=".", target=kind, buildargs=arguments, rm=True, decode=True,
            network_mode=os.environ.get("BUILD_NETWORK"),
        ):  # fmt: skip
            if "stream" in line:
                print(line["stream"], end="", flush=True)
            if "error" in line:
                raise EngineError(f"the image could not be built: {line['error'].strip()}")
            made = line.get("aux", {}).get("ID", made)
        print("trying it out: a tiny model is converted, quantised and loaded", flush=True)
        said = client.containers.run(
            made, ["python", "-m", "ingot.proof.image_check"], remove=True, network_mode="none", read_only=True,
            stderr=True, tmpfs={"/tmp": "rw,exec,mode=1777"}, environment={"HOME": "/tmp"}, working_dir="/ingot",
            mounts=[Mount(f"/ingot/{path}", str(Path(path).resolve()), "bind", read_only=True)
                    for path in ("ingot", "image.lock")],
        )  # fmt: skip
    except docker.errors.ContainerError as error:
        raise EngineError(f"the image is broken, so it is not tagged: {error.stderr.decode()[-3000:]}") from None
    except APIError as error:
        raise EngineError(f"Docker refused: {error.explanation or error}") from None
    print(said.decode(), end="")
    name = f"ingot:{kind}-{lock['recipe'][:12]}"
    client.images.get(made).tag(name)
    if old := of_other_recipes(client, lock["recipe"]):
        print(f"images of other recipes, which no stage of this commit uses: docker image rm {' '.join(old)}")
    return Image(name, made)


def bring_llama(commit: str) -> None:
    """Copy llama.cpp's build out of the CPU image, where there is one of this recipe and its programs run here."""
    with tempfile.TemporaryDirectory(dir=llama_build.BUILD.parent) as scratch:
        try:
            found = find("cpu")
            container = connect().containers.create(found.id, ["true"])  # never started
            try:
                chunks, _ = container.get_archive(str(llama_build.INSIDE.parent))
                packed = io.BytesIO(b"".join(chunks))
            finally:
                container.remove()
        except (Fault, DockerException):
            return  # without Docker, it is built
        with tarfile.open(fileobj=packed) as archive:
            archive.extractall(scratch, filter="tar")
        made = Path(scratch) / llama_build.INSIDE.parent.name
        if not llama_build.is_built(made, commit) or not llama_build.runs(made):
            return
        shutil.rmtree(llama_build.BUILD, ignore_errors=True)
        made.rename(llama_build.BUILD)
    print(f"llama.cpp {commit[:12]} is taken from the image {found.name}", flush=True)


def of_other_recipes(client: docker.DockerClient, recipe: str) -> list[str]:
    """Our images that were made from another recipe: gigabytes each, and nobody removes them.

    Those without a name are of builds that failed their try-out. Labels are inherited: other names are of users' own.
    """
    ours = client.images.list(filters={"label": LABEL})
    names = [name for image in ours if image.labels[LABEL] != recipe for name in image.tags or [image.short_id]]
    return sorted(name for name in names if name.startswith(("ingot:", "sha256:")))
