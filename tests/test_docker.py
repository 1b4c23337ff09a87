"""The image: built by the classic builder on a stand-in base, it carries the toolchain and makes the demo's hashes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from ingot.artifact import sha256
from tests import standin
from tests.conftest import ROOT, Clone

pytestmark = [pytest.mark.docker, pytest.mark.slow]
IMAGE = "ingot-test:cpu"
USER = 1234


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


def inside(image: str, folder: Path, *command: str) -> subprocess.CompletedProcess:
    """Run a command in the image without network, as a user of its own, on the folder."""
    docker = ["docker", "run", "--rm", "--network", "none", "--user", f"{USER}:{USER}", "-v", f"{folder}:/build"]
    # DVC asks who it is; this uid has no name in the image.
    docker += ["-e", "LOGNAME=caller", "-e", "HOME=/tmp", "-e", "DVC_SITE_CACHE_DIR=/tmp/site", image, *command]
    return subprocess.run(docker, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_demo_in_the_image_has_the_committed_hashes(image):
    folder = Path(tempfile.mkdtemp())
    try:
        work = Clone(folder)
        before = {path: sha256(folder / path) for path in ("dvc.lock", "reports/evaluation.json")}
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, USER, USER)
        result = inside(image, work.folder, "dvc", "repro")
        assert result.stdout.count("Running stage ") == 9, result.stdout[-3000:]
        assert {path: sha256(folder / path) for path in before} == before, result.stdout[-3000:]
    finally:
        shutil.rmtree(folder)


def test_the_image_is_not_root_and_holds_no_git_data(image):
    who = subprocess.run(["docker", "run", "--rm", image, "id", "-u"], check=True, capture_output=True, text=True)
    assert who.stdout.strip() != "0"
    found = ["docker", "run", "--rm", image, "find", "/ingot", "-name", ".git"]
    assert not subprocess.run(found, check=True, capture_output=True, text=True).stdout
