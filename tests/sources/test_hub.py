"""Fetching from a hub: the real client against a server on this machine, through the stages themselves."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from ingot.console import bounds
from ingot.console.progress import StageError
from ingot.sources import downloads, hub, pinning, raw_files
from ingot.sources.params import Source
from tests.conftest import ROOT, edited
from tests.hubserver import COMMIT, Hub, files_of, serving

ROWS = b'{"u": "What is a bond?", "a": "A loan."}\n' * 3
CARD = b"---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/*.jsonl\n---\n"


def run(stage: str, folder: Path, address: str, wait: bool = True, **environment: str):
    """`python -m stages.STAGE` in a folder with params.yaml, the hub at `address`; its process unless `wait`."""
    for name in ("stages", "ingot", "llama.cpp", "image.lock"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "build").mkdir(exist_ok=True)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "HF_ENDPOINT": address, "HF_HUB_DISABLE_XET": "1"}
    env |= {"INGOT_LLAMA_BUILD": str(ROOT / ".cache/llama.cpp"), "no_proxy": "*"}
    return (subprocess.run if wait else subprocess.Popen)(
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
    (kept,) = (tmp_path / ".cache/downloads").rglob("*.jsonl")
    assert kept.samefile(fetched / "data/train.jsonl"), "on the disk once"
    rows = raw_files.open_rows(fetched, "finance", Source(repo="acme/finance", revision=COMMIT, split="train"))
    assert len(rows) == 3


def test_a_broken_download_goes_on_where_it_stopped(tmp_path, dataset_hub):
    raw_params(tmp_path)
    dataset_hub.faults["data/train.jsonl"] = [403]
    with serving(dataset_hub) as address:
        first = run("raw", tmp_path, address)
        assert first.returncode == 1 and "403 Forbidden" in first.stdout
        assert "run again" not in first.stdout, "by itself it does not pass"
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
    linked = [tmp_path / name for name in ("stages", "ingot", "llama.cpp")]
    own = [path for path in tmp_path.rglob("*") if path.is_file() and not any(map(path.is_relative_to, linked))]
    assert any(path.name == "train.jsonl" for path in own)
    assert not [path for path in own if dataset_hub.token.encode() in path.read_bytes()]


def test_an_unreachable_hub_is_said_so(tmp_path):
    raw_params(tmp_path)
    result = run("raw", tmp_path, "http://127.0.0.1:9")
    assert result.returncode == 1
    assert "cannot be reached" in result.stdout and "Traceback" not in result.stdout


@pytest.fixture
def fetching(tmp_path, monkeypatch):
    """Serve a hub to this process's client, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "WAITS", (0.01, 0.01, 0.01))
    with ExitStack() as stack:

        def start(remote: Hub) -> str:
            address = stack.enter_context(serving(remote))
            talk_to(address, monkeypatch)
            return address

        yield start


def talk_to(address: str, monkeypatch) -> None:
    from huggingface_hub import constants

    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.5,
    }.items():
        monkeypatch.setattr(constants, name, value)


BIG = bytes(range(256)) * 4000


def big_hub() -> Hub:
    remote = Hub("acme/big", "dataset", {"data/a.parquet": BIG, "data/b.jsonl": ROWS})
    remote.lfs = {"data/a.parquet"}
    return remote


@pytest.mark.parametrize(
    ("faults", "resumed"),
    [
        ([500], False),
        ([503, 502, 504], False),
        ([408], False),
        (["cut"], True),
        (["cut", "reset", 500], True),
        (["reset"], True),
        (["wrong"], False),
        (["wrong", "cut", "wrong"], True),
        (["short"], False),
        (["stall"], False),
    ],
    ids=str,
)
def test_what_passes_is_tried_again_until_the_bytes_are_right(fetching, faults, resumed):
    remote = big_hub()
    remote.faults["data/a.parquet"] = list(faults)
    fetching(remote)
    snapshot = hub.Snapshot("acme/big", COMMIT, "dataset")
    snapshot.put(["data/a.parquet"], Path("out"))
    assert Path("out/data/a.parquet").read_bytes() == BIG
    assert not remote.faults["data/a.parquet"], "it met all of them"
    assert any(remote.starts) == resumed, "a part that came is not fetched again"
    assert set(remote.served) == {"data/a.parquet"}, "nothing that was not asked for"


