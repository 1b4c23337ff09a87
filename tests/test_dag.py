"""The whole pipeline through `dvc repro`, in a copy with small params: twice, then with one param changed per stage."""

from __future__ import annotations

import json

import pytest

from ingot.outside.pipeline import STAGES

pytestmark = pytest.mark.slow

AFTER_F16 = ["gguf", "modelfile", "evaluation"]
# One param of each section, and exactly the stages that its change reruns: none whose inputs came out the same.
CHANGES = [
    ({"evaluation__prompts": 3}, ["evaluation"]),
    ({"modelfile__temperature": 0.5}, ["modelfile", "evaluation"]),
    ({"gguf__types": ["Q8_0"]}, AFTER_F16),
    ({"f16__type": "bf16"}, ["f16", *AFTER_F16]),
    ({"name": "renamed"}, ["f16", *AFTER_F16]),
    ({"merged__base": "nf4"}, ["merged", "f16", *AFTER_F16]),
    ({"adapter__learning_rate": 1e-3}, ["adapter", "merged", "f16", *AFTER_F16]),
    ({"dataset__join": " | "}, ["dataset", "adapter", "merged", "f16", *AFTER_F16]),
    ({"raw__datasets__unused": {"path": "data/samples/krx_won.jsonl"}}, ["raw", "dataset"]),
    ({"base__tiny__seed": 43}, ["base", "dataset", "adapter", "merged", "f16", *AFTER_F16]),
]


def test_twice_then_one_change_per_stage(clone):
    work = clone()
    assert sorted(work.repro()) == sorted(STAGES)
    assert work.repro() == [], "a second run does nothing"
    assert sorted(path.name for path in (work.folder / "build").iterdir()) == sorted(STAGES), "no leftovers"
    first, params = (work.folder / "dvc.lock").read_text(), (work.folder / "params.yaml").read_text()

    for change, expected in CHANGES:
        work.params(**change)
        assert sorted(work.repro("--no-run-cache")) == sorted(expected), change
        (work.folder / "params.yaml").write_text(params)
        work.repro()  # from the run cache: back where it was, in seconds
        assert (work.folder / "dvc.lock").read_text() == first, change

    # What a person reads of it.
    metrics = json.loads(work.sh("dvc", "metrics", "show", "--json").stdout)
    held_out = metrics[""]["data"]["reports/evaluation.json"]["data"]["held_out"]
    assert set(held_out) == {"base", "merged", "F16", "Q4_K_M"}
    plots = work.sh("dvc", "plots", "show", "--json").stdout
    assert all(name in plots for name in ("loss", "learning rate", "gradient norm"))
