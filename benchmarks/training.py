"""Training on a GPU: this project's adapter stage against plain TRL + PEFT, side by side. From the repository's root:

    python benchmarks/training.py --shape 7b    # seed settings: QLoRA r = 32, 2,048 tokens, packed, 16 rows an update
    python benchmarks/training.py --shape 0.5b --cases fast plain --together 2

Every case is a fresh process. `--together N` starts N of them at once, as many as fit the card, and lets each go on
alone after its second step, when its kernels are compiled. Tokens/s is the median of the steps after the first two,
printed beside their median gradient norm; memory is PyTorch's peak; the first step's seconds count from the start of
the process. `gpus: 2` trains on two cards (CUDA_VISIBLE_DEVICES). Work counted: 2 operations for each weight of the
linear layers and token forward, 2 backward (the base is frozen), and 2 more where activations are computed again;
attention and LoRA's own products are not counted.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from ingot.exact.pins import pins  # noqa: E402

LENGTH, ROWS = 2048, 16
ADAPTER = {
    "engine": "auto", "device": "cuda", "alpha": 16, "packing": True, "optimizer": "adamw_8bit", "learning_rate": 2e-4,
    "epochs": 1, "logging_steps": 1, "eval_steps": 0, "save_steps": 10_000, "gradient_checkpointing": "off",
}  # fmt: skip
# What each case changes of ADAPTER; rows at once are told apart by the shape's size.
CASES = {
    "fast": {},
    "fast-8": {"batch_size": 8},
    # What others publish figures for: Surogate's QLoRA (2 × 4), NeMo's LoRA (2 × 16 × 4,096).
    "surogate": {"gradient_checkpointing": "unsloth", "r": 16, "batch_size": 2, "accumulation": 4},
    "nemo": {"method": "lora", "r": 16, "batch_size": 2, "accumulation": 16, "max_seq_length": 4096},
    "lora": {"method": "lora"},
    "segments": {"attention": "sdpa"},
    "recomputing": {"gradient_checkpointing": "on"},
    "low-memory": {"gradient_checkpointing": "unsloth", "batch_size": 1},
    "low-memory-2": {"gradient_checkpointing": "unsloth", "batch_size": 2},
    "peft": {"engine": "peft"},
    "two": {"gpus": 2},
    "two-shared": {"gpus": 2, "shard": True, "engine": "peft", "optimizer": "adamw_torch"},
    "one-peft": {"engine": "peft", "optimizer": "adamw_torch"},
    "plain": {"batch_size": 2},
    "plain-recomputing": {"batch_size": 2, "gradient_checkpointing": "on"},
}
# Plain TRL as its documentation has it: no strictness, no pins.
PLAIN = """
import sys, json, time
from pathlib import Path
sys.path.insert(0, {root!r})
import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer
four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, \
bnb_4bit_compute_dtype=torch.bfloat16)
model = AutoModelForCausalLM.from_pretrained("build/base", dtype=torch.bfloat16, quantization_config=four, \
device_map={{"": 0}})
data = Dataset.from_file("build/dataset/train.arrow").select_columns(["input_ids", "labels"])
marks, tokens = [], [0]
class Timed(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        torch.cuda.synchronize()
        if state.global_step == 2:
            print("ready", flush=True)
            sys.stdin.readline()
        now = time.monotonic()
        if state.global_step > 2:
            print(f"  step {{state.global_step}} of {{state.max_steps}}: training, loss 0, \
{{(tokens[0] - marks[-1][1]) / (now - marks[-1][0]):,.0f}} tokens/s, \
{{torch.cuda.max_memory_allocated() / 1e9:.1f}} GB", flush=True)
        marks.append((now, tokens[0]))
    def on_log(self, args, state, control, logs=None, **kwargs):
        if "grad_norm" in logs and state.global_step > 2:
            print("  gradient norm", logs["grad_norm"], flush=True)
again = {again}
trainer = SFTTrainer(model=model, train_dataset=data, callbacks=[Timed()], \
peft_config=LoraConfig(r=32, lora_alpha=16, task_type="CAUSAL_LM", target_modules={targets!r}),
    args=SFTConfig(output_dir="out", max_steps={steps}, per_device_train_batch_size={rows}, \
gradient_accumulation_steps={accumulation}, packing=True, max_length={length},
        optim="adamw_8bit", learning_rate=2e-4, bf16=True, gradient_checkpointing=again, logging_steps=1, \
save_strategy="no", report_to="none", disable_tqdm=True))
trainer.model.register_forward_hook(lambda model, arguments, given, result: \
tokens.__setitem__(0, tokens[0] + given["input_ids"].numel()), with_kwargs=True)
trainer.train()
"""


def workplace(folder: Path, base: Path, tokens: int, length: int, adapter: dict) -> Path:
    """A folder in which `python -m stages.adapter` trains."""
    from benchmarks import shapes
    from tests.conftest import edited

    folder.mkdir(parents=True, exist_ok=True)
    changes = {f"adapter.{key}": value for key, value in adapter.items()}
    edited(ROOT / "params.yaml", folder / "params.yaml", changes | {"max_seq_length": length})
    for name in ("stages", "ingot", "image.lock"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "build").mkdir(exist_ok=True)
    if not (folder / "build/base").exists():
        (folder / "build/base").symlink_to(base)
    shapes.dataset(folder / "build/dataset", base, tokens, length)
    return folder


# The stage, which waits after its second step until it is told to go on.
WAITING = """
import sys
import stages.adapter as stage
begin = stage.begin
def begun(*given):
    engine = begin(*given)
    from ingot.training import watch
    before = watch.Watch.on_step_end
    def after(self, args, state, control, **kwargs):
        before(self, args, state, control, **kwargs)
        if state.global_step == 2:
            print("ready", flush=True)
            sys.stdin.readline()
    watch.Watch.on_step_end = after
    return engine
stage.begin = begun
stage.progress.start(stage.main)
"""


def run(folder: Path, *command: str, **environment: str) -> list[str]:
    """Run Python in a workplace; returns its lines, and shows the last ones when it fails."""
    started = Started(folder, *command, **environment)
    started.go_on()
    return [line for _, line in started.finished()]


class Started:
    """A process of Python in a workplace, with the seconds after which each of its lines came."""

    def __init__(self, folder: Path, *command: str, **environment: str):
        environment = os.environ | {"PYTHONPATH": f"{os.environ.get('PYTHONPATH', '')}:{ROOT}"} | environment
        self.command, self.began, self.ready = " ".join(command)[:60], time.monotonic(), threading.Event()
        self.lines: list[tuple[float, str]] = []
        self.process = subprocess.Popen(
            [sys.executable, *command],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.append((time.monotonic() - self.began, line.rstrip("\n")))
            if line.startswith("ready"):
                self.ready.set()
        self.ready.set()

    def go_on(self) -> None:
        """Let it go past the place where it waits."""
        assert self.process.stdin
        self.process.stdin.close()

    def finished(self) -> list[tuple[float, str]]:
        """All its lines, when it has ended; none where it failed, which is shown."""
        self.reader.join()
        if self.process.wait():
            said = "\n".join(line for _, line in self.lines)
            print(f"failed: {self.command}\n{said[-2500:]}", flush=True)
            return []
        return self.lines


def settings(name: str, rows: int) -> tuple[dict, int]:
    """A case's params of the adapter, and its length."""
    changes = dict(CASES[name])
    length = changes.pop("max_seq_length", LENGTH)
    adapter = ADAPTER | {"batch_size": rows} | changes
    return {"accumulation": ROWS // adapter["batch_size"]} | adapter, length


def start(name: str, base: Path, work: Path, steps: int, rows: int) -> Started:
    adapter, length = settings(name, rows)
    tokens = length * adapter["batch_size"] * adapter["accumulation"] * steps
    folder = workplace(work / name, base, tokens, length, adapter)
    if not name.startswith("plain"):
        run(folder, "-m", "ingot.training.platform")
        return Started(folder, "-c", WAITING, **pins("adapter"))
    source = PLAIN.format(
        root=str(ROOT), again=adapter["gradient_checkpointing"] == "on", steps=steps, rows=adapter["batch_size"],
        accumulation=adapter["accumulation"], length=length,
        targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    return Started(folder, "-c", source)


def measure(name: str, started: Started, work: Path, rows: int) -> float:
    """Tokens a second of a case that waits for its turn; prints its line."""
    from benchmarks import shapes
    from ingot.exact.files import sha256

    started.go_on()
    lines = started.finished()
    steps_at = [seconds for seconds, line in lines if "tokens/s" in line or line == "ready"]
    found = [re.search(r"([\d,]+) tokens/s, ([\d.]+) GB", line) for _, line in lines if "tokens/s" in line]
    if len(found) < 3:
        print(f"{name:18} no figures: {lines[-3:]}", flush=True)
        return 0.0
    rates = [float(match[1].replace(",", "")) for match in found if match]
    rate = statistics.median(rates if name.startswith("plain") else rates[2:])
    memory = max(float(match[2]) for match in found if match)
    adapter, _length = settings(name, rows)
    norms = work / name / "reports/adapter/plots/metrics/grad_norm.tsv"
    if norms.is_file():
        gradients = [float(line.split("\t")[1]) for line in norms.read_text().splitlines()[3:]]
    else:
        gradients = [float(line.split()[-1]) for _, line in lines if line.startswith("  gradient norm")]
    hidden, middle, layers, heads, kv_heads, vocabulary, _tied = shapes.SHAPES[work.name]
    narrow = hidden // heads * kv_heads
    weights = layers * (2 * hidden * hidden + 2 * hidden * narrow + 3 * hidden * middle) + vocabulary * hidden
    work_done = rate * weights * (6 if adapter["gradient_checkpointing"] != "off" else 4) / 1e12
    made = work / name / "build/adapter/adapter_model.safetensors"
    print(
        f"{name:18} {adapter['batch_size']:2} × {adapter['accumulation']:<2} {rate:8,.0f} tokens/s  {memory:5.1f} GB  "
        f"{work_done:4.0f} TFLOP/s  gradient norm {statistics.median(gradients):.4f}  "
        f"{sha256(made)[:12] if made.is_file() else '':12}  first step {steps_at[0]:3.0f} s",
        flush=True,
    )
    return rate


def peak() -> float:
    """TFLOP/s of an 8192³ bf16 product."""
    import torch

    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    began = time.monotonic()
    for _ in range(30):
        a @ b
    torch.cuda.synchronize()
    return 30 * 2 * 8192**3 / (time.monotonic() - began) / 1e12


def main() -> None:
    import torch

    from benchmarks import shapes

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=shapes.SHAPES, default="7b")
    parser.add_argument("--cases", nargs="*", choices=CASES, default=list(CASES))
    parser.add_argument("--work", type=Path, default=ROOT / ".cache/benchmark")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--together", type=int, default=1, help="cases that start at once")
    parser.add_argument("--rows", type=int, help="at once; 4 for 7b, 16 for smaller ones")
    arguments = parser.parse_args()
    work = arguments.work / arguments.shape
    base = shapes.base(work / "base", arguments.shape)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, bf16 product {peak():.0f} TFLOP/s", flush=True)
    rows = arguments.rows or (4 if arguments.shape == "7b" else 16)
    rates = {}
    for first in range(0, len(arguments.cases), arguments.together):
        group = arguments.cases[first : first + arguments.together]
        started = {name: start(name, base, work, arguments.steps, rows) for name in group}
        for each in started.values():
            each.ready.wait()
        rates |= {name: measure(name, each, work, rows) for name, each in started.items()}
    for name in ("plain", "plain-recomputing"):
        if rates.get(name):
            print(
                ", ".join(f"{other} {rate / rates[name]:.2f} ×" for other, rate in rates.items() if other != name), name
            )


if __name__ == "__main__":
    main()
