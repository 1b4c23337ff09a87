"""The signature test: dvc.yaml says exactly what each stage reads, and no room imports one above it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.host import pipeline, verify
from ingot.planning import validation
from ingot.sealing import image_lock

ROOT = Path(__file__).parents[2]
DAG = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())
# gguf is there once for each of gguf.types.
STAGES = {name: entry.get("do", entry) for name, entry in DAG["stages"].items()}
for _entry in STAGES.values():  # an output that DVC does not cache is a key
    _entry["outs"] = [path for out in _entry["outs"] for path in (out if isinstance(out, dict) else [out])]
CODE = ("ingot", "stages")
TORCH_LIKE = {"torch", "transformers", "trl", "peft", "datasets", "bitsandbytes", "safetensors", "llama_cpp"}


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
            if "ingot.training.{" in path.read_text():  # imported by a name made at run time
                todo += (ROOT / "ingot/training").glob("*.py")
    return seen


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_rooms_whose_files_it_executes_and_on_no_other(stage):
    code = {dep for dep in STAGES[stage]["deps"] if dep.split("/")[0] in CODE}
    executed = {path.relative_to(ROOT) for path in closure(stage)}
    rooms = {"/".join(path.parts[:2]) for path in executed}
    assert code == rooms, "each is a room, or a file beside the rooms"
    assert all(len(Path(dep).parts) == 2 for dep in code)


def test_no_stage_imports_a_stage():
    for stage in STAGES:
        assert not {name for name in imports(ROOT / f"stages/{stage}.py") if name.startswith("stages")}, stage


# Of each floor's rooms none imports one above it, nor another of its own floor.
FLOORS = [
    ["exact"], ["console"], ["params"], ["sources", "llama"], ["chat"], ["data", "model"], ["mixing", "training"],
    ["serving"], ["proof"], ["sealing"], ["planning"], ["host"],
]  # fmt: skip


def test_the_architecture_page_shows_the_floors():
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", (ROOT / "docs/architecture.md").read_text(), re.M)
    assert [re.findall(r"`(\w+)`", rooms) for _, rooms in rows] == FLOORS[::-1]


def test_rooms_stand_above_what_they_import():
    rooms = {path.parent.name for path in (ROOT / "ingot").glob("*/__init__.py")}
    assert rooms == {room for floor in FLOORS for room in floor}
    for number, floor in enumerate(FLOORS):
        below = {"__init__", *(room for lower in FLOORS[:number] for room in lower)}
        for room in floor:
            for path in (ROOT / "ingot" / room).rglob("*.py"):
                found = {file.relative_to(ROOT / "ingot").parts[0].removesuffix(".py") for file in local_files(path)}
                assert found <= {room} | below, f"{path}: {found - below - {room}}"
            docstring = ast.get_docstring(ast.parse((ROOT / "ingot" / room / "__init__.py").read_text()))
            assert docstring and "\n" not in docstring, f"{room}: one sentence says what it is for"


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
    assert stage in validation.Params.model_fields
    assert (stage in STAGES[stage]["params"]) == (not one_of_many), "another type must not make those there are anew"


def test_every_stage_depends_on_the_image_and_it_is_current(in_repo):
    assert all("image.lock" in stage["deps"] for stage in STAGES.values())
    image_lock.check()


def loaded_by(module: str) -> set[str]:
    """The top-level modules there are once a module has been imported."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    return set(
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()
    )


def test_what_drives_the_stages_never_loads_torch():
    assert not loaded_by("ingot.host.cli") & TORCH_LIKE


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_never_loads_docker_or_dvc_nor_the_host(stage):
    assert not loaded_by(f"stages.{stage}") & {"docker", "dvc"}
    assert not {path for path in closure(stage) if path.relative_to(ROOT).parts[1] in ("host", "sealing")}
    for path in closure(stage):
        assert not {name.split(".")[0] for name in imports(path)} & {"docker", "dvc"}, path


def test_params_never_load_torch():
    for path in (ROOT / "ingot").glob("*/params.py"):
        assert not {name.split(".")[0] for name in imports(path)} & TORCH_LIKE, path
    for path in (ROOT / "ingot").rglob("*.py"):
        if path.name != "__main__.py":
            assert not any(name.startswith("stages") for name in imports(path)), path


def test_stage_files_are_short():
    for stage in STAGES:
        assert len((ROOT / f"stages/{stage}.py").read_text().splitlines()) <= 150, stage


def test_the_committed_lock_is_of_this_code(in_repo):
    """Whoever changes a module that a stage executes runs `make repro` and commits dvc.lock."""
    lock = YAML(typ="safe").load((ROOT / "dvc.lock").read_text())["stages"]
    deps = {dep["path"]: dep["md5"] for stage in lock.values() for dep in stage["deps"]}
    code = {path: md5 for path, md5 in deps.items() if path.split("/")[0] not in ("build", "reports", "data", "models")}
    assert code and {path for path, md5 in code.items() if verify.md5_of(path) != md5} == set()


def test_the_image_copies_what_builds_llama_cpp(tmp_path):
    """Or an hour's build ends with a module that is not there."""
    copied = re.findall(r"^COPY (ingot/.*) (ingot/\S*)$", (ROOT / "Dockerfile").read_text(), re.M)
    for sources, place in dict.fromkeys(copied):
        for source in sources.split():
            target = tmp_path / place / Path(source).name if (ROOT / source).is_file() else tmp_path / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / source, target) if (ROOT / source).is_file() else shutil.copytree(ROOT / source, target)
    code = "from ingot.sealing import llama_build; print(llama_build.__file__)"
    found = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert found.stdout.startswith(str(tmp_path))


def test_no_report_that_quotes_rows_is_a_metric():
    """DVC refuses a metric that it takes for binary, and of a report that quotes Korean rows it does."""
    metrics = [path for entry in STAGES.values() for metric in entry.get("metrics", []) for path in metric]
    assert metrics == ["reports/metrics.json"]
    assert (ROOT / metrics[0]).read_text(encoding="utf-8").isascii()
