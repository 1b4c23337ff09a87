"""The seal, on a real engine: the demo's hashes, what a stage cannot reach, what is left when something is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ingot.exact.files import sha256
from ingot.params.core import read
from ingot.sealing import seal
from ingot.sealing.dag import declared
from ingot.sealing.image import KIND, LABEL, EngineError
from ingot.sealing.params import Container
from tests import standin
from tests.conftest import NOBODY, ROOT, Clone

pytestmark = [pytest.mark.docker, pytest.mark.proof]
SEALED = {"INGOT_RUNTIME": "sealed"}


@pytest.fixture
def broken(image, clone):
    """A clone whose dataset stage is another script, run sealed: `broken(code)` returns the finished process."""
    work = clone(micro=False)
    for folder in ("build/raw", "build/base"):
        (work.folder / folder).mkdir(parents=True)

    def run(code: str, **environment: str) -> subprocess.CompletedProcess:
        (work.folder / "stages/dataset.py").write_text(code)
        result = work.sh("python", "-m", "ingot", "run", "dataset", check=False, **SEALED, **environment)
        assert not (work.folder / "build/dataset").exists() or result.returncode == 0
        assert not list((work.folder / "build").glob(".*"))
        return result

    run.folder = work.folder
    run.work = work
    return run


def test_the_demo_sealed_gives_the_committed_hashes(image, clone):
    work = clone(micro=False)
    committed = work.tracked()
    result = work.sh("dvc", "repro", **SEALED)
    assert result.stdout.count(f"sealed in {image.name}") == 11
    assert not [path for path, hashed in committed.items() if sha256(work.folder / path) != hashed], result.stdout
    record = json.loads((work.folder / "reports/runs/adapter.json").read_text())
    assert record["runtime"] == "sealed" and record["image"]["id"] == image.id
    assert record["image"]["base"] == standin.NAME
    assert record["image"]["recipe"] == json.loads((ROOT / "image.lock").read_text())["recipe"]
    assert record["used"]["peak_bytes"] > 100_000_000


def test_linked_caches_another_user_and_umask_and_the_hosts_hashes(image, elsewhere):
    """Deps that are symbolic links into DVC's cache, another uid and umask; a host run of the same params agrees."""
    elsewhere.mkdir()
    work = Clone(elsewhere)
    work.micro()
    work.sh("dvc", "config", "--local", "cache.type", "symlink")
    command = ["sh", "-c", "umask 077; dvc repro"]
    work.sh(*work.given_to_nobody(), *command, **SEALED, HOME=str(elsewhere))
    assert (work.folder / "build/gguf/micro-Q4_K_M.gguf").is_symlink()
    sealed = (work.folder / "dvc.lock").read_bytes()
    assert {path.stat().st_uid for path in (work.folder / "build").rglob("*")} == {NOBODY}
    assert {path.stat().st_mode & 0o077 for path in (work.folder / "reports/runs").glob("*")} == {0}
    work.sh("chown", "-R", f"{os.getuid()}:{os.getgid()}", ".")
    work.sh("dvc", "repro", "--force", "--no-run-cache", "dataset", "modelfile", INGOT_RUNTIME="host")
    assert (work.folder / "dvc.lock").read_bytes() == sealed


WRITES = "from pathlib import Path; p = Path({!r}); p.parent.mkdir(parents=True, exist_ok=True); p.write_text('x')"
BREAK_INS = {
    "an undeclared file": ("open('README.md')", "it reads README.md, which is not declared: name it in the deps"),
    "the same, as another library says it": (
        "raise OSError('README.md not found.')",
        "it names README.md, which is not",
    ),
    "an undeclared folder": ("import os; os.listdir('data')", "it reads data, which is not declared"),
    "noise": ("import sys; sys.exit('y' * 5000 + ' ' + 'z/' * 3000)", "failed in its container with status 1"),
    "a file of the host": ("open('/etc/machine-id-of-the-host')", "failed in its container with status 1"),
    "an undeclared module": (
        "import ingot.model.tiny",
        "imports ingot.model, which is not declared: name ingot/model in the deps",
    ),
    "the same, from its package": ("from ingot.model import tiny", "name ingot/model in the deps"),
    "another params section": (
        (
            "from ingot.console.progress import start\nfrom ingot.params.core import load\n"
            "start(lambda: load('adapter', dict))"
        ),
        "it reads the params key adapter, which is not declared",
    ),
    "a socket": ("import socket; socket.create_connection(('192.0.2.1', 80), 5)", "it uses the network"),
    "the host's environment": ("import os; os.environ['SECRET_OF_MINE']", "the environment variable SECRET_OF_MINE"),
    "a token": ("import os; os.environ['HF_TOKEN']", "the environment variable HF_TOKEN"),
    "a write into the repository": ("open('notes.txt', 'w')", "it writes notes.txt"),
    "a write into a dep": ("open('build/base/x', 'w')", "it writes build/base/x"),
    "a write beside its outs": (WRITES.format("build/other/x"), "dataset wrote build/other/x, which dvc.yaml does not"),
    "a write into what stands for the toolchain": ("open('image.lock', 'a')", "it writes image.lock, which is a dep"),
    "a link to the host as an out": (
        "import os; os.makedirs('build/dataset'); os.symlink('/etc/hostname', 'build/dataset/h')",
        "dataset made build/dataset/h a link",
    ),
    "no outs": ("pass", "did not write build/dataset, reports/dataset.html, reports/dataset.json"),
    "root": ("import os; assert os.getuid() == 0 and not os.setuid(12345)", "failed in its container with status 1"),
}


