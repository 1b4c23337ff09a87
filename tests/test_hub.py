"""Fetching from a hub: the real client against a server on this machine, through the stages themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, edited
from tests.hubserver import COMMIT, Hub, files_of, serving

ROWS = b'{"u": "What is a bond?", "a": "A loan."}\n' * 3
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.jsonl\n---\n"


def run(stage: str, folder: Path, address: str, **environment: str) -> subprocess.CompletedProcess:
    """`python -m stages.STAGE` in a folder that has params.yaml, with the hub at `address`."""
    for name in ("stages", "ingot", "llama.cpp", "image.lock"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "build").mkdir(exist_ok=True)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    env |= {"INGOT_LLAMA_BUILD": str(ROOT / ".cache/llama.cpp"), "no_proxy": "*"}
    return subprocess.run(
        [sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=env | environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def raw_params(folder: Path, repo: str = "acme/finance", revision: str = COMMIT) -> None:
    source = {"repo": repo, "revision": revision, "split": "train"}
    edited(ROOT / "params.yaml", folder / "params.yaml", {"raw.datasets": {"finance": source}})


@pytest.fixture
def dataset_hub() -> Hub:
    return Hub("acme/finance", "dataset", {"README.md": CARD, "data/train.jsonl": ROWS, ".gitattributes": b"x"})


def test_a_pinned_dataset_is_fetched_verbatim(tmp_path, dataset_hub):
    raw_params(tmp_path)
    with serving(dataset_hub) as address:
        result = run("raw", tmp_path, address)
    assert result.returncode == 0, result.stdout
    fetched = tmp_path / "build/raw/finance"
    assert (fetched / "data/train.jsonl").read_bytes() == ROWS
    assert sorted(path.name for path in fetched.iterdir()) == ["README.md", "data"], "no bookkeeping of the client"
    listed = json.loads((tmp_path / "build/raw/files.json").read_text())
    assert listed["finance/data/train.jsonl"]["bytes"] == len(ROWS)
    assert not list((tmp_path / ".cache/downloads").rglob("*.jsonl")), "one copy"

    from ingot.inside import conversations
    from ingot.params.raw import Source

    rows = conversations.read(fetched, "finance", Source(repo="acme/finance", revision=COMMIT, split="train"))
    assert len(rows) == 3


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, dataset_hub):
    raw_params(tmp_path)
    dataset_hub.faults["data/train.jsonl"] = [403]
    with serving(dataset_hub) as address:
        first = run("raw", tmp_path, address)
        assert first.returncode == 1 and "what is fetched already is kept" in first.stdout
        assert not (tmp_path / "build/raw").exists()
        second = run("raw", tmp_path, address)
    assert second.returncode == 0, second.stdout
    assert dataset_hub.served.count("README.md") == 1, "fetched once"


@pytest.mark.parametrize(
    ("repo", "revision", "message"),
    [
        ("acme/nothing", COMMIT, "no such repository, or a private one"),
        ("acme/finance", "f" * 40, "has no such commit"),
    ],
)
def test_wrong_names_are_explained(tmp_path, dataset_hub, repo, revision, message):
    raw_params(tmp_path, repo, revision)
    with serving(dataset_hub) as address:
        result = run("raw", tmp_path, address)
    assert result.returncode == 1
    assert message in result.stdout and "Traceback" not in result.stdout


def test_a_gated_repository_wants_a_token_which_is_written_nowhere(tmp_path, dataset_hub):
    raw_params(tmp_path)
    dataset_hub.token = "hf_secret_of_this_test"
    with serving(dataset_hub) as address:
        refused = run("raw", tmp_path, address)
        assert refused.returncode == 1 and "HF_TOKEN" in refused.stdout
        allowed = run("raw", tmp_path, address, HF_TOKEN=dataset_hub.token)
    assert allowed.returncode == 0, allowed.stdout
    assert dataset_hub.token not in allowed.stdout
    own = (path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "stages"))
    assert not any(dataset_hub.token.encode() in path.read_bytes() for path in own if path.stat().st_size < 10**6)


def test_an_unreachable_hub_is_said_so(tmp_path):
    raw_params(tmp_path)
    result = run("raw", tmp_path, "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "cannot be reached" in result.stdout and "Traceback" not in result.stdout


@pytest.mark.slow
def test_a_base_is_fetched_without_what_would_mislead_the_converter(tmp_path, base):
    files = files_of(base) | {
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"pickle",
        "onnx.bin": b"x",
    }
    hub = Hub("acme/tiny", "model", files)
    wanted = {"source": "hub", "repo": "acme/tiny", "revision": COMMIT, "parameters": 39_100_000}
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", {"base": wanted})
    with serving(hub) as address:
        result = run("base", tmp_path, address)
    assert result.returncode == 0, result.stdout
    assert files_of(tmp_path / "build/base") == files_of(base)
    assert "README.md" not in hub.served and "pytorch_model.bin" not in hub.served


def test_pin_writes_commits_and_leaves_the_rest_as_it_is(tmp_path, dataset_hub, monkeypatch):
    from ingot.outside import pinning

    before = (ROOT / "recipes/qwen2.5-7b-kospi.yaml").read_text()
    file = tmp_path / "params.yaml"
    file.write_text(before)
    with serving(dataset_hub) as address:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", address)
        with pytest.raises(pinning.PinError, match="Josephgflowers/Finance-Instruct-500k: its commit cannot be read"):
            pinning.pin(file)
        assert file.read_text() == before, "all or nothing"
        import re

        one = re.sub(r"repo: [\w-]+/[\w.-]+, revision: unpinned", "repo: acme/finance, revision: unpinned", before)
        file.write_text(one)
        assert pinning.pin(file) == {"acme/finance": COMMIT}
    assert file.read_text() == one.replace("revision: unpinned", f"revision: {COMMIT}")
