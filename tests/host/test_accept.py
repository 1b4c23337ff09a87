"""`ingot accept`: a change of code that moves no bit costs no new run; any other change does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Clone

DAG = """
stages:
  raw: {cmd: mkdir -p build/raw && cp data/in build/raw/x && date +%N > build/raw/y, params: [x], \
deps: [data/in, ingot/exact], outs: [build/raw]}
  dataset: {cmd: cp build/raw/y build/dataset, deps: [build/raw, ingot/exact/pins.py], outs: [build/dataset]}
"""


@pytest.fixture
def work(clone, monkeypatch) -> Clone:
    """Two stages that have run, the first of which makes another file each time; all is committed."""
    work = clone(micro=False)
    monkeypatch.chdir(work.folder)
    Path("build").mkdir()
    Path("dvc.yaml").write_text(DAG)
    Path("params.yaml").write_text("x: 1\n")
    Path("data/in").write_text("1")
    Path("dvc.lock").unlink()
    work.sh("dvc", "repro")
    work.sh("git", "add", "-A")
    work.sh("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "ran")
    return work


def accept(work: Clone, stage: str, *more: str):
    return work.sh("python", "-m", "ingot", "accept", stage, *more, check=False)


def comment(path: str) -> None:
    with Path(path).open("a") as file:
        file.write("# a comment\n")


def test_a_comment_is_shown_and_costs_no_run(work):
    comment("ingot/exact/pins.py")
    made = Path("build/raw/y").read_bytes()
    asked = accept(work, "raw")
    assert asked.returncode == 1 and "nobody is there to be asked" in asked.stdout and "hint: say that" in asked.stdout
    assert "changed" in work.sh("dvc", "status").stdout, "nothing was written"
    said = accept(work, "raw", "--yes").stdout
    assert (
        "ingot/exact has changed since it ran" in said
        and "+# a comment" in said
        and "raw: accepted with ingot/exact" in said
    )
    assert "raw: nothing was accepted" in accept(work, "raw", "--yes").stdout
    said = accept(work, "dataset", "--yes").stdout
    assert "+# a comment" in said and "dataset: accepted with ingot/exact/pins.py" in said
    assert work.repro() == [] and Path("build/raw/y").read_bytes() == made


def test_code_that_no_commit_has_is_said(work):
    comment("ingot/exact/pins.py")
    work.repro()
    comment("ingot/exact/pins.py")
    said = accept(work, "dataset", "--yes").stdout
    assert "has it as it was then, so the change cannot be shown" in said and "dataset: accepted" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda: Path("data/in").write_text("2"),
            "raw: data/in is modified since it ran: its result is of other inputs",
        ),
        (lambda: Path("params.yaml").write_text("x: 2\n"), "raw: params.yaml: x is modified since it ran"),
        (lambda: Path("build/raw/x").write_text("3"), "is modified since it ran"),
        (
            lambda: Path("dvc.yaml").write_text(DAG.replace("date", "date -u")),
            "raw: dvc.yaml is another (changed command)",
        ),
        (lambda: Path("dvc.lock").unlink(), "raw: dvc.lock has no result of it"),
    ],
)
def test_other_inputs_are_another_result(work, change, said):
    comment("ingot/exact/pins.py")
    change()
    refused = accept(work, "raw", "--yes")
    assert refused.returncode == 1 and said in refused.stdout and "hint: run it" in refused.stdout
    assert "Traceback" not in refused.stdout


def test_a_stage_that_is_none_is_named(work):
    assert "no stage 'adaptr'; did you mean 'adapter'?" in accept(work, "adaptr").stdout
