"""What changes while a stage runs: it is named, and no result of what was before is recorded as one of what is now."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ingot.host import inputs
from ingot.sealing.dag import Declared
from tests.conftest import Clone
from tests.pipeline.test_dag import alive, ended, parent

MARK = "begun, process"
# In front of a stage's own code: it says that it has begun, and waits for the test.
SLOW = f"""
import os, pathlib, time
print("{MARK}", os.getpid(), flush=True)
for _ in range(600):
    if pathlib.Path("go").exists():
        break
    time.sleep(0.1)
"""


def begin(work: Clone, stage: str, behind: str, *command: str) -> tuple[subprocess.Popen, int]:
    """Start `command` once `stage` of it waits, after the line of its code that starts with `behind`."""
    file = work.folder / f"stages/{stage}.py"
    code = file.read_text()
    place = re.search(f"^( *){re.escape(behind)}.*\n", code, re.M)
    assert place
    file.write_text(code[: place.end()] + re.sub("(?m)^(?=.)", place[1], SLOW) + code[place.end() :])
    build = subprocess.Popen(
        command, cwd=work.folder, env=work.environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for line in build.stdout:
        if line.startswith(MARK):
            return build, int(line.split()[2])
    raise AssertionError("it never began")


def test_params_edited_while_a_stage_runs_stop_it(clone):
    """As soon as they are seen, by name and with both values."""
    work = clone()
    before = (work.folder / "dvc.lock").read_text()
    build, stage = begin(work, "raw", "params = load", "dvc", "repro", "raw")
    work.params(raw__datasets__krx_won__license="another")
    said, _ = build.communicate(timeout=60)
    assert build.returncode != 0 and "Traceback" not in said
    assert (
        "raw: params.yaml changed while it ran: raw.datasets.krx_won.license MIT → another: nothing of this run" in said
    )
    assert ended(stage) and not list((work.folder / "build").glob("*"))
    assert (work.folder / "dvc.lock").read_text() == before
    (work.folder / "go").touch()
    assert work.repro("raw") == ["raw"], "with what is there now"


def test_other_sections_may_be_edited_while_a_stage_runs(clone):
    work = clone()
    build, _ = begin(work, "raw", "params = load", "dvc", "repro", "raw")
    work.params(adapter__learning_rate=0.009)
    time.sleep(2.5)
    (work.folder / "go").touch()
    said, _ = build.communicate(timeout=60)
    assert build.returncode == 0, said


@pytest.mark.proof
def test_a_learning_rate_edited_while_it_trains_is_never_recorded(clone):
    """The stage has read it; dvc.lock would have it beside the weights of another."""
    work = clone()
    lock = work.folder / "dvc.lock"
    build, stage = begin(work, "adapter", "engine = begin", "dvc", "repro", "adapter")
    before = lock.read_text()
    work.params(adapter__learning_rate=0.009)
    said, _ = build.communicate(timeout=60)
    assert build.returncode != 0
    assert re.search(r"params.yaml changed while it ran: adapter.learning_rate \S+ → 0.009", said), said
    assert "put it back to go on from the last checkpoint" in said
    assert ended(stage) and lock.read_text() == before
    assert not list((work.folder / "build").glob("*adapter*"))
    assert not [path for path in (work.folder / "reports/adapter").rglob("*") if path.is_file()]


def swapped(file):
    """Another file of the same size and time in its place."""
    beside, stat = file.with_name("beside"), file.stat()
    beside.write_bytes(file.read_bytes()[::-1])
    os.utime(beside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    beside.rename(file)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda file: file.write_text(file.read_text().replace("?", "!")), "data/samples/krx_won.jsonl changed while"),
        (swapped, "data/samples/krx_won.jsonl changed while it ran"),
        (lambda file: file.with_name("more.jsonl").write_text("{}"), "data/samples/more.jsonl was added while it ran"),
        (lambda file: file.unlink(), "data/samples/krx_won.jsonl was removed while it ran"),
    ],
    ids=["edited", "replaced, with its size and time", "another beside it", "removed"],
)
def test_a_file_of_data_that_changes_while_raw_copies(clone, change, said):
    """Copied already, at the stage's end: DVC would hash the file of now."""
    work = clone()
    before = (work.folder / "dvc.lock").read_text()
    build, _ = begin(work, "raw", "write_json(out", "dvc", "repro", "raw")
    change(work.folder / "data/samples/krx_won.jsonl")
    (work.folder / "go").touch()  # whether it is seen at a look or at the end
    told, _ = build.communicate(timeout=60)
    assert build.returncode != 0 and f"raw: {said}" in told, told
    assert not list((work.folder / "build").glob("*")) and (work.folder / "dvc.lock").read_text() == before


