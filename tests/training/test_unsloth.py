"""Unsloth itself trains here without a GPU, its kernels through Triton's interpreter, in float32: what PEFT trains.

Not shown by this: the GPU's own kernels, 16 bit, NF4. Those are the tests marked `gpu`.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from ingot.exact.pins import pins
from tests.conftest import ROOT
from tests.training.test_engine import curve, workplace_of_a_gpu

pytestmark = pytest.mark.proof

PACKAGES = ("unsloth", "unsloth-zoo", "triton", "pillow")
# The stage, with a GPU that is this CPU. Unsloth's own switch for hosts without one leaves TRL's trainer as it was.
PROCESS = """
import os, sys
import torch
from torch.overrides import TorchFunctionMode

class Card:
    total_memory, name, multi_processor_count, major, minor = 80 << 30, "a CPU", 1, 9, 0

torch.cuda.device_count = lambda: 1
torch.cuda.current_device = lambda: 0
torch.cuda.set_device = torch.cuda.max_memory_allocated = lambda *device: 0
torch.cuda.get_device_capability = lambda *device: (9, 0)
torch.cuda.get_device_properties = lambda *device: Card
torch._C._cuda_getCurrentRawStream = lambda device: 0

def here(device):
    named = isinstance(device, torch.device) and device.type == "cuda" or str(device).startswith("cuda")
    return "cpu" if named or type(device) is int else device

class OnCpu(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), named=None):
        named = dict(named or {})
        if function is torch.device and isinstance(arguments[0], int):
            return torch.device("cpu", 0)
        if "device" in named:
            named["device"] = here(named["device"])
        if getattr(function, "__name__", "") == "to":
            arguments = (arguments[0], *map(here, arguments[1:]))
        return function(*arguments, **named)

from ingot.training import job, platform
from stages import adapter

platform.check = lambda params: None
job.Job.device = "cpu"
begin = adapter.begin

def beginning(name, params, length):
    assert "transformers" not in sys.modules, "Unsloth must come first"
    delete = os._Environ.__delitem__
    os._Environ.__delitem__ = lambda self, name: None if name == "UNSLOTH_ALLOW_CPU" else delete(self, name)
    engine = begin(name, params, length)
    os._Environ.__delitem__ = delete
    if name == "unsloth":
        from unsloth import _gpu_init, context_parallel
        _gpu_init._patch_trl_trainer()
        context_parallel.patch_sft_trainer()
    return engine

adapter.begin = beginning
with OnCpu():
    from ingot.console import progress
    progress.start(adapter.main)
"""
SETTINGS = {
    "adapter__device": "cuda", "adapter__precision": "fp32", "adapter__method": "lora", "adapter__packing": True,
    "adapter__batch_size": 1, "adapter__accumulation": 2, "adapter__gradient_checkpointing": "off",
    "max_seq_length": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """An interpreter that has Unsloth as the CUDA lock names it, beside what these tests run in."""
    folder = tmp_path_factory.mktemp("unsloth")
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text(sysconfig.get_paths()["purelib"])
    blocks = re.split(r"(?m)^(?=[a-z0-9])", (ROOT / "requirements/cuda.txt").read_text())
    (folder / "lock.txt").write_text("".join(block for block in blocks if block.split("==")[0] in PACKAGES))
    install = ["-m", "pip", "install", "--no-deps", "--require-hashes", "-r", folder / "lock.txt"]
    installed = subprocess.run([folder / "bin/python", *install], text=True, capture_output=True)
    assert installed.returncode == 0, installed.stderr[-2000:]
    return folder / "bin/python"


def train(
    folder: Path, base: Path, python: Path, **changes
) -> tuple[subprocess.CompletedProcess, dict[str, list[float]]]:
    """What the stage said and, when it succeeded, its curves."""
    folder.mkdir()
    workplace_of_a_gpu(folder, base, **SETTINGS | {f"adapter__{key}": value for key, value in changes.items()})
    (folder / "process.py").write_text(PROCESS)
    without = {"UNSLOTH_ALLOW_CPU": "1", "TRITON_INTERPRET": "1", "TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": str(folder)}
    ran = subprocess.run(
        [python, "process.py"], cwd=folder, env=os.environ | pins("adapter") | without, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    return ran, {path.stem: curve(folder, path.stem) for path in folder.glob("reports/adapter/plots/metrics/*.tsv")}


def test_unsloth_trains_what_peft_trains(qwen, tmp_path, python):
    from safetensors.torch import load_file

    slow, expected = train(tmp_path / "peft", qwen, Path(sys.executable), engine="peft")
    assert slow.returncode == 0, slow.stdout[-3000:]
    fast, curves = train(tmp_path / "unsloth", qwen, python, engine="unsloth")
    assert fast.returncode == 0, fast.stdout[-3000:]
    assert "Fast Qwen2 patching" in fast.stdout and "Fast Qwen2 patching" not in slow.stdout
    assert "should be imported before" not in fast.stdout
    assert curves.keys() == expected.keys() == {"loss", "grad_norm", "learning_rate", "eval_loss"}
    for name, values in expected.items():
        assert curves[name] == pytest.approx(values, rel=1e-4), name
    adapters = [load_file(tmp_path / name / "build/adapter/adapter_model.safetensors") for name in ("peft", "unsloth")]
    assert adapters[0].keys() == adapters[1].keys()
    # AdamW's first steps are as large for a gradient near 0 as for any: some places may go the other way.
    near = [adapters[1][name].isclose(weight, atol=1e-4).float().mean() for name, weight in adapters[0].items()]
    assert min(near) > 0.99
    assert not list(Path(tmp_path / "unsloth").glob("unsloth_compiled_cache")), "nothing beside the outputs"


def test_unsloth_is_refused_for_a_family_that_it_does_not_train_soundly(base, tmp_path, python):
    """Packed Gemma 3 goes by flex attention there, and diverged on a GPU."""
    gemma = shutil.copytree(base, tmp_path / "gemma")
    config = json.loads((gemma / "config.json").read_text()) | {"model_type": "gemma3_text"}
    (gemma / "config.json").write_text(json.dumps(config))
    ran, _ = train(tmp_path / "refused", gemma, python, engine="unsloth")
    assert ran.returncode == 1 and "adapter.engine: unsloth does not train gemma3_text models soundly" in ran.stdout
    assert "hint: set adapter.engine to peft" in ran.stdout and not (tmp_path / "refused/build/adapter").exists()


def test_unsloth_does_not_train_in_16_bit_what_should_be_in_4(base, tmp_path, python):
    ran, _ = train(tmp_path / "qlora", base, python, engine="unsloth", method="qlora")
    assert ran.returncode == 1 and "the base was not loaded in 4 bit: bitsandbytes does not work here" in ran.stdout
    assert not (tmp_path / "qlora/build/adapter").exists()
