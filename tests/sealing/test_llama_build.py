"""llama.cpp as built: what stages run of it is what was built and pinned, or they do not run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ingot.console.messages import Fault
from ingot.console.progress import StageError
from ingot.llama import llamacpp
from ingot.sealing import llama_build, llama_source
from tests.conftest import ROOT

PINNED = "0c1e57098bba43ac29e6e3b677cdceebdd22334f"


@pytest.fixture
def built(tmp_path, monkeypatch) -> Path:
    """A copy of what stages use of llama.cpp, with an older stamp that has no hashes."""
    (tmp_path / "llama.cpp/models").mkdir(parents=True)
    for name in ("conversion", "gguf-py"):
        shutil.copytree(ROOT / "llama.cpp" / name, tmp_path / "llama.cpp" / name)
    for name in ("convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "models/ggml-vocab-gpt-2.gguf"):
        shutil.copyfile(ROOT / "llama.cpp" / name, tmp_path / "llama.cpp" / name)
    build = tmp_path / ".cache/llama.cpp"
    shutil.copytree(llamacpp.BUILD if llamacpp.BUILD.is_absolute() else ROOT / llamacpp.BUILD, build, symlinks=True)
    stamp = json.loads((build / "stamp.json").read_text())
    old = {key: stamp[key] for key in ("commit", "options", "targets", "renderers")}
    (build / "stamp.json").write_text(json.dumps(old))
    shutil.copyfile(ROOT / "image.lock", tmp_path / "image.lock")
    renderers = [ROOT / source for source in llama_build.RENDERERS]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(llama_build, "RENDERERS", renderers)
    monkeypatch.setattr(llamacpp, "SOURCE", Path("llama.cpp"))
    monkeypatch.setattr(llamacpp, "BUILD", Path(".cache/llama.cpp"))
    return tmp_path


def test_an_older_stamp_is_given_its_hashes_and_nothing_is_built(built, capsys):
    with pytest.raises(
        StageError, match=r"stamp.json has no hashes of llama.cpp's files: run `make llama`, which adds"
    ):
        llamacpp.check()
    programs = {path.name: path.lstat().st_mtime_ns for path in (built / ".cache/llama.cpp/bin").iterdir()}
    llama_build.build(PINNED)
    assert "building" not in capsys.readouterr().out
    assert programs == {path.name: path.lstat().st_mtime_ns for path in (built / ".cache/llama.cpp/bin").iterdir()}
    llamacpp.check()
    before = Path(".cache/llama.cpp/stamp.json").stat().st_mtime_ns
    llama_build.build(PINNED)
    assert Path(".cache/llama.cpp/stamp.json").stat().st_mtime_ns == before
    shutil.copytree("llama.cpp/gguf-py/gguf", "llama.cpp/gguf-py/gguf/__pycache__")  # Python's own files are none
    Path("llama.cpp/convert_lora_to_gguf.py").unlink()  # as in the image
    llamacpp.check()


def add_a_line(path: Path) -> None:
    stat = path.stat()
    path.write_text(path.read_text() + "\n# mine\n")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def replace(path: Path) -> None:
    path.unlink()
    shutil.copyfile("/bin/true", path)


def lead_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/usr/lib/libllama.so.0")


@pytest.mark.parametrize(
    ("change", "path", "said"),
    [
        (add_a_line, "llama.cpp/convert_hf_to_gguf.py", "has changed"),
        (add_a_line, "llama.cpp/conversion/qwen.py", "has changed"),
        (add_a_line, "llama.cpp/gguf-py/gguf/quants.py", "has changed"),
        (replace, "llama.cpp/models/ggml-vocab-gpt-2.gguf", "has changed"),
        (Path.touch, "llama.cpp/json.py", "was added"),
        (Path.touch, "llama.cpp/gguf-py/json.py", "was added"),
        (Path.unlink, "llama.cpp/conversion/qwen.py", "is missing"),
        (replace, ".cache/llama.cpp/bin/llama-quantize", "has changed"),
        (replace, ".cache/llama.cpp/bin/go-render", "has changed"),
        (lead_elsewhere, ".cache/llama.cpp/bin/libllama.so.0", "has changed"),
        (Path.touch, ".cache/llama.cpp/bin/libggml-hip.so", "was added"),
    ],
)
def test_what_is_not_as_it_was_built_is_named(built, change, path, said):
    llama_build.build(PINNED)
    change(Path(path))
    with pytest.raises(StageError, match=rf"^{path} {said} since llama.cpp was built, .*: run `make llama`$"):
        llamacpp.check()


def test_a_replaced_program_is_built_anew(built, capsys):
    """There is no CMakeLists.txt here, so the build itself fails."""
    llama_build.build(PINNED)
    replace(Path(".cache/llama.cpp/bin/llama-quantize"))
    with pytest.raises(llama_source.ToolchainError, match="cmake"):
        llama_build.build(PINNED)
    assert "llama.cpp's programs are not those that were built" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"commit": 1}', "[" * 100_000, '{"commit": "x", "files": {}}'])
def test_a_stamp_that_is_none_is_one_line(built, text):
    Path(".cache/llama.cpp/stamp.json").write_text(text)
    with pytest.raises(Fault, match="run `make llama`"):
        llamacpp.check()
    assert llama_build.stamped(Path(".cache/llama.cpp/stamp.json")) in ({}, {"commit": 1}, {"commit": "x", "files": {}})


def test_who_asks_before_training_gets_one_line_too(built):
    Path(".cache/llama.cpp/stamp.json").write_text("[]")
    ask = [sys.executable, "-m", "ingot.llama.llamacpp", "base"]
    asked = subprocess.run(ask, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert asked.returncode == 1 and "Traceback" not in asked.stderr
    assert "stamp.json: holds a list, not an object" in asked.stderr


# The library alone, which `make chat` loads, by a llama.cpp of one line a target.

TINY = """
cmake_minimum_required(VERSION 3.14)
project(tiny C)
set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
add_library(llama llama.c)
add_executable(llama-quantize main.c)
add_executable(llama-imatrix main.c)
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp/CMakeLists.txt").write_text(TINY)
    (tmp_path / "llama.cpp/llama.c").write_text("int llama;\n")
    (tmp_path / "llama.cpp/main.c").write_text("int main(void) { return 0; }\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(llama_build, "RENDERERS", [ROOT / source for source in llama_build.RENDERERS])
    monkeypatch.setattr(llama_build, "build_renderers", lambda: None)  # they need the real one's headers
    monkeypatch.setattr(llamacpp, "BUILD", Path(".cache/llama.cpp"))
    return tmp_path


def programs() -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in Path(".cache/llama.cpp/bin").iterdir()}


