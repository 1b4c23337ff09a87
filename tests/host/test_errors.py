"""What goes wrong is said before the expensive work, names value, reason and fix, and loses nothing made before."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from ingot.planning import recipe
from tests.conftest import ROOT


@pytest.fixture
def work(clone):
    return clone()


def test_a_fault_in_the_last_section_stops_the_first_stage(work):
    work.params(evaluation__word_for_word=99)
    result = work.sh("dvc", "repro", check=False)
    assert result.returncode != 0
    assert "evaluation: word_for_word (99) cannot exceed prompts (2)" in result.stdout
    assert "Traceback" not in result.stdout
    assert not (work.folder / "build/raw").exists(), "not even the first stage ran"


def test_an_unpinned_revision_stops_the_first_stage(work):
    work.params(raw__datasets__krx_won={"repo": "KRX-Data/Won-Instruct", "revision": "unpinned", "split": "train"})
    result = work.sh("dvc", "repro", check=False)
    assert "raw.datasets.krx_won.revision: unpinned: run `make pin`" in result.stdout


def test_a_stale_image_lock_stops_the_first_stage(work):
    with (work.folder / "Dockerfile").open("a") as file:
        file.write("# another toolchain\n")
    result = work.sh("dvc", "repro", check=False)
    assert "image.lock is stale (Dockerfile)\nhint: run `make image.lock`" in result.stdout
    work.sh("python", "-m", "ingot", "lock-image")
    assert work.repro("raw") == ["raw"]


@pytest.mark.parametrize("text", ["", "[]", "<<<<<<< HEAD\n{}\n", None])
def test_an_image_lock_that_is_none_is_one_line(work, text):
    (work.folder / "image.lock").unlink() if text is None else (work.folder / "image.lock").write_text(text)
    for verb in (["check"], ["shell"], ["run", "raw"]):
        result = work.sh("python", "-m", "ingot", *verb, check=False)
        assert result.returncode == 1 and "\nhint: run `make image.lock`" in result.stdout, result.stdout
        assert "Traceback" not in result.stdout


def test_a_failure_keeps_what_earlier_runs_made(work):
    """As `make repro` does: the stage's last good output is brought back, and the metrics, which git keeps."""
    work.repro("raw")
    before = sorted(path.read_bytes() for path in (work.folder / "build/raw").rglob("*") if path.is_file())
    work.params(raw__datasets__krx_won__path="data/samples/krx_one.jsonl")
    result = work.sh("dvc", "repro", "raw", check=False)
    assert "raw.datasets.krx_won.path: data/samples/krx_one.jsonl: no such file or folder" in result.stdout
    assert "krx_won.jsonl" in result.stdout, "what is there is listed"
    work.sh("git", "add", "reports")
    figures = work.folder / "reports/metrics.json"
    known = figures.read_bytes()
    figures.unlink()
    work.sh("python", "-m", "ingot", "restore")
    assert figures.read_bytes() == known
    assert before == sorted(path.read_bytes() for path in (work.folder / "build/raw").rglob("*") if path.is_file())


def test_too_little_disk_is_said_before_the_stage(work):
    """A 10 T parameter base does not fit anywhere that these tests run; nor does what later stages make of it."""
    work.params(base__parameters=10**13)
    result = work.sh("dvc", "repro", "base", check=False, INGOT_LAST="base")
    assert "20000.02 GB of disk are needed and " in result.stdout
    assert "GB are free on this volume: base 20000.02 GB (10000.00 B parameters, 16 bit" in result.stdout
    assert not (work.folder / "build/raw").exists()
    whole = work.sh("dvc", "repro", check=False)
    assert re.search(r"merged 20000.02 GB .*; f16 20000.02 GB .*; gguf 6150.00 GB", whole.stdout)
    assert not (work.folder / "build/raw").exists()


def without_llama_cpp(work) -> dict[str, str]:
    """An environment in which llama-cpp-python is not installed, as far as Python can tell."""
    (work.folder / "absent").mkdir()
    (work.folder / "absent/llama_cpp.py").write_text("raise ModuleNotFoundError(\"No module named 'llama_cpp'\")\n")
    return {"PYTHONPATH": str(work.folder / "absent")}


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (
            without_llama_cpp,
            "llama-cpp-python cannot be loaded (No module named 'llama_cpp')",
        ),
        (lambda work: {"INGOT_LLAMA_BUILD": str(work.folder)}, "llama.cpp is not built ("),
    ],
)
def test_dvc_repro_without_llama_cpp_stops_before_the_first_stage(work, environment, said):
    result = work.sh("dvc", "repro", check=False, **environment(work))
    assert result.returncode != 0 and "Traceback" not in result.stdout
    assert f"ingot: {said}" in result.stdout and "run `make llama`" in result.stdout
    assert not (work.folder / "build/raw").exists()