@pytest.mark.parametrize("attempt", BREAK_INS)
def test_break_ins_fail_and_say_what_to_declare(broken, attempt):
    code, message = BREAK_INS[attempt]
    result = broken(code, SECRET_OF_MINE="s3cret", HF_TOKEN="hf_s3cret")
    assert result.returncode == 1 and message in result.stdout, result.stdout
    assert "s3cret" not in result.stdout


def test_out_of_memory_says_what_to_lower(broken):
    broken.work.params(container__memory_gb=0.1)
    result = broken("x = bytearray(1_000_000_000)")
    assert result.returncode == 1
    assert "out of memory (killed, status 137; container.memory_gb is 0.1): give it more memory" in result.stdout


def test_a_child_killed_for_memory_is_told(broken):
    broken.work.params(container__memory_gb=0.1)
    result = broken("import subprocess, sys; subprocess.run([sys.executable, '-c', 'bytearray(10**9)'], check=True)")
    assert result.returncode == 1 and "out of memory (killed, status 1; container.memory_gb is 0.1)" in result.stdout


ENDS_WELL = """
from pathlib import Path
for p in ("build/dataset/a", "reports/dataset.html", "reports/dataset.json"):
    Path(p).parent.mkdir(exist_ok=True)
    Path(p).write_text("{}")
"""


def test_linked_deps_are_read_whatever_way_the_links_go(broken):
    elsewhere = broken.folder / "elsewhere"
    (elsewhere / "hub/blobs").mkdir(parents=True)
    (elsewhere / "hub/snapshot").mkdir()
    (elsewhere / "hub/blobs/b").write_text("blob")
    (elsewhere / "hub/snapshot/s").symlink_to("../blobs/b")
    (elsewhere / "round").symlink_to(".")
    (elsewhere / "chain").symlink_to("hub/blobs/b")
    (broken.folder / "build/raw/relative").symlink_to("../../elsewhere/chain")
    (broken.folder / "build/raw/folder").symlink_to(elsewhere)
    code = "names = ['relative', 'folder/chain', 'folder/hub/snapshot/s']\n"
    code += "assert [open(f'build/raw/{name}').read() for name in names] == ['blob'] * 3\n"
    result = broken(code + ENDS_WELL)
    assert result.returncode == 0, result.stdout
    shutil.rmtree(broken.folder / "build/dataset")
    (broken.folder / "build/raw/gone").symlink_to("/nowhere/at/all")
    refused = broken("pass")
    assert refused.returncode == 1 and "leads to /nowhere/at/all, which is no file" in refused.stdout


def test_proxies_of_the_docker_client_stay_outside(broken, tmp_path):
    (tmp_path / "config.json").write_text('{"proxies": {"default": {"httpProxy": "http://u:s3cret@proxy:1"}}}')
    code = "import os; assert not [name for name in os.environ if 'proxy' in name.lower()]\n"
    result = broken(code + ENDS_WELL, DOCKER_CONFIG=str(tmp_path))
    assert result.returncode == 0, result.stdout


SLOW = "import time; open('build/half', 'w').write('x'); print('begun', flush=True); time.sleep(600)"