def test_the_library_is_built_alone_and_the_rest_beside_it_later(tiny, capsys):
    llama_build.build(PINNED, library=True)
    library = programs()
    assert library.keys() == {"libllama.so"} and "building llama.cpp's library 0c1e57098bba" in capsys.readouterr().out
    with pytest.raises(StageError, match=r"llama.cpp is not built .*: run `make llama`"):
        llamacpp.check()
    llama_build.build(PINNED, library=True)
    assert capsys.readouterr().out == "" and programs() == library
    llama_build.build(PINNED)
    whole = programs()
    assert whole.keys() == {"libllama.so", "llama-quantize", "llama-imatrix"} and library.items() <= whole.items()
    llama_build.build(PINNED, library=True)
    llama_build.build(PINNED)
    assert programs() == whole, "what is whole has the library"


@pytest.mark.parametrize("library", [True, False])
def test_a_library_that_is_not_as_it_was_built_is_built_anew(tiny, library):
    llama_build.build(PINNED, library=True)
    file = Path(".cache/llama.cpp/bin/libllama.so")
    built = file.read_bytes()
    replace(file)
    llama_build.build(PINNED, library)
    assert file.read_bytes() == built


def test_no_library_of_another_commit_is_gone_on_from(tiny):
    llama_build.build("f" * 40, library=True)
    before = programs()
    llama_build.build(PINNED)
    assert not before.items() <= programs().items()
