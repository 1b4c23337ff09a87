"""What lies in build/ that no stage has just made: leftovers go, a user's own files never do."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.exact.files import leftovers, output_folder
from ingot.host import tidy
from ingot.planning import validation
from tests.conftest import ROOT, Clone
from tests.host.test_inputs import begin

HELD = """
import sys, time
from pathlib import Path
from ingot.exact.files import output_folder
with output_folder(Path("build/adapter")) as out:
    (out / "half").write_bytes(bytes(1000))
    print("begun", flush=True)
    time.sleep(300)
"""


@pytest.fixture
def holder(tmp_path, monkeypatch):
    """A process that is in the middle of writing build/adapter."""
    monkeypatch.chdir(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", HELD], stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    assert process.stdout.readline() == b"begun\n"
    yield process
    process.kill()


def test_what_a_killed_run_left_goes_and_what_a_living_one_writes_stays(holder):
    out = Path("build/adapter")
    for name in (".adapter.notes", ".adapter.of-mine", ".other.abcdefgh"):
        Path("build", name).mkdir()
    tidy.remove_leftovers()
    [half] = [path for path in out.parent.glob(".adapter.*") if (path / "half").exists()]
    assert not leftovers(out)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert leftovers(out) == [half]
    tidy.remove_leftovers()
    assert sorted(path.name for path in out.parent.iterdir()) == [
        ".adapter.notes",
        ".adapter.of-mine",
        ".other.abcdefgh",
    ]


def test_a_folder_is_held_until_it_is_in_place(tmp_path):
    out = tmp_path / "out"
    with output_folder(out) as beside:
        assert beside.is_dir() and not leftovers(out)
    assert out.is_dir() and not list(tmp_path.glob(".*"))


def left(work: Clone) -> list[str]:
    return sorted(path.name for path in (work.folder / "build").glob(".*"))


def test_a_run_that_is_answered_from_the_cache_cleans_up(clone):
    """All processes of a run of raw are killed at once; the next run finds everything in place."""
    work = clone()
    work.repro("raw")
    for name in (".adapter.abcdefgh", ".sealed-base"):
        (work.folder / "build" / name).mkdir()
        (work.folder / "build" / name / "weights").write_bytes(bytes(1000))
    said = work.sh("python", "-m", "ingot", "repro", "raw").stdout
    assert "Stage 'raw' didn't change, skipping" in said
    assert "removing build/.adapter.abcdefgh, which a run that was killed left" in said and not left(work)


def test_a_stage_that_is_killed_alone_leaves_nothing(clone):
    """As the kernel does for want of memory: its runner puts away what it had half-written."""
    work = clone()
    build, stage = begin(work, "raw", "write_json(out", "python", "-m", "ingot", "run", "raw")
    assert any(name.startswith(".raw.") for name in left(work))
    subprocess.run(["kill", "-9", str(stage)], check=True)
    assert build.wait(30) == 128 + signal.SIGKILL
    assert not left(work) and not (work.folder / "build/raw").exists()


# ---- build/gguf


@pytest.fixture
def made(clone, monkeypatch) -> Clone:
    """A clone whose build/gguf is as two runs made it: one type in dvc.lock, one that only DVC's cache knows."""
    work = clone()
    folder = work.folder / "build/gguf"
    folder.mkdir(parents=True)
    (folder / "micro-Q4_K_M.gguf").write_bytes(b"asked for")
    (work.folder / "dvc.yaml").write_text(
        "stages:\n  eight:\n    cmd: printf eight > build/gguf/micro-Q8_0.gguf\n"
        "    outs: [build/gguf/micro-Q8_0.gguf]\n"
        "  six:\n    cmd: printf six > build/gguf/old-Q6_K.gguf\n    outs: [build/gguf/old-Q6_K.gguf]\n"
    )
    (work.folder / "dvc.lock").unlink()
    work.sh("dvc", "repro")
    monkeypatch.chdir(work.folder)
    return work


