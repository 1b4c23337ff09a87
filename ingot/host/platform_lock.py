"""Write platform.lock by looking at the platform from where stages will: in their image, or on this host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from docker.errors import APIError, ContainerError
from docker.types import DeviceRequest, Mount

from ingot.exact.files import write_json
from ingot.host import pipeline
from ingot.planning.validation import Params
from ingot.sealing.dag import INSIDE
from ingot.sealing.image import EngineError, Image, connect
from ingot.sealing.seal import refused, user
from ingot.training.platform_lock import LOCK, PlatformError, differences, read

LOOK = ["-m", "ingot.training.platform", "-"]


def write(params: Params) -> tuple[str, list[str]]:
    """Look, and write the lock only then. Returns where it looked, and a line for each value that has changed."""
    image, reason = pipeline.runtime(params)
    here = _in_image(image, params.adapter.device == "cuda") if image else _on_host()
    try:
        changed = [f"{key}: {said} → {found}" for key, said, found in differences(read(), here)]
    except PlatformError as error:  # none that could be compared
        changed = [str(error).partition(":")[0]]
    write_json(LOCK, here)
    return f"in {image.name}" if image else f"on this host: {reason}", changed


def _on_host() -> dict[str, Any]:
    said = subprocess.run([sys.executable, *LOOK], capture_output=True, text=True)
    if said.returncode:
        raise PlatformError(_nothing_written(said.stderr))
    return json.loads(said.stdout)


def _in_image(image: Image, cuda: bool) -> dict[str, Any]:
    client = connect()
    try:
        said = client.containers.run(
            image.id, ["python", *LOOK], remove=True, network_mode="none", read_only=True, cap_drop=["ALL"],
            security_opt=["no-new-privileges"], tmpfs={"/tmp": "rw,exec,mode=1777"}, environment={"HOME": "/tmp"},
            working_dir=INSIDE, **user(client),
            device_requests=[DeviceRequest(count=-1, capabilities=[["gpu"]])] if cuda else None,
            mounts=[Mount(f"{INSIDE}/{path}", str(Path(path).resolve()), "bind", read_only=True)
                    for path in ("ingot", "params.yaml")],
        )  # fmt: skip
    except ContainerError as error:
        raise PlatformError(_nothing_written(error.stderr.decode("utf-8", "replace"))) from None
    except APIError as error:
        raise EngineError(refused("make platform", str(error.explanation or error))) from None
    return json.loads(said)


def _nothing_written(said: str) -> str:
    return f"{LOCK} is left as it is: {said.strip()[-3000:]}"
