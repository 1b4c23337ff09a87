"""The whole pipeline by `dvc repro`, in a copy with small params: twice, shared, with one param changed per stage."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.exact.files import sha256
from ingot.host import pipeline
from tests.conftest import Clone, small_base

pytestmark = pytest.mark.proof

QUANTISED = "gguf@Q4_K_M"
# The matrix is not asked for, so its stage comes out the same.
AFTER_F16 = ["imatrix", QUANTISED, "modelfile", "evaluation", "card"]
STAGES = [QUANTISED if stage == "gguf" else stage for stage in pipeline.STAGES]
# A changed param, and exactly the stages that rerun: none whose inputs came out the same.
CHANGES = [
    ({"evaluation__prompts": 3}, ["evaluation", "card"]),
    ({"modelfile__temperature": 0.5}, ["modelfile", "evaluation", "card"]),
    ({"gguf__types": ["Q4_K_M", "Q8_0"]}, ["gguf@Q8_0", "modelfile", "evaluation", "card"]),
    # The base is bf16 and fits f16, so the quantised file comes out the same and the Modelfile stays.
    ({"f16__type": "bf16"}, ["f16", "imatrix", QUANTISED, "evaluation", "card"]),
    ({"imatrix__text": "train", "dataset__total_samples": 40}, ["dataset", "adapter", "merged", "f16", *AFTER_F16]),
    ({"raw__datasets__unused": {"path": "data/samples/krx_won.jsonl"}}, ["raw", "dataset", "card"]),
]
# Those behind which everything is made anew: DVC says where that begins, and dvc.yaml what stands behind it.
DEEP = [
    ({"name": "renamed"}, ["f16", *AFTER_F16]),
    ({"merged__base": "original"}, ["merged", "f16", *AFTER_F16]),
    ({"adapter__learning_rate": 1e-3}, ["adapter", "merged", "f16", *AFTER_F16]),
    ({"base__path": "models/other"}, ["base", "dataset", "adapter", "merged", "f16", *AFTER_F16]),
]


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Clone:
    """A clone with small params, built once."""
    work = Clone(tmp_path_factory.mktemp("built"))
    work.micro()
    shutil.copytree(small_base(seed=2), work.folder / "models/other")
    assert sorted(work.repro()) == sorted(STAGES)
    return work


def test_a_second_run_does_nothing(built):
    assert built.repro() == []
    assert sorted(path.name for path in (built.folder / "build").iterdir()) == sorted(pipeline.STAGES), "no leftovers"


def test_what_a_person_reads_of_it(built):
    metrics = json.loads(built.sh("dvc", "metrics", "show", "--json").stdout)
    [(path, shown)] = metrics[""]["data"].items()
    report = json.loads((built.folder / "reports/evaluation.json").read_text())
    assert path == "reports/metrics.json" and shown["data"]["loss"] == report["held_out"]["Q4_K_M"]["loss"]
    assert set(report["held_out"]) == {"base", "adapter", "merged", "16-bit", "Q4_K_M"}
    plots = built.sh("dvc", "plots", "show", "--json").stdout
    drawn = ("loss", "learning rate", "gradient norm", "held-out loss by step", "KL divergence to the step before")
    assert all(name in plots for name in drawn)
    shown = built.sh("python", "-m", "ingot.mixing.show", "train:0").stdout
    assert "[1] '<|im_end|>'" in shown and "[0] '<|im_start|>'" in shown
    answer = built.sh("python", "-m", "ingot.serving.chat_cli", "What is a bond?").stdout
    assert answer.strip(), "the file answers something"


def test_a_colleague_takes_the_results_from_the_remote(built, tmp_path):
    remote = str(tmp_path / "remote")
    built.sh("dvc", "remote", "add", "--local", "-f", "-d", "ours", remote)
    built.sh("dvc", "push", "--run-cache")
    (tmp_path / "colleague").mkdir()
    work = Clone(tmp_path / "colleague")
    # What git would bring: the params, the lock and the metrics.
    for name in ["params.yaml", *built.tracked()]:
        (work.folder / name).write_bytes((built.folder / name).read_bytes())
    shutil.copytree(built.folder / "models", work.folder / "models", dirs_exist_ok=True)
    work.sh("dvc", "remote", "add", "--local", "-d", "ours", remote)
    work.sh("dvc", "pull", "--run-cache")
    assert work.repro() == []
    for name in ("build/gguf/micro-Q4_K_M.gguf", "build/modelfile/Modelfile"):
        assert (work.folder / name).read_bytes() == (built.folder / name).read_bytes()
    assert (work.folder / "dvc.lock").read_bytes() == (built.folder / "dvc.lock").read_bytes()


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=lambda value: "-".join(value))
def test_one_changed_param_reruns_exactly_what_depends_on_it(built, change, expected):
    lock, params = (built.folder / "dvc.lock").read_text(), (built.folder / "params.yaml").read_text()
    built.params(**change)
    (built.folder / "build/gguf/.micro-Q5_0.gguf.part").write_bytes(b"of a run that was killed")
    assert sorted(built.repro("--no-run-cache")) == sorted(expected)
    (built.folder / "params.yaml").write_text(params)
    # Back from the cache of runs, nothing computed; but a file that is asked for no more is seen when a stage runs.
    assert built.repro() == (["evaluation"] if {"gguf__types", "name"} & change.keys() else [])
    assert [path.name for path in (built.folder / "build/gguf").iterdir()] == ["micro-Q4_K_M.gguf"]
    before, after = (YAML(typ="safe").load(text)["stages"] for text in (lock, (built.folder / "dvc.lock").read_text()))
    for stages in (before, after):
        stages.pop("gguf@Q8_0", None)  # DVC keeps in its lock what it once made for a type
    assert after == before


@pytest.mark.parametrize(("change", "expected"), DEEP, ids=lambda value: "-".join(value))
def test_one_changed_param_leads_to_all_that_stands_behind_it(built, change, expected):
    params = (built.folder / "params.yaml").read_text()
    built.params(**change)
    changed = {name.partition("@")[0] for name in json.loads(built.sh("dvc", "status", "--json").stdout)}
    (built.folder / "params.yaml").write_text(params)
    stages = YAML(typ="safe").load((built.folder / "dvc.yaml").read_text())["stages"]
    for name in pipeline.STAGES:  # in order, so that once is enough
        known = stages[name].get("do", stages[name])
        made = {f"build/{stage}" for stage in changed}
        if any("/".join(Path(dep).parts[:2]) in made for dep in known["deps"]):
            changed.add(name)
    assert sorted(changed) == sorted(name.partition("@")[0] for name in expected)


SLOW = "import os, time\nprint('process', os.getpid(), flush=True)\ntime.sleep(300)\n"


def begun(work: Clone, *command: str) -> tuple[subprocess.Popen, int]:
    """A build whose stage raw is half-way, and that stage's process."""
    (work.folder / "stages/raw.py").write_text(SLOW)
    plain = {**work.environment, "SHELL": "/bin/sh"}  # DVC's shell: of those that start a command beside themselves
    build = subprocess.Popen(command, cwd=work.folder, env=plain, stdout=subprocess.PIPE, text=True)
    return build, next(int(line.split()[1]) for line in build.stdout if line.startswith("process"))


