"""What the tests share: copies of the repository, small params, a tiny base made once."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from ingot.chat import counting, encoding, token_files
from ingot.exact.files import sha256
from ingot.host import verify
from ingot.planning import recipe

ROOT = Path(__file__).parent.parent
NOBODY = 65534


def write_jsonl(path: Path, rows: Iterable[Any]) -> int:
    """One compact object a line, keys in the order given. Returns the number of rows."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False, separators=(",", ":"), allow_nan=False) + "\n")
            count += 1
    return count


def read_jsonl(path: Path) -> list[Any]:
    # split("\n"), not splitlines(): U+2028 and its kin stand inside strings and end no line.
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def edited(source: Path, target: Path, changes: dict[str, Any]) -> None:
    """Write the params file or recipe `source`, whole, to `target` with dotted keys changed."""
    yaml = YAML()
    text = recipe.expanded(source) if source.parent == ROOT / "recipes" else source.read_text(encoding="utf-8")
    document = yaml.load(text)
    for key, value in changes.items():
        *path, last = key.split(".")
        place = document
        for part in path:
            place = place[part]
        place[last] = value
    with target.open("w", encoding="utf-8") as file:
        yaml.dump(document, file)


# The demo, cut down to seconds, on a base of few words: every stage still does everything it does.
MICRO = {
    "name": "micro",
    "max_seq_length": 512,
    "base": {"source": "local", "path": "models/small", "license": "Apache-2.0", "parameters": 1_054_464},
    "dataset.total_samples": 20,
    "adapter.epochs": 1,
    "adapter.r": 8,
    "adapter.batch_size": 6,
    "adapter.logging_steps": 1,
    "adapter.save_steps": 2,
    "evaluation.rows": 2,
    "evaluation.prompts": 2,
    "evaluation.word_for_word": 0,
    "evaluation.merge_bases": False,
    "evaluation.limits": {"merged_kl": 100.0, "f16_kl": 0.02, "quantised_kl": 100.0, "same_top": 0.0, "ended": 0.0},
}


def tokenise(dataset: Path, base: Path, template: str = "chatml") -> None:
    """Write the token files of a dataset whose conversations were written by hand."""
    counter = counting.Counter(encoding.load_tokenizer(base), template, 10**9)
    for part in ("train", "eval"):
        conversations = [row["messages"] for row in read_jsonl(dataset / f"{part}.jsonl")]
        with token_files.Writer(dataset / f"{part}.arrow") as file:
            texts, _ = counter.rendered(conversations)
            for text, counted in zip(texts, counter(conversations), strict=True):
                file.add(text, counted.ids, counted.answers)


@functools.cache
def small_base(seed: int = 1) -> Path:
    """A folder with the base of MICRO."""
    from tests import families

    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder)
    families.small(folder, seed)
    return folder


# Files that take minutes, the longest first: whoever runs tests side by side is not left with one of them at the end.
LONG = [
    "real_model",
    "dag",
    "families",
    "sealed",
    "merge",
    "gpus",
    "evaluation",
    "hashes",
    "engine",
    "base",
    "unsloth",
    "new",
]


def pytest_collection_modifyitems(items):
    items.sort(
        key=lambda item: LONG.index(name) if (name := item.path.stem.removeprefix("test_")) in LONG else len(LONG)
    )


