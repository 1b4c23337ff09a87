"""adapter: train on the assistant's words and the end of each answer.

Reads   params `adapter`, `seed`, `max_seq_length`; build/base, build/dataset; platform.lock, which must be true
Writes  build/adapter/: adapter_model.safetensors, adapter_config.json (of `full`: the base's files, new weights) and
        chat_template.jinja (what it was trained on);
        reports/adapter/: DVCLive's metrics.json and plots (loss, learning rate, gradient norm, held-out loss)
Keeps   checkpoints in .cache/checkpoints/KEY while it runs, where KEY is a hash of everything above
"""

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ingot.chat import token_files
from ingot.console import progress
from ingot.console.progress import StageError
from ingot.exact.files import output_folder, sha256, size_of, write_json
from ingot.params.core import Seed, SequenceLength, load
from ingot.training import platform
from ingot.training.job import Job, begin, first
from ingot.training.params import Adapter

BASE, DATASET = Path("build/base"), Path("build/dataset")
CODE = [Path("ingot") / room for room in ("chat", "exact", "training")]
OUT, REPORT, CHECKPOINTS = Path("build/adapter"), Path("reports/adapter"), Path(".cache/checkpoints")


def main() -> None:
    params, seed = load("adapter", Adapter), load("seed", Seed)
    length = load("max_seq_length", SequenceLength)
    platform.check(params)
    if params.gpus > 1 and "LOCAL_RANK" not in os.environ:
        return launch(params.gpus)
    progress.console.quiet = not first()  # one process speaks for all
    name = platform.engine(params)
    with progress.stage("adapter", f"train {params.method} on {params.device} with {name}") as made:
        engine = begin(name, params, length)
        from ingot.training import trainer

        checkpoints = CHECKPOINTS / key(params, seed, length)
        train, held_out = DATASET / "train.arrow", DATASET / "eval.arrow"
        announce(train)
        if not token_files.first(held_out, 1):
            held_out = None
        job = Job(params, seed, length, BASE, train, held_out, checkpoints, REPORT)
        with output_folder(OUT) if first() else contextlib.nullcontext() as out:
            result = trainer.train(job, engine, out)
            if out:
                canonical(out)
                shutil.copyfile(DATASET / "chat_template.jinja", out / "chat_template.jinja")
        if first():
            shutil.rmtree(checkpoints, ignore_errors=True)
        made += [
            progress.quantity(result.trainable, "parameters trained"),
            progress.quantity(result.steps, "steps"),
            f"loss {result.final_loss:.4f}",
            *([f"held-out loss {result.held_out_loss:.4f}"] if result.held_out_loss is not None else []),
            *([progress.bytes_(size_of(OUT))] if first() else []),
        ]


def launch(gpus: int) -> None:
    """Run this stage once for each GPU; on several hosts accelerate's own configuration starts it so."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", str(gpus), "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "--multi_gpu", "--module", "stages.adapter"]
    process = subprocess.Popen(command, close_fds=False)  # the lock on this stage is the launcher's, too
    try:
        status = process.wait()
    finally:  # it stops what it has started
        process.terminate()
        process.wait()
    if status:
        raise StageError(f"training on {gpus} GPUs ended with status {status}; its words are above")


def announce(file: Path) -> None:
    """Print the share of tokens that the loss is taken on; refuse when it is none."""
    rows, tokens, trained = token_files.totals(file)
    if not trained:
        raise StageError("no token of the dataset would be trained: the template marks no answer")
    if first():
        progress.console.print(
            f"  {rows:,} rows, {tokens:,} tokens, {trained:,} of them trained ({trained / tokens:.0%})"
        )


def key(params: Adapter, seed: int, length: int) -> str:
    """Names the checkpoints of exactly these inputs, so that changed ones never go on from old ones."""
    files = [path for folder in (BASE, DATASET) for path in sorted(folder.iterdir())]
    inputs = [params.model_dump(), seed, length, [(str(path), sha256(path)) for path in files]]
    code = [path for room in CODE for path in sorted(room.glob("*.py"))]
    inputs += [sha256(path) for path in (Path("image.lock"), Path("platform.lock"), *code)]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:20]


def canonical(out: Path) -> None:
    """Leave only what defines the adapter, written the same way every time."""
    (out / "README.md").unlink(missing_ok=True)
    if not (path := out / "adapter_config.json").is_file():
        return
    config = json.loads(path.read_text())
    # PEFT keeps these in sets, whose order changes with the process.
    for name in ("target_modules", "feedforward_modules"):
        if isinstance(config.get(name), list):
            config[name] = sorted(config[name])
    config["base_model_name_or_path"] = str(BASE)
    write_json(path, config)


if __name__ == "__main__":
    progress.start(main)
