"""Every `adapter.method` trains for real, on a tiny model; what cannot be done is refused before it begins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from ingot.console.progress import StageError
from ingot.params.core import read
from ingot.training.methods import check_targets
from ingot.training.params import Adapter
from tests.conftest import ROOT
from tests.training.test_engine import workplace

DEMO = read(ROOT / "params.yaml")["adapter"]
METHODS = ["lora", "dora", "ia3", "full", "prompt", "prefix"]
# One process for all: each takes a second, importing takes eight.
EACH = """
import sys
from pathlib import Path
from stages import adapter
from tests.conftest import edited
for method in sys.argv[1:]:
    edited(Path("params.yaml"), Path("params.yaml"), {"adapter.method": method, "adapter.rslora": method == "dora"})
    adapter.main()
    Path("build/adapter").rename(f"build/{method}")
"""


@pytest.fixture(scope="module")
def trained(base, tmp_path_factory) -> tuple[Path, str]:
    """A folder with one adapter for each method, and what was said while they were trained."""
    folder = workplace(tmp_path_factory.mktemp("methods"), base, adapter__epochs=1)
    (folder / "tests").symlink_to(ROOT / "tests")
    result = subprocess.run([sys.executable, "-c", EACH, *METHODS], cwd=folder, text=True, capture_output=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return folder / "build", result.stdout


@pytest.mark.proof
@pytest.mark.parametrize("method", METHODS)
def test_the_method_is_trained_and_measured(trained, method):
    build, said = trained
    lines = [line for line in said.splitlines() if line.startswith("adapter")]
    ended = lines[2 * METHODS.index(method) + 1]
    assert "held-out loss" in ended and f"train {method} on cpu with peft" in lines[2 * METHODS.index(method)]
    names = {path.name for path in (build / method).iterdir()}
    if method == "full":
        assert names == {"model.safetensors", "chat_template.jinja"}
        return
    assert names == {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"}
    config = json.loads((build / method / "adapter_config.json").read_text())
    kind = {"ia3": "IA3", "prompt": "PROMPT_TUNING", "prefix": "PREFIX_TUNING"}.get(method, "LORA")
    assert config["peft_type"] == kind
    assert config.get("use_dora", False) is (method == "dora") is config.get("use_rslora", False)


@pytest.mark.proof
def test_full_training_writes_the_bases_files_with_new_weights(trained, base):
    from safetensors.torch import load_file

    before, after = load_file(base / "model.safetensors"), load_file(trained[0] / "full/model.safetensors")
    assert {key: (value.shape, value.dtype) for key, value in before.items()} == {
        key: (value.shape, value.dtype) for key, value in after.items()
    }
    assert all(not before[key].equal(after[key]) for key in before if key.endswith("proj.weight"))


@pytest.mark.proof
def test_the_best_checkpoint_is_kept_and_training_stops_early(base, tmp_path):
    changes = {"eval_steps": 1, "save_steps": 1, "keep": "best", "patience": 1, "epochs": 6}
    changes |= {"learning_rate": 1.0, "warmup": 0.0}
    folder = workplace(tmp_path, base, **{f"adapter__{key}": value for key, value in changes.items()})
    said = subprocess.run([sys.executable, "-m", "stages.adapter"], cwd=folder, text=True, capture_output=True).stdout
    curve = (folder / "reports/adapter/plots/metrics/eval_loss.tsv").read_text().split()[2:]
    losses = [float(value) for value in curve[1::2]]
    assert len(losses) == losses.index(min(losses)) + 2 < 12, "one evaluation that is no better, then it stops"
    assert f"held-out loss {min(losses):.4f}" in said, "what is kept is measured, not what came last"


TWO = {"device": "cuda", "gpus": 2, "accumulation": 2, "shard": True}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gpus": 2}, "gpus 2 on device cpu"),
        ({"device": "cuda", "gpus": 2, "accumulation": 3}, "accumulation 3 must be a multiple of gpus 2"),
        ({"engine": "unsloth"}, "engine 'unsloth' needs device cuda"),
        ({"engine": "unsloth", "device": "cuda", "method": "dora"}, "engine 'unsloth' trains qlora and lora"),
        ({"method": "ia3", "rslora": True}, "rslora scales low-rank adapters"),
        ({"method": "full", "dropout": 0.1}, "dropout is that of low-rank adapters"),
        ({"method": "prompt", "packing": True}, "its virtual tokens begin each sequence"),
        ({"method": "prefix", "gradient_checkpointing": "on"}, "take off"),
        ({"precision": "bf16"}, "trains on device cuda only"),
        ({"optimizer": "paged_adamw_8bit"}, "pages GPU memory"),
        ({"attention": "flash"}, "GPU kernel"),
        ({"keep": "best", "eval_steps": 0}, "must be a multiple of eval_steps (0)"),
        ({"keep": "best", "eval_steps": 30, "save_steps": 40}, "must be a multiple of eval_steps (30)"),
        ({"patience": 3}, "keep must be 'best'"),
        ({"shard": True}, "shard shares the base among GPUs, and gpus is 1"),
        (TWO | {"engine": "unsloth"}, "shard with engine 'unsloth': its kernels read whole weights"),
        (TWO | {"method": "dora"}, "shard trains qlora, lora, full, and method is 'dora'"),
        (TWO | {"optimizer": "adamw_8bit"}, "take adamw_torch or adamw_torch_fused"),
        (TWO | {"precision": "fp16"}, "shard with precision 'fp16'"),
        (TWO | {"keep": "best", "eval_steps": 40}, "shard with keep 'best'"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, words):
    with pytest.raises(ValidationError) as refused:
        Adapter.model_validate(DEMO | changes)
    assert words in str(refused.value)


def test_a_layer_that_a_cpu_reads_wrong_in_4_bit_is_refused_by_name():
    import torch
    from bitsandbytes.nn import Linear4bit

    def check(inputs: int, **changes) -> None:
        layer = torch.nn.ModuleDict({"q_proj": Linear4bit(inputs, 64, bias=False, quant_type="nf4")})
        check_targets(layer, Adapter.model_validate(DEMO | {"method": "qlora", "target_modules": ["q_proj"]} | changes))

    check(128)
    check(96, device="cuda")
    with pytest.raises(StageError, match=r"q_proj has 96 inputs.*multiple of 64\nhint: set adapter.method: lora"):
        check(96)