class Clone:
    """A git clone of the working tree's present files, or a copy of another clone, with this repository's toolchain."""

    def __init__(self, folder: Path, of: Clone | None = None):
        self.folder = folder
        if of:
            shutil.copytree(of.folder, folder, symlinks=True)
            return
        tracked = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        ).stdout.splitlines()  # fmt: skip
        for name in tracked:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes((ROOT / name).read_bytes())
        gitlink = subprocess.run(
            ["git", "ls-files", "--stage", "llama.cpp"], cwd=ROOT, check=True, capture_output=True, text=True
        ).stdout.split()[1]
        self.sh("git", "init", "-q")
        self.sh("git", "update-index", "--add", "--cacheinfo", f"160000,{gitlink},llama.cpp")
        (folder / "llama.cpp").mkdir(exist_ok=True)

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {
            "PATH": f"{Path(sys.prefix) / 'bin'}:{os.environ['PATH']}",
            "INGOT_LLAMA_SOURCE": str(ROOT / "llama.cpp"),
            "INGOT_LLAMA_BUILD": os.environ.get("INGOT_LLAMA_BUILD", str(ROOT / ".cache/llama.cpp")),
            "DVC_SITE_CACHE_DIR": str(self.folder / ".site"),
            "INGOT_RUNTIME": "host",
        }

    def sh(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess:
        """Run a command in the clone; its output is both streams together."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment | environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert not check or result.returncode == 0, result.stdout
        return result

    def tracked(self) -> dict[str, str]:
        """SHA-256 of what git keeps of a build: dvc.lock and the metrics, by path."""
        return {name: sha256(self.folder / name) for name in ("dvc.lock", "reports/metrics.json")}

    def demos_reports(self) -> None:
        """Bring the reports of the demo, from the cache of the repository it was built in: after `make repro`."""
        stages = YAML(typ="safe").load(ROOT / "dvc.lock")["stages"].values()
        reports = [out["path"] for stage in stages for out in stage["outs"] if out["path"].startswith("reports/")]
        reports.remove("reports/metrics.json")
        self.sh("dvc", "remote", "add", "--local", "demo", str(verify.cache(ROOT).parents[1]))
        self.sh("dvc", "config", "--local", "cache.type", "copy")  # tests write into them
        self.sh("dvc", "pull", "--remote", "demo", *reports)

    def micro(self) -> None:
        """Take the small params, and the small base into models/."""
        edited(ROOT / "params.yaml", self.folder / "params.yaml", MICRO)
        shutil.copytree(small_base(), self.folder / "models/small")

    def given_to_nobody(self) -> list[str]:
        """Give the clone to the user nobody; returns the command by which he runs another. For root alone.

        He may read this Python and Docker's socket wherever they lie.
        """
        self.sh("chown", "-R", f"{NOBODY}:{NOBODY}", ".")
        user = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
        return [*user, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]

    def params(self, **changes: Any) -> None:
        """Change params.yaml; `__` stands for the dot in a key."""
        file = self.folder / "params.yaml"
        edited(file, file, {key.replace("__", "."): value for key, value in changes.items()})

    def repro(self, *arguments: str, **environment: str) -> list[str]:
        """`dvc repro`; returns the stages that ran, in order."""
        output = self.sh("dvc", "repro", *arguments, **environment).stdout
        return [line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage ")]


@pytest.fixture
def elsewhere():
    """A folder that another user may own, its name with a space and letters that are no ASCII."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder / "다른 곳"
    shutil.rmtree(folder)


@pytest.fixture
def clone(tmp_path) -> Callable[..., Clone]:
    """Make a clone; `micro` (default) with the small params."""

    def make(micro: bool = True) -> Clone:
        made = Clone(tmp_path / "clone")
        if micro:
            made.micro()
        return made

    return make


@pytest.fixture(scope="session")
def base() -> Path:
    """The base of MICRO: whatever is done with its few words takes seconds less."""
    return small_base()


@pytest.fixture(scope="session")
def tokenizer(base):
    from ingot.chat import encoding

    return encoding.load_tokenizer(base)


@pytest.fixture(scope="session")
def qwen(tmp_path_factory) -> Path:
    """A one-layer base with the real Qwen2 tokenizer, as the base stage makes it: for what a vocabulary decides."""
    from ingot.model import tiny
    from ingot.model.params import Tiny

    out = tmp_path_factory.mktemp("qwen")
    shape = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=256, std=0.08)
    tiny.make(out, shape, ROOT / "llama.cpp/models")
    return out


@pytest.fixture(scope="session")
def image():
    """The CPU image on a stand-in base. Skipped where no Docker answers, unless INGOT_DOCKER=required."""
    from ingot.sealing.image import Image, find
    from tests import standin

    missing = [tool for tool in ("docker", "debootstrap") if not shutil.which(tool)]
    if not missing and subprocess.run(["docker", "info"], capture_output=True).returncode:
        missing = ["a Docker daemon"]
    if os.getuid():
        missing.append("root, for debootstrap")
    if missing and os.environ.get("INGOT_DOCKER") != "required":
        pytest.skip(f"missing: {', '.join(missing)}")
    assert not missing
    built = subprocess.run(
        [sys.executable, "-m", "ingot", "image"], cwd=ROOT,
        env=os.environ | {"BASE": standin.make(), "BUILD_NETWORK": "host"},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-4000:]
    assert "converted, quantised, loaded, rendered" in built.stdout
    here = Path.cwd()
    os.chdir(ROOT)
    try:
        found: Image = find("cpu")
    finally:
        os.chdir(here)
    return found


@pytest.fixture
def in_repo(monkeypatch) -> Path:
    """Run from the repository's root, as the stages do."""
    monkeypatch.chdir(ROOT)
    return ROOT
