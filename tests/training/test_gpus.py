"""Several processes that train together, on a CPU: what GPUs would say to each other goes through gloo."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from ingot.exact.files import sha256
from ingot.exact.pins import pins
from tests.training.test_engine import curve, make_diverge, steps_kept, workplace_of_a_gpu

pytestmark = pytest.mark.proof

TOGETHER = {
    "adapter__device": "cuda", "adapter__engine": "peft", "adapter__precision": "fp32", "adapter__attention": "sdpa",
    "adapter__gpus": 2, "adapter__batch_size": 2, "adapter__accumulation": 2, "adapter__optimizer": "adamw_torch",
    "adapter__gradient_checkpointing": "off", "adapter__save_steps": 2, "max_seq_length": 64,
}  # fmt: skip
# The stage as accelerate starts it in each process, the model on the CPU; it says which share of the weights is here.
PROCESS = """
import sys, torch
import transformers.training_args
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from ingot.training import checkpoints, platform
from ingot.training.job import Job
from stages import adapter
Job.device = "cpu"
platform.check = lambda params: None
transformers.training_args.is_torch_bf16_gpu_available = lambda: True
torch.cuda.set_device = lambda device: None
torch.cuda.max_memory_allocated = lambda: 0
begin, save = PartialState.__init__, checkpoints.save
def on_cpu(state, *arguments, **named):
    begin(state, True, backend="gloo")
    state.distributed_type = DistributedType.MULTI_GPU if "shard" in sys.argv else state.distributed_type
def saying(model, *arguments):
    here = sum(getattr(weight, "_local_tensor", weight).numel() for weight in model.parameters())
    print(f"share {here / sum(weight.numel() for weight in model.parameters()):.3f}", flush=True)
    save(model, *arguments)
PartialState.__init__, checkpoints.save = on_cpu, saying
adapter.main()
"""


def start(folder: Path, shard: bool) -> subprocess.Popen:
    (folder / "process.py").write_text(PROCESS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "process.py"]
    return subprocess.Popen(
        [*command, *(["shard"] if shard else [])],
        cwd=folder, env=os.environ | pins("adapter") | {"PYTHONPATH": str(folder)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def made(tmp_path: Path, base: Path, name: str, **changes) -> tuple[Path, str]:
    """A workplace after two processes have trained in it, and what they said."""
    folder = prepared(tmp_path, base, name, **changes)
    process = start(folder, changes.get("adapter__shard", False))
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 0, said[-3000:]
    return folder, said


def prepared(tmp_path: Path, base: Path, name: str, **changes) -> Path:
    (tmp_path / name).mkdir()
    return workplace_of_a_gpu(tmp_path / name, base, **TOGETHER | changes)


def test_shares_train_what_whole_copies_train_and_go_on_to_the_same_bits_where_stopped(base, tmp_path):
    from safetensors.torch import load_file

    whole, said = made(tmp_path, base, "whole", adapter__method="qlora")
    assert re.findall(r"share ([\d.]+)", said) == ["1.000"]
    sharded = {"adapter__shard": True, "adapter__gradient_checkpointing": "on"}
    first, said = made(tmp_path, base, "first", **sharded)
    assert re.findall(r"share ([\d.]+)", said) == ["0.500", "0.500"], "4-bit weights and all others"
    assert curve(first, "loss") == pytest.approx(curve(whole, "loss"), abs=2e-4) and len(curve(first, "loss")) == 6
    adapters = [load_file(folder / "build/adapter/adapter_model.safetensors") for folder in (whole, first)]
    assert adapters[0].keys() == adapters[1].keys() and len(adapters[0]) == 14, "two for each of seven layers"
    assert all(weight.allclose(adapters[1][name], atol=1e-3) for name, weight in adapters[0].items())
    config = json.loads((first / "build/adapter/adapter_config.json").read_text())
    assert config == json.loads((whole / "build/adapter/adapter_config.json").read_text())

    broken = prepared(tmp_path, base, "broken", **sharded)
    victim, deadline = start(broken, shard=True), time.monotonic() + 300
    while not steps_kept(broken):
        assert victim.poll() is None and time.monotonic() < deadline, "no checkpoint was written"
        time.sleep(0.05)
    for process in (*psutil.Process(victim.pid).children(recursive=True), victim):
        process.kill()
    victim.communicate()
    resumed = start(broken, shard=True)
    assert "going on from step" in resumed.communicate(timeout=600)[0]
    assert hashed(broken) == hashed(first)


def test_shares_in_16_bit_whose_gradients_gather_over_batches_and_whose_output_has_its_own_matrix(base, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    untied = tmp_path / "untied"
    shutil.copytree(base, untied)
    (untied / "model.safetensors").unlink()
    config = AutoConfig.from_pretrained(base, tie_word_embeddings=False, num_hidden_layers=2)
    config.layer_types = ["full_attention"] * 2
    AutoModelForCausalLM.from_config(config, dtype="bfloat16").save_pretrained(untied)
    changes = {"adapter__precision": "bf16", "adapter__batch_size": 1, "adapter__accumulation": 4, "adapter__epochs": 1}
    whole, _ = made(tmp_path, untied, "whole", **changes)
    shared, said = made(tmp_path, untied, "shared", **changes, adapter__shard=True)
    assert re.findall(r"share ([\d.]+)", said) == ["0.500", "0.500"]
    assert curve(shared, "loss") == pytest.approx(curve(whole, "loss"), abs=0.1) and len(curve(shared, "loss")) == 3


def hashed(folder: Path) -> str:
    return sha256(folder / "build/adapter/adapter_model.safetensors")


def test_all_weights_sharded_are_written_as_the_base_has_them(base, tmp_path):
    from safetensors.torch import load_file

    changes = {"adapter__method": "full", "adapter__shard": True, "adapter__learning_rate": 1e-4}
    folder, _ = made(tmp_path, base, "full", **changes)
    before, after = (load_file(place / "model.safetensors") for place in (base, folder / "build/adapter"))
    assert {name: (weight.shape, weight.dtype) for name, weight in after.items()} == {
        name: (weight.shape, weight.dtype) for name, weight in before.items()
    }
    layer = "model.layers.0.mlp.up_proj.weight"
    assert not after[layer].equal(before[layer]) and after[layer].allclose(before[layer], atol=2e-2)


@pytest.mark.parametrize("shard", [False, True])
def test_every_process_stops_at_a_loss_that_is_no_number_and_the_rows_of_all_are_named(base, tmp_path, shard):
    folder = prepared(tmp_path, base, "diverging", adapter__shard=shard)
    make_diverge(folder, base)
    process = start(folder, shard)
    said = process.communicate(timeout=600)[0]
    assert process.returncode == 1 and "at step 1: training has diverged" in said
    named = re.search(r"rows ([\d, ]+) of build/dataset/train.jsonl", said)[1].split(", ")
    assert len(named) > 2, "a process has two; of equal rows the last is named"
    assert not (folder / "build/adapter").exists()