def test_a_full_server_is_given_the_time_it_asks_for(fetching):
    remote = big_hub()
    remote.faults = {"data/a.parquet": [(429, {"Retry-After": "1"})], "tree": [(429, {"Retry-After": "0"})]}
    fetching(remote)
    began = time.monotonic()
    hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/a.parquet"])
    assert time.monotonic() - began > 1


@pytest.mark.parametrize("headers", [{"Retry-After": "40"}, {"RateLimit": '"api";r=0;t=40'}])
@pytest.mark.parametrize("where", ["tree", "data/train.jsonl"])
def test_a_stage_that_waits_for_the_server_says_so_and_can_be_stopped(tmp_path, dataset_hub, where, headers):
    raw_params(tmp_path)
    dataset_hub.faults[where] = [(429, headers)]
    with serving(dataset_hub) as address:
        waiting = run("raw", tmp_path, address, wait=False)
        said = ""
        while "again in 40 s" not in said:
            line = waiting.stdout.readline()
            assert line, said
            said += line
        began = time.monotonic()
        waiting.terminate()
        waiting.communicate()
    assert waiting.returncode == 143
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("seconds", ["601", "86400", "9" * 30, "9" * 5000])
@pytest.mark.parametrize("where", ["tree", "data/a.parquet"])
def test_a_server_is_not_waited_for_without_end(fetching, where, seconds):
    remote = big_hub()
    remote.faults[where] = [(429, {"Retry-After": seconds})]
    fetching(remote)
    with pytest.raises(StageError, match=rf"the hub asks to wait {seconds[:40]} s; run again then"):
        hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/a.parquet"])


@pytest.mark.parametrize("where", ["tree", "data/a.parquet"])
@pytest.mark.parametrize("token", [None, "hf_expired"])
def test_a_token_that_does_not_open_is_said_so(fetching, monkeypatch, where, token):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    remote = big_hub()
    remote.faults[where] = [(401, {"X-Error-Message": "Invalid credentials in Authorization header"})]
    fetching(remote)
    with pytest.raises(StageError, match="HF_TOKEN is missing, wrong or expired: make one") as error:
        hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/a.parquet"])
    assert "run again" not in str(error.value)


def test_the_listing_is_asked_for_again_and_read_to_its_end(fetching):
    remote = big_hub()
    remote.files |= {f"{i}.jsonl": ROWS for i in range(5)}
    remote.page = 3
    remote.faults["tree"] = ["cut", 503, "cut"]
    fetching(remote)
    files = hub.Snapshot("acme/big", COMMIT, "dataset").files()
    assert list(files) == list(remote.files)
    assert not remote.faults["tree"]


@pytest.mark.parametrize(
    "page", [b"<html>Log in</html>", b'{"error": 1}', b"[1]", b'[{"type": "file"}]', b"\xff", b"null"]
)
def test_what_is_no_hub_is_said_so(fetching, page):
    remote = big_hub()
    remote.faults["tree"] = [(0, {}, page)]
    fetching(remote)
    with pytest.raises(StageError, match="what answers is no hub: a proxy's or login page"):
        hub.Snapshot("acme/big", COMMIT, "dataset").files()


