"""Queued experiments: copies that have what git does not keep, and take turns on the GPU."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from ingot.host import queued
from tests.conftest import ROOT

WAITS = "from ingot.host import queued; queued.wait_for_the_gpu(); print('held', flush=True); input()"


def waiting(folder: Path) -> subprocess.Popen:
    """A process that takes the GPU of `folder`, says so and keeps it until it is told to end."""
    command = [sys.executable, "-c", WAITS]
    return subprocess.Popen(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def test_a_folder_and_its_queue_take_the_gpu_in_turn(tmp_path):
    copy = tmp_path / ".dvc/tmp/exps/tmpa1b2"
    copy.mkdir(parents=True)
    first = waiting(tmp_path)
    assert first.stdout.readline() == "held\n"
    second = waiting(copy)
    said = second.stdout.readline()
    assert said.startswith("waiting for the GPU: another run of gpu") and str(first.pid) in said
    first.communicate("\n")
    assert second.stdout.readline() == "held\n", "as soon as the first has ended"
    second.kill()
    third = waiting(tmp_path)
    assert third.stdout.readline() == "held\n", "what was killed holds nothing"
    third.communicate("\n")


def test_a_copy_is_given_what_git_does_not_keep_and_loses_nothing_of_its_own(tmp_path, monkeypatch):
    copy = tmp_path / ".dvc/tmp/exps/tmpa1b2"
    for file, text in {tmp_path / "models/mine/config.json": "{}", tmp_path / "data/chats.jsonl": "now",
                       copy / "data/samples.jsonl": "git's"}.items():  # fmt: skip
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (tmp_path / "data/samples.jsonl").write_text("edited since")
    monkeypatch.chdir(copy)
    for name in ("INGOT_LLAMA_SOURCE", "INGOT_LLAMA_BUILD"):
        monkeypatch.setenv(name, "")  # so that what `equip` sets is taken back
        monkeypatch.delenv(name)
    queued.equip()
    assert (copy / "models/mine/config.json").samefile(tmp_path / "models/mine/config.json")
    assert (copy / "data/chats.jsonl").read_text() == "now" and (copy / "data/samples.jsonl").read_text() == "git's"
    assert queued.os.environ["INGOT_LLAMA_SOURCE"] == str(tmp_path / "llama.cpp")
    monkeypatch.chdir(tmp_path)
    assert queued.workspace() == tmp_path


@pytest.mark.proof
def test_a_sweep_is_built_from_the_queue_and_compared(clone):
    there = clone()
    for setting in (("user.email", "a@example.org"), ("user.name", "a")):
        there.sh("git", "config", *setting)
    there.repro("adapter")
    there.sh("git", "add", "-A")
    there.sh("git", "commit", "-qm", "built")
    queue = there.sh("dvc", "exp", "run", "--queue", "-S", "adapter.r=4,6", "adapter").stdout
    names = [line.split("'")[1] for line in queue.splitlines() if line.startswith("Queued experiment")]
    assert len(names) == 2
    there.sh("dvc", "exp", "run", "--run-all", "-j", "2")
    states = there.sh("dvc", "queue", "status").stdout
    assert states.count("Success") == 2, states
    table = there.sh("python", "-m", "ingot", "experiments").stdout
    assert all(name in table for name in names) and "adapter.r" in table
    there.sh("dvc", "plots", "diff", "HEAD", *names, "-o", "compared")
    page = (there.folder / "compared/index.html").read_text()
    assert all(name in page for name in names)
    assert not list((there.folder / ".dvc/tmp/exps").glob("tmp*")), "no copy is left"