def what(*deps: str) -> Declared:
    return Declared("raw", None, list(deps), [], ["raw"], False, False, [])


def test_inputs_are_known_by_content_or_by_size_time_and_inode(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("raw: {a: 1, b: [1, 2]}\nother: 1\n")
    (tmp_path / "data/__pycache__").mkdir(parents=True)
    small, large, loop = tmp_path / "data/small", tmp_path / "data/large", tmp_path / "data/loop"
    small.write_text("x")
    large.write_bytes(bytes(inputs.SMALL + 1))
    loop.symlink_to("loop")
    taken = inputs.Inputs(what("data"))
    os.utime(small)  # touched, or written with what it held
    (tmp_path / "data/__pycache__/x.pyc").touch()
    (tmp_path / "params.yaml").write_text("raw: {b: [1, 2], a: 1}  # a remark\nother: 2\n")
    taken.check()
    times = small.stat()
    small.write_text("y")
    os.utime(small, ns=(times.st_atime_ns, times.st_mtime_ns))
    large.write_bytes(large.read_bytes())
    (tmp_path / "params.yaml").write_text("raw: {a: true, b: [1]}\n")
    assert taken.changes(thorough=True) == [
        "params.yaml changed while it ran: raw.a 1 → True",
        "params.yaml changed while it ran: raw.b [1, 2] → [1]",
        "data/large changed while it ran",
        "data/small changed while it ran",
    ]
    (tmp_path / "params.yaml").write_text("raw: {")
    with pytest.raises(inputs.InputsChanged, match=r"raw: params\.yaml changed while it ran: it cannot be read; "):
        taken.check()


@pytest.mark.parametrize("verb", [["make", "-f", "one.mk", "repro"], ["python", "-m", "ingot", "repro", "raw"]])
def test_a_killed_starter_takes_dvc_and_its_stage_along(clone, verb):
    """kill -9 of make, or of `ingot repro`: an orphaned DVC would write dvc.lock minutes later."""
    work = clone()
    (work.folder / "one.mk").write_text("SHELL := /bin/bash\nrepro:\n\t@python -m ingot repro raw\n")
    build, stage = begin(work, "raw", "params = load", *verb)
    family = [stage]
    while family[-1] != build.pid:
        family.append(parent(family[-1]))
    assert any(b"dvc" in Path(f"/proc/{process}/cmdline").read_bytes() for process in family)
    build.send_signal(signal.SIGKILL)
    build.wait()
    assert all(ended(process) for process in family)
    assert not any(alive(process) for process in family)
    assert not (work.folder / "build/raw").exists()


def test_a_killed_runner_takes_its_stage_along(clone):
    build, stage = begin(clone(), "raw", "params = load", "python", "-m", "ingot", "run", "raw")
    build.kill()
    build.wait()
    assert ended(stage)


DYING = """
import os, signal, time
from pathlib import Path
from ingot.host import repro
def prepare():
    Path("mine").write_text(str(os.getpid()))
    make = os.getppid()
    os.kill(make, signal.SIGKILL)
    while os.getppid() == make:
        time.sleep(0.1)
repro.repro("raw", prepare)
"""


def test_a_make_that_is_killed_while_llama_cpp_is_built_starts_no_dvc(clone):
    work = clone(micro=False)
    (work.folder / "one.py").write_text(DYING)
    (work.folder / "one.mk").write_text("SHELL := /bin/bash\nrepro:\n\t@python one.py\n")
    made = subprocess.run(["make", "-f", "one.mk", "repro"], cwd=work.folder, env=work.environment)
    assert made.returncode == -signal.SIGKILL
    assert ended(int((work.folder / "mine").read_text()))
    assert not (work.folder / "build/raw").exists()
