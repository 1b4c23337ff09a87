"""`make doctor`: a healthy checkout has no fault; each broken machine is told by its own line, with what mends it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from ingot.planning import recipe
from tests.conftest import ROOT, Clone
from tests.ollamaserver import Ollama, chatml, serving


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Clone:
    return Clone(tmp_path_factory.mktemp("doctor"))


@pytest.fixture
def kept(work):
    """The clone, its files put back afterwards."""
    before = {name: (work.folder / name).read_bytes() for name in ("params.yaml", "image.lock")}
    yield work
    for name, content in before.items():
        (work.folder / name).write_bytes(content)
    (work.folder / ".dvc/config.local").unlink(missing_ok=True)


def told(work: Clone, **environment: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit status, and the findings by what they are of."""
    ran = work.sh("python", "-m", "ingot", "doctor", "--json", check=False, **environment)
    assert "Traceback" not in ran.stdout, ran.stdout
    return ran.returncode, {one["what"]: one for one in json.loads(ran.stdout)}


def script(folder: Path, name: str, text: str) -> str:
    """A program of this name; returns a PATH on which it comes first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)
    return f"{folder}:{Path(sys.prefix) / 'bin'}:/usr/bin:/bin"


def smi(folder: Path, name: str, mib: int, driver: str = "580.10", capability: str = "8.9") -> str:
    """nvidia-smi as a machine with such a card has it."""
    both = f'case "$*" in *driver_version*) echo "{driver}, {capability}, {mib} MiB";; *) echo "{name}, {mib}";; esac'
    return script(folder, "nvidia-smi", both)


def test_a_healthy_checkout_has_no_fault(kept):
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 0 and {one["state"] for one in found.values()} <= {"ok", "warn"}, found
    assert len(found) == 17 and found["cache"]["said"].startswith("hard links to ")
    text = kept.sh("python", "-m", "ingot", "doctor", INGOT_RUNTIME="host").stdout
    assert "ok    params.yaml ingot-demo: sound\n" in text


def test_faults_in_params_and_locks_are_named(kept):
    kept.params(seed=-1)
    (kept.folder / "image.lock").write_text("{}")
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 1
    assert found["params.yaml"]["state"] == "fail" and "seed: -1" in found["params.yaml"]["said"]
    assert found["locks"]["state"] == "fail" and found["locks"]["mend"].startswith("make image.lock")
    assert "pins" not in found, "what needs sound params is left out"


def test_a_recipe_whose_machine_this_is_not(kept, tmp_path):
    text = recipe.expanded(ROOT / "recipes/qwen2.5-7b-kospi.yaml")
    (kept.folder / "params.yaml").write_text(text.replace("7_615_616_512", "720_615_616_512"))
    status, found = told(kept, INGOT_RUNTIME="host", PATH=script(tmp_path / "bin", "nvidia-smi", "exit 9"), HF_TOKEN="")
    assert status == 1
    for what, words, mend in (
        ("revisions", "unpinned: raw.datasets.finance_instruct.revision", "make pin"),
        ("platform", "is of another platform", "make platform"),
        ("gpu", "no NVIDIA card is to be seen", "install its driver"),
        ("disk", "GB still needed", "dvc gc"),
        ("memory", "of memory, about", "add swap"),
        ("hub", "no token", "export HF_TOKEN"),
    ):
        assert found[what]["state"] in ("fail", "warn"), what
        assert words in found[what]["said"] and mend in found[what]["mend"], found[what]


@pytest.mark.parametrize(
    ("card", "state", "words"),
    [
        ({"name": "NVIDIA GeForce RTX 4090", "mib": 24_564}, "ok", "rtx4090: training fits"),
        ({"name": "NVIDIA GeForce RTX 3060 Ti", "mib": 8192}, "warn", "rtx3060ti: training tight"),
        ({"name": "NVIDIA Quadro K42", "mib": 4096}, "fail", "does not fit"),
        ({"name": "NVIDIA GeForce RTX 4090", "mib": 24_564, "driver": "535.1"}, "fail", "driver 535.1 is older"),
        ({"name": "NVIDIA TITAN V", "mib": 12_288, "capability": "7.0"}, "warn", "compute capability 7.0"),
    ],
)  # fmt: skip
def test_a_card_is_held_against_the_plan(kept, tmp_path, card, state, words):
    (kept.folder / "params.yaml").write_text(recipe.expanded(ROOT / "recipes/qwen2.5-7b-kospi.yaml"))
    _, found = told(kept, INGOT_RUNTIME="host", PATH=smi(tmp_path / "bin", **card))
    assert found["gpu"]["state"] == state and words in found["gpu"]["said"], found["gpu"]
    assert bool(found["gpu"]["mend"]) == (state != "ok")


def test_a_base_that_is_not_there(kept):
    kept.params(base={"source": "local", "path": "models/none", "parameters": 10_000_000})
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 1 and found["base"]["said"] == "models/none holds no config.json"


def test_data_and_params_that_are_not_there(kept):
    kept.params(raw__datasets__krx_won__path="data/none.jsonl")
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 1 and found["data"]["said"] == "not there: data/none.jsonl"
    (kept.folder / "params.yaml").unlink()
    assert told(kept, INGOT_RUNTIME="host")[1]["params.yaml"]["mend"].startswith("make use RECIPE=")


def test_docker_that_does_not_answer(kept):
    away = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    status, found = told(kept, INGOT_RUNTIME="sealed", **away)
    assert status == 1 and found["docker"]["state"] == "fail" and "start Docker" in found["docker"]["mend"]
    assert told(kept, INGOT_RUNTIME="", **away)[1]["docker"]["state"] == "warn", "stages can run on the host"


def test_a_cache_on_another_disk_and_one_that_is_none(kept, tmp_path):
    if Path("/dev/shm").stat().st_dev == kept.folder.stat().st_dev:
        pytest.skip("missing: a second file system at /dev/shm")
    kept.sh("dvc", "config", "--local", "cache.dir", "/dev/shm/ingot-doctor")
    assert "symbolic links" in told(kept, INGOT_RUNTIME="host")[1]["cache"]["said"]
    sealed = told(kept, INGOT_RUNTIME="")[1]["cache"]
    assert sealed["state"] == "warn" and "build/'s disk" in sealed["mend"]
    shutil.rmtree("/dev/shm/ingot-doctor")
    (tmp_path / "file").touch()
    kept.sh("dvc", "config", "--local", "cache.dir", str(tmp_path / "file/cache"))
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 1 and found["cache"]["state"] == "fail"


def test_a_remote_is_written_to_and_read(kept, tmp_path):
    kept.sh("dvc", "remote", "add", "--local", "--default", "here", str(tmp_path / "remote"))
    assert "takes a file and gives it back" in told(kept, INGOT_RUNTIME="host")[1]["remote"]["said"]
    assert not [path for path in (tmp_path / "remote").rglob("*") if path.is_file()], "and nothing is left there"
    (tmp_path / "file").touch()
    kept.sh("dvc", "remote", "add", "--local", "--default", "--force", "here", str(tmp_path / "file/remote"))
    status, found = told(kept, INGOT_RUNTIME="host")
    assert status == 1 and found["remote"]["state"] == "fail" and "dvc remote" in found["remote"]["mend"]


def test_an_ollama_that_is_too_old_or_at_no_address(kept):
    old = Ollama(chatml)
    old.version = "0.1.2"
    with serving(old) as address:
        found = told(kept, INGOT_RUNTIME="host", OLLAMA_HOST=address)[1]["ollama"]
    assert found["state"] == "warn" and "0.1.2 is older than 0.5.5" in found["said"]
    found = told(kept, INGOT_RUNTIME="host", OLLAMA_HOST="ftp://x")[1]["ollama"]
    assert found["state"] == "fail" and "ftp:// is not spoken" in found["said"]


def test_a_build_begins_with_what_the_quick_checks_found(kept, tmp_path):
    kept.params(adapter__device="cuda")
    path = smi(tmp_path / "bin", "NVIDIA GeForce RTX 3060", 12288, driver="535.1")
    said = kept.sh("python", "-m", "ingot", "check", "raw", PATH=path).stdout
    assert "fail: gpu: driver 535.1 is older than CUDA 13 takes\nhint: install NVIDIA's driver 580 or later" in said
    kept.params(raw__datasets__gone={"path": "data/gone.jsonl"})
    said = kept.sh("python", "-m", "ingot", "check", "raw", check=False).stdout
    assert "fail: gpu: no NVIDIA card is to be seen" in said and "data/gone.jsonl" in said
