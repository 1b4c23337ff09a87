"""The image: built by the classic builder on a stand-in base, tried out, not root, without git's data."""

from __future__ import annotations

import io
import json
import subprocess

import docker
import pytest

from ingot.sealing import llama_build, llama_source
from ingot.sealing.image import LABEL, bring_llama, of_other_recipes
from tests.conftest import ROOT

pytestmark = [pytest.mark.docker, pytest.mark.proof]


def inside(image, *command: str) -> str:
    run = ["docker", "run", "--rm", "--network", "none", image.id, *command]
    return subprocess.run(run, check=True, capture_output=True, text=True).stdout.strip()


def test_the_image_is_not_root_and_holds_no_git_data(image):
    assert inside(image, "id", "-u") != "0"
    assert not inside(image, "find", "/opt/toolchain", "/ingot", "-name", ".git")


def test_stages_find_nothing_of_ours_in_the_image(image):
    assert not inside(image, "sh", "-c", "cd /ingot; python -c 'import ingot' 2>/dev/null && echo there; ls")


def test_images_of_other_recipes_are_named_and_no_others(image):
    client = docker.from_env()
    names = ["ingot:cpu-of-another-recipe", "somebody:s-own"]
    for name in names:
        client.images.build(fileobj=io.BytesIO(f"FROM scratch\nLABEL {LABEL}={name}\n".encode()), tag=name)
    try:
        named = of_other_recipes(client, json.loads((ROOT / "image.lock").read_text())["recipe"])
    finally:
        for name in names:
            client.images.remove(name)
    assert names[0] in named and not {names[1], image.name} & set(named)


def test_a_host_takes_llama_cpp_from_the_image(image, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    commit = llama_source.pinned()
    monkeypatch.setattr(llama_build, "BUILD", tmp_path / "llama.cpp")
    bring_llama(commit)
    assert f"llama.cpp {commit[:12]} is taken from the image {image.name}" in capsys.readouterr().out
    llama_build.build(commit)
    assert not capsys.readouterr().out, "nothing is left to build"
    model = llama_source.SUBMODULE / "models/ggml-vocab-qwen2.gguf"
    said = subprocess.run([tmp_path / "llama.cpp/bin/llama-render", model], input="", capture_output=True, text=True)
    assert "error while loading shared libraries" not in said.stderr
    (tmp_path / "llama.cpp/bin/libllama.so.0").unlink()
    assert not llama_build.runs(tmp_path / "llama.cpp")
