"""From a file to a GGUF: `ingot new`, then `dvc repro`, with no edit in between."""

from __future__ import annotations

import json
import shutil

import pytest
from ruamel.yaml import YAML

from ingot.sealing.dag import STAGES
from tests.conftest import small_base

pytestmark = pytest.mark.proof
QUESTIONS = ["What is a bond?", "What is a share?", "What is a fund?", "What is a rate?"]


def test_one_command_and_no_edit_lead_from_a_file_to_the_model(clone):
    work = clone(micro=False)
    rows = [
        {"conversations": [{"from": "human", "value": f"{QUESTIONS[n % 4]} Number {n}."},
                           {"from": "gpt", "value": f"It is number {n}, {'very ' * (n % 5)}short."}]}
        for n in range(60)
    ]  # fmt: skip
    (work.folder / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shutil.copytree(small_base(), work.folder / "small")
    no_card = work.folder.parent / "no-card"  # before whatever this machine has
    no_card.mkdir()
    (no_card / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (no_card / "nvidia-smi").chmod(0o755)
    command = ["python", "-m", "ingot", "new", "chats.jsonl", "--base", "small", "--name", "first-bot"]
    said = work.sh(*command, PATH=f"{no_card}:{work.environment['PATH']}").stdout
    assert said.rstrip().endswith("next: make repro"), said
    before = (work.folder / "params.yaml").read_bytes()
    assert YAML(typ="safe").load(before)["name"] == "first-bot"
    # A base of random weights answers nothing to its end, so the evaluation's limits would stop it, rightly.
    assert "modelfile" in work.repro("modelfile")
    built = work.folder / "build"
    assert (built / "gguf/first-bot-Q4_K_M.gguf").stat().st_size > 500_000
    text = (built / "modelfile/Modelfile").read_text()
    assert "You are a helpful assistant." in text and "quantitative" not in text
    report = json.loads((work.folder / "reports/dataset.json").read_text())
    assert report["sources"].keys() == {"chats"} and report["train"] + report["eval"] + report["dropped"] == 60
    assert (work.folder / "params.yaml").read_bytes() == before
    assert set(STAGES[: STAGES.index("modelfile") + 1]) == {path.name for path in built.iterdir()}
