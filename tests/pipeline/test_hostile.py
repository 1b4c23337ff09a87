"""What strangers, full disks and signals do: one message each, in bounded time and memory, nothing a terminal obeys."""

from __future__ import annotations

import ast
import bz2
import gzip
import io
import json
import lzma
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from ingot.console import messages, progress
from ingot.console.messages import Fault, expected, plain
from ingot.console.progress import StageError
from ingot.params.core import ParamsError, read
from ingot.sources import archives, json_rows, parquet_files, raw_files, readers
from ingot.sources.params import Source
from tests.conftest import ROOT, edited

SOURCE = Source(path="data/x")


def rows(folder: Path, **files: bytes):
    """What the files, by name (__ stands for the dot), hold as a dataset; and what reading them took of time."""
    raw = folder / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    raw.mkdir(parents=True)
    for name, data in files.items():
        (raw / name.replace("__", ".")).write_bytes(data)
    return raw_files.open_rows(raw, "x", SOURCE, folder)


def refused(folder: Path, match: str, seconds: float = 20, **files: bytes) -> None:
    """Reading them is refused by `match`, in so many seconds and with less than 1.5 GB of memory more."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(StageError, match=match) as error:
        rows(folder, **files)
    assert time.monotonic() - began < seconds and len(str(error.value)) < 2000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_500_000


# Bounds of files of rows.


def zipped(member: bytes, times: int) -> bytes:
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.jsonl", "w") as out,
    ):
        for _ in range(times):
            out.write(member)
    return packed.getvalue()


def test_what_unpacks_to_a_disk_of_nothing_is_refused(tmp_path):
    """A zip says how much it holds; the other kinds are measured while they are read."""
    line = b'{"a": "' + b"x" * 9_990 + b'"}\n'
    refused(tmp_path, "unpacks to more than 100 times that", x__jsonl__zip=zipped(line * 100, 300))
    whole = line * 30_000  # 300 MB
    for name, pack in {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}.items():
        fast = {"gz": {"compresslevel": 1}, "bz2": {"compresslevel": 1}, "xz": {"preset": 0}}[name]
        refused(tmp_path, "unpacks to more than", 60, **{f"x__jsonl__{name}": pack(whole, **fast)})


@pytest.mark.parametrize(
    ("name", "begin", "middle", "end", "match"),
    [
        ("x__jsonl", b'{"a": "', b"x", b'"}\n', "more than 32 MB in line 1"),
        ("x__json", b'[{"a": "', b"x", b'"}]', "more than 32 MB in row 1"),
        ("x__json", b'[{"a": [', b"1,", b"1]}]", "more than 32 MB in row 1"),
        ("x__json", b"[", b"1", b"]", "more than 32 MB in row 1|more than 64 bits"),
        ("x__csv", b'a,b\n1,"', b"x", b'"\n', "more than 32 MB in the row that begins in line 2|in line 2"),
        ("x__csv", b'a,b\n1,"', b"x\n", b'"\n', "more than 32 MB in the row that begins in line 2"),
        ("x__csv", b"", b"x,", b"x\n", "more than 32 MB in line 1"),
    ],
)
def test_a_row_larger_than_any_conversation_is_refused(tmp_path, name, begin, middle, end, match):
    refused(tmp_path, match, 40, **{name: begin + middle * (80_000_000 // len(middle)) + end})


def test_one_object_of_a_whole_file_is_bounded(tmp_path):
    item = b'{"a": "' + b"x" * 9_990 + b'"},\n'
    refused(tmp_path, "more than 256 MB in", 60, x__json=b'{"rows": [\n' + item * 27_000 + b'{"a": "x"}]}')


def test_columns_without_end_are_refused_in_no_time(tmp_path):
    header = ",".join(f"c{number}" for number in range(5000)).encode()
    refused(tmp_path, "has 5,000 columns or more, where 2,000 at most are read", 5, x__csv=header + b"\n" + header)
    keys = json.dumps({f"k{number}": 1 for number in range(200_000)}).encode()
    refused(tmp_path, "as far as row 1 it has 200,000 columns or more", 10, x__jsonl=keys)
    several = b"".join(json.dumps({f"k{number}": 1}).encode() + b"\n" for number in range(20_000))
    refused(tmp_path, "as far as row 2,001 it has 2,001 columns or more", 10, x__jsonl=several)
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({f"k{number}": [1] for number in range(5000)}), tmp_path / "wide")
    refused(tmp_path, "5,000 columns or more", 10, x__parquet=(tmp_path / "wide").read_bytes())


@pytest.mark.parametrize(
    ("characters", "times", "match"),
    [
        (300_000_000, 3, "unpacks to more than 100 times"),
        (1_000_000, 400, "400 MB of dictionaries for one group of rows"),
    ],
    ids=["large", "wide"],
)
def test_parquet_that_unpacks_to_a_memory_of_nothing_is_refused(tmp_path, monkeypatch, characters, times, match):
    import pyarrow
    from pyarrow import parquet

    if times > 3:
        monkeypatch.setattr(
            "ingot.console.bounds.UNPACKED_BYTES", 2**40
        )  # as where the footer tells less than there is
    code = pyarrow.array([0] * 3, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(code, pyarrow.array(["x" * characters]))
    table = pyarrow.table({f"k{number}": column for number in range(1 if times == 3 else times)})
    parquet.write_table(table, tmp_path / "bomb", compression="zstd", dictionary_pagesize_limit=1 << 30)
    del table, column
    refused(tmp_path, match, x__parquet=(tmp_path / "bomb").read_bytes())


def test_a_value_of_a_dictionary_in_many_rows_is_read_in_few_at_once(tmp_path):
    """5 kB that are 10 GB, were they read a thousand rows at once."""
    import pyarrow
    from pyarrow import parquet

    code = pyarrow.array([0] * 60, pyarrow.int32())
    column = pyarrow.DictionaryArray.from_arrays(code, pyarrow.array(["x" * 20_000_000]))
    parquet.write_table(
        pyarrow.table({"a": column}), tmp_path / "b", compression="zstd", dictionary_pagesize_limit=1 << 30
    )
    assert parquet_files._rows_at_once(tmp_path / "b") == 49
    parquet.write_table(pyarrow.table({"a": ["x", "y"] * 9, "b": [1, 2] * 9}), tmp_path / "c")
    assert parquet_files._rows_at_once(tmp_path / "c") == 1000


def test_what_people_have_is_within_the_bounds(tmp_path):
    """A row of 20 MB, 1,500 columns, a file that unpacks to 60 times its size."""
    assert len(rows(tmp_path, x__jsonl=b'{"a": "' + b"x" * 20_000_000 + b'"}\n')) == 1
    header = ",".join(f"c{number}" for number in range(1500)).encode()
    assert len(rows(tmp_path, x__csv=header + b"\n" + header.replace(b"c", b"") + b"\n").column_names) == 1500
    assert len(rows(tmp_path, x__jsonl__gz=gzip.compress(b'{"a": "x y z"}\n' * 10_000))) == 10_000


def test_a_pointer_of_git_lfs_is_named(tmp_path):
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n"
    for name in ("x__jsonl", "x__csv", "x__parquet", "x__jsonl__gz"):
        refused(tmp_path, r"is a pointer of Git LFS[\s\S]*git lfs pull", **{name: pointer})


# Each reader, over files that a seed spoils.

GOOD = {
    "jsonl": b'{"u": "What is a bond?", "a": "A loan.", "n": 1}\n{"u": "x\\ud83d\\ude00", "a": null, "n": 2.5}\n' * 3,
    "json": b'[{"u": "What?", "a": [{"b": {"c": 1}}]},\n {"u": "x", "a": true}]',
    "csv": 'u,a\nWhat?,"A, ""loan""."\n주식,x\n'.encode() * 2,
    "tsv": b"u\ta\nWhat?\tA loan.\n",
    "jsonl.gz": gzip.compress(b'{"u": "x", "a": "y"}\n' * 5),
    "jsonl.bz2": bz2.compress(b'{"u": "x", "a": "y"}\n' * 5),
    "jsonl.xz": lzma.compress(b'{"u": "x", "a": "y"}\n' * 5),
    "jsonl.zip": zipped(b'{"u": "x", "a": "y"}\n', 5),
}
PIECES = [
    b"\0",
    b"\xff",
    b'"',
    b"{",
    b"]",
    b",",
    b"\n",
    b"\r",
    b"\x1b[31m",
    b"\\ud800",
    b"[" * 3000,
    b"1e999",
    b"9" * 400,
]


def spoiled(data: bytes, drawn: random.Random) -> bytes:
    for _ in range(drawn.randrange(1, 4)):
        at = drawn.randrange(len(data) + 1)
        how = drawn.randrange(4)
        if how == 0:
            data = data[:at]
        elif how == 1:
            data = data[:at] + drawn.choice(PIECES) + data[at:]
        elif how == 2:
            data = data[:at] + data[at + drawn.randrange(1, 9) :]
        else:
            data = data[:at] + bytes([drawn.randrange(256)]) + data[at + 1 :]
    return data


@pytest.mark.parametrize("kind", GOOD)
def test_spoiled_files_are_read_or_named(tmp_path, kind):
    """200 a kind, 1,600 in all: through the lines below the columns, where no library of columns slows it down."""
    drawn = random.Random(kind)
    path = tmp_path / f"x.{kind}"
    read_rows = readers.csv_rows if kind in ("csv", "tsv") else json_rows.json_rows
    for _ in range(200):
        data = spoiled(GOOD[kind], drawn)
        path.write_bytes(data)
        try:
            for member, stream in archives.members(path):
                with stream or path.open("rb") as opened:
                    name = PurePosixPath(archives.unpacked(member or path.name))
                    assert all(type(row) is dict for row in read_rows(readers.Lines(opened, "utf-8"), name, {}))
        except (readers.Unreadable, Fault, *parquet_files.BROKEN):
            pass  # what open_rows makes one message of
        except StopIteration as error:
            raise AssertionError(data) from error


def test_spoiled_files_are_one_message_through_the_whole(tmp_path):
    """100 of all kinds, Parquet among them, by what the stage calls."""
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"u": ["x", "y"], "a": ["z", None]}), tmp_path / "good")
    kinds, drawn = GOOD | {"parquet": (tmp_path / "good").read_bytes()}, random.Random(3)
    for number in range(100):
        kind = "parquet" if number % 2 else drawn.choice(sorted(kinds))
        data = spoiled(kinds[kind], drawn)
        try:
            for row in rows(tmp_path, **{f"x.{kind}": data}):
                assert type(row) is dict
        except StageError as error:
            assert "raw.datasets.x" in str(error)


# params.yaml, locks and stamps.

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n" for n in range(60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "holds more than 200,000 values"),
        (MERGES, "holds more than 200,000 values"),
        ("a: &a [*a]", "without end"),
        ("a: " + "[" * 5000, "within each other"),
        ("a: " + "x" * 2_000_000, "at most are read"),
        ("a: 2001-99-99", "not readable as YAML"),
        ("a: \x07", "not readable as YAML"),
    ],
    ids=["aliases", "merges", "itself", "deep", "large", "date", "control"],
)
def test_params_that_would_fill_the_memory_are_refused(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text)
    began = time.monotonic()
    with pytest.raises(ParamsError, match=message):
        read(tmp_path / "params.yaml")
    assert time.monotonic() - began < 10


GARBAGE = [
    "",
    "{",
    "[]",
    "null",
    '"x"',
    "\0\x01",
    "[" * 200_000,
    '{"commit": [], "files": 5}',
    '{"llama.cpp": []}',
    "<<<<<<< HEAD",
]


@pytest.mark.parametrize("file", ["image.lock", "platform.lock", "stamp.json"])
def test_locks_and_stamps_that_hold_garbage_are_one_message(tmp_path, monkeypatch, file):
    from ingot.llama import llamacpp
    from ingot.sealing import image_lock, llama_build
    from ingot.training import platform_lock

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(llamacpp, "BUILD", tmp_path)
    (tmp_path / "image.lock").write_text('{"llama.cpp": {"commit": "abc"}}')
    none = {"source": [], "build": []}
    stamp = {"commit": "abc", "patterns": none, "files": {part: {} for part in none}}
    (tmp_path / "stamp.json").write_text(json.dumps(stamp))
    llamacpp.check()
    for text in GARBAGE:
        (tmp_path / file).write_text(text)
        for reads in {
            "image.lock": [image_lock.read, llamacpp.check],
            "platform.lock": [platform_lock.read],
            "stamp.json": [llamacpp.check],
        }[file]:
            try:
                reads()
            except Fault as error:
                assert "make " in str(error)
            else:
                assert file == "platform.lock" and text.startswith("{"), (reads, text)
        if file == "stamp.json":
            llama_build.stamped(tmp_path / file)


# Without user namespaces no small disk can be mounted that fills up.
SMALL_DISK = pytest.mark.skipif(
    subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode != 0, reason="needs user namespaces"
)


# What goes wrong outside, and the terminal.


def test_what_a_terminal_obeys_is_written_out():
    assert plain("a\x1b[2J\x07\r\x9b31m\u202e\ud800\t\n주식") == "a\\x1b[2J\\x07\\r\\x9b31m\\u202e\\ud800\t\n주식"
    for mark in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069":
        assert plain(f"a{mark}b").isascii(), "what turns the order round"
    out = io.StringIO()
    messages.terminal(file=out, force_terminal=True).print("[bold]x[/] \x1b[31mred\x07")
    assert out.getvalue() == "\x1b[1mx\x1b[0m \\x1b[31mred\\x07\n"


def test_bars_of_libraries_go_to_no_pipe():
    """They write to stderr: that stdout is a terminal does not make it one."""
    leader, terminal = os.openpty()
    code = "from ingot.console import progress; progress.quiet_libraries(); "
    code += "import datasets; list(datasets.utils.tqdm(range(3)))"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=terminal, stderr=subprocess.PIPE)
    os.close(leader), os.close(terminal)
    assert (ran.returncode, ran.stderr) == (0, b"")


def test_the_disks_faults_are_known_by_any_librarys_words():
    import errno

    assert "df -i" in expected(OSError(errno.ENOSPC, "No space left on device", "build/x"))
    assert "shorter" in expected(OSError(errno.ENAMETOOLONG, "File name too long", "x" * 300))
    assert "memory" in expected(MemoryError())
    for text in (
        "I/O error: No space left on device (os error 28)",
        "[enforce fail] PytorchStreamWriter failed writing file data/0",
    ):
        assert "make room" in expected(RuntimeError(text))
    wrapped = RuntimeError("An error occurred while generating the dataset")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert "make room" in expected(wrapped)
    assert expected(ValueError("a mistake of ours")) is None and expected(KeyError("x")) is None


def stage(folder: Path, name: str, before: str = "", **options) -> subprocess.Popen:
    """`python -m stages.NAME` in a folder with the demo's params, after the shell has done `before`."""
    for link in ("stages", "ingot", "llama.cpp", "image.lock", "platform.lock"):
        if not (folder / link).exists():
            (folder / link).symlink_to(ROOT / link)
    if not (folder / "params.yaml").exists():
        edited(ROOT / "params.yaml", folder / "params.yaml", {})
        shutil.copytree(ROOT / "data", folder / "data")
    command = ["sh", "-c", f"{before} exec {sys.executable} -m stages.{name}"]
    env = os.environ | {"INGOT_LLAMA_BUILD": str(ROOT / ".cache/llama.cpp")}
    return subprocess.Popen(
        (["unshare", "-rm"] if "mount" in before else []) + command,
        cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options,
    )  # fmt: skip


