"""The signature test: dvc.yaml says exactly what each stage reads, and the two wings of the library never mix."""

from __future__ import annotations

import ast
import hashlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.outside import imagelock, pipeline
from ingot.params import every

ROOT = Path(__file__).parent.parent
DAG = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
# gguf is there once for each of gguf.types.
STAGES = {name: entry.get("do", entry) for name, entry in DAG["stages"].items()}
CODE = ("ingot", "stages")


def imports(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def local_files(path: Path) -> set[Path]:
    """The files of ours that importing `path` executes, packages' own files included."""
    found = set()
    for name in imports(path):
        parts = name.split(".")
        if parts[0] not in CODE:
            continue
        for depth in range(1, len(parts) + 1):
            place = ROOT / Path(*parts[:depth])
            if place.is_dir():
                found.add(place / "__init__.py")
            elif place.with_suffix(".py").is_file():
                found.add(place.with_suffix(".py"))
    return found


def closure(stage: str) -> set[Path]:
    """Every file of ours that a stage executes."""
    todo, seen = [ROOT / f"stages/{stage}.py", ROOT / "stages/__init__.py"], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += local_files(path)
            if "ingot.inside.engines.{" in path.read_text():  # imported by a name made at run time
                todo += (ROOT / "ingot/inside/engines").glob("*.py")
    return seen


def covered(path: Path, deps: list[str]) -> bool:
    """Whether a dependency names the file or a folder it is in."""
    return any(path == ROOT / dep or (ROOT / dep) in path.parents for dep in deps)


@pytest.mark.parametrize("stage", STAGES)
def test_every_module_a_stage_executes_is_a_dependency(stage):
    missing = [
        str(path.relative_to(ROOT)) for path in sorted(closure(stage)) if not covered(path, STAGES[stage]["deps"])
    ]
    assert not missing


@pytest.mark.parametrize("stage", STAGES)
def test_no_module_is_a_dependency_that_the_stage_does_not_execute(stage):
    needed = closure(stage)
    code = [dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in CODE]
    folders = {"ingot/inside/engines": "import_module", "ingot/inside/templates": "TEMPLATES"}
    for dep in code:
        if dep in folders:  # read or imported by a name made at run time
            assert any(folders[dep] in path.read_text() for path in needed)
        else:
            assert ROOT / dep in needed, dep


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_a_stage_loads_are_those_it_declares(stage):
    loaded = {
        node.args[0].value
        for node in ast.walk(ast.parse((ROOT / f"stages/{stage}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "load"
    }
    assert loaded == set(STAGES[stage]["params"])


@pytest.mark.parametrize("stage", STAGES)
def test_build_folders_a_stage_reads_are_declared(stage):
    """The paths in a stage's file, and in the docstring's Reads line, against deps and outs."""
    text = (ROOT / f"stages/{stage}.py").read_text()
    named = {other for other in STAGES if f'"build/{other}"' in text or f'BUILD / "{other}"' in text}
    declared = {
        Path(path).parts[1]
        for path in [*STAGES[stage]["deps"], *STAGES[stage]["outs"]]
        if Path(path).parts[0] == "build"
    }
    assert named == declared


def test_every_stage_has_its_file_and_every_file_its_stage():
    files = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert files == set(STAGES) == set(pipeline.STAGES)
    assert list(STAGES) == pipeline.STAGES, "dvc.yaml lists the stages in pipeline order"


@pytest.mark.parametrize("stage", STAGES)
def test_one_word_for_command_output_and_section(stage):
    one_of_many = "foreach" in DAG["stages"][stage]
    assert STAGES[stage]["cmd"] == f"exec python -m ingot run {stage}{' ${item}' if one_of_many else ''}"
    assert STAGES[stage]["outs"][0] == f"build/{stage}{'/${name}-${item}.gguf' if one_of_many else ''}"
    assert all(out.startswith("reports/") for out in STAGES[stage]["outs"][1:])
    if stage == "card":  # made of what the others say
        return
    assert stage in every.Params.model_fields
    assert (stage in STAGES[stage]["params"]) == (not one_of_many), "another type must not make those there are anew"


def test_every_stage_depends_on_the_image_and_it_is_current(in_repo):
    assert all("image.lock" in stage["deps"] for stage in STAGES.values())
    imagelock.check()


def test_inside_never_imports_docker_or_dvc_and_outside_never_torch():
    torch_like = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "safetensors", "llama_cpp"}
    for path in (ROOT / "ingot").rglob("*.py"):
        names = imports(path)
        tops = {name.split(".")[0] for name in names}
        wing = path.relative_to(ROOT / "ingot").parts[0]
        if wing == "inside":
            assert not tops & {"docker", "dvc"}, path
            assert not any(name.startswith("ingot.outside") for name in names), path
        elif wing == "outside":
            assert not tops & torch_like, path
            assert not any(name.startswith("ingot.inside") for name in names), path
        if wing in ("params", "artifact.py"):
            assert not tops & (torch_like | {"docker", "dvc"}), path
            assert not any(name.startswith(("ingot.inside", "ingot.outside")) for name in names), path
        if wing != "__main__.py":
            assert not any(name.startswith("stages") for name in names), path


def test_stage_files_are_short():
    for stage in STAGES:
        assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= 150, stage


def test_the_committed_lock_is_of_this_code():
    """Whoever changes a module that a stage executes runs `make repro` and commits dvc.lock."""
    lock = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
    stale = {
        dep["path"]
        for stage in lock.values()
        for dep in stage["deps"]
        if (ROOT / dep["path"]).is_file() and hashlib.md5((ROOT / dep["path"]).read_bytes()).hexdigest() != dep["md5"]
    }
    assert not stale


def test_the_image_copies_what_builds_llama_cpp(tmp_path):
    """Or an hour's build ends with a module that is not there."""
    copied = re.findall(r"^COPY (ingot/.*) (ingot/\S*)$", (ROOT / "Dockerfile").read_text(), re.M)
    for sources, place in dict.fromkeys(copied):
        for source in sources.split():
            target = tmp_path / place / Path(source).name if (ROOT / source).is_file() else tmp_path / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target) if (ROOT / source).is_file() else shutil.copytree(ROOT / source, target)
    code = "from ingot.outside import toolchain; print(toolchain.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(tmp_path))
