"""README and Makefile say the same, and nothing in the repository depends on where it was written."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from pathlib import Path

from ingot.planning import validation

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text()
README = (ROOT / "README.md").read_text()
PAGES = {
    path.relative_to(ROOT): path.read_text() for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
}


def verbs() -> set[str]:
    return set(re.findall(r"^([a-z.-]+):.*## ", MAKEFILE, re.M))


def test_the_verbs_that_the_docs_name_are_there():
    for path, text in PAGES.items():
        named = set(re.findall(r"(?:`|^ {4}(?:\$ )?)make ([a-z][a-z.-]*[a-z])", text, re.M))
        assert named <= verbs(), (path, named - verbs())
    assert {"repro", "train", "test", "dag", "status", "show", "chat", "lint", "clean"} <= verbs()


def test_make_alone_lists_every_verb():
    listed = subprocess.run(
        ["make", "--no-print-directory"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "MFLAGS"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert {line.split()[1] for line in listed.splitlines()} == verbs()


def test_the_readme_is_short_and_leads_to_every_page():
    assert len(README.split()) <= 900
    for path, text in PAGES.items():
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
            assert (ROOT / path.parent / link).is_file(), (path, link)
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages == set(re.findall(r"\]\((docs/[^)]+)\)", README))


def test_the_generated_pages_are_what_the_code_says():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs/generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    for page, made in generate.PAGES.items():
        assert PAGES[Path("docs") / page] == made(), f"run python docs/generate.py for docs/{page}"
    rows = re.findall(r"^\| `make ([a-z.-]+)` \| (.*) \|$", PAGES[Path("docs/cli.md")], re.M)
    assert rows == re.findall(r"^([a-z.-]+):.*?## (.*)$", MAKEFILE, re.M)
    assert "| `r` | integer from 1 to 1,024 | `32` | rank: qlora, lora, dora |" in PAGES[Path("docs/params.md")]


def test_what_the_docs_name_of_the_repository_is_there():
    for path, text in PAGES.items():
        named = re.findall(r"`((?:ingot|stages|tests|benchmarks|recipes|docs)/[\w./-]*)`", text)
        assert [name for name in named if not (ROOT / name).exists()] == [], path


def test_the_keys_of_params_that_the_docs_name_are_there():
    """`section.key` in backquotes, of the demo's params or of a type's fields."""
    sections = {name: field.annotation for name, field in validation.Params.model_fields.items()}
    for path, text in PAGES.items():
        for section, key in re.findall(r"`(\w+)\.(\w+)(?::[^`]*)?`", text):
            fields = getattr(sections.get(section), "model_fields", None)
            assert fields is None or key in fields, (path, f"{section}.{key}")


def test_the_files_that_readme_shows_are_there():
    tree = re.search(r"```text\n(.*?)```", README, re.S)[1]
    for line in tree.splitlines():
        for name in line.split("  ")[0].split():
            assert list(ROOT.glob(name.rstrip("/"))), name


def test_requirements_carry_hashes_and_no_addresses():
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert "://" not in text and "--index-url" not in text and "--find-links" not in text, path
        packages = re.findall(r"^[a-z0-9][\w.-]*==.*?(?=^[a-z0-9]|\Z)", text, re.M | re.S)
        assert packages and all("--hash=sha256:" in package for package in packages), path


def test_the_locks_hold_what_pyproject_asks_for():
    pins = dict(re.findall(r'"([\w-]+)==([\w.]+)"', (ROOT / "pyproject.toml").read_text()))
    for name in ("cpu.txt", "cuda.txt"):
        text = (ROOT / "requirements" / name).read_text()
        if name == "cpu.txt":
            text += (ROOT / "requirements/torch-cpu.txt").read_text()
        locked = dict(re.findall(r"^([\w.-]+)==([\w.]+)", text, re.M))
        wrong = {p: v for p, v in pins.items() if p in locked and locked[p] != v}
        assert not wrong, (name, wrong)
        assert set(pins) - set(locked) <= ({"unsloth", "unsloth-zoo"} if name == "cpu.txt" else set())


def test_the_cuda_compiler_is_of_the_version_of_torchs_cuda_libraries():
    cuda, nvcc = ((ROOT / "requirements" / name).read_text() for name in ("cuda.txt", "nvcc.txt"))
    runtime = re.search(r"^nvidia-cuda-runtime==(\d+\.\d+)\.", cuda, re.M)[1]
    assert set(re.findall(r"^nvidia-[\w-]+==(\d+\.\d+)\.", nvcc, re.M)) == {runtime}
