"""The image: built by the classic builder on a stand-in base, tried out, not root, without git's data."""

from __future__ import annotations

import subprocess

import pytest

pytestmark = [pytest.mark.docker, pytest.mark.slow]


def inside(image, *command: str) -> str:
    run = ["docker", "run", "--rm", "--network", "none", image.id, *command]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


def test_the_image_is_not_root_and_holds_no_git_data(image):
    assert inside(image, "id", "-u") != "0"
    assert not inside(image, "find", "/opt/toolchain", "/ingot", "-name", ".git")


def test_stages_find_nothing_of_ours_in_the_image(image):
    assert not inside(image, "sh", "-c", "cd /ingot; python -c 'import ingot' 2>/dev/null && echo there; ls")