def begun(broken, stage: str = "dataset", code: str = SLOW, **environment: str) -> subprocess.Popen:
    """A runner whose stage is half-way."""
    (broken.folder / f"stages/{stage}.py").write_text(code)
    env = os.environ | SEALED | {"INGOT_LLAMA_SOURCE": "llama.cpp"} | environment
    runner = subprocess.Popen(
        [sys.executable, "-m", "ingot", "run", stage], cwd=broken.folder, env=env, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    assert runner.stdout is not None
    assert any("begun" in line for line in runner.stdout)
    return runner


def containers(folder) -> list[str]:
    command = ["docker", "ps", "--all", "--quiet", "--filter", f"label=ingot.repository={folder}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()


def gone(folder) -> bool:
    for _ in range(60):
        if not containers(folder):
            return True
        time.sleep(0.5)
    return False


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_runner_leaves_nothing(broken, number):
    runner = begun(broken)
    assert len(containers(broken.folder)) == 1
    runner.send_signal(number)
    said = runner.communicate(timeout=30)[0]
    assert runner.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert gone(broken.folder)
    assert not (broken.folder / "build/dataset").exists() and not (broken.folder / "build/half").exists()
    if number != signal.SIGKILL:
        assert "was stopped; nothing half-written is left" in said
    ok = broken(ENDS_WELL)
    assert ok.returncode == 0, ok.stdout
    assert (broken.folder / "build/dataset/a").stat().st_uid == os.getuid()


def test_params_edited_while_a_sealed_stage_runs_stop_it(broken):
    runner = begun(broken)
    broken.work.params(seed=7)
    said = runner.communicate(timeout=60)[0]
    assert (
        runner.returncode == 1 and "dataset: params.yaml changed while it ran: seed 42 → 7: nothing of this run" in said
    )
    assert gone(broken.folder) and not list((broken.folder / "build").glob("*dataset*"))


@pytest.mark.parametrize("seconds", [0.4, 0.6, 0.8, 1.0, 1.2])
def test_a_runner_stopped_while_it_starts_leaves_nothing(broken, seconds):
    (broken.folder / "stages/dataset.py").write_text(SLOW)
    command = [sys.executable, "-m", "ingot", "run", "dataset"]
    runner = subprocess.Popen(command, cwd=broken.folder, env=os.environ | SEALED, stdout=subprocess.DEVNULL)
    time.sleep(seconds)
    runner.terminate()
    assert runner.wait(20) in (143, -15)  # -15: it had done nothing yet
    assert gone(broken.folder) and not list((broken.folder / "build").glob(".*"))


def test_a_stage_that_will_not_stop_is_killed_by_the_second_signal(broken):
    runner = begun(broken, code=f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{SLOW}")
    runner.terminate()
    time.sleep(3)
    assert runner.poll() is None
    runner.terminate()
    assert runner.wait(20) == 143 and gone(broken.folder)


def test_one_runner_at_a_time(broken):
    runner = begun(broken)
    second = broken.work.sh("python", "-m", "ingot", "run", "dataset", check=False, **SEALED)
    assert second.returncode == 1 and "another run of dataset is under way in this folder" in second.stdout
    assert len(containers(broken.folder)) == 1
    runner.terminate()
    assert runner.wait(30) == 143


def test_a_token_reaches_the_fetching_stage_and_no_description_of_its_container(broken):
    code = f"import os; assert os.environ['HF_TOKEN'] == 'hf_s3cret'\n{SLOW}"
    runner = begun(broken, "raw", code, HF_TOKEN="hf_s3cret")
    described = subprocess.run(["docker", "inspect", *containers(broken.folder)], check=True, capture_output=True)
    assert b"INGOT_SEALED" in described.stdout and b"s3cret" not in described.stdout
    runner.terminate()
    assert "s3cret" not in runner.communicate(timeout=30)[0]


def test_a_killed_container_is_told_apart(broken):
    runner = begun(broken)
    subprocess.run(["docker", "kill", *containers(broken.folder)], check=True, capture_output=True)
    said = runner.communicate(timeout=30)[0]
    assert runner.returncode == 1 and "ended from outside" in said
    assert gone(broken.folder)


def test_two_clones_at_once(broken, image, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    second = Clone(other)
    for folder in ("build/raw", "build/base"):
        (second.folder / folder).mkdir(parents=True)
    first = begun(broken)
    (second.folder / "stages/dataset.py").write_text("pass")
    result = second.sh("python", "-m", "ingot", "run", "dataset", check=False, **SEALED)
    assert "did not write build/dataset" in result.stdout
    assert len(containers(broken.folder)) == 1 and first.poll() is None
    first.terminate()
    assert first.wait(30) == 143


@pytest.fixture
def engine(image, tmp_path):
    """Start and stop a Docker daemon of our own: `engine()` starts it and returns its process; `.host` is its address.

    It holds an image of this recipe, in which python is a script: no more than the runner needs.
    """
    host, log = f"unix://{tmp_path}/d.sock", tmp_path / "log"
    # A containerd of its own: dockerd gives the one that it starts 15 seconds, which is too few on a busy machine.
    inner = tmp_path / "c"
    address = inner / "sock"
    running = [
        subprocess.Popen(
            [
                "containerd",
                f"--address={address}",
                f"--root={inner}/root",
                f"--state={inner}/state",
                "--log-level=info",
            ],
            stdout=log.open("a"),
            stderr=subprocess.STDOUT,
        )
    ]
    # In a network of its own, or it would take the other daemon's bridge away.
    command = [
        "unshare",
        "--net",
        "dockerd",
        f"--host={host}",
        f"--data-root={tmp_path}/d",
        f"--exec-root={tmp_path}/x",
    ]
    command += [f"--containerd={address}", f"--pidfile={tmp_path}/pid", "--iptables=false"]

    def wait(there: Callable[[], bool], what: str) -> None:
        until = time.monotonic() + 300
        while not there():
            assert running[-1].poll() is None, f"{what} ended: {log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"{what} does not answer: {log.read_text()[-2000:]}"
            time.sleep(0.5)

    def start() -> subprocess.Popen:
        wait(address.exists, "containerd")
        (tmp_path / "pid").unlink(missing_ok=True)  # of a killed one
        running.append(subprocess.Popen(command, stdout=log.open("a"), stderr=subprocess.STDOUT))
        wait(lambda: docker("info", check=False).returncode == 0, "dockerd")
        return running[-1]

    def docker(*words: str, check: bool = True, **more) -> subprocess.CompletedProcess:
        return subprocess.run(["docker", "--host", host, *words], check=check, capture_output=True, **more)

    start()
    saved = subprocess.run(["docker", "save", standin.NAME], check=True, capture_output=True).stdout
    docker("load", input=saved)
    recipe = json.loads((ROOT / "image.lock").read_text())["recipe"]
    script = "printf '#!/bin/sh\\necho x > build/half; echo begun; exec sleep 600\\n' > /usr/local/bin/python"
    small = f"FROM {standin.NAME}\nRUN {script} && chmod +x /usr/local/bin/python\nLABEL {LABEL}={recipe} {KIND}=cpu\n"
    docker("build", "--network=none", "--tag", image.name, "-", input=small.encode())
    start.host, start.docker = host, docker
    yield start
    for daemon in running[::-1]:
        daemon.terminate()
        daemon.wait(60)
    for line in Path("/proc/mounts").read_text().splitlines()[::-1]:  # what the killed one left
        if (place := line.split()[1]).startswith(str(tmp_path)):
            subprocess.run(["umount", "--lazy", place], check=True)


def test_a_killed_daemon_leaves_nothing(broken, engine):
    """kill -9 of Docker's daemon in mid-stage: said so, nothing cached; it starts again, and so does the stage."""
    first = subprocess.run(["pgrep", "-f", engine.host], check=True, capture_output=True, text=True).stdout.split()[0]
    runner = begun(broken, DOCKER_HOST=engine.host)
    os.kill(int(first), signal.SIGKILL)
    said = runner.communicate(timeout=60)[0]
    assert runner.returncode == 1, said
    assert "Docker stopped answering while dataset ran: nothing half-written is left; start its daemon" in said
    assert "Traceback" not in said
    assert not (broken.folder / "build/dataset").exists() and not (broken.folder / "build/half").exists()
    again = engine()
    second = begun(broken, DOCKER_HOST=engine.host)
    assert len(engine.docker("ps", "--all", "--quiet").stdout.split()) == 1, "the first one's container is gone"
    second.terminate()
    assert second.wait(30) == 143 and again.poll() is None


def test_a_full_disk_leaves_nothing(broken):
    result = broken("open('/dev/shm/fill', 'wb').write(bytes(1 << 31))")
    assert result.returncode == 1 and "No space left on device" in result.stdout


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="a GPU is here")
def test_no_gpu_for_containers_is_said(image, broken, monkeypatch):
    monkeypatch.chdir(broken.folder)
    (broken.folder / "build/dataset").mkdir()
    with pytest.raises(EngineError, match=r"cannot give a container the GPU .*: install the NVIDIA Container Toolkit"):
        seal.run(declared("adapter"), image, Container(memory_gb=None, cpus=None, shm_gb=1.0), cuda=True)


def test_a_full_out_volume_is_said(broken):
    build = broken.folder / "build"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(build)], check=True)
    try:
        for folder in ("raw", "base"):
            (build / folder).mkdir()
        result = broken("open('build/fill', 'wb').write(bytes(1 << 23))")
        assert result.returncode == 1 and "with status 1\n  the disk of build/ is full" in result.stdout, result.stdout
        assert sorted(path.name for path in build.iterdir()) == ["base", "raw"]
    finally:
        subprocess.run(["umount", "--lazy", str(build)], check=True)


def test_nobody_listening_ends_the_run(broken):
    (broken.folder / "stages/dataset.py").write_text("while True: print('y' * 50)")
    env = os.environ | SEALED
    command = f"{sys.executable} -m ingot run dataset | head -1"
    done = subprocess.run(command, shell=True, cwd=broken.folder, env=env, capture_output=True, text=True, timeout=30)
    assert "Broken pipe" in done.stderr and "Traceback" not in done.stderr
    assert gone(broken.folder) and not list((broken.folder / "build").glob(".*"))


def test_what_the_caller_ignores_stays_ignored(broken):
    (broken.folder / "stages/dataset.py").write_text(
        "import time; print('begun', flush=True); time.sleep(4)" + ENDS_WELL
    )
    runner = subprocess.Popen(
        ["nohup", sys.executable, "-m", "ingot", "run", "dataset"], cwd=broken.folder, env=os.environ | SEALED,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert any("begun" in line for line in runner.stdout)
    runner.send_signal(signal.SIGHUP)
    assert runner.wait(30) == 0


def test_params_reach_a_sealed_stage_as_they_are(broken):
    text = "You are an analyst of the Korean equity market, tab\tand more. \nThen be \\boxed{x}.\x85\u2028 원"
    params = read(broken.folder / "params.yaml")
    params["dataset"]["system"] = text
    (broken.folder / "params.yaml").write_text(json.dumps(params))  # which is YAML too
    code = f"from ingot.params.core import read; assert read()['dataset']['system'] == {text!r}, read()['dataset']\n"
    result = broken(code + ENDS_WELL)
    assert result.returncode == 0, result.stdout


def test_a_link_to_itself_among_the_deps_is_said(broken):
    (broken.folder / "build/raw/x").symlink_to("x")
    result = broken("pass")
    assert result.returncode == 1 and "which is no file: a dep holds files and folders" in result.stdout


def test_a_group_of_the_callers_may_read_in_a_container(image, elsewhere):
    elsewhere.mkdir()
    work = Clone(elsewhere)
    for folder in ("build/raw", "build/base"):
        (elsewhere / folder).mkdir(parents=True)
    shared = elsewhere / "build/raw/f"
    shared.write_text("for the group")
    (elsewhere / "stages/dataset.py").write_text("open('build/raw/f').read()" + ENDS_WELL)
    user = work.given_to_nobody()
    os.chown(shared, 0, 4242)
    shared.chmod(0o640)
    user[user.index("--clear-groups")] = "--groups=4242"
    work.sh(*user, "python", "-m", "ingot", "run", "dataset", **SEALED)


def test_without_docker_the_host_or_a_clear_refusal(clone):
    work = clone()
    nowhere = {"DOCKER_HOST": "unix:///nowhere/docker.sock"}
    refused = work.sh("python", "-m", "ingot", "run", "raw", check=False, **SEALED, **nowhere)
    assert work.sh("python", "-m", "ingot", "image", "--if-missing", **nowhere, INGOT_RUNTIME="auto").stdout == ""
    assert refused.returncode == 1 and "there is no Docker at unix:///nowhere/docker.sock" in refused.stdout
    host = work.sh("python", "-m", "ingot", "run", "raw", INGOT_RUNTIME="auto", **nowhere)
    assert "on this host: there is no Docker at" in host.stdout
    assert json.loads((work.folder / "reports/runs/raw.json").read_text())["runtime"] == "host"
    assert (
        "must be auto"
        in work.sh("python", "-m", "ingot", "image", "--if-missing", check=False, INGOT_RUNTIME="podman").stdout
    )
    wrong = work.sh("python", "-m", "ingot", "run", "raw", check=False, INGOT_RUNTIME="podman")
    assert wrong.returncode == 1 and "must be auto, sealed or host" in wrong.stdout
