"""`make metrics` and `make dag`: what a terminal of 100 columns shows of this build."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, Clone


@pytest.fixture
def work(clone, monkeypatch) -> Clone:
    work = clone(micro=False)
    monkeypatch.chdir(work.folder)
    work.sh("git", "add", "reports")
    work.sh("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "reports")
    return work


def ingot(work: Clone, verb: str, check: bool = True) -> str:
    said = work.sh("python", "-m", "ingot", verb, check=check).stdout
    assert max(map(len, said.splitlines())) <= 100 and "Traceback" not in said
    return said


def changed(path: str, change) -> None:
    report = json.loads(Path(path).read_text())
    change(report)
    Path(path).write_text(json.dumps(report))


def test_the_figures_are_those_of_the_reports(work):
    said = ingot(work, "metrics")
    report = json.loads(Path("reports/evaluation.json").read_text())
    rows = {line.split()[0]: line for line in said.splitlines()[said.splitlines().index(next(
        line for line in said.splitlines() if line.startswith("step "))) + 1 :]}  # fmt: skip
    assert list(rows) == ["base", "adapter", "merged", "merged-original", "16-bit", "Q4_K_M"], "in pipeline order"
    for step, figures in report["held_out"].items():
        assert f"{figures['loss']:.4f}" in rows[step], step
        assert f"{figures.get('learnt', figures).get('kl', figures['loss']):.4f}"[:5] in rows[step], step
    assert "answers: 40 of 40 training prompts word for word" in said and "was" not in said


def test_what_the_last_commit_had_otherwise_is_told(work):
    changed("reports/evaluation.json", lambda report: report["held_out"]["Q4_K_M"].update(kl=0.3))
    changed("reports/dataset.json", lambda report: report.update(dropped=7))
    said = ingot(work, "metrics")
    before, after = said.split("\nQ4_K_M")[1].splitlines()[:2]
    assert "0.30000" in before and after.split() == ["was", "0.21762"], "the other figures are the same"
    assert "11 held out, 7 dropped" in said and "was: dataset: 89 rows to train on, 11 held out, 0 dropped" in said


def test_reports_that_are_not_there_or_not_ours(work):
    Path("reports/evaluation.json").write_text('{"held_out": 5}')
    said = ingot(work, "metrics", check=False)
    assert "reports/evaluation.json: not as this version writes it" in said and "hint: make repro" in said
    Path("reports/evaluation.json").write_text("<<<<<<< HEAD")
    assert "reports/evaluation.json" in ingot(work, "metrics", check=False)
    for path in Path("reports").rglob("*.json"):
        path.unlink()
    assert "reports/ has no figures of a build" in ingot(work, "metrics", check=False)


def test_the_stages_are_told_in_order_with_whose_outputs_they_take(work):
    said = ingot(work, "dag").splitlines()
    stages = list(YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"])
    assert [line.split()[0] for line in said if not line.startswith(" ")] == stages
    assert all(len(line.split()) > 1 for line in said)
    after = {line.split()[0]: following.strip() for line, following in pairwise(said)}
    assert after["dataset"] == "takes raw, base" and after["merged"] == "takes base, adapter"
    assert after["card"].startswith("takes raw, base, dataset, adapter, gguf, modelfile")
