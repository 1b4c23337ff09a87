"""A real model, the whole road: Gemma 3 270M and GSM8K from raw to card by `dvc repro`, its score before and after.

    python -m tests.real_base .cache/gemma-3-270m
    python benchmarks/real_model.py --base .cache/gemma-3-270m --data data/gsm_8k_train.json \
        --work .cache/real --log real.log

By recipes/gemma-3-270m-gsm8k.yaml on one GPU; `--set KEY=VALUE` changes a key of it, `--cpu` cuts it down to minutes on
two cores. The limits of the evaluation are taken off, since a stage that fails leaves no figures. Results go to stdout,
all else to the log. The same command goes on where it was stopped: finished stages are not run again.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from tests.conftest import edited  # noqa: E402

RECIPE = ROOT / "recipes/gemma-3-270m-gsm8k.yaml"
# What a build needs of a checkout; the copy is a repository of its own, so nothing here depends on this one's git.
PARTS = ["ingot", "stages", "requirements", "Dockerfile", "dvc.yaml", "image.lock", "platform.lock", ".dvcignore"]
PARTS += [".gitignore", ".dvc/config"]
# What the driver and the stages import besides PyTorch.
MODULES = [
    "dvc",
    "docker",
    "dvclive",
    "typer",
    "rich",
    "pydantic",
    "ruamel.yaml",
    "transformers",
    "peft",
    "trl",
    "datasets",
]
MODULES += [
    "bitsandbytes",
    "accelerate",
    "safetensors",
    "tokenizers",
    "gguf",
    "sentencepiece",
    "jinja2",
    "llama_cpp",
    "diskcache",
]
STAGES = ["raw", "base", "dataset", "adapter", "merged", "f16", "imatrix", "gguf", "modelfile", "evaluation", "card"]
NO_LIMITS = {"merged_kl": 1000.0, "f16_kl": 1000.0, "quantised_kl": 1000.0, "same_top": 0.0, "ended": 0.0}
ON_CPU = {
    "adapter.device": "cpu", "adapter.optimizer": "adamw_torch", "adapter.batch_size": 4, "adapter.epochs": 1,
    "adapter.logging_steps": 1, "adapter.eval_steps": 0, "merged.device": "cpu", "imatrix.device": "cpu",
    "evaluation.device": "cpu", "dataset.total_samples": 100, "dataset.eval_share": 0.1, "evaluation.rows": 4,
    "evaluation.prompts": 2, "evaluation.score.prompts": 8, "evaluation.score.tokens": 96,
}  # fmt: skip
POINTS = 15


def workplace(work: Path, recipe: Path, base: tuple[Path, str], data: dict[str, Path], changes: dict[str, Any]) -> None:
    """A repository of its own with the recipe's params; llama.cpp is this checkout's.

    `base` is a folder, linked where it can be, and its name under models/; `data` has names under data/ and the files.
    """
    work.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        source, target = ROOT / part, work / part
        target.parent.mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        elif not (part == "platform.lock" and target.exists()):  # that of this machine
            shutil.copyfile(source, target)
    edited(recipe, work / "params.yaml", changes)
    (work / "data").mkdir(exist_ok=True)
    for name, file in data.items():
        shutil.copyfile(file, work / "data" / name)
    folder, name = base
    if not (work / "models" / name).exists():
        shutil.copytree(folder, work / "models" / name, copy_function=linked)
    commands = work / ".bin"  # the stages ask for `python`, and it must be this one
    commands.mkdir(exist_ok=True)
    (commands / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (commands / "python").chmod(0o755)
    if not (work / ".git").exists():
        commit = json.loads((ROOT / "image.lock").read_text())["llama.cpp"]["commit"]
        git = ["git", "-C", str(work)]
        subprocess.run([*git, "init", "-q"], check=True)
        subprocess.run([*git, "update-index", "--add", "--cacheinfo", f"160000,{commit},llama.cpp"], check=True)
    (work / "llama.cpp").mkdir(exist_ok=True)


def linked(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system
        shutil.copy2(source, target)


def environment(work: Path) -> dict[str, str]:
    return os.environ | {
        "PATH": f"{work / '.bin'}:{os.environ['PATH']}",
        "INGOT_LLAMA_SOURCE": str(ROOT / "llama.cpp"),
        "INGOT_LLAMA_BUILD": str(ROOT / ".cache/llama.cpp"),
        "INGOT_RUNTIME": "host",
        "DVC_SITE_CACHE_DIR": str(work / ".site"),
        "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
    }  # fmt: skip


def run(work: Path, log: Path, *command: str) -> str:
    """Python in the workplace, its words in the log; returns them. Ends the benchmark with the last when it fails."""
    with log.open("a+", encoding="utf-8") as file:
        file.write(f"\n$ {' '.join(command)}\n")
        file.flush()
        began = file.tell()
        status = subprocess.run(
            [sys.executable, *command], cwd=work, env=environment(work), stdout=file, stderr=subprocess.STDOUT
        ).returncode
        file.seek(began)
        said = file.read()
    if status:
        print(said[-3000:])
        sys.exit(f"{' '.join(command)}: failed (status {status})\nhint: the whole of it is in {log}")
    return said


def on_what_there_is(work: Path, log: Path) -> None:
    """llama.cpp on the CPU where it is built without CUDA, or finds no GPU."""
    said = run(work, log, "-c", "from ingot.llama import llamacpp; print('GPU', llamacpp.has_gpu())")
    if "GPU True" not in said:
        print("llama.cpp is built without CUDA, or finds no GPU: evaluation.device and imatrix.device are cpu")
        devices = {"evaluation.device": "cpu", "imatrix.device": "cpu"}
        edited(work / "params.yaml", work / "params.yaml", devices)


def walk(work: Path, log: Path, until: str, took: dict[str, float]) -> None:
    """Every stage up to `until` by `dvc repro`; its seconds go into `took`."""
    run(work, log, "-m", "ingot.training.platform")
    for stage in STAGES[: STAGES.index(until) + 1]:
        kinds = YAML(typ="safe").load((work / "params.yaml").read_text())["gguf"]["types"]
        for target in [f"gguf@{kind}" for kind in kinds] if stage == "gguf" else [stage]:
            began = time.monotonic()
            run(work, log, "-m", "dvc", "repro", target)
            took[target] = time.monotonic() - began
            print(f"{target:12} {took[target]:7.1f} s", flush=True)


def results(work: Path, took: dict[str, float]) -> None:
    """Seconds a stage, loss curve, ledger and score, as far as the stages have run."""
    reports = work / "reports"
    if took:
        print("\nseconds: " + ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in took.items()))
    for name in ("loss", "eval_loss"):
        if (curve := reports / f"adapter/plots/metrics/{name}.tsv").is_file():
            points = [(row["step"], float(row[name])) for row in csv.DictReader(curve.open(), delimiter="\t")]
            chosen = sorted({round(at * (len(points) - 1) / (POINTS - 1)) for at in range(POINTS)})
            print(f"\n{name}: " + "  ".join(f"{points[at][0]}: {points[at][1]:.3f}" for at in chosen))
    if (metrics := reports / "adapter/metrics.json").is_file():
        print("training:", json.dumps(json.loads(metrics.read_text())))
    if (ledger := reports / "evaluation/ledger.tsv").is_file():
        print(f"\nledger\n{ledger.read_text().expandtabs(14)}")
    if (report := reports / "evaluation.json").is_file():
        found = json.loads(report.read_text())
        score = found["score"]
        print(f"endings of held-out answers: {json.dumps(found['stops'])}")
        print(f"score: base {score['base']:.1%}, final {score['final']:.1%} of {score['asked']} held-out questions")
        print(f"ended by themselves: base {score['ended']['base']:.1%}, final {score['ended']['final']:.1%}")
        for row in json.loads((work / "build/evaluation/score.json").read_text())[:3]:
            for name in ("base", "final"):
                print(f"  {name:5} {'right' if row[name]['right'] else 'wrong'}  {row[name]['given'][:160]!r}")
            print(f"  expected     {row['expected'][:160]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, required=True, help="the folder that tests/real_base.py makes")
    parser.add_argument("--data", type=Path, required=True, help="gsm_8k_train.json")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true", help="a hundred rows, one epoch, no GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a key of params.yaml")
    parser.add_argument("--until", choices=STAGES, default="card", help="the last stage to run")
    arguments = parser.parse_args()
    if missing := [name for name in MODULES if importlib.util.find_spec(name.partition(".")[0]) is None]:
        sys.exit(
            f"{sys.executable}: packages are missing ({', '.join(missing)})\nhint: put them on PYTHONPATH (README.md)"
        )
    work, log = arguments.work.resolve(), arguments.log.resolve()
    limits = {"evaluation.limits": NO_LIMITS, "evaluation.score.least": None}
    changes = limits | (ON_CPU if arguments.cpu else {})
    for text in arguments.set:
        key, _, value = text.partition("=")
        changes[key] = YAML(typ="safe").load(value)
    log.parent.mkdir(parents=True, exist_ok=True)
    data = {"gsm_8k_train.json": arguments.data}
    workplace(work, RECIPE, (arguments.base, "gemma-3-270m"), data, changes)
    if not arguments.cpu:
        on_what_there_is(work, log)
    took: dict[str, float] = {}
    try:
        walk(work, log, arguments.until, took)
    finally:
        results(work, took)


if __name__ == "__main__":
    main()
