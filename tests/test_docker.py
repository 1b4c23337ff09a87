"""The image: built by the classic builder on a stand-in base, not root, without git's data."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests import standin
from tests.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.slow]
IMAGE = "ingot-test:cpu"


@pytest.fixture(scope="module")
def image() -> str:
    """The image's CPU build. Skipped where no Docker answers, unless INGOT_DOCKER=required."""
    missing = [tool for tool in ("docker", "debootstrap") if not shutil.which(tool)]
    if not missing and subprocess.run(["docker", "info"], capture_output=True).returncode:
        missing = ["a Docker daemon"]
    if os.getuid():
        missing.append("root, for debootstrap")
    if missing and os.environ.get("INGOT_DOCKER") != "required":
        pytest.skip(f"missing: {', '.join(missing)}")
    assert not missing
    commit = subprocess.run(
        ["git", "rev-parse", ":llama.cpp"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    arguments = {"BASE": standin.make(), "LOCK": "cpu", "LLAMA_COMMIT": commit}
    command = ["docker", "build", "--network", "host", "-t", IMAGE]
    for key, value in arguments.items():
        command += ["--build-arg", f"{key}={value}"]
    built = subprocess.run([*command, "."], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert built.returncode == 0, built.stdout[-4000:]
    return IMAGE


def test_the_image_is_not_root_and_holds_no_git_data(image):
    who = subprocess.run(["docker", "run", "--rm", image, "id", "-u"], check=True, capture_output=True, text=True)
    assert who.stdout.strip() != "0"
    found = ["docker", "run", "--rm", image, "find", "/ingot", "-name", ".git"]
    assert not subprocess.run(found, check=True, capture_output=True, text=True).stdout