def test_a_line_that_is_cut_again_and_again_brings_the_whole_in_the_end(fetching):
    remote = big_hub()
    remote.faults["data/a.parquet"] = ["cut"] * 6
    fetching(remote)
    hub.Snapshot("acme/big", COMMIT, "dataset").put(["data/a.parquet"], Path("out"))
    assert Path("out/data/a.parquet").read_bytes() == BIG


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (500, r"(?s)500 Internal Server Error.*tried 4 times"),
        ("wrong", r"data/a.parquet: what comes is not what the hub lists .*tried 4 times"),
        ("short", r"what comes is not what the hub lists .its size or hash differs."),
        (403, r"403"),
    ],
)
def test_what_does_not_pass_is_said_and_leaves_nothing(fetching, fault, message):
    remote = big_hub()
    remote.faults["data/a.parquet"] = [fault] * 50
    fetching(remote)
    with pytest.raises(StageError, match=message) as error:
        hub.Snapshot("acme/big", COMMIT, "dataset").put(["data/a.parquet", "data/b.jsonl"], Path("out"))
    assert "acme/big at 0123456789ab" in str(error.value)
    assert not Path("out").exists(), "whole or not at all"


def test_once_fetched_no_hub_is_needed_and_what_was_spoilt_is_fetched_again(fetching, monkeypatch):
    remote = big_hub()
    fetching(remote)
    names = ["data/a.parquet", "data/b.jsonl"]
    hub.Snapshot("acme/big", COMMIT, "dataset").put(names, Path("out"))
    assert sorted(remote.served) == names
    here = downloads.DOWNLOADS / "dataset/acme--big" / COMMIT / "data"
    (here / "b.jsonl").unlink()
    (here / "b.jsonl").write_bytes(ROWS.replace(b"bond", b"loan"))  # of the same length
    hub.Snapshot("acme/big", COMMIT, "dataset").put(names, Path("again"))
    assert remote.served[2:] == ["data/b.jsonl"]
    assert Path("again/data/b.jsonl").read_bytes() == ROWS
    talk_to("http://127.0.0.1:9", monkeypatch)
    hub.Snapshot("acme/big", COMMIT, "dataset").put(names, Path("offline"))
    assert Path("offline/data/a.parquet").read_bytes() == BIG
    assert Path("offline/data/a.parquet").samefile(here / "a.parquet"), "linked"


def test_downloads_that_params_no_longer_name_are_removed(fetching):
    remote = big_hub()
    fetching(remote)
    hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/b.jsonl"])
    downloads.keep_only("model", [])
    downloads.keep_only("dataset", [("acme/big", COMMIT)])
    assert list(downloads.DOWNLOADS.rglob("b.jsonl"))
    downloads.keep_only("dataset", [("acme/big", "f" * 40)])
    assert not list(downloads.DOWNLOADS.rglob("*.json*"))
    assert not list((downloads.DOWNLOADS / "dataset").iterdir())


def test_what_a_killed_stage_had_fetched_is_gone_on_with(tmp_path, dataset_hub):
    dataset_hub.files["data/train.jsonl"] = ROWS * 100_000
    dataset_hub.faults["data/train.jsonl"] = ["slow"]
    dataset_hub.pause = 0.1
    raw_params(tmp_path)
    with serving(dataset_hub) as address:
        killed = run("raw", tmp_path, address, wait=False)
        while not [part for part in tmp_path.rglob("*.parts/*") if part.stat().st_size > 10**6]:
            assert killed.poll() is None
            time.sleep(0.05)
        killed.kill()
        killed.communicate()
        assert not (tmp_path / "build/raw").exists()
        result = run("raw", tmp_path, address)
    assert result.returncode == 0, result.stdout
    assert dataset_hub.starts[-1] > 0, "not from the start"
    assert (tmp_path / "build/raw/finance/data/train.jsonl").read_bytes() == ROWS * 100_000
    assert [path.name for path in (tmp_path / "build").iterdir()] == ["raw"]


