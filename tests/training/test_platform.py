"""platform.lock: true of the demo on every machine, held against params before anything runs and of a run's targets."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.console.progress import StageError
from ingot.host import pipeline
from ingot.planning import recipe, validation
from ingot.training import platform as inside
from ingot.training import platform_lock
from ingot.training.params import Adapter
from tests.conftest import ROOT, edited

DEMO = validation.validate(ROOT / "params.yaml").adapter
KOSPI = recipe.params(ROOT / "recipes/qwen2.5-7b-kospi.yaml").adapter


def changed(adapter: Adapter, **changes) -> Adapter:
    return Adapter(**adapter.model_dump() | changes)


def look(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ingot.training.platform", *words]
    (folder / "ingot").symlink_to(ROOT / "ingot")
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with the demo's params and lock, to work in."""
    for name in ("params.yaml", "platform.lock"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("adapter", "changes", "engine"),
    [
        (DEMO, {}, "peft"),
        (KOSPI, {}, "unsloth"),
        (KOSPI, {"method": "lora"}, "unsloth"),
        (KOSPI, {"engine": "peft"}, "peft"),
        *((KOSPI, {"method": name, "packing": False}, "peft") for name in ("dora", "full", "ia3", "prompt", "prefix")),
    ],
)
def test_auto_takes_unsloth_where_it_can_train(adapter, changes, engine):
    assert platform_lock.engine(changed(adapter, **changes)) == engine


def test_the_committed_lock_is_what_this_machine_is_for_the_demo(place):
    said = look(place, "-")
    assert said.returncode == 0, said.stderr
    assert said.stdout == (ROOT / "platform.lock").read_text()


@pytest.mark.docker
@pytest.mark.proof
def test_the_verb_looks_from_the_image_and_finds_the_same(image, clone):
    work = clone(micro=False)
    (work.folder / "platform.lock").unlink()
    said = work.sh("sh", "-c", "umask 077; python -m ingot platform", INGOT_RUNTIME="sealed").stdout
    assert f"platform.lock is written (in {image.name})" in said and "platform.lock is missing" in said
    assert (work.folder / "platform.lock").read_bytes() == (ROOT / "platform.lock").read_bytes()


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is here")
def test_cuda_without_a_device_writes_nothing(place):
    edited(ROOT / "recipes/qwen2.5-7b-kospi.yaml", place / "params.yaml", {})
    said = look(place)
    assert said.returncode == 1 and "adapter.device: cuda: no CUDA device is visible here" in said.stderr
    assert "Traceback" not in said.stderr
    assert (place / "platform.lock").read_bytes() == (ROOT / "platform.lock").read_bytes()


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which("nvidia-smi") is None, reason="missing: a CUDA device")
def test_a_gpu_is_named_with_what_computes_on_it(place):
    edited(ROOT / "recipes/qwen2.5-7b-kospi.yaml", place / "params.yaml", {})
    said = look(place)
    assert said.returncode == 0, said.stderr
    lock = json.loads((place / "platform.lock").read_text())
    assert lock["engine"] == "unsloth" and {"unsloth", "unsloth_zoo", "triton"} < lock["versions"].keys()
    assert lock["device"]["kind"] == "cuda" and lock["device"]["gpus"] == 1 and lock["device"]["multiprocessors"] > 0
    inside.check(KOSPI)
    with pytest.raises(StageError, match=r"adapter.gpus: 64: CUDA devices that are visible here: .*; lower it"):
        inside.check(changed(KOSPI, gpus=64, accumulation=64))


def test_the_stage_refuses_a_lock_that_is_not_true_here(place):
    inside.check(DEMO)
    lock = json.loads((place / "platform.lock").read_text())
    here = lock["versions"]["torch"]
    lock["versions"] |= {"torch": "2.11.0", "triton": "3.5"}
    (place / "platform.lock").write_text(json.dumps(lock))
    with pytest.raises(StageError) as error:
        inside.check(DEMO)
    assert f"\n  torch: platform.lock says 2.11.0, here is {here}\n" in str(error.value)
    assert "\n  triton: platform.lock says 3.5, here is nothing\n" in str(error.value)
    assert "run `make platform`" in str(error.value) and str(error.value).count("\n") == 3
    for text in ("", "[]", "<<<<<<< HEAD\n{}\n"):
        (place / "platform.lock").write_text(text)
        with pytest.raises(StageError, match=r"cannot be read .*\nhint: run `make platform`"):
            inside.check(DEMO)
    (place / "platform.lock").unlink()
    with pytest.raises(StageError, match="is missing\nhint: run `make platform` on the machine that trains"):
        inside.check(DEMO)


