"""card: the model card, made from what the build knows: no time, no path of a machine, the same bytes everywhere.

Reads   params `card`, `adapter`, `base`, `gguf`, `max_seq_length`, `merged`, `name`, `raw`, `seed`; build/raw, base,
        dataset, adapter, gguf, modelfile; reports/dataset.json, adapter/metrics.json, evaluation.json,
        evaluation/ledger.tsv; image.lock, platform.lock
Writes  build/card/README.md, which stands apart from the model folders: llama.cpp's converter reads cards in those
"""

import json
from pathlib import Path
from typing import Any

from ingot.console import progress
from ingot.exact.files import output_folder, sha256, write_text
from ingot.llama.params import Gguf
from ingot.model.params import Base, Merged
from ingot.params.core import Name, Seed, SequenceLength, load
from ingot.serving import card, modelfile
from ingot.serving.params import Card
from ingot.sources.params import Raw
from ingot.training.params import Adapter

BUILD, REPORTS = Path("build"), Path("reports")
BASE, RAW, DATASET = BUILD / "base", BUILD / "raw", BUILD / "dataset"
ADAPTER, GGUF, MODELFILE = BUILD / "adapter", BUILD / "gguf", BUILD / "modelfile" / "Modelfile"
OUT = BUILD / "card"


def main() -> None:
    with progress.stage("card", "write the model card") as made, output_folder(OUT) as out:
        text = card.render(front=front(), **model(), **run(), **data(), **training(), **evaluation(), **files())
        write_text(out / "README.md", text)
        made.append(progress.quantity(text.count("\n"), "lines"))


def front() -> str:
    base, said, method = load("base", Base), load("card", Card), load("adapter", Adapter).method
    repos = sorted({source.repo for source in load("raw", Raw).datasets.values() if source.repo})
    return card.front_matter(
        {
            "model_name": load("name", Name),
            "base_model": base.repo,
            "base_model_relation": "finetune" if base.repo else None,
            "datasets": repos,
            "language": said.languages,
            "library_name": "gguf",
            "pipeline_tag": "text-generation",
            "tags": ["gguf", "llama.cpp", "ollama", method],
        }
        | card.license_entries(said.license)
    )


def model() -> dict[str, Any]:
    said = load("card", Card)
    base_name, base = card.base_told(load("base", Base), BASE)
    return {
        "name": load("name", Name),
        "base_name": base_name,
        "base": base,
        "method": card.METHODS[load("adapter", Adapter).method],
        "types": load("gguf", Gguf).types,
        "licence": said.license or card.NOT_STATED,
        "about": (said.about or "").strip(),
    }


def run() -> dict[str, Any]:
    name, (served, file) = load("name", Name).lower(), modelfile.read(MODELFILE)
    ollama, *llama_cpp = modelfile.run_with(name, file.name, served)
    return {
        "served": served,
        "modelfile": MODELFILE.read_text(encoding="utf-8"),
        "ollama": [f"ollama create {name} -f {MODELFILE}", ollama],
        "llama_cpp": llama_cpp,
    }


def data() -> dict[str, Any]:
    raw, fetched, rows = load("raw", Raw).datasets, json.loads((RAW / "files.json").read_text()), report("dataset.json")
    told = [card.dataset_told(name, raw[name], fetched, entry) for name, entry in rows["sources"].items()]
    return {"rows": rows, "datasets": told, "max_seq_length": load("max_seq_length", SequenceLength)}


def training() -> dict[str, Any]:
    adapter, merged = load("adapter", Adapter), load("merged", Merged)
    platform = json.loads(Path("platform.lock").read_text(encoding="utf-8"))
    rows: list[tuple[str, Any]] = [("method", card.METHODS[adapter.method]), ("engine", platform["engine"])]
    rows += [("device", [f"{key} {value}" for key, value in platform["device"].items()])]
    rows += [*card.training_told(adapter), ("tokens in a sequence, at most", load("max_seq_length", SequenceLength))]
    rows += [("seed", load("seed", Seed)), ("merged into", f"the {merged.base} weights")]
    figures = [(key.replace("_", " "), value) for key, value in sorted(report("adapter/metrics.json").items())]
    used = report("dataset.json")
    figures += [("tokens an epoch", used["train_tokens"]), ("of them trained on", used["trained_tokens"])]
    return {"training": rows, "figures": figures}


def evaluation() -> dict[str, Any]:
    ledger = (REPORTS / "evaluation" / "ledger.tsv").read_text(encoding="utf-8")
    return {"evaluation": report("evaluation.json"), "ledger": card.ledger_told(ledger)}


def files() -> dict[str, Any]:
    paths = [GGUF / f"{load('name', Name)}-{kind}.gguf" for kind in load("gguf", Gguf).types] + [MODELFILE]
    paths += [*sorted(ADAPTER.glob("*.safetensors")), DATASET / "train.jsonl", DATASET / "eval.jsonl"]
    return {
        "files": [card.file_row(path) for path in paths],
        "image": json.loads(Path("image.lock").read_text(encoding="utf-8")),
        "platform": sha256(Path("platform.lock")),
    }


def report(name: str) -> dict[str, Any]:
    return json.loads((REPORTS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    progress.start(main)