@pytest.mark.parametrize(
    ("params", "environment", "said"),
    [
        ({"adapter__r": 0}, {}, "adapter.r"),
        ({}, {"INGOT_RUNTIME": "docker"}, "INGOT_RUNTIME=docker: must be auto, sealed or host"),
        ({}, {"INGOT_RUNTIME": "sealed", "DOCKER_HOST": "unix:///nowhere"}, "/nowhere"),
    ],
)
def test_what_is_wrong_is_said_before_llama_cpp_is_built(work, params, environment, said):
    work.params(**params)
    result = work.sh("python", "-m", "ingot", "repro", check=False, INGOT_LLAMA_BUILD="", **environment)
    assert result.returncode == 1 and said in result.stdout and "Traceback" not in result.stdout
    assert not list((work.folder / "llama.cpp").iterdir()) and not (work.folder / ".cache/sdist").exists()


def test_what_is_not_needed_is_not_asked_for(work):
    assert work.repro("raw", INGOT_LLAMA_BUILD="/nowhere", INGOT_LAST="raw") == ["raw"]


def test_a_base_of_another_size_than_planned_is_refused(work):
    work.params(base__parameters=50_000_000)
    result = work.sh("dvc", "repro", "base", check=False)
    assert "base.parameters: 50,000,000: the base has 1,054,464" in result.stdout
    assert not list((work.folder / "build").glob("base*")), "nothing half-written"


def ingot(*arguments: str, folder=ROOT) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ingot", *arguments]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=env, text=True, capture_output=True)


def test_a_stage_that_is_none():
    result = ingot("run", "guff")
    assert result.returncode == 2 and "no stage 'guff'; did you mean 'gguf'?" in result.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["raw", "extra"], "extra: the command is python -m ingot run raw"),
        (["gguf"], "python -m ingot run gguf TYPE, of gguf.types (Q4_K_M)"),
        (["gguf", "Q8_0"], "Q8_0: the command is python -m ingot run gguf TYPE"),
    ],
)
def test_a_stage_is_run_for_what_the_params_have(words, said):
    result = ingot("run", *words)
    assert result.returncode == 1 and said in result.stderr


def test_use_keeps_what_was_there_and_says_what_it_needs(work):
    before = (work.folder / "params.yaml").read_bytes()
    result = work.sh("python", "-m", "ingot", "use", "recipes/qwen2.5-7b-kospi.yaml")
    assert (work.folder / "params.yaml.old").read_bytes() == before
    assert (work.folder / "params.yaml").read_bytes() == recipe.expanded(
        ROOT / "recipes/qwen2.5-7b-kospi.yaml"
    ).encode()
    for words in ("Q4_K_M 4.68 GB", "on one GPU with", "5 revisions are unpinned: run `make pin`", "HF_TOKEN"):
        assert words in result.stdout
    # Going back, by the file that was kept, loses nothing either.
    work.sh("python", "-m", "ingot", "use", "params.yaml.old")
    assert (work.folder / "params.yaml").read_bytes() == before == (work.folder / "params.yaml.old").read_bytes()
    work.sh("python", "-m", "ingot", "use", "recipes/qwen2.5-7b-kospi.yaml")
    # Nothing is built here: without --force, DVC asks for files that a real run would have made by then.
    assert work.sh("dvc", "repro", "--dry", "--force").stdout.count("Running stage") == 11
    missing = work.sh("python", "-m", "ingot", "use", "recipes/qwen.yaml", check=False)
    assert missing.returncode == 1 and "recipes/qwen.yaml" in missing.stdout


def test_show_explains_wrong_places(work):
    for place, reason in (
        ("train:x", "write train:N or eval:N"),
        ("train:0", "not built yet: run `dvc repro dataset`"),
    ):
        result = work.sh("python", "-m", "ingot.mixing.show", place, check=False)
        assert result.returncode == 1 and reason in result.stdout and "Traceback" not in result.stdout
    result = work.sh("python", "-m", "ingot.serving.chat_cli", check=False)
    assert "not built yet: run `make repro`" in result.stdout


def test_reports_of_a_failed_stage_leave_the_seal_by_no_link(tmp_path, monkeypatch):
    from ingot.sealing import seal
    from ingot.sealing.dag import Declared

    monkeypatch.chdir(tmp_path)
    beside, other = tmp_path / "beside", tmp_path / "other"
    for folder in (beside / "reports", beside / "build/dataset", other):
        folder.mkdir(parents=True)
    (beside / "reports/dataset.json").write_text("why")
    (beside / "reports/undeclared.json").write_text("x")
    (beside / "build/dataset/train.jsonl").write_text("half")
    (other / "secret").write_text("x")
    (beside / "reports/link.json").symlink_to(other / "secret")
    (beside / "reports/sub").symlink_to(other)
    outs = ["build/dataset", "reports/dataset.json", "reports/link.json", "reports/sub/secret", "reports/missing.json"]
    seal._take_reports(Declared("dataset", None, [], outs, [], False, False, []), beside)
    assert [path.name for path in (tmp_path / "reports").iterdir()] == ["dataset.json"]
    assert (tmp_path / "reports/dataset.json").read_text() == "why" and (other / "secret").exists()
    assert not (tmp_path / "build").exists()