@SMALL_DISK
@pytest.mark.parametrize(
    ("mount", "message"),
    [
        ("-t tmpfs -o size=64k none build", "No space left on device"),
        ("-t tmpfs -o size=8m,nr_inodes=4 none build", "No space left on device"),
        ("-t tmpfs -o ro none build", "Read-only file system"),
    ],
    ids=["room", "inodes", "read-only"],
)
def test_a_disk_that_takes_no_more_is_one_message(tmp_path, mount, message):
    (tmp_path / "build").mkdir()
    said = stage(tmp_path, "raw", f"mount {mount} && ").communicate(timeout=120)[0]
    assert "Traceback" not in said and said.count("failed") == 1 and message in said and "hint: " in said, said


@pytest.mark.parametrize("kind", ["file", "fifo"])
def test_a_build_that_is_no_folder_is_one_message(tmp_path, kind):
    (tmp_path / "build").write_text("") if kind == "file" else os.mkfifo(tmp_path / "build")
    ran = stage(tmp_path, "raw")
    said = ran.communicate(timeout=120)[0]
    assert ran.returncode == 1 and "Traceback" not in said and "move it away" in said, said


@pytest.mark.parametrize("seconds", [0.5, 1.5, 2.5, 4.0, 6.0])
def test_a_stage_that_is_stopped_while_it_imports_says_nothing(tmp_path, seconds):
    ran = stage(tmp_path, "base")
    time.sleep(seconds)
    ran.send_signal(signal.SIGTERM)
    said = ran.communicate(timeout=60)[0]
    assert ran.returncode in (143, -signal.SIGTERM, 0) and "Traceback" not in said and "Error" not in said, said
    assert ran.returncode == 0 or not list(tmp_path.glob("build/*base*")), "nothing half-written"