def there() -> list[str]:
    return sorted(path.name for path in Path("build/gguf").iterdir())


def test_what_can_be_had_again_is_removed(made, capsys):
    """From dvc.lock, though it is a copy; from the cache, though dvc.lock has forgotten it."""
    eight, six = Path("build/gguf/micro-Q8_0.gguf"), Path("build/gguf/old-Q6_K.gguf")
    eight.unlink()
    eight.write_bytes(b"eight")
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text(lock.replace("old-Q6_K", "another"))
    assert six.stat().st_nlink == 2, "linked to the cache"
    Path("build/gguf/.micro-Q5_0.gguf.part").write_bytes(b"half")
    tidy.remove_leftovers("gguf")
    tidy.remove_unasked(validation.validate())
    assert there() == ["micro-Q4_K_M.gguf"]
    assert "removing build/gguf/old-Q6_K.gguf, which gguf.types asks for no more" in capsys.readouterr().out


@pytest.mark.parametrize("linked", ["symlink", "copy"])
def test_whatever_way_the_cache_is_linked(made, linked):
    made.sh("dvc", "config", "--local", "cache.type", linked)
    made.sh("dvc", "checkout", "--relink")
    assert Path("build/gguf/micro-Q8_0.gguf").is_symlink() == (linked == "symlink")
    tidy.remove_unasked(validation.validate())
    assert there() == ["micro-Q4_K_M.gguf"]


@pytest.mark.parametrize(
    "name", ["notes.txt", "bought.gguf", "micro-Q8_0.gguf", ".part", "folder", "micro-Q4_K_M.gguf"]
)
def test_what_is_the_users_own_is_never_removed(made, name):
    """Notes, a model, another one under the name of ours, a folder: nothing is removed, and the first stage says so."""
    path = Path("build/gguf", name)
    path.unlink(missing_ok=True)
    path.mkdir() if name in ("folder", "micro-Q4_K_M.gguf") else path.write_bytes(b"mine!")
    kept = {name, "micro-Q4_K_M.gguf"}
    with pytest.raises(
        tidy.Foreign, match=f"^build/gguf/{name}: no stage has made it, and later ones read this folder"
    ):
        tidy.check_foreign(validation.validate())
    tidy.remove_unasked(validation.validate())
    assert set(there()) == kept


def test_only_what_holds_the_lock_of_gguf_removes_from_its_folder(made):
    """Another stage leaves the folder alone; one that reads it waits until nothing is written there."""
    shutil.copy(ROOT / "dvc.yaml", "dvc.yaml")
    made.sh("python", "-m", "ingot", "run", "raw")
    assert "micro-Q8_0.gguf" in there()
    hold = "import sys; from ingot.host import alone; alone.hold('gguf'); print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold]
    gguf = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"PYTHONPATH": str(ROOT)})
    gguf.stdout.readline()
    said = made.sh("python", "-m", "ingot", "run", "evaluation", check=False).stdout
    assert f"another run of gguf is under way in this folder (process {gguf.pid})" in said
    assert "micro-Q8_0.gguf" in there()
    gguf.communicate()
    said = made.sh("python", "-m", "ingot", "run", "evaluation", check=False).stdout
    assert "removing build/gguf/micro-Q8_0.gguf, which gguf.types asks for no more" in said
    assert there() == ["micro-Q4_K_M.gguf"]


def test_a_users_own_file_is_said_in_two_lines(clone):
    work = clone()
    (work.folder / "build/gguf/folder").mkdir(parents=True)
    said = work.sh("dvc", "repro", check=False)
    assert said.returncode != 0 and "Traceback" not in said.stdout
    assert (
        "ingot: build/gguf/folder: no stage has made it, and later ones read this folder\nhint: move it" in said.stdout
    )
    assert not (work.folder / "build/raw").exists(), "before the first stage"