@pytest.mark.parametrize("least", [10**9, 1000])
def test_a_file_that_trickles_is_given_up_and_a_slow_one_is_not(fetching, monkeypatch, least):
    monkeypatch.setattr(bounds, "SLOW_BYTES", least)
    monkeypatch.setattr(bounds, "SLOW_SECONDS", 0.5)
    remote = big_hub()
    remote.files["data/b.jsonl"] = ROWS * 10_000
    remote.faults["data/b.jsonl"], remote.pause = ["slow"] * 9, 0.3
    fetching(remote)
    snapshot = hub.Snapshot("acme/big", COMMIT, "dataset")
    began = time.monotonic()
    if least > 1000:
        with pytest.raises(
            StageError, match=r"data/b.jsonl: of it less than 1.00 GB came in 0.5 s: .*\nhint: run again: what"
        ):
            snapshot.fetch(["data/b.jsonl"])
        assert time.monotonic() - began < 2.5
    else:
        assert (snapshot.fetch(["data/b.jsonl"]) / "data/b.jsonl").read_bytes() == ROWS * 10_000


def test_a_token_that_a_server_sends_back_is_not_shown(fetching, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_test")
    remote = big_hub()
    remote.token = "hf_secret_of_this_test"
    echo = {"X-Error-Message": "no such grant: Bearer hf_secret_of_this_test"}
    remote.faults["data/b.jsonl"] = [(403, echo), *[(500, echo)] * 50]
    fetching(remote)
    for _ in range(2):
        with pytest.raises(StageError) as error:
            hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/b.jsonl"])
        assert "hf_secret" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", "hf_secret\x01of_this_test")
    with pytest.raises(StageError, match="HF_TOKEN holds characters that no token has") as error:
        hub.Snapshot("acme/big", COMMIT, "dataset").fetch(["data/b.jsonl"])
    assert "hf_secret" not in str(error.value)


def test_a_token_is_for_the_hub_and_not_for_where_it_sends_us(fetching, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_test")
    remote = big_hub()
    remote.token = "hf_secret_of_this_test"
    address = fetching(remote)
    remote.elsewhere = address.replace("127.0.0.1", "localhost")
    remote.faults["data/a.parquet"] = ["cut"]
    hub.Snapshot("acme/big", COMMIT, "dataset").put(["data/a.parquet"], Path("out"))
    assert Path("out/data/a.parquet").read_bytes() == BIG
    assert remote.asked == [None, None] and remote.starts[1] > 0, "through the detour, too, it goes on where it stopped"


@pytest.mark.parametrize("scheme", ["http://localhost:{port}", "https://{host}", "http://{host}0", "//localhost:1"])
def test_a_listing_that_goes_on_at_another_host_is_not_followed(fetching, monkeypatch, scheme):
    """Neither with the token nor without it: a host by another name, another scheme, another port."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret_of_this_test")
    other = Hub("acme/big", "dataset", {})
    with serving(other) as elsewhere:
        remote = big_hub()
        remote.next = scheme.replace("{port}", elsewhere.rpartition(":")[2]) + "/elsewhere/x"
        fetching(remote)
        with pytest.raises(StageError, match=r"goes on at another host .*, which is not asked") as error:
            hub.Snapshot("acme/big", COMMIT, "dataset").files()
    assert other.asked == [] and "hf_secret" not in str(error.value)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("endless", "its listing: the answer has more than 1 MB"),
        ("trickle", "its listing: the answer does not end: 2 s have gone by"),
        ("headers", "its listing: the answer does not end: 2 s have gone by"),
    ],
)
def test_a_listing_without_end_is_given_up(fetching, monkeypatch, fault, message):
    monkeypatch.setattr(bounds, "LISTING_BYTES", 10**6)
    monkeypatch.setattr(bounds, "LISTING_SECONDS", 2)
    remote = big_hub()
    remote.faults["tree"] = [fault] * 9
    fetching(remote)
    began = time.monotonic()
    with pytest.raises(StageError, match=message):
        hub.Snapshot("acme/big", COMMIT, "dataset").files()
    assert time.monotonic() - began < 15


def test_a_listing_that_goes_round_or_has_too_many_files_is_given_up(fetching, monkeypatch):
    remote = big_hub()
    remote.next = f"http://{{host}}/api/datasets/acme/big/tree/{COMMIT}?recursive=True"
    fetching(remote)
    with pytest.raises(StageError, match="goes round in a circle"):
        hub.Snapshot("acme/big", COMMIT, "dataset").files()
    remote.next = None
    monkeypatch.setattr(bounds, "LISTING_FILES", 1)
    with pytest.raises(StageError, match="it has more than 1 files"):
        hub.Snapshot("acme/big", COMMIT, "dataset").files()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jsonl", "a.jsonl/b"], "it holds 'a.jsonl' as a file and as a folder"),
        (["x" * 300 + ".jsonl"], "a name of 306 characters, which no disk takes"),
        (["d/" * 600 + "x.jsonl"], "which no disk takes"),
        (["\ud800.jsonl"], "which is no text: do not trust it"),
        (["a\0.jsonl"], "leads out of it"),
        (["a//b.jsonl"], "leads out of it"),
    ],
)
def test_names_that_no_folder_can_hold_are_refused(fetching, names, message):
    fetching(Hub("acme/evil", "dataset", dict.fromkeys([*names, "train.jsonl"], ROWS)))
    with pytest.raises(StageError, match=message):
        hub.Snapshot("acme/evil", COMMIT, "dataset").files()


def test_listings_of_any_shape_are_refused_or_read(fetching):
    """400 of them, drawn by a seed: values of a true listing replaced, taken out, or the text cut."""
    drawn, remote = random.Random(7), big_hub()
    fetching(remote)
    whole = [remote.entry(name, data) for name, data in remote.files.items()]
    odd = [None, [], {}, "", "x", -1, 1.5, True, 10**30, "../x", [[]], {"oid": 5}, "\ud800", "a" * 300]
    for _ in range(400):
        listing = json.loads(json.dumps(whole))
        entry = drawn.choice(listing)
        key = drawn.choice(sorted(entry))
        if drawn.random() < 0.2:
            del entry[key]
        elif key == "lfs" and drawn.random() < 0.5:
            entry[key][drawn.choice(sorted(entry[key]))] = drawn.choice(odd)
        else:
            entry[key] = drawn.choice(odd)
        text = json.dumps(drawn.choice([listing, listing, entry, {"files": listing}])).encode()
        if drawn.random() < 0.2:
            text = text[: drawn.randrange(1, len(text))]
        remote.faults["tree"] = [text]
        snapshot = hub.Snapshot("acme/big", COMMIT, "dataset")
        try:
            found = snapshot.files()
        except StageError as error:
            assert "acme/big" in str(error)
            continue
        assert all(type(name) is str and type(listed["size"]) is int for name, listed in found.items()), text
        snapshot.folder.with_suffix(".json").unlink(missing_ok=True)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"a": 1}', '{"a": {"size": "x"}}', "[" * 100_000, '{"../a": {}}'])
def test_a_kept_listing_that_is_garbage_is_asked_for_again(fetching, text):
    fetching(big_hub())
    snapshot = hub.Snapshot("acme/big", COMMIT, "dataset")
    snapshot.folder.parent.mkdir(parents=True)
    snapshot.folder.with_suffix(".json").write_text(text)
    assert set(snapshot.files()) == {"data/a.parquet", "data/b.jsonl"}


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(9)
)
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{n + 1}: &a{n + 1} {{<<: [*a{n}, *a{n}]}}\n" for n in range(60))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (BOMB, "holds more than 200,000 values"),
        (MERGES, "holds more than 200,000 values"),
        ("configs: &a [*a]\n", "without end"),
        ("configs: " + "[" * 5000, "within each other"),
        ("configs:\n" + "\n" * 6_000_000, "more than 5 MB"),
        ("x: " + "- " * 5000, "cannot be read"),
    ],
    ids=["aliases", "merges", "itself", "deep", "large", "dashes"],
)
def test_a_readme_that_would_fill_the_memory_is_refused(tmp_path, text, message):
    readme = tmp_path / "README.md"
    readme.write_text(f"---\n{text}\n---\n# Data\n")
    source, began = Source(repo="acme/evil", revision=COMMIT, split="train"), time.monotonic()
    with pytest.raises(StageError, match=message) as error:
        raw_files.chosen(["data/train.jsonl"], readme, "evil", source)
    assert time.monotonic() - began < 10 and len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["../../evil.jsonl", "/tmp/evil.jsonl", "data/../../evil.jsonl"])
def test_a_repository_cannot_write_beside_its_folder(fetching, tmp_path, name):
    remote = Hub("acme/evil", "dataset", {name: ROWS, "train.jsonl": ROWS})
    fetching(remote)
    snapshot = hub.Snapshot("acme/evil", COMMIT, "dataset")
    with pytest.raises(StageError, match="leads out of it: do not trust it"):
        raw_files.chosen(snapshot.files(), None, "evil", Source(repo="acme/evil", revision=COMMIT, split="train"))
    with pytest.raises(StageError, match="leads out of it: do not trust it"):
        hub.Snapshot("acme/evil", COMMIT, "dataset").fetch([name])
    assert not list(tmp_path.rglob("evil.jsonl")) and not Path("/tmp/evil.jsonl").exists()


def test_a_download_that_does_not_fit_is_not_begun(fetching, monkeypatch):
    remote = big_hub()
    fetching(remote)
    snapshot = hub.Snapshot("acme/big", COMMIT, "dataset")
    snapshot.files()["data/a.parquet"]["size"] = 10**18
    with pytest.raises(StageError, match=r"1000000000.00 GB are to be fetched and .* are free"):
        snapshot.fetch(["data/a.parquet"])
    assert not remote.served


CONFIGS = b"""---
configs:
- config_name: en
  data_files:
  - {split: train, path: en/train-*.jsonl}
  - {split: test, path: en/test.jsonl}
- config_name: ko
  data_files:
  - {split: train, path: ko/*.csv}
  sep: ";"
---
"""
SETS = {
    "README.md": CONFIGS,
    "en/train-0.jsonl": ROWS,
    "en/train-1.jsonl": ROWS,
    "en/test.jsonl": ROWS,
    "ko/a.csv": "u;a\n007;둘\n".encode(),
    "LICENSE": b"x",
}


@pytest.mark.parametrize(
    ("which", "fetched", "count"),
    [
        ({"config": "en", "split": "train"}, ["README.md", "en/train-0.jsonl", "en/train-1.jsonl"], 6),
        ({"config": "en", "split": "test"}, ["README.md", "en/test.jsonl"], 3),
        ({"config": "ko", "split": "train"}, ["README.md", "ko/a.csv"], 1),
        ({"files": ["en/*1.jsonl", "en/te*"]}, ["README.md", "en/test.jsonl", "en/train-1.jsonl"], 6),
    ],
)
def test_of_a_dataset_only_what_is_meant_is_fetched(fetching, which, fetched, count):
    from ingot.sources import hub_dataset

    remote = Hub("acme/sets", "dataset", SETS)
    fetching(remote)
    source = Source(repo="acme/sets", revision=COMMIT, **which)
    hub_dataset.fetch(source, "sets", Path("out"))
    assert sorted(remote.served) == fetched
    rows = raw_files.open_rows(Path("out"), "sets", source)
    assert len(rows) == count
    if which.get("config") == "ko":
        assert rows[0] == {"u": "007", "a": "둘"}, "read as its README says"


@pytest.mark.parametrize(
    ("files", "split"),
    [
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet"], "test"),
        (["train.jsonl", "test.jsonl"], "train"),
        (["test/a.csv", "train/a.csv"], "train"),
        (["anything.json", "README.md"], "train"),
    ],
)
def test_without_configs_the_splits_are_those_that_datasets_finds(files, split):
    source = Source(repo="acme/sets", revision=COMMIT, split=split)
    (chosen,) = raw_files.chosen(files, None, "sets", source)
    assert split in chosen or chosen == "anything.json"


@pytest.mark.parametrize(
    ("which", "message"),
    [
        ({"split": "train"}, r"raw.datasets.sets.config: missing: no such config; there are en, ko"),
        ({"config": "de", "split": "train"}, r"config: de: no such config; there are en, ko"),
        ({"config": "ko", "split": "test"}, r"split: test: no such split; there are train. Or name the files"),
        ({"files": ["*.parquet"]}, r"files: \*.parquet: no such file of a kind that is read"),
        ({"files": ["en/*.jsonl", "ko/*"]}, r"files of one kind are read.* found .csv \(ko/a.csv\), .jsonl"),
    ],
)
def test_a_part_that_is_not_there_is_said_with_those_that_are(tmp_path, which, message):
    (tmp_path / "README.md").write_bytes(CONFIGS)
    with pytest.raises(StageError, match=message):
        raw_files.chosen(SETS, tmp_path / "README.md", "sets", Source(repo="acme/sets", revision=COMMIT, **which))


@pytest.mark.parametrize(
    "where", ["/etc/*.json", "../../*.json", "https://example.org/a.json", "zip://*::a.zip", "~/*.json"]
)
@pytest.mark.parametrize("key", ["data_files", "data_dir"])
def test_a_readme_cannot_point_out_of_its_repository(tmp_path, where, key):
    readme = tmp_path / "README.md"
    readme.write_text(f"---\nconfigs:\n- config_name: default\n  {key}: '{where}'\n---\n")
    with pytest.raises(StageError, match="leads out of the repository: it is refused"):
        raw_files.chosen(["a.json"], readme, "sets", Source(repo="acme/sets", revision=COMMIT, split="train"))


@pytest.mark.parametrize(
    "text",
    [
        "---\nconfigs: 3\n---\n",
        "---\n{\n---\n",
        "---\nconfigs:\n- data_files: x\n---\n",
        "---\nconfigs:\n- config_name: a\n  data_files: [{split: train, path: a}, {split: train, path: b}]\n---\n",
    ],
)
def test_a_readme_that_makes_no_sense_is_named(tmp_path, text):
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(StageError, match=r"the README of acme/sets cannot be read"):
        raw_files.chosen(
            ["a.json"], tmp_path / "README.md", "sets", Source(repo="acme/sets", revision=COMMIT, split="train")
        )


@pytest.mark.proof
def test_a_base_is_fetched_without_what_would_mislead_the_converter(tmp_path, base):
    files = files_of(base) | {
        "README.md": b"---\nlicense: mit\n---\n",
        "pytorch_model.bin": b"pickle",
        "onnx.bin": b"x",
        "original/model.safetensors": b"a second copy",
    }
    hub = Hub("acme/tiny", "model", files)
    hub.lfs = {"model.safetensors"}
    wanted = {"source": "hub", "repo": "acme/tiny", "revision": COMMIT, "parameters": 20_000_000}
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", {"base": wanted})
    with serving(hub) as address:
        result = run("base", tmp_path, address)
    assert result.returncode == 1 and "the base has 1,054,464" in result.stdout
    served = set(hub.served)
    assert not served & {"README.md", "pytorch_model.bin", "original/model.safetensors"}
    # What failed was no fault of the download: the next run needs neither it nor the hub.
    edited(ROOT / "params.yaml", tmp_path / "params.yaml", {"base": wanted | {"parameters": 1_050_000}})
    result = run("base", tmp_path, "http://127.0.0.1:9")
    assert result.returncode == 0, result.stdout
    assert files_of(tmp_path / "build/base") == files_of(base)


def test_pin_writes_commits_and_leaves_the_rest_as_it_is(tmp_path, dataset_hub, monkeypatch):
    from typer.testing import CliRunner

    from ingot.host import cli
    from ingot.sources import pinning

    before = (ROOT / "recipes/qwen2.5-7b-kospi.yaml").read_text()
    file = tmp_path / "params.yaml"
    file.write_text(before)
    other = "89abcdef" * 5
    dataset_hub.branches["refs/convert/parquet"] = other
    with serving(dataset_hub) as address:
        talk_to(address, monkeypatch)
        with pytest.raises(pinning.PinError, match="Josephgflowers/Finance-Instruct-500k: its commit cannot be read"):
            pinning.pin(file)
        assert file.read_text() == before, "all or nothing"
        one = re.sub(r"repo: [\w-]+/[\w.-]+, revision: unpinned", "repo: acme/finance, revision: unpinned", before)
        file.write_text(one)
        assert pinning.pin(file) == {"acme/finance": COMMIT}
        assert file.read_text() == one.replace("revision: unpinned", f"revision: {COMMIT}")
        assert pinning.pin(file) == {}, "what is pinned stays"
        # A branch, quoted or not, on the same line or on another; the same repository at two of them.
        two = """raw:
  datasets:
    a: {repo: acme/finance, revision: main, split: main}   # main
    b:
      repo: acme/finance
      revision: "refs/convert/parquet"
"""
        file.write_text(two)
        pinning.pin(file)
        assert file.read_text() == two.replace("revision: main", f"revision: {COMMIT}").replace(
            "refs/convert/parquet", other
        )
        monkeypatch.chdir(tmp_path)
        file.write_text(two)
        said = CliRunner().invoke(cli.app, ["pin"])
        assert said.exit_code == 0 and f"revision: {COMMIT}" in file.read_text()
        file.write_text(one)
        assert "1 revision written to params.yaml" in CliRunner().invoke(cli.app, ["pin"]).output
        file.write_text(two.replace("main,", "nowhere,"))
        with pytest.raises(pinning.PinError, match="no branch or tag 'nowhere'"):
            pinning.pin(file)


@pytest.mark.parametrize(
    "page", [b"<html>Log in</html>", b'{"error": 1}', b"[1]", b"\xff", b"null", b'{"id": "a/b", "sha": 7}']
)
def test_pin_takes_no_page_for_a_commit(tmp_path, dataset_hub, monkeypatch, page):
    from ingot.sources import pinning

    file = tmp_path / "params.yaml"
    file.write_text(text := "raw: {datasets: {a: {repo: acme/finance, revision: main, split: main}}}\n")
    dataset_hub.faults["revision"] = [page]
    with serving(dataset_hub) as address:
        talk_to(address, monkeypatch)
        with pytest.raises(pinning.PinError, match=f"acme/finance: its commit cannot be read.*{address}.*HF_ENDPOINT"):
            pinning.pin(file)
    assert file.read_text() == text


def test_pin_says_what_stands_between(tmp_path, dataset_hub, monkeypatch):
    """A login page that sends round in a circle; a token that no header can hold, which is no fault of the hub's."""
    from ingot.sources import pinning

    file = tmp_path / "params.yaml"
    file.write_text("raw: {datasets: {a: {repo: acme/finance, revision: main, split: main}}}\n")
    here = "/api/datasets/acme/finance/revision/main"
    dataset_hub.faults["revision"] = [(302, {"Location": here})] * 30
    with serving(dataset_hub) as address:
        talk_to(address, monkeypatch)
        with pytest.raises(pinning.PinError, match=r"acme/finance: its commit cannot be read.*redirects"):
            pinning.pin(file)
        dataset_hub.faults.clear()
        monkeypatch.setenv("HF_TOKEN", "hf_é")
        with pytest.raises(pinning.PinError, match=r"acme/finance: its commit cannot be read.*ascii") as error:
            pinning.pin(file)
    assert "hf_é" not in str(error.value)


@pytest.mark.parametrize(
    "fault", ["endless", "trickle", "headers", b"[" * 100_000, b'{"sha": ["x"]}', b'{"sha": "\\u001b[2J"}']
)
def test_pin_is_bounded_and_takes_no_odd_answer(fetching, monkeypatch, fault):
    monkeypatch.setattr(bounds, "LISTING_BYTES", 10**6)
    monkeypatch.setattr(bounds, "LISTING_SECONDS", 1)
    remote = big_hub()
    remote.faults["revision"] = [fault]
    fetching(remote)
    with pytest.raises(pinning.PinError, match="dataset acme/big: its commit cannot be read"):
        pinning.head("acme/big", "dataset", "main")