@pytest.mark.proof
def test_two_runs_of_a_stage_at_once_are_one_run(tmp_path):
    first = stage(tmp_path, "base")
    try:
        until = time.monotonic() + 60
        while not list(tmp_path.glob("build/.base.*")) and time.monotonic() < until:
            time.sleep(0.05)
        second = stage(tmp_path, "base")
        said = second.communicate(timeout=60)[0]
        assert second.returncode == 1 and "base: another run of it is under way in this folder" in said, said
        assert list(tmp_path.glob("build/.base.*")), "what the first one writes is left alone"
        # The processes of a training on several GPUs: their launcher is the one run.
        together = stage(tmp_path, "base", "export LOCAL_RANK=0;")
        said = together.communicate(timeout=60)[0]
        assert "another run of it" not in said, said
    finally:
        first.terminate()
        first.communicate(timeout=60)


def test_what_a_library_ends_with_over_a_strangers_file_is_one_message():
    class PanicException(BaseException):
        """As of a Rust library."""

    for error in (ValueError("x"), PanicException("y"), RecursionError()):
        with (
            pytest.raises(StageError, match=r"model: cannot be read: .*\nhint: fetch it"),
            progress.foreign("model: cannot be read", "fetch it"),
        ):
            raise error
    for error in (KeyboardInterrupt(), SystemExit(3), MemoryError()):
        with pytest.raises(type(error)), progress.foreign("x", "y"):
            raise error