def test_params_for_another_platform_are_told_by_the_file_alone(place):
    platform_lock.check(DEMO)
    platform_lock.check(changed(DEMO, learning_rate=1e-4, method="lora"))
    with pytest.raises(platform_lock.PlatformError) as error:
        platform_lock.check(changed(KOSPI, gpus=2))
    for line in (
        "device.kind: platform.lock says cpu, params.yaml asks for cuda",
        "device.gpus: platform.lock says nothing, params.yaml asks for 2",
        "engine: platform.lock says peft, params.yaml asks for unsloth",
        "run `make platform` on the machine that trains",
    ):
        assert line in str(error.value)


def test_a_recipe_for_a_gpu_stops_before_anything_runs_unless_it_ends_before_training(clone):
    work = clone()
    work.params(adapter__device="cuda", evaluation__device="cuda")
    assert "run `make platform` there" in work.sh("python", "-m", "ingot", "plan").stdout
    lock = (work.folder / "platform.lock").read_bytes()
    for command in ("python -m ingot check", "python -m ingot repro", "dvc repro", "dvc repro raw"):
        result = work.sh(*command.split(), check=False)
        assert result.returncode and "device.kind: platform.lock says cpu, params.yaml asks for cuda" in result.stdout
        assert "Traceback" not in result.stdout
        hint = "hint: dvc itself is held to all stages; to go up to one: python -m ingot repro raw"
        assert (hint in result.stdout) == command.startswith("dvc")
    assert not (work.folder / "build/raw").exists() and (work.folder / "platform.lock").read_bytes() == lock
    said = work.sh("python", "-m", "ingot", "repro", "raw").stdout
    assert "Running stage 'raw'" in said, "what is fetched and rendered is the same wherever it is trained"


def test_the_verb_says_what_has_changed(clone):
    work = clone()
    lock = (work.folder / "platform.lock").read_bytes()
    (work.folder / "platform.lock").write_bytes(lock.replace(b'"avx2"', b'"avx512"'))
    said = work.sh("python", "-m", "ingot", "platform").stdout
    assert "platform.lock is written (on this host: INGOT_RUNTIME is host)" in said
    assert "device.instruction set: avx512 → avx2" in said
    assert (work.folder / "platform.lock").read_bytes() == lock
    assert "nothing has changed in it" in work.sh("python", "-m", "ingot", "platform").stdout


@pytest.mark.parametrize(
    ("environment", "last"),
    [
        ({}, "merged"),
        ({"INGOT_LAST": "gguf"}, "merged"),
        ({"DVC_STAGE": "merged"}, "card"),
        ({"DVC_STAGE": "merged", "INGOT_LAST": ""}, "card"),
        ({"DVC_STAGE": "merged", "INGOT_LAST": "gguf"}, "gguf"),
        ({"DVC_STAGE": "merged", "INGOT_LAST": "raw"}, "merged"),
    ],
)
def test_how_far_a_run_leads(monkeypatch, environment, last):
    for name in ("DVC_STAGE", "INGOT_LAST"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert pipeline.reach("merged") == last


def test_a_last_stage_that_is_none_is_said(clone):
    said = clone().sh("dvc", "repro", "raw", check=False, INGOT_LAST="adaptor").stdout
    assert (
        "ingot: INGOT_LAST=adaptor: no such stage; did you mean 'adapter'?\nhint: " in said and "Traceback" not in said
    )


def test_virtual_tokens_are_refused_for_a_gguf_and_trained_without(clone):
    work = clone()
    work.params(adapter__method="prompt", merged__base="original")
    for command in (
        "python -m ingot check",
        "python -m ingot repro gguf",
        "dvc repro",
        "python -m ingot run f16",
    ):
        result = work.sh("sh", "-c", command, check=False)
        assert result.returncode and "Traceback" not in result.stdout
        for words in ("adapter.method: 'prompt'", "stand beside the weights", "`make train`", "take qlora"):
            assert words in result.stdout, result.stdout
        assert not (work.folder / "build/raw").exists(), "not even the first stage ran"
    assert "no GGUF" in work.sh("python", "-m", "ingot", "plan").stdout
    assert "virtual" not in work.sh("python", "-m", "ingot", "check", "adapter", check=False).stdout
    assert work.repro("raw", INGOT_LAST="adapter") == ["raw"]
