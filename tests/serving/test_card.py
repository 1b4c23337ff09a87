"""The model card: everything the build knows, the same bytes each time, and no text that breaks it."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from ingot.exact.files import write_json
from ingot.serving import card, modelfile

ROOT = Path(__file__).parents[2]
HUB = {"source": "hub", "repo": "Qwen/Qwen2.5-0.5B-Instruct", "revision": "a" * 40, "parameters": 494_032_768}
ODD = 'He said: "a | b"\n---\n# no: heading\n```\n<b>&amp;</b>'


def make(folder: Path, score: dict | None = None, **sections) -> subprocess.CompletedProcess:
    """Run the stage in a folder that holds what it reads of a build."""
    params = YAML(typ="safe").load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params |= {"name": "Demo", "card": {"license": "MIT", "languages": ["en", "ko"], "about": None}}
    params["gguf"] = {"types": ["Q4_K_M"]}
    params["adapter"] |= {"method": "qlora", "alpha": 128, "learning_rate": 0.003}
    params["raw"] = {
        "datasets": {
            "own": {"path": "data/own"},
            "theirs": {"repo": "me/set", "revision": "b" * 40, "split": "train", "license": "CC-BY-4.0"},
        }
    }
    for key, changes in sections.items():
        params[key] = changes if key == "base" else params[key] | changes
    YAML().dump(params, folder / "params.yaml")
    files = {"own/a.csv": "1" * 64, "own/b.csv": "2" * 64, "theirs/c.parquet": "3" * 64}
    write_json(folder / "build/raw/files.json", {name: {"bytes": 1, "sha256": hash} for name, hash in files.items()})
    used = {"train": 40, "eval": 2}
    write_json(
        folder / "reports/dataset.json",
        {
            "train": 80,
            "dropped": 3,
            "sources": {"own": used, "theirs": used},
            "train_tokens": 4962,
            "trained_tokens": 1300,
        },
    )
    write_json(folder / "reports/adapter/metrics.json", {"loss": 0.0878447, "step": 84})
    told = {"asked": 40, "word_for_word": 38, "ended": 40}
    write_json(
        folder / "reports/evaluation.json",
        {
            "answers": told,
            "stops": {"asked": 11, "ended": 0.9091},
            "tensors_in_another_type": {"Q4_K_M": 3},
            "loses_most": "Q4_K_M",
        }
        | ({"score": score} if score else {}),
    )
    (folder / "reports/evaluation").mkdir(exist_ok=True)
    rows = [
        "step\tbytes\tloss\tkl\tsame_top\tnew_figure",
        "base\t85000000\t12.6\t\t\t1",
        "Q4_K_M\t1256\t11.7\t0.03\t0.9135\t2",
    ]
    (folder / "reports/evaluation/ledger.tsv").write_text("\n".join(rows) + "\n")
    write_json(folder / "build/base/config.json", {"architectures": ["Qwen2ForCausalLM"]})
    served = {"build/gguf/Demo-Q4_K_M.gguf": "GGUF", "build/adapter/adapter_model.safetensors": "weights"}
    for name, text in served.items() | {"build/dataset/train.jsonl": "{}", "build/dataset/eval.jsonl": "{}"}.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "build/modelfile").mkdir(exist_ok=True)
    text = modelfile.dump(
        modelfile.Modelfile(
            "../gguf/Demo-Q4_K_M.gguf", "{{ .Messages }}", "Be\nbrief ```", {"num_ctx": 512}, ["<|im_end|>"]
        )
    )
    (folder / "build/modelfile/Modelfile").write_text(text)
    for lock in ("image.lock", "platform.lock"):
        (folder / lock).write_bytes((ROOT / lock).read_bytes())
    return subprocess.run(
        [sys.executable, "-m", "stages.card"], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def read(folder: Path) -> tuple[dict, str]:
    """Front matter and text."""
    text = (folder / "build/card/README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return YAML(typ="safe").load(front), body


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "build").mkdir()
    (tmp_path / "reports").mkdir()
    return tmp_path


def test_the_card_says_what_was_built(folder):
    result = make(folder, base=HUB | {"license": "Apache-2.0"})
    assert result.returncode == 0, result.stdout
    front, body = read(folder)
    assert front == {
        "model_name": "Demo",
        "license": "mit",
        "base_model": HUB["repo"],
        "base_model_relation": "finetune",
        "datasets": ["me/set"],
        "language": ["en", "ko"],
        "library_name": "gguf",
        "pipeline_tag": "text-generation",
        "tags": ["gguf", "llama.cpp", "ollama", "qlora"],
    }
    assert "fine-tuned (QLoRA) on 80 conversations of 2 datasets, as GGUF: Q4_K_M. Licence: MIT." in body
    for row in (
        f"| revision | {'a' * 40} |",
        "| licence | Apache-2.0 |",
        f"| theirs | me/set | {'b' * 40} | CC-BY-4.0 | 40 | 2 |",
        "| not stated in params.yaml | 40 | 2 |",
        "| alpha | 128 |",
        "| learning rate | 0.003 |",
        "| loss | 0.0878447 |",
        "| engine | peft |",
        "| Q4_K_M | 1.3 kB | 11.7 | 0.03 | 91.3% | 2 |",
        f"| Demo-Q4_K_M.gguf | 4 B | {hashlib.sha256(b'GGUF').hexdigest()} |",
    ):
        assert row in body, row
    assert "| step | size | loss | KL to the step before | same top token | new figure |\n|---|---:|" in body
    assert "ollama create demo -f build/modelfile/Modelfile\nollama run demo\n" in body
    assert "llama-server -m Demo-Q4_K_M.gguf --jinja -c 512 -r '<|im_end|>'" in body
    assert "````text\nBe\nbrief ```\n````\n" in body, "a fence longer than the text's own"
    assert "90.9% of its answers to 11 held-out prompts" in body and "The step that loses most is Q4_K_M" in body


def test_a_task_score_is_a_sentence(folder):
    make(folder)
    assert "Task score" not in read(folder)[1]
    make(folder, score={"match": "number", "asked": 300, "base": 0.02, "final": 0.3133})
    assert (
        "\nTask score: of 300 held-out questions the served file answers 31.3% right, the base in the same format 2.0% "
        "(the last number is compared).\n"
    ) in read(folder)[1]


def test_it_is_the_same_twice_and_holds_nothing_of_this_machine(folder, tmp_path_factory):
    make(folder)
    other = tmp_path_factory.mktemp("elsewhere")
    make(other)
    written = (folder / "build/card/README.md").read_bytes()
    assert written == (other / "build/card/README.md").read_bytes()
    assert str(folder).encode() not in written and str(Path.home()).encode() not in written


def test_what_params_do_not_say_is_not_invented(folder):
    unlicensed = {
        key: value
        for key, value in YAML(typ="safe").load((ROOT / "params.yaml").read_text())["base"].items()
        if key != "license"
    }
    make(folder, base=unlicensed, card={"license": None, "languages": []})
    front, body = read(folder)
    assert {"license", "base_model", "datasets", "language"} & set(front) == {"datasets"}
    assert "Licence: not stated in params.yaml." in body and "| licence | not stated in params.yaml |" in body
    assert "a random base, drawn from a seed" in body


def test_a_local_base_is_known_by_its_files(folder):
    (folder / "build/base").mkdir()
    (folder / "build/base/model.safetensors").write_bytes(b"one")
    make(folder, base={"source": "local", "path": "models/mine", "parameters": 1_000_000})
    before = read(folder)[1]
    (folder / "build/base/model.safetensors").write_bytes(b"two")
    make(folder, base={"source": "local", "path": "models/mine", "parameters": 1_000_000})
    assert "SHA-256 of its files" in before and read(folder)[1] != before


def test_odd_texts_break_neither_front_matter_nor_tables(folder):
    make(folder, card={"license": "My own: # licence | v2", "about": ODD}, base=HUB | {"license": ODD})
    front, body = read(folder)
    assert (front["license"], front["license_name"]) == ("other", "My own: # licence | v2")
    row = next(line for line in body.splitlines() if line.startswith("| licence"))
    assert row.replace("\\|", "").count("|") == 3 and "<b>" not in row and "&lt;b>&amp;amp;" in row and "<br>" in row
    assert f"\n{ODD}\n" in body, "Markdown of the owner's, as it is"


@pytest.mark.parametrize(
    ("method", "shown"), [("full", {"learning rate"}), ("ia3", {"learning rate", "target modules"})]
)
def test_only_what_the_method_uses_is_told(folder, method, shown):
    make(folder, adapter={"method": method})
    rows = {line.split("|")[1].strip() for line in read(folder)[1].splitlines() if line.startswith("|")}
    assert rows & {"r", "alpha", "rslora", "target modules", "learning rate"} == shown


@pytest.mark.parametrize(
    "value", ["yes", "1.0", "- x", "a: b", "#x", "'", '"', "한국어", "null", "{x}", "x" * 500, "a\nb"]
)
def test_front_matter_reads_back(value):
    text = card.front_matter({"model_name": value, "list": [value], "empty": None})
    assert text.startswith("---\n") and text.endswith("\n---\n")
    assert YAML(typ="safe").load(StringIO(text.strip("-\n"))) == {"model_name": value, "list": [value]}
