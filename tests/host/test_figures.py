"""`make metrics`, `make dag` and DVC's own tools: what a terminal of 100 columns and a page show of this build."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from ruamel.yaml import YAML

from tests.conftest import ROOT, Clone


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Clone:
    """A clone with the demo's reports, all of it committed."""
    work = Clone(tmp_path_factory.mktemp("built"))
    work.demos_reports()
    work.sh("git", "add", "--all")
    work.sh("git", "-c", "user.name=x", "-c", "user.email=x@x", "commit", "-qm", "built")
    return work


@pytest.fixture
def work(built, tmp_path, monkeypatch) -> Clone:
    """A copy of it, to change."""
    work = Clone(tmp_path / "clone", of=built)
    monkeypatch.chdir(work.folder)
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


def test_a_dataset_that_was_not_made_is_told(work):
    path = Path("reports/dataset.json")
    path.write_text(json.dumps({"failed": "chats: no row is left\nhint: …", "dropped": 9, "sources": {}}))
    first = ingot(work, "metrics").splitlines()[0]
    assert first == "dataset: its last run failed: chats: no row is left"


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


def dvc(work: Clone, *arguments: str) -> str:
    """What DVC prints on a terminal of 100 columns."""
    return work.sh("dvc", *arguments, COLUMNS="100").stdout


def test_dvcs_tables_fit_a_terminal(work):
    metrics = json.loads(Path("reports/metrics.json").read_text())
    assert all(isinstance(value, int | float) for value in metrics.values()), "flat"
    changed("reports/metrics.json", lambda report: report.update(loss=9.5))
    for table in (dvc(work, "metrics", "show"), dvc(work, "metrics", "diff")):
        assert max(map(len, table.splitlines())) <= 100 and "9.5" in table
    assert set(dvc(work, "metrics", "show").splitlines()[0].split()) == {"Path", *metrics}


# In the place of all stages one of a second, with the params of all, deps of each kind, and figures by a formula.
ONE_STAGE = """
stages:
  evaluation:
    cmd: >-
      mkdir -p build/gguf && python -c "import json; from ingot.params.core import read; r = read()['adapter']['r'];
      json.dump(dict(bytes=1, loss=10 + r / 64, ended=1.0), open('reports/metrics.json', 'w'));
      open('build/gguf/${name}-${gguf.types[0]}.gguf', 'w').write(f'GGUF of rank {r}')"
    params: [PARAMS]
    deps: [data, image.lock, ingot/proof]
    outs: ["build/gguf/${name}-${gguf.types[0]}.gguf"]
    metrics: [{reports/metrics.json: {cache: false}}]
"""


@pytest.fixture
def one_stage(work) -> Clone:
    """The stub, run and committed; of dvc.yaml all but its stages is as it is."""
    params, file = YAML(typ="safe").load(Path("params.yaml").read_text()), Path("dvc.yaml")
    rest = file.read_text().partition("\nplots:")[2]
    file.write_text(f"{ONE_STAGE.replace('PARAMS', ', '.join(params))}\nplots:{rest}")
    Path("dvc.lock").unlink()
    dvc(work, "repro")
    for words in (("user.name", "x"), ("user.email", "x@x")):
        work.sh("git", "config", *words)
    work.sh("git", "commit", "-qam", "one stage")
    return work


def test_experiments_are_shown_with_what_they_changed_and_their_figures(one_stage):
    for r in (16, 64):
        dvc(one_stage, "exp", "run", "--name", f"rank-{r}", "--set-param", f"adapter.r={r}")
    table = one_stage.sh("python", "-m", "ingot", "experiments", COLUMNS="100").stdout
    assert max(map(len, table.splitlines())) <= 100
    head, *rows = (line.split() for line in table.splitlines() if "──── " not in line)
    assert head == ["Experiment", "loss", "adapter.r"], "no column that is the same in all, no hash, no …"
    found = {row[-3].strip("[]"): row[-2:] for row in rows}
    assert found["rank-16"] == ["10.25", "16"] and found["rank-64"] == ["11", "64"]


def test_the_model_is_taken_by_its_name_from_a_tagged_commit(one_stage, tmp_path):
    one_stage.sh("git", "tag", "-a", "-m", "rank 32", "model@v1.0.0")
    one_stage.params(adapter__r=16)
    dvc(one_stage, "repro")
    one_stage.sh("git", "commit", "-qam", "rank 16")
    one_stage.sh("git", "tag", "-a", "-m", "rank 16", "model@v2.0.0")
    for version, rank in ((["--rev", "v1.0.0"], 32), ([], 16)):
        dvc(one_stage, "artifacts", "get", ".", "model", "--out", str(tmp_path / f"{rank}.gguf"), *version)
        assert (tmp_path / f"{rank}.gguf").read_text() == f"GGUF of rank {rank}"


def test_the_models_path_is_an_output_whatever_the_params_are(work):
    work.params(name="other", gguf__types=["Q8_0", "Q4_K_M"])
    code = (
        "from dvc.repo import Repo; repo = Repo(); path = repo.artifacts.read()['dvc.yaml']['model'].path; "
        "print(path, path in {out.def_path for out in repo.index.outs})"
    )
    assert work.sh("python", "-c", code).stdout.split() == ["build/gguf/other-Q8_0.gguf", "True"]