# make


def make(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        ["make", "-s", *words], cwd=folder, env=os.environ | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(
    "text", ["Is AAPL at $190?", "$(shell touch pwned)x", "`touch pwned` $(touch pwned)", "\"a\" 'b' \\ $HOME #"]
)
@pytest.mark.parametrize("name", ["ASK", "NAME", "ROW", "RECIPE"])
def test_what_is_asked_reaches_the_program_as_it_is_typed(tmp_path, name, text):
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text() + f"\nprobe:\n\t@printf '%s' \"$${name}\"\n")
    assert make(tmp_path, "probe", f"{name}={text}").stdout == text
    assert make(tmp_path, "probe", **{name: text}).stdout == text
    assert not (tmp_path / "pwned").exists()


@pytest.fixture
def project(tmp_path):
    """What `make setup` needs, with a lock of no package that is installed at once."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    (tmp_path / ".git").mkdir()
    return tmp_path


def installs(project, command: str) -> None:
    file = project / "requirements/install.sh"
    file.write_text(f"#!/bin/sh\n{command}\n")


def test_a_linked_environment_is_kept(project):
    (project / "mine/bin").mkdir(parents=True)
    (project / ".venv").symlink_to("mine")
    ran = make(project, "setup")
    assert ran.returncode and ".venv is a link to" in ran.stdout and "> .venv/installed-cpu; " in ran.stdout
    assert (project / ".venv").is_symlink() and (project / "mine/bin").is_dir()


def test_an_environment_that_make_did_not_make_is_kept(project):
    (project / ".venv/bin").mkdir(parents=True)
    ran = make(project, "setup")
    assert ran.returncode and ".venv was not made by make: it is kept as it is" in ran.stdout
    hint = re.search(r"say so: (.*?); if nobody", ran.stdout)[1]
    subprocess.run(hint, shell=True, cwd=project, check=True)
    assert make(project, "setup").returncode == 0 and (project / ".venv/bin").is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting is root's")
def test_an_environment_of_another_checkout_is_kept(project):
    """A clone's files are newer than any marker: by time alone its `make check` emptied what was mounted."""
    (project / "mine/bin").mkdir(parents=True)
    (project / "mine/installed-cpu").touch()
    (project / ".venv").mkdir()
    os.utime(project / "requirements/cpu.txt", (2**32, 2**32))
    subprocess.run(["mount", "--bind", project / "mine", project / ".venv"], check=True)
    try:
        ran = make(project, "setup")
        assert ran.returncode and "is mounted here from elsewhere" in ran.stdout and (project / "mine/bin").is_dir()
    finally:
        subprocess.run(["umount", project / ".venv"], check=True)


