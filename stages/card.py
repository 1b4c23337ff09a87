"""card: the model card, made from what the build knows: no time, no path of a machine, the same bytes everywhere.

Reads   params `card`, `adapter`, `base`, `gguf`, `max_seq_length`, `merged`, `name`, `raw`, `seed`; build/raw, base, dataset,
        adapter, gguf, modelfile; reports/dataset.json, adapter/metrics.json, evaluation.json, evaluation/ledger.tsv;
        image.lock, platform.lock
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
        text = "\n".join([front(), *head(), *run(), *data(), *training(), *fidelity(), *limits(), *files()])
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


def head() -> list[str]:
    name, base, said = load("name", Name), load("base", Base), load("card", Card)
    method, rows = load("adapter", Adapter).method, report("dataset.json")
    called, told = card.base_told(base, BASE)
    types = ", ".join(load("gguf", Gguf).types)
    text = (
        f"This is {card.cell(called)}, fine-tuned ({card.METHODS[method]}) on {rows['train']:,} conversations of {len(rows['sources'])} datasets, as GGUF: {types}. "
        f"Licence: {card.cell(said.license or card.NOT_STATED)}.\n"
    )
    return [
        f"# {name}\n",
        text,
        *([said.about.strip() + "\n"] if said.about else []),
        "## Base\n",
        card.table(["", ""], told),
    ]


def run() -> list[str]:
    name, (served, file) = load("name", Name).lower(), modelfile.read(MODELFILE)
    ollama, *llama = modelfile.run_with(name, file.name, served)
    create = f"ollama create {name} -f {MODELFILE}"
    parts = [
        ("With Ollama, in the folder of the build (`make ollama` does both, and compares):", [create, ollama]),
        ("With llama.cpp, by the template in the file itself:", llama),
        ("It is meant to be asked under this system prompt:", [served.system] if served.system else []),
        ("The Modelfile, whose stops end every answer:", [MODELFILE.read_text(encoding="utf-8")]),
    ]
    told = [f"{words}\n\n{card.fenced(chr(10).join(lines))}" for words, lines in parts if lines]
    return ["## How to run it\n", *told]


def data() -> list[str]:
    raw, fetched, used = load("raw", Raw).datasets, json.loads((RAW / "files.json").read_text()), report("dataset.json")
    rows = [card.dataset_told(name, raw[name], fetched, entry) for name, entry in used["sources"].items()]
    heads = ["dataset", "from", "commit, or SHA-256", "licence", "rows trained on", "rows held out"]
    dropped = f"{used['dropped']:,} rows were dropped, by reason in `reports/dataset.json`.\n"
    return ["## Data\n", card.table(heads, rows), dropped]


def training() -> list[str]:
    adapter, merged = load("adapter", Adapter), load("merged", Merged)
    platform = json.loads(Path("platform.lock").read_text(encoding="utf-8"))
    rows: list[tuple[str, Any]] = [("method", card.METHODS[adapter.method]), ("engine", platform["engine"])]
    rows += [("device", [f"{key} {value}" for key, value in platform["device"].items()])]
    rows += [*card.training_told(adapter), ("tokens in a sequence, at most", load("max_seq_length", SequenceLength))]
    rows += [("seed", load("seed", Seed)), ("merged into", f"the {merged.base} weights")]
    figures = [(key.replace("_", " "), value) for key, value in sorted(report("adapter/metrics.json").items())]
    used = report("dataset.json")
    figures += [("tokens an epoch", used["train_tokens"]), ("of them trained on", used["trained_tokens"])]
    return ["## Training\n", card.table(["", ""], rows), card.table(["at the end", ""], figures)]


def fidelity() -> list[str]:
    told, ledger = report("evaluation.json"), (REPORTS / "evaluation" / "ledger.tsv").read_text(encoding="utf-8")
    answers, stops, other = told["answers"], told["stops"], told["tensors_in_another_type"]
    return [
        "## What each step keeps\n",
        "On held-out conversations, from the base to each file. KL divergence in nats a token.\n",
        card.ledger_told(ledger),
        *(f"{count} tensors of {kind} are kept in another type." for kind, count in other.items() if count),
        f"The step that loses most is {told['loses_most']}. The served file answers {answers['word_for_word']} of "
        f"{answers['asked']} training prompts word for word, and ends {stops['ended']:.1%} of its answers to {stops['asked']} "
        "held-out prompts by itself.\n",
        *card.score_told(told.get("score")),
    ]


def limits() -> list[str]:
    served, _ = modelfile.read(MODELFILE)
    return [
        "## Limits\n",
        f"- Trained on conversations of at most {load('max_seq_length', SequenceLength):,} tokens, served with a context of "
        f"{served.parameters['num_ctx']:,}: longer ones are untried.",
        "- The figures above are of held-out rows of the same datasets; nothing else was measured: neither safety nor bias nor whether what it says is true.",
        "- What the base and the datasets get wrong, it may get wrong, too.\n",
    ]


def files() -> list[str]:
    name, lock = load("name", Name), json.loads(Path("image.lock").read_text(encoding="utf-8"))
    paths = [GGUF / f"{name}-{kind}.gguf" for kind in load("gguf", Gguf).types] + [MODELFILE]
    paths += [*sorted(ADAPTER.glob("*.safetensors")), DATASET / "train.jsonl", DATASET / "eval.jsonl"]
    text = (
        f"Made with toolchain `{lock['recipe']}` (`image.lock`), llama.cpp `{lock['llama.cpp']['commit']}`, platform "
    )
    text += f"`{sha256(Path('platform.lock'))}` (`platform.lock`): who builds the same commit gets the same files.\n"
    return ["## Files\n", card.table(["file", "size", "SHA-256"], map(card.file_row, paths)), text]


def report(name: str) -> dict[str, Any]:
    return json.loads((REPORTS / name).read_text(encoding="utf-8"))


if __name__ == "__main__":
    progress.start(main)