def test_the_metrics_are_the_served_files(work):
    report, metrics = (json.loads(Path(f"reports/{name}.json").read_text()) for name in ("evaluation", "metrics"))
    served = report["held_out"]["Q4_K_M"]
    assert metrics == {key: served[key] for key in ("bytes", "loss", "kl_to_adapter")} | {
        "word_for_word": report["answers"]["word_for_word"], "ended": report["stops"]["ended"],
    }  # fmt: skip


TITLES = [
    "loss of training, and of held-out rows", "learning rate", "gradient norm", "held-out loss by step of the pipeline",
    "KL divergence to the step before",
]  # fmt: skip
# As a browser runs a page's scripts, in a document that only keeps what is drawn.
BROWSER = """
const places = {}, document = {querySelector: place => places[place] ??= {}}, vm = require("vm");
const page = require("fs").readFileSync(process.argv[1], "utf8"), context = vm.createContext({document});
for (const [, script] of page.matchAll(/<script[^>]*>([\\s\\S]*?)<\\/script>/g)) vm.runInContext(script, context);
console.log(JSON.stringify(Object.values(places).map(place => place.innerHTML ?? "")));
"""


def page(work: Clone, *arguments: str) -> str:
    dvc(work, "plots", *arguments)
    return Path("dvc_plots/index.html").read_text()


def drawn(work: Clone, *arguments: str) -> list[ElementTree.Element]:
    """The plots of DVC's page, as SVG."""
    if not shutil.which("node"):
        pytest.skip("missing: node, which runs the page's script (CI installs it)")
    page(work, *arguments)
    ran = subprocess.run(["node", "-e", BROWSER, "dvc_plots/index.html"], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return [ElementTree.fromstring(svg) for svg in json.loads(ran.stdout) if svg]


def texts(svg: ElementTree.Element) -> list[str]:
    return [text.text for text in svg.findall(".//{*}text")]


def test_the_page_of_plots_needs_no_network_and_has_each_plot_once(work):
    text = page(work, "show")
    addresses = set(re.findall(r"https?://[^\"' ]+", text))
    assert addresses == {"https://vega.github.io/schema/vega-lite/v5.json", "http://www.w3.org/2000/svg"}, "names"
    assert not re.search(r"<(?:script|link|img|iframe)[^>]*(?:src|href)", text)
    assert re.findall(r'"title": {"text": "([^"]*)"', text) == TITLES


def test_the_page_draws_every_curve_and_the_ledger_in_pipeline_order(work):
    plots = drawn(work, "show")
    assert [texts(svg)[0] for svg in plots] == TITLES
    loss, rate, norm, by_step, divergence = plots
    folder = Path("reports/adapter/plots/metrics")
    for svg, names in ((loss, ["loss", "eval_loss"]), (rate, ["learning_rate"]), (norm, ["grad_norm"])):
        rows = [len((folder / f"{name}.tsv").read_text().splitlines()) - 1 for name in names]
        lines = [line.get("points").split() for line in svg.findall(".//{*}polyline")]
        assert sorted(map(len, lines)) == sorted(rows)
        for line in lines:
            for x, y in (map(float, point.split(",")) for point in line):
                assert 0 <= x <= float(svg.get("width")) and 0 <= y <= float(svg.get("height"))
    longest = max((line.get("points").split() for line in loss.findall(".//{*}polyline")), key=len)
    first, last = (float(longest[end].split(",")[1]) for end in (0, -1))
    assert first < last, "the loss falls, and y counts from above"
    steps = [line.split("\t")[0] for line in Path("reports/evaluation/ledger.tsv").read_text().splitlines()[1:]]
    for svg, bars in ((by_step, len(steps)), (divergence, len(steps) - 2)):
        assert texts(svg)[1 : len(steps) + 1] == steps and len(list(svg.findall(".//{*}rect"))) == bars


def test_a_page_compares_with_the_last_commit(work):
    path = Path("reports/evaluation/ledger.tsv")
    path.write_text(path.read_text().replace("11.7", "10.7"))
    by_step = drawn(work, "diff")[3]
    assert {"HEAD", "workspace"} <= set(texts(by_step))
    assert len(list(by_step.findall(".//{*}rect"))) == 2 * (len(path.read_text().splitlines()) - 1)


def test_a_build_without_held_out_rows_has_its_other_plots(work):
    lost = [Path("reports/adapter/plots/metrics/eval_loss.tsv"), Path("reports/evaluation/ledger.tsv")]
    lock = YAML(typ="safe").load(Path("dvc.lock"))
    for stage in lock["stages"].values():  # what dvc.lock has DVC draws from its cache
        stage["outs"] = [out for out in stage["outs"] if not any(path.is_relative_to(out["path"]) for path in lost)]
    YAML(typ="safe").dump(lock, Path("dvc.lock"))
    for path in lost:
        path.unlink()
    assert [texts(svg)[0] for svg in drawn(work, "show")] == TITLES[:3]