def alive(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # a zombie has none
    except OSError:
        return False


def parent(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def ended(process: int) -> bool:
    """Within half a minute: each process of a chain ends itself, and a busy machine gives it little time."""
    for _ in range(300):
        if not alive(process):
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_dvc_that_is_stopped_takes_its_stage_with_it(clone, number):
    dvc, stage = begun(clone(), "dvc", "repro", "raw")
    dvc.send_signal(number)
    dvc.wait(30)
    assert ended(stage)


def test_a_second_build_touches_nothing_and_a_stopped_one_puts_everything_back(clone):
    work = clone()
    said = work.sh("python", "-m", "ingot", "repro", "raw").stdout
    assert said.index("params.yaml is sound: micro\n") < said.index("Running stage 'raw'"), "what it checks comes first"
    before = {path: sha256(path) for path in (work.folder / "build/raw").rglob("*") if path.is_file()}
    build, stage = begun(work, "python", "-m", "ingot", "repro", "raw")
    for verb, what, process in (
        (["repro"], "repro", build.pid),
        (["run", "raw"], "raw", parent(stage)),
        (["restore"], "raw", parent(stage)),
    ):
        second = work.sh("python", "-m", "ingot", *verb, check=False)
        refused = f"another run of {what} is under way in this folder (process {process}): wait for it, or stop it"
        assert second.returncode == 1 and second.stdout == f"ingot: {refused}\n"
    assert alive(stage) and not (work.folder / "build/raw").exists(), "nothing is brought back under its hands"
    build.terminate()
    assert build.wait(60) == 128 + signal.SIGTERM
    assert ended(stage)
    assert {path: sha256(path) for path in (work.folder / "build/raw").rglob("*") if path.is_file()} == before
