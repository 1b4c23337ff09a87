"""Folding: the same weights as PEFT's own merge, every target changed, and a merge without effect refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from ingot.inside import lora
from ingot.inside.progress import StageError
from stages import merged as stage

TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory) -> Path:
    """A LoRA with effect on the tiny base, saved by PEFT."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    out = tmp_path_factory.mktemp("adapter")
    model.save_pretrained(out)
    (out / "chat_template.jinja").write_text("trained template")
    return out


def folded(base: Path, adapter: Path, kind: str) -> dict[str, torch.Tensor]:
    fold = lora.Adapter(adapter, kind)
    weights = {key: fold.folded(key, value) for key, value in load_file(base / "model.safetensors").items()}
    fold.all_used()
    return weights


def test_the_same_as_pefts_own_merge(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    expected = PeftModel.from_pretrained(model, adapter).merge_and_unload().state_dict()
    weights = folded(base, adapter, "original")
    for key, value in weights.items():
        assert torch.equal(value, expected[key].to(torch.bfloat16)), key


def test_merged_logits_are_the_adapters_logits(base, adapter, tokenizer):
    """In float32, to 1e-4 of the logits' range: only the order of sums differs."""
    ids = torch.tensor([tokenizer("What is a bond?")["input_ids"]])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        with_adapter = PeftModel.from_pretrained(model, adapter)(ids).logits
        plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        fold = lora.Adapter(adapter, "original")
        merged = {k: fold.folded(k, v.float()) for k, v in load_file(base / "model.safetensors").items()}
        before = plain(ids).logits
        plain.load_state_dict(merged, strict=False)
        after = plain(ids).logits
    scale = with_adapter.abs().max()
    assert (after - with_adapter).abs().max() < 1e-4 * scale
    assert (before - with_adapter).abs().max() > 1e-2 * scale, "the adapter had an effect to compare"


def test_exactly_the_targets_change(base, adapter):
    before, after = load_file(base / "model.safetensors"), folded(base, adapter, "original")
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert changed == {key for key in before if any(f".{target}.weight" in key for target in TARGETS)}
    assert all(after[key].dtype == torch.bfloat16 for key in after)


def test_through_nf4_the_weights_are_the_four_bit_ones(base, adapter):
    """W + delta, where W takes at most 16 values a block of 64."""
    key = "model.layers.0.self_attn.q_proj.weight"
    weight = load_file(base / "model.safetensors")[key]
    rounded = lora.through_nf4(weight)
    assert max(len(block.unique()) for block in rounded.flatten().view(-1, 64)) <= 16
    assert not torch.equal(folded(base, adapter, "nf4")[key], folded(base, adapter, "original")[key])


def spoiled(adapter: Path, out: Path, edit) -> Path:
    shutil.copytree(adapter, out)
    weights = load_file(out / "adapter_model.safetensors")
    edit(weights)
    save_file(weights, out / "adapter_model.safetensors", metadata={"format": "pt"})
    return out


def test_a_merge_without_effect_is_refused(base, adapter, tmp_path):
    def zero(weights):
        for key in weights:
            if "v_proj.lora_B" in key:
                weights[key].zero_()

    with pytest.raises(StageError, match=r"v_proj.weight: the adapter leaves it unchanged"):
        folded(base, spoiled(adapter, tmp_path / "a", zero), "original")


def test_a_nan_in_the_adapter_is_refused(base, adapter, tmp_path):
    def nan(weights):
        next(value for key, value in weights.items() if "q_proj.lora_A" in key)[0, 0] = float("nan")

    with pytest.raises(StageError, match=r"q_proj.weight: no longer finite"):
        folded(base, spoiled(adapter, tmp_path / "a", nan), "original")


def test_an_adapter_of_another_base_is_refused(base, adapter, tmp_path):
    def deeper(weights):
        for key in [key for key in weights if ".layers.0." in key]:
            weights[key.replace(".layers.0.", ".layers.7.")] = weights[key].clone()

    with pytest.raises(StageError, match=r"targets 3 tensors that the base does not have, such as model.layers.7"):
        folded(base, spoiled(adapter, tmp_path / "a", deeper), "original")


def test_the_stage_writes_a_whole_model_and_ships_the_trained_template(base, adapter, tmp_path, monkeypatch):
    (tmp_path / "build").mkdir()
    shutil.copytree(base, tmp_path / "build/base")
    (tmp_path / "build/adapter").symlink_to(adapter)
    config = tmp_path / "build/base/tokenizer_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"chat_template": "the base's own"}))
    (tmp_path / "params.yaml").write_text("merged: {base: original}\n")
    monkeypatch.chdir(tmp_path)
    stage.main()
    out = tmp_path / "build/merged"
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()}
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "trained template"
    assert "chat_template" not in json.loads((out / "tokenizer_config.json").read_text())
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] - {"lm_head.weight"} and not report["unexpected_keys"]
