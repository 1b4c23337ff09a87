"""Damage on the disk, in build/ or in DVC's cache, is never built from."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.host import repro, verify
from tests.conftest import ROOT, Clone


def flip(path: Path) -> None:
    """One bit, with the file's times as they were: as a disk does it. A linked file's other name shows it, too."""
    stat = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        byte = file.read(1)[0]
        file.seek(0)
        file.write(bytes([byte ^ 1]))
    path.chmod(stat.st_mode)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def follow(hint: str) -> None:
    """Do as the message says."""
    subprocess.run(re.search(r"hint: (rm -rf .*?); then run again", hint)[1], shell=True, check=True)


@pytest.fixture
def made(clone, monkeypatch) -> Clone:
    """A clone of two outputs: a folder and a file."""
    work = clone(micro=False)
    (work.folder / "dvc.yaml").write_text(
        "stages:\n  one:\n    cmd: mkdir -p build/one/sub && printf 원 > build/one/sub/b && printf a > build/one/a\n"
        "    outs: [build/one]\n"
        "  two:\n    cmd: printf two > build/two\n    deps: [build/one]\n    outs: [build/two]\n"
    )
    (work.folder / "dvc.lock").unlink()
    work.sh("dvc", "repro")
    monkeypatch.chdir(work.folder)
    return work


@pytest.mark.parametrize("linked", ["hardlink", "copy"])
@pytest.mark.parametrize("damaged", ["build/one/sub/b", "build/two"])
def test_a_flipped_bit_is_found_and_the_hint_mends_it(made, damaged, linked):
    made.sh("dvc", "config", "--local", "cache.type", linked)
    made.sh("dvc", "checkout", "--relink")
    assert verify.check(["build/one", "build/two"], "all") == 7
    flip(Path(damaged))
    assert made.repro() == [], "DVC itself sees nothing"
    with pytest.raises(verify.Damaged, match=f"^{damaged}: its content is not what dvc.lock has") as found:
        verify.check(["build/one", "build/two"], "auto")
    assert (".dvc/cache" in str(found.value)) == (linked == "hardlink"), "a sound file in the cache stays there"
    verify.check(["build/two" if "one" in damaged else "build/one"], "auto")
    verify.check(["build/one", "build/two"], "none")
    follow(str(found.value))
    made.repro()
    verify.check(["build/one", "build/two"], "all")


def test_one_file_of_a_folder_may_be_what_is_taken(made):
    flip(Path("build/one/a"))
    assert verify.check(["build/one/sub/b"], "auto") == 3
    with pytest.raises(verify.Damaged, match=r"^build/one/a: "):
        verify.check(["build"], "auto")


def test_without_the_list_of_a_folder_it_is_known_by_its_own_hash(made):
    """Lost by `dvc gc`, or damaged itself."""
    [listed] = verify.cache(Path.cwd()).glob("??/*.dir")
    flip(listed)
    assert verify.check(["build/one/a"], "all") == 4
    flip(Path("build/one/a"))
    with pytest.raises(verify.Damaged, match=r"^build/one: "):
        verify.check(["build/one/a"], "all")


def test_what_would_take_too_long_is_left_and_said(made, monkeypatch, capsys):
    monkeypatch.setattr(verify, "MOST", 6)
    monkeypatch.setattr(verify, "FEW", 2)
    flip(Path("build/two"))
    assert verify.check(["build/one", "build/two"], "auto") == 1
    assert capsys.readouterr().out == "2 large files are not read to be verified; INGOT_VERIFY=all reads them\n"
    with pytest.raises(verify.Damaged, match=r"^build/two: "):
        verify.check(["build/one", "build/two"], "all")


@pytest.mark.proof
def test_a_stage_does_not_take_what_is_damaged(clone, monkeypatch):
    work = clone()
    monkeypatch.chdir(work.folder)
    work.repro("raw")
    flip(work.folder / "build/raw/krx_won/krx_won.jsonl")
    said = work.sh("dvc", "repro", "dataset", check=False)
    assert said.returncode != 0 and "Traceback" not in said.stdout
    assert "ingot: build/raw/krx_won/krx_won.jsonl: its content is not what dvc.lock has for it" in said.stdout
    assert not (work.folder / "build/dataset").exists()
    wrong = work.sh("dvc", "repro", "dataset", check=False, INGOT_VERIFY="some")
    assert "ingot: INGOT_VERIFY=some: must be auto, all or none" in wrong.stdout
    follow(said.stdout)
    assert work.repro("dataset") == ["raw", "dataset"]
    assert "GB read" in work.sh("python", "-m", "ingot", "verify").stdout


def test_what_the_cache_gives_is_read_before_it_is_believed(clone):
    """An answer from the cache of runs, of which no later stage takes anything."""
    work = clone()
    work.repro("raw")
    file = work.folder / "build/raw/krx_won/krx_won.jsonl"
    cached = next(path for path in (work.folder / ".dvc/cache/files/md5").rglob("*") if path.samefile(file))
    work.params(raw__datasets__krx_won__path="data/samples/fingpt_sentiment.jsonl")
    work.repro("raw")
    work.params(raw__datasets__krx_won__path="data/samples/krx_won.jsonl")
    flip(cached)
    said = work.sh("python", "-m", "ingot", "repro", "raw", check=False)
    assert "Running stage" not in said.stdout, "it is answered from the cache"
    assert said.returncode == 1, said.stdout
    assert "ingot: build/raw/krx_won/krx_won.jsonl: its content is not what dvc.lock has for it" in said.stdout


@pytest.mark.proof
def test_a_forged_entry_in_the_cache_of_runs_is_told_by_the_committed_lock(clone):
    """It names another run's output, which is whole; the commit knows what these inputs give."""
    work = clone()
    work.repro("raw")
    work.sh("git", "add", "dvc.lock")
    work.sh("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "x")
    was = re.search(r"path: build/raw\n +hash: md5\n +md5: (\w+)", (work.folder / "dvc.lock").read_text())[1]
    assert "not what the last commit's" not in work.sh("python", "-m", "ingot", "repro", "raw").stdout
    work.params(raw__datasets__krx_won__path="data/samples/fingpt_sentiment.jsonl")
    other = work.sh("python", "-m", "ingot", "repro", "raw")
    assert "not what the last commit's" not in other.stdout, "other inputs, other outputs"
    now = re.search(r"path: build/raw\n +hash: md5\n +md5: (\w+)", (work.folder / "dvc.lock").read_text())[1]
    for entry in (work.folder / ".dvc/cache/runs").rglob("*"):
        if entry.is_file() and was in entry.read_text():
            entry.chmod(0o644)
            entry.write_text(entry.read_text().replace(was, now))
    work.params(raw__datasets__krx_won__path="data/samples/krx_won.jsonl")
    said = work.sh("python", "-m", "ingot", "repro", "raw").stdout
    assert "Running stage" not in said
    assert "raw: not what the last commit's dvc.lock has for the same inputs" in said
    work.sh("dvc", "repro", "--force", "--single-item", "--no-run-cache", "raw")
    assert was in (work.folder / "dvc.lock").read_text()


LOCK = b"schema: '2.0'\nstages:\n  one:\n    cmd: 'true'\n    outs:\n"
LOCK += b"    - {path: a, hash: md5, md5: 0cc175b9c0f1b6a831c399e269772661, size: 1}\n"
# What a dvc.lock may hold that DVC has not written: people's merges, other tools, damage.
UNREADABLE = {
    "a merge's conflict": b"<<<<<<< HEAD\n" + LOCK + b"=======\n" + LOCK + b">>>>>>> theirs\n",
    "no YAML": b"garbage: [",
    "a list": b"[1]",
    "a word": b'"text"',
    "no entries": b"stages: []",
    "an entry of nothing": b"stages: {raw: null}",
    "no hash": b"stages: {raw: {outs: [{path: a}]}}",
    "a number for outputs": b"stages: {raw: {outs: 5}}",
    "numbers": b"stages: {raw: {outs: [{path: 5, md5: 7}]}}",
    "noise": bytes(range(256)),
    "a hundred thousand brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_dvc_lock_that_cannot_be_read_is_one_message(tmp_path, content):
    (tmp_path / "dvc.lock").write_bytes(content)
    ran = subprocess.run([sys.executable, "-m", "ingot", "verify"], cwd=tmp_path,
                         env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, capture_output=True)  # fmt: skip
    assert ran.returncode == 1 and "Traceback" not in ran.stderr + ran.stdout
    assert "dvc.lock: cannot be read as what DVC writes" in ran.stderr and "hint: git checkout dvc.lock" in ran.stderr


def test_a_dvc_lock_of_nothing_verifies_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for content in (None, b"", LOCK.replace(b"outs", b"meta")):
        if content is not None:
            (tmp_path / "dvc.lock").write_bytes(content)
        assert verify.outs() == {}
    (tmp_path / "dvc.lock").write_bytes(LOCK)
    assert verify.outs() == {"a": "0cc175b9c0f1b6a831c399e269772661"}


REPORTING = """
stages:
  one: {cmd: cp data/in build/one, params: [x], deps: [data/in], outs: [build/one]}
  two:
    cmd: sh data/two
    deps: [build/one]
    outs: [build/two]
    metrics: [reports/two.json: {cache: false}]
  three: {cmd: cp build/one build/three, deps: [build/one, build/two], outs: [build/three]}
"""
WRITES = 'echo "{\\"of\\": $(cat build/one)}" > reports/two.json; cp build/one build/two'


@pytest.fixture
def reporting(clone, monkeypatch) -> Clone:
    """Three stages, of which the second writes a figure that git keeps; one run is committed, another one is there."""
    work = clone(micro=False)
    monkeypatch.chdir(work.folder)
    Path("build").mkdir()
    Path("dvc.yaml").write_text(REPORTING)
    Path("params.yaml").write_text("x: 1\n")
    Path("data/two").write_text(WRITES)
    Path("dvc.lock").unlink()
    for number in ("1", "2"):
        Path("data/in").write_text(number)
        work.sh("dvc", "repro")
        if number == "1":
            work.sh("git", "add", "-A")
            work.sh("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "one")
    return work


def fails(work: Clone, monkeypatch) -> str:
    """What `make repro` does when a stage fails."""
    monkeypatch.setattr(repro.alone, "check", lambda *_: None)
    before = repro.Before()
    assert work.sh("dvc", "repro", check=False).returncode
    repro.restore(before)
    return Path("build/two").read_text() if Path("build/two").exists() else ""


def test_a_failure_brings_back_this_builds_figures_and_not_the_committed_ones(reporting, monkeypatch):
    Path("data/two").write_text("exit 1")
    Path("build/three").unlink()
    reporting.sh("sed", "-i", "s/deps: .build.one.$/deps: [build\\/one, data\\/two]/", "dvc.yaml")
    assert fails(reporting, monkeypatch) == "2"
    assert json.loads(Path("reports/two.json").read_text()) == {"of": 2}
    assert Path("build/three").read_text() == "2"


def test_after_a_failure_nothing_of_another_build_is_left(reporting, monkeypatch, capfd):
    """The stage wrote what it did, then a limit was not met; what follows it is of the build before."""
    Path("data/two").write_text(f"{WRITES}; exit 1")
    Path("data/in").write_text("3")
    assert fails(reporting, monkeypatch) == "3"
    assert json.loads(Path("reports/two.json").read_text()) == {"of": 3}
    assert not Path("build/three").exists()
    said = capfd.readouterr()
    assert "removing build/three: it is of another build than what is there now" in said.out
    assert "not everything could be restored" not in said.err


def test_after_a_failure_that_wrote_nothing_there_is_nothing_of_another_build(reporting, monkeypatch):
    Path("data/two").write_text("exit 1")
    Path("data/in").write_text("3")
    assert fails(reporting, monkeypatch) == ""
    assert not Path("reports/two.json").exists() and not Path("build/three").exists()
    Path("data/two").write_text(WRITES)
    Path("data/in").write_text("2")
    reporting.sh("dvc", "repro")
    assert Path("build/three").read_text() == "2" and json.loads(Path("reports/two.json").read_text()) == {"of": 2}
