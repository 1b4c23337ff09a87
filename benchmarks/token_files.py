"""Memory and time of what reads the dataset's tokens behind the dataset stage, over the number of rows.

    python benchmarks/token_files.py --work FOLDER --rows 50000 1000000

For each number: TRL's trainer made ready on the token file (packed, and one row a sequence) with a model of no size,
and what evaluation and imatrix take. With `--before` also the trainer on rows in memory, as it was before the token
files. Each in a process of its own. Own memory is what the kernel cannot take back (RssAnon, its peak by samples).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy

ROOT = Path(__file__).resolve().parent.parent
CASES = ["packed", "unpacked", "evaluation", "imatrix"]
ONE = """
import sys, threading, time
from pathlib import Path
import numpy
sys.path.insert(0, {root!r})
case, file, scratch = {case!r}, Path({file!r}), Path({scratch!r})
peak, over = [0], threading.Event()
def own():
    return int(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("RssAnon")))
def watch():
    while not over.wait(0.02):
        peak[0] = max(peak[0], own())
from ingot.chat import token_files
if case in ("packed", "unpacked", "before"):
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, LlamaConfig
    from trl import SFTConfig, SFTTrainer
    from ingot.chat.encoding import load_tokenizer
    from ingot.training import trainer
    shape = dict(vocab_size=1000, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape))
    tokenizer = load_tokenizer(Path("build/base"))
start, began = own(), time.monotonic()
threading.Thread(target=watch, daemon=True).start()
if case == "before":
    rows = [*token_files.rows(file)]
    labels = [numpy.where(row.trained, row.ids, token_files.IGNORED).tolist() for row in rows]
    data = Dataset.from_list([dict(input_ids=row.ids, labels=some) for row, some in zip(rows, labels)])
elif case in ("packed", "unpacked"):
    data = trainer._dataset(file, scratch)
if case in ("packed", "unpacked", "before"):
    given = SFTConfig(output_dir=str(scratch / "out"), packing=case != "unpacked", max_length=512, report_to="none",
        disable_tqdm=True, use_cpu=True, bf16=False, gradient_checkpointing=False)
    made = SFTTrainer(model=model, train_dataset=data, processing_class=tokenizer, args=given)
    made.train_dataset[len(made.train_dataset) - 1]
elif case == "evaluation":
    token_files.first(file, 40)
else:
    tokens = 0
    for row in token_files.rows(file):
        tokens += len(row.ids)
        if tokens > 100_000:
            break
over.set()
print(f"{{time.monotonic() - began:.1f}} {{(max(peak[0], own()) - start) / 1e3:.0f}}")
"""


def write(file: Path, rows: int) -> None:
    """A token file of random ids: 20 to 180 tokens a row, half of them trained."""
    from ingot.chat import token_files

    draw = numpy.random.default_rng(0)
    with token_files.Writer(file) as writer:
        for length in draw.integers(20, 180, rows).tolist():
            ids = draw.integers(0, 1000, length).astype(numpy.uint32)
            writer.add("x" * 4 * length, ids, [(length // 2, length)])


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--work", type=Path, required=True, help="an empty folder on a disk with room")
    arguments.add_argument("--rows", type=int, nargs="+", default=[50_000, 1_000_000])
    arguments.add_argument("--before", action="store_true", help="also the rows in memory, as before the token files")
    given = arguments.parse_args()
    print("rows, case, seconds, own MB")
    for rows in given.rows:
        file = given.work / f"{rows}.arrow"
        write(file, rows)
        for case in [*CASES, *(["before"] if given.before else [])]:
            scratch = given.work / f"{rows}-{case}"
            scratch.mkdir()
            program = ONE.format(root=str(ROOT), case=case, file=str(file), scratch=str(scratch))
            ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
            print(f"{rows}, {case}, {', '.join(ran.stdout.split()[-2:]) or ran.stderr[-500:]}", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    main()
