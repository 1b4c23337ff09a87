"""Training on a CUDA device, with the recipes' settings: to the same bits in every process, no sample sees another."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from tests.training.test_engine import killed_and_resumed_equals_uninterrupted, train, workplace

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.proof,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a CUDA device"),
]
RECIPE = {"adapter__device": "cuda", "adapter__gradient_checkpointing": "auto", "adapter__optimizer": "adamw_8bit"}
ENGINES = ["peft"] + (["unsloth"] if importlib.util.find_spec("unsloth") else [])


@pytest.fixture(autouse=True)
def kernels(tmp_path_factory, monkeypatch):
    """Compiled kernels are kept and shared by all tests: most of a small training is their compiler."""
    kept = tmp_path_factory.getbasetemp().parent / "kernels"
    monkeypatch.setenv("TRITON_CACHE_DIR", str(kept / "triton"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(kept / "inductor"))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("method", ["qlora", "lora"])
@pytest.mark.parametrize("packing", [False, True])
def test_two_processes_make_one_adapter(base, tmp_path, engine, method, packing):
    changes = RECIPE | {"adapter__engine": engine, "adapter__method": method, "adapter__packing": packing}
    folder = workplace(tmp_path, base, max_seq_length=64, **changes)
    own = {"TRITON_CACHE_DIR": str(tmp_path / "triton"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "inductor")}
    assert train(folder) == train(folder, PYTHONHASHSEED="7", OMP_NUM_THREADS="1", **own), "also with kernels made anew"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("packing", [False, True])
def test_killed_and_resumed_equals_uninterrupted_on_the_gpu(base, tmp_path, engine, packing):
    changes = RECIPE | {"adapter__engine": engine, "adapter__packing": packing, "adapter__batch_size": 1}
    killed_and_resumed_equals_uninterrupted(base, tmp_path, max_seq_length=64, **changes)


def test_the_attention_kernel_computes_each_sample_as_if_it_were_alone():
    from ingot.training.attention import flash

    draw = torch.Generator("cuda").manual_seed(1)
    lengths = [300, 517, 64, 1, 1167]
    starts = torch.tensor([0, *lengths], device="cuda").cumsum(0).int()

    def drawn(heads: int) -> torch.Tensor:
        size = (sum(lengths), heads, 64)
        return torch.randn(size, device="cuda", dtype=torch.bfloat16, generator=draw).requires_grad_()

    query, key, value = drawn(8), drawn(2), drawn(2)
    together = flash(query, key, value, starts, max(lengths))
    together.square().sum().backward()
    gradients = [each.grad.clone() for each in (query, key, value)]
    for begin, length in zip(starts.tolist(), lengths, strict=False):
        one = [each.detach()[begin : begin + length].requires_grad_() for each in (query, key, value)]
        alone = flash(*one, torch.tensor([0, length], device="cuda").int(), length)
        assert alone.equal(together[begin : begin + length]), "to the bit"
        alone.square().sum().backward()
        for each, gradient in zip(one, gradients, strict=True):
            assert torch.allclose(each.grad, gradient[begin : begin + length], rtol=0.02, atol=0.02)


# The loss of a packed batch against its samples' own, by the engine's model; an engine needs a process of its own.
ISOLATED = """
import torch
from stages import adapter
from datasets import Dataset
from ingot.exact import pins
from ingot.training.job import Job, begin
from ingot.training.params import Adapter
from ingot.params.core import load
params = load("adapter", Adapter)
engine = begin(params.engine, params, 128)
job = Job(params, 42, 128, adapter.BASE, adapter.DATASET / "train.arrow", None, None, None)
pins.seed_everything(42)
model = engine.model(job).train()
rows = [*Dataset.from_file(str(job.rows)).select(range(3))]
def loss(samples, blind=False):
    ids = torch.tensor([[token for row in samples for token in row["input_ids"]]], device="cuda")
    labels = torch.tensor([[label for row in samples for label in [-100, *row["labels"][1:]]]], device="cuda")
    lengths = torch.tensor([len(row["input_ids"]) for row in samples], dtype=torch.int32)
    places = torch.cat([torch.arange(len(row["input_ids"])) for row in samples])[None].to("cuda")
    given = {} if blind else {"position_ids": places, \
**({"packed_seq_lengths": lengths} if params.engine == "unsloth" else {})}
    with torch.autocast("cuda", torch.bfloat16):
        return model(input_ids=ids, labels=labels, **given).loss.item() * (labels[:, 1:] != -100).sum().item()
print(loss(rows), sum(loss([row]) for row in rows), loss(rows, blind=True))
"""


@pytest.mark.parametrize("engine", ENGINES)
def test_packed_samples_cannot_see_each_other_on_the_gpu(base, tmp_path, engine):
    folder = workplace(tmp_path, base, adapter__engine=engine, adapter__packing=True, max_seq_length=64, **RECIPE)
    said = subprocess.run([sys.executable, "-c", ISOLATED], cwd=folder, text=True, capture_output=True)
    assert said.returncode == 0, said.stderr
    together, alone, blind = map(float, said.stdout.split()[-3:])
    assert abs(together - alone) < 2e-3 * alone, "bfloat16's rounding and no more"
    assert abs(blind - alone) > 1e-2 * alone, "a leak would show"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="missing: a second CUDA device")
def test_two_gpus_make_one_adapter_in_every_run(base, tmp_path):
    changes = RECIPE | {"adapter__gpus": 2, "adapter__accumulation": 2, "adapter__batch_size": 2}
    folder = workplace(tmp_path, base, **changes)
    assert train(folder) == train(folder)


def test_too_little_memory_says_what_to_lower(base, tmp_path):
    changes = RECIPE | {"adapter__gradient_checkpointing": "off", "adapter__batch_size": 10}
    folder = workplace(tmp_path, base, **changes)
    share = 100e6 / torch.cuda.get_device_properties(0).total_memory  # the base itself takes 80 MB
    little = f"import torch; torch.cuda.set_per_process_memory_fraction({share}); "
    little += (
        "import runpy, sys; sys.argv = ['stages.adapter']; runpy.run_module('stages.adapter', run_name='__main__')"
    )
    said = subprocess.run([sys.executable, "-c", little], cwd=folder, text=True, capture_output=True)
    assert said.returncode == 1, said.stdout + said.stderr
    assert "the GPU's memory did not suffice" in said.stdout and "change, in this order" in said.stdout
    assert not (folder / "build/adapter").exists()