def test_an_environment_is_made_once_for_its_locks_and_the_one_before_stays_until_it_is_whole(project):
    installs(project, 'echo "$1" >> "$(dirname "$0")/../calls"')
    assert make(project, "setup").returncode == 0 and (project / "calls").read_text() == "any-cpu\n"
    os.utime(project / "requirements/cpu.txt", (2**32, 2**32))  # newer, but the same
    assert make(project, "setup").returncode == 0 and (project / "calls").read_text() == "any-cpu\n"
    (project / ".venv/mark").touch()
    installs(project, "exit 1")
    ran = make(project, "setup")
    assert ran.returncode and "the environment before is back" in ran.stdout and (project / ".venv/mark").exists()
    (project / ".venv").rename(project / ".venv.before")  # as kill -9 leaves it
    (project / ".venv").mkdir()
    installs(project, ":")
    assert make(project, "setup").returncode == 0 and not (project / ".venv/mark").exists()
    assert (project / ".venv/bin/python").exists() and not (project / ".venv.before").exists()


def test_a_download_without_git_is_told_before_anything_is_fetched(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    ran = make(tmp_path, "setup")
    assert ran.returncode and "this folder is no git clone" in ran.stdout and "hint: git clone" in ran.stdout
    assert not (tmp_path / ".venv").exists()
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", {})
    shutil.copy(ROOT / "image.lock", tmp_path)
    for verb in ("llama", "check"):
        env = os.environ | {"PYTHONPATH": str(ROOT)}
        env.pop("INGOT_LLAMA_BUILD", None)
        ran = subprocess.run(
            [sys.executable, "-m", "ingot", verb], cwd=tmp_path, env=env, text=True, capture_output=True
        )
        assert ran.returncode == 1 and "this folder is no git clone" in ran.stderr, ran.stderr


@pytest.mark.parametrize(
    ("verb", "ran"),
    [
        ("repro", ["-m ingot repro"]),
        ("train", ["-m ingot repro adapter"]),
        ("show", ["-m ingot.mixing.show train:0"]),
        ("ollama", ["-m ingot ollama"]),
        ("chat", ["-m ingot llama --library", "-m ingot.serving.chat_cli"]),
    ],
)
def test_make_starts_what_the_verb_needs_and_no_more(project, verb, ran):
    (project / ".venv/bin").mkdir(parents=True)
    hint = re.search(r"say so: (.*?); if nobody", make(project, "setup").stdout)[1]
    subprocess.run(hint, shell=True, cwd=project, check=True)
    python = project / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$*" >> calls\n')
    python.chmod(0o755)
    assert make(project, verb).returncode == 0
    assert (project / "calls").read_text().splitlines() == ran


# A stranger's code, and what is no base.


def test_no_model_or_tokenizer_is_read_with_its_own_code():
    """Every call that could run a folder's code says that it must not, and so asks nobody either."""
    found = 0
    for path in [*(ROOT / "ingot").rglob("*.py"), *(ROOT / "stages").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            if node.func.attr in ("from_pretrained", "from_config") and ast.unparse(node.func.value) != "PeftModel":
                found += 1
                assert "trust_remote_code=False" in ast.unparse(node), f"{path}:{node.lineno}"
    assert found > 5


def test_what_a_user_names_as_base_is_named_for_what_it_is(tmp_path):
    from stages.base import copy

    folder, out = tmp_path / "mine", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    (folder / "mine-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(StageError, match=r"its weights are GGUF files \(mine-Q4_K_M.gguf\)"):
        copy(folder, out)
    with pytest.raises(StageError, match=r"is a file\nhint: name the folder"):
        copy(folder / "mine-Q4_K_M.gguf", out)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(StageError, match=r"it is an adapter [\s\S]*hint: merge it"):
        copy(folder, out)
    (folder / "adapter_config.json").unlink()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_evil.py", "chat_template.py"):
        (folder / name).write_text("x")
    copy(folder, out)
    assert {path.name for path in out.iterdir()} == {"model.safetensors", "tokenizer.json"}, "no code comes along"


def test_names_that_a_terminal_would_obey_are_written_out(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data/\x1b[31mred\x07.jsonl").write_text("")
    source = {"path": "data/red.jsonl"}
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", {"raw.datasets": {"x": source}})
    said = stage(tmp_path, "raw").communicate(timeout=60)[0]
    assert "\x1b" not in said and "\x07" not in said and r"\x1b[31mred\x07.jsonl" in said, said


@SMALL_DISK
def test_the_room_that_counts_is_that_of_build(tmp_path):
    (tmp_path / "build").mkdir()
    code = "from ingot.planning import plan; print(plan.free_space())"
    command = f"mount -t tmpfs -o size=64k none build && exec {sys.executable} -c '{code}'"
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(
        ["unshare", "-rm", "sh", "-c", command], cwd=tmp_path, env=env, text=True, capture_output=True
    )
    assert int(said.stdout) <= 65536, said.stderr
