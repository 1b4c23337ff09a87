"""adapter: train on the assistant's words and the end of each answer.

Reads   params `adapter`, `seed`, `max_seq_length`, `template`; build/base, build/dataset
Writes  build/adapter/: adapter_model.safetensors, adapter_config.json, chat_template.jinja (what it was trained on),
        reports/adapter/: DVCLive's metrics.json and plots (loss, learning rate, gradient norm)
Keeps   checkpoints in .cache/checkpoints/KEY while it runs, where KEY is a hash of everything above
"""

import hashlib
import importlib
import json
import shutil
from pathlib import Path

from ingot.artifact import output_folder, read_jsonl, sha256, size_of, write_json
from ingot.inside import chat, progress
from ingot.inside.engines.job import Job
from ingot.inside.progress import StageError
from ingot.params.adapter import Adapter
from ingot.params.core import Seed, SequenceLength, Template, load

BASE, DATASET = Path("build/base"), Path("build/dataset")
CODE = Path("ingot/inside")
OUT, REPORT, CHECKPOINTS = Path("build/adapter"), Path("reports/adapter"), Path(".cache/checkpoints")


def main() -> None:
    params, seed = load("adapter", Adapter), load("seed", Seed)
    length, template = load("max_seq_length", SequenceLength), load("template", Template)
    with progress.stage("adapter", f"train {params.method} on {params.device} with {params.engine}") as made:
        tokenizer = chat.load_tokenizer(BASE)
        source = (DATASET / "chat_template.jinja").read_text(encoding="utf-8")
        rows = [
            chat.encode(tokenizer, row["messages"], source, chat.END_OF_TURN[template])
            for row in read_jsonl(DATASET / "train.jsonl")
        ]
        announce(rows)
        checkpoints = CHECKPOINTS / key(params, seed, length)
        engine = importlib.import_module(f"ingot.inside.engines.{params.engine}")
        with output_folder(OUT) as out:
            result = engine.train(Job(params, seed, length, BASE, rows, checkpoints, REPORT), out)
            canonical(out)
            shutil.copyfile(DATASET / "chat_template.jinja", out / "chat_template.jinja")
        shutil.rmtree(checkpoints, ignore_errors=True)
        made += [
            progress.quantity(result.trainable, "parameters trained"),
            progress.quantity(result.steps, "steps"),
            f"loss {result.final_loss:.4f}",
            progress.bytes_(size_of(OUT)),
        ]


def announce(rows: list[chat.Encoded]) -> None:
    """Print the share of tokens that the loss is taken on; refuse when it is none."""
    tokens, trained = sum(len(row.ids) for row in rows), sum(sum(row.trained) for row in rows)
    if not trained:
        raise StageError("no token of the dataset would be trained: the template marks no answer")
    progress.console.print(
        f"  {len(rows):,} rows, {tokens:,} tokens, {trained:,} of them trained ({trained / tokens:.0%})"
    )


def key(params: Adapter, seed: int, length: int) -> str:
    """Names the checkpoints of exactly these inputs, so that changed ones never go on from old ones."""
    files = [path for folder in (BASE, DATASET) for path in sorted(folder.iterdir())]
    inputs = [params.model_dump(), seed, length, [(str(path), sha256(path)) for path in files]]
    code = [CODE / name for name in ("chat.py", "determinism.py", "portable.py")] + sorted(
        (CODE / "engines").glob("*.py")
    )
    inputs += [sha256(path) for path in (Path("image.lock"), *code)]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]


def canonical(out: Path) -> None:
    """Leave only what defines the adapter, written the same way every time."""
    config = json.loads((out / "adapter_config.json").read_text())
    # PEFT keeps these in a set, whose order changes with the process.
    config["target_modules"] = sorted(config["target_modules"])
    config["base_model_name_or_path"] = str(BASE)
    write_json(out / "adapter_config.json", config)
    (out / "README.md").unlink(missing_ok=True)


if __name__ == "__main__":
    progress.start(main)
