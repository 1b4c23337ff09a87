"""Folding: every kind of adapter against PEFT itself, the bits whatever computes them, and what is refused."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from peft import (
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    get_peft_model,
)  # fmt: skip
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from ingot.console.progress import StageError
from ingot.model import fold, rounding
from ingot.model import merge as merging
from stages import merged as stage

ROOT = Path(__file__).parents[2]
TARGETS = ["q_proj", "v_proj", "down_proj"]
CONFIGS = {
    "lora": lambda: LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "rslora": lambda: LoraConfig(r=8, lora_alpha=4, use_rslora=True, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "dora": lambda: LoraConfig(r=4, lora_alpha=8, use_dora=True, target_modules=TARGETS, task_type="CAUSAL_LM"),
    "ia3": lambda: IA3Config(target_modules=TARGETS, feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
    "prefix": lambda: PrefixTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "prompt": lambda: PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"),
    "loha": lambda: LoHaConfig(r=4, target_modules=TARGETS, task_type="CAUSAL_LM"),
}
FOLDED = ["lora", "rslora", "dora", "ia3"]
WEIGHT = "model.layers.0.self_attn.q_proj.weight"
IDS = torch.arange(48).reshape(2, 24)


@pytest.fixture(scope="module")
def bases(tmp_path_factory) -> dict[str, Path]:
    """One small model, its biases not zero, in two types and several shards."""
    torch.manual_seed(0)
    shape = dict(
        hidden_size=64, intermediate_size=150, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2
    )
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=300, tie_word_embeddings=True, **shape))
    for name, weight in model.named_parameters():
        if not name.endswith("norm.weight"):
            torch.nn.init.normal_(weight, std=0.08)
    out = {}
    for dtype in (torch.bfloat16, torch.float32):
        folder = out[str(dtype).removeprefix("torch.")] = tmp_path_factory.mktemp("base")
        model.to(dtype).save_pretrained(folder, max_shard_size="100KB")
        (folder / "tokenizer.json").write_text('{"verbatim":1 }')
        (folder / "tokenizer_config.json").write_text('{"chat_template": "the base\'s own", "kept": 1}')
        assert len(list(folder.glob("*.safetensors"))) > 1
    return out


@pytest.fixture(scope="module")
def adapters(bases, tmp_path_factory) -> dict[str, Path]:
    """Adapters with effect, saved by PEFT; `full`: the whole model changed, saved by transformers in one shard."""
    out = {}
    for kind, config in CONFIGS.items():
        torch.manual_seed(1)
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(bases["float32"]), config())
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if "lora_B" in name:
                    weight.normal_(std=0.1)
                if "magnitude" in name or "ia3_l" in name:
                    weight.mul_(torch.rand_like(weight) + 0.5)
        out[kind] = tmp_path_factory.mktemp(kind)
        model.save_pretrained(out[kind])
    model = AutoModelForCausalLM.from_pretrained(bases["bfloat16"])
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(2)
    out["full"] = tmp_path_factory.mktemp("full")
    model.save_pretrained(out["full"])
    for folder in out.values():
        (folder / "chat_template.jinja").write_text("trained template")
    return out


def merge(base: Path, adapter: Path, out: Path, device: str = "cpu", nf4: bool = False) -> dict[str, torch.Tensor]:
    out.mkdir()
    merging.merge(base, fold.read(adapter, device), out, through_nf4=nf4)
    return weights(out)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {key: value for path in folder.glob("*.safetensors") for key, value in load_file(path).items()}


def four_bit(weight: torch.Tensor) -> torch.Tensor:
    """Through NF4 and back by bitsandbytes alone, the whole tensor at once.

    As one long row: where rows are not whole blocks, its kernel for AVX-512 takes other blocks than were quantised.
    """
    packed, state = quantize_4bit(weight.float().reshape(1, -1), quant_type="nf4", compress_statistics=True)
    return dequantize_4bit(packed, state).to(weight.dtype).reshape(weight.shape)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.safetensors")}


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits


@pytest.mark.parametrize("kind", FOLDED)
def test_the_same_as_pefts_own_merge(bases, adapters, tmp_path, kind):
    """In float32: to a unit in the last place of the largest weights, and exactly the targets change."""
    model = AutoModelForCausalLM.from_pretrained(bases["float32"])
    expected = PeftModel.from_pretrained(model, adapters[kind]).merge_and_unload().state_dict()
    before, after = weights(bases["float32"]), merge(bases["float32"], adapters[kind], tmp_path / "out")
    for key, value in after.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-6, atol=2e-7)
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    targets = {key for key in before if any(f".{target}.weight" in key for target in TARGETS)}
    if kind == "ia3":  # where the factors scale outputs, the bias is an output too
        targets |= {key for key in before if key.endswith(("q_proj.bias", "v_proj.bias"))}
    assert changed == targets


# Float32: only the order of sums differs. bfloat16: each changed weight is rounded once, by up to 2^-9 of itself.
@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-5), ("bfloat16", 2e-2)])
@pytest.mark.parametrize("kind", FOLDED)
def test_merged_logits_are_the_adapters_logits(bases, adapters, tmp_path, kind, dtype, bound):
    def plain():
        return AutoModelForCausalLM.from_pretrained(bases[dtype], dtype=torch.float32)

    with_adapter, before = logits(PeftModel.from_pretrained(plain(), adapters[kind])), logits(plain())
    merged = plain()
    left = merged.load_state_dict(merge(bases[dtype], adapters[kind], tmp_path / "out"), strict=False)
    assert left.missing_keys == ["lm_head.weight"] and not left.unexpected_keys
    scale = with_adapter.abs().max()
    assert (logits(merged) - with_adapter).abs().max() < bound * scale
    assert (before - with_adapter).abs().max() > 0.1 * scale, "the adapter had an effect to compare"


@pytest.mark.parametrize(("kind", "nf4"), [*((kind, False) for kind in FOLDED), ("lora", True), ("dora", True)])
def test_streaming_in_blocks_makes_the_bytes_of_whole_tensors_in_memory(
    bases, adapters, tmp_path, monkeypatch, kind, nf4
):
    """Against save_file of each tensor folded at once, down to the header."""
    adapter = fold.read(adapters[kind], "cpu")
    expected = {}
    for path in bases["bfloat16"].glob("*.safetensors"):
        tensors, places = load_file(path), fold.layout(path)
        for key, weight in tensors.items():
            start = four_bit(weight) if nf4 and rounding.in_nf4(key, places[key]) else weight
            folded = adapter.fold(key)
            made = folded(start.reshape(len(start), -1), 0).float().bfloat16() if folded else start
            tensors[key] = made.reshape(weight.shape)
        save_file(tensors, tmp_path / path.name, metadata={"format": "pt"})
        expected[path.name] = (tmp_path / path.name).read_bytes()
    monkeypatch.setattr(merging, "BLOCK", 1000)
    merge(bases["bfloat16"], adapters[kind], tmp_path / "out", nf4=nf4)
    assert files(tmp_path / "out") == expected


def test_full_weights_take_the_bases_files(bases, adapters, tmp_path):
    """The trained ones lie in one shard, the base in several: tensor for tensor they move into its layout."""
    after = merge(bases["bfloat16"], adapters["full"], tmp_path / "out")
    trained = weights(adapters["full"])
    assert after.keys() == trained.keys() and all(torch.equal(after[key], trained[key]) for key in after)
    assert files(tmp_path / "out").keys() == files(bases["bfloat16"]).keys() != files(adapters["full"]).keys()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(512, 1024), (96, 96), (64, 1), (7, 192)])
def test_a_few_rows_at_a_time_go_through_nf4_as_the_whole_tensor_does(dtype, shape):
    draw = torch.Generator().manual_seed(shape[0])
    weight = (torch.randn(shape, generator=draw) * torch.rand(shape[0], 1, generator=draw)).to(dtype)
    weight[0] = 0  # a block without a scale
    step = rounding.nf4_step(shape)
    parts = weight.split(step)
    largest, scales = rounding.nf4_scales(parts)
    blocks = step * shape[1] // rounding.NF4_BLOCK
    made = [
        rounding.through_nf4(
            some, *(each[number * blocks :][: some.numel() // rounding.NF4_BLOCK] for each in (largest, scales))
        )
        for number, some in enumerate(parts)
    ]
    assert torch.equal(torch.cat(made), four_bit(weight))


def test_through_nf4_the_weights_are_the_four_bit_ones(bases, adapters, tmp_path):
    """W + delta, where W takes at most 16 values a block of 64; linear layers without an adapter are rounded, too."""
    rounded = four_bit(weights(bases["bfloat16"])[WEIGHT])
    assert max(len(block.unique()) for block in rounded.flatten().view(-1, 64)) <= 16
    original = merge(bases["bfloat16"], adapters["lora"], tmp_path / "a")
    through = merge(bases["bfloat16"], adapters["lora"], tmp_path / "b", nf4=True)
    assert {key for key in original if not torch.equal(original[key], through[key])} == {
        key for key, value in original.items() if ".layers." in key and value.dim() == 2
    }


@pytest.mark.parametrize("rank", [1, 32, 33, 1024])
def test_products_on_the_grid_are_exact_and_close(rank):
    torch.manual_seed(rank)
    b, a = torch.randn(300, rank).double() * 0.3, torch.randn(rank, 200).double() * torch.rand(200).double()
    on_b, on_a = fold.on_grid(b, 1, rank), fold.on_grid(a, 0, rank)
    product = on_b @ on_a
    assert torch.equal(product, on_b.flip(1) @ on_a.flip(0)), "another order of sums, the same bits"
    for row, column in [(0, 0), (299, 199), (7, 100)]:
        assert product[row, column] == math.fsum(x * y for x, y in zip(on_b[row], on_a[:, column], strict=True))
    assert (product - b @ a).abs().max() < 2**-20 * rank**0.5 * b.abs().max() * a.abs().max()


def test_row_norms_are_the_lengths_of_the_rows():
    for columns in (1, 2, 7, 64, 151):
        matrix = torch.randn(5, columns).double()
        torch.testing.assert_close(fold.row_norms(matrix)[:, 0], matrix.norm(dim=1), rtol=1e-14, atol=0)


def drawn(
    folder: Path, kind: str, dtype: torch.dtype, shapes: list[tuple[int, int]], shards: int = 1
) -> tuple[Path, Path]:
    """A base of bare tensors and an adapter to it, as big as one likes."""
    base, adapter = folder / "base", folder / "adapter"
    base.mkdir(parents=True)
    adapter.mkdir()
    torch.manual_seed(0)
    pattern = torch.randn(1 << 20) * 0.05
    matrices = {}
    for shard in range(shards):
        tensors = {}
        for number, (rows, columns) in enumerate(shapes):
            target = f"layers.{shard}.{number}"
            tensors[f"{target}.weight"] = (
                pattern.to(dtype).repeat(-(-rows * columns // len(pattern)))[: rows * columns].view(rows, columns)
            )
            tensors[f"{target}.bias"] = pattern[:rows].to(dtype).clone()
            key = f"base_model.model.{target}"
            if kind == "ia3":
                matrices[f"{key}.ia3_l"] = torch.rand(rows, 1) if number % 2 else torch.rand(1, columns)
            else:
                matrices[f"{key}.lora_A.weight"], matrices[f"{key}.lora_B.weight"] = (
                    torch.randn(33, columns),
                    torch.randn(rows, 33),
                )
            if kind == "dora":
                matrices[f"{key}.lora_magnitude_vector"] = torch.rand(rows)
        save_file(tensors, base / f"model-{shard}.safetensors", metadata={"format": "pt"})
    save_file(matrices, adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config = (
        {"peft_type": "IA3"}
        if kind == "ia3"
        else {"peft_type": "LORA", "r": 33, "lora_alpha": 3, "bias": "none", "use_dora": kind == "dora"}
    )
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    (adapter / "chat_template.jinja").write_text("")
    return base, adapter


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="missing: a CUDA device")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("kind", "nf4"), [("lora", False), ("dora", False), ("ia3", False), ("lora", True), ("dora", True)]
)
def test_a_gpu_makes_the_bytes_of_a_cpu(tmp_path, kind, nf4, dtype):
    base, adapter = drawn(tmp_path, kind, dtype, [(2048, 1536), (1000, 3584), (130, 66), (3584, 4864)])
    for device in ("cpu", "cuda"):
        merge(base, adapter, tmp_path / device, device, nf4)
    assert files(tmp_path / "cpu") == files(tmp_path / "cuda")


# VmHWM, for the peak that wait4 tells of a child begins with its parent's own memory.
PEAK = """
from stages import merged
merged.main()
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def peak_of_the_stage(folder: Path, base: Path, adapter: Path) -> int:
    """Bytes of memory that the stage, as a process, has held at most."""
    (folder / "build").mkdir(parents=True)
    (folder / "build/base").symlink_to(base)
    (folder / "build/adapter").symlink_to(adapter)
    (folder / "params.yaml").write_text("merged: {base: original, device: cpu}\n")
    ran = subprocess.run(
        [sys.executable, "-c", PEAK], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)},
        check=True, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    return int(ran.stdout.split()[-1]) * 1024


def test_memory_stays_below_two_shards(bases, adapters, tmp_path):
    """Over what the stage takes for a model of no size; two shards of 256 MB, and up to 12 cores."""
    nothing = peak_of_the_stage(tmp_path / "small", bases["bfloat16"], adapters["lora"])
    base, adapter = drawn(tmp_path, "lora", torch.bfloat16, [(4096, 4096)] * 8, shards=2)
    assert peak_of_the_stage(tmp_path / "large", base, adapter) - nothing < 2 * (256 << 20)
    shutil.rmtree(tmp_path)


def test_the_stage_writes_a_whole_model_and_ships_the_trained_template(bases, adapters, tmp_path, monkeypatch):
    base, out = bases["bfloat16"], tmp_path / "build/merged"
    (tmp_path / "build").mkdir()
    (tmp_path / "build/base").symlink_to(base)
    (tmp_path / "build/adapter").symlink_to(adapters["lora"])
    (tmp_path / "params.yaml").write_text("merged: {base: original, device: cpu}\n")
    monkeypatch.chdir(tmp_path)
    stage.main()
    assert {path.name for path in out.iterdir()} == {path.name for path in base.iterdir()} | {"chat_template.jinja"}
    assert (out / "tokenizer.json").read_bytes() == (base / "tokenizer.json").read_bytes()
    assert (out / "chat_template.jinja").read_text() == "trained template"
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"kept": 1}
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not report["missing_keys"] - {"lm_head.weight"} and not report["unexpected_keys"]


def test_a_merge_that_fails_leaves_nothing(bases, adapters, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "build").mkdir()
    (tmp_path / "build/base").symlink_to(bases["bfloat16"])
    spoiled(adapters["lora"], tmp_path / "build/adapter", nan)
    (tmp_path / "params.yaml").write_text("merged: {base: original, device: cpu}\n")
    with pytest.raises(StageError):
        stage.main()
    assert {path.name for path in (tmp_path / "build").iterdir()} == {"base", "adapter"}


def spoiled(adapter: Path, out: Path, edit=lambda weights: None, **config) -> Path:
    """A copy with its tensors edited in place and settings changed."""
    shutil.copytree(adapter, out)
    for path in out.glob("*.safetensors"):
        weights = load_file(path)
        edit(weights)
        save_file(weights, path, metadata={"format": "pt"})
    if config:
        file = out / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | config))
    return out


def zero(weights):
    for key in weights:
        if "v_proj.lora_B" in key:
            weights[key].zero_()


def one(weights):
    for key in weights:
        weights[key].fill_(1)


def nan(weights):
    next(value for key, value in weights.items() if "q_proj" in key).view(-1)[0] = float("nan")


def infinite(weights):
    next(value for key, value in weights.items() if "q_proj" in key).view(-1)[0] = -float("inf")


def deeper(weights):
    for key in [key for key in weights if ".layers.0." in key]:
        weights[key.replace(".layers.0.", ".layers.7.")] = weights[key].clone()


def wider(weights):
    for key in [key for key in weights if "q_proj.lora_A" in key]:
        weights[key] = torch.cat([weights[key]] * 2, dim=1)


def halved(weights):
    weights.pop(next(key for key in weights if "q_proj.lora_B" in key))


def embedded(weights):
    weights["base_model.model.model.embed_tokens.lora_embedding_A"] = torch.ones(4, 4)


def as_base(weights):
    weights["model.layers.0.mlp.down_proj.weight"] /= 2


def retyped(weights):
    weights[WEIGHT] = weights[WEIGHT].half()


def shorter(weights):
    del weights[WEIGHT]


def nothing(weights):
    pass


@pytest.mark.parametrize(
    ("kind", "edit", "config", "message"),
    [
        ("lora", zero, {}, r"layers.0.self_attn.v_proj.weight: the adapter leaves it unchanged: it was not trained"),
        ("ia3", one, {}, r"weight: the adapter leaves it unchanged"),
        ("lora", nan, {}, r"q_proj.weight: no longer finite after the merge: training has diverged"),
        ("dora", nan, {}, r"q_proj.weight: no longer finite"),
        ("ia3", infinite, {}, r"q_proj.(weight|bias): no longer finite"),
        ("full", nan, {}, r"q_proj.(weight|bias): no longer finite"),
        ("lora", deeper, {},
         r"targets 3 tensors that the base does not have, such as model.layers.7.*: it was trained on another base"),
        ("ia3", deeper, {}, r"targets 3 tensors that the base does not have, such as model.layers.7"),
        ("lora", wider, {}, r"q_proj.weight: the base's has the shape \[64, 64\], which the adapter's does not fit"),
        ("lora", halved, {}, r"q_proj has no lora_B.weight: the adapter is not whole"),
        ("lora", embedded, {}, r"embed_tokens.lora_embedding_A cannot be folded in"),
        ("dora", nothing, {"use_dora": False}, r"lora_magnitude_vector cannot be folded in"),
        ("lora", nothing, {"alpha_pattern": {"q_proj": 3}},
         r"alpha_pattern is {'q_proj': 3}: such adapters cannot be folded in"),
        ("lora", nothing, {"bias": "all"}, r"bias is 'all'"),
        ("lora", nothing, {"init_lora_weights": "pissa"}, r"init_lora_weights is 'pissa', which changes the base"),
        ("prompt", nothing, {},
         r"PROMPT_TUNING trains virtual tokens that stand beside the weights.*train with adapter.method qlora"),
        ("prefix", nothing, {}, r"PREFIX_TUNING trains virtual tokens that stand beside the weights"),
        ("loha", nothing, {},
         r"adapters of the kind LOHA cannot be folded in; train with adapter.method qlora, lora, dora, ia3 or full"),
        ("full", as_base, {}, r"every tensor is the base's own: nothing was trained"),
        ("full", retyped, {}, r"q_proj.weight is F16 \[64, 64\], the base's BF16 \[64, 64\]: save"),
        ("full", shorter, {}, r"q_proj.weight is in the base alone"),
    ],
)  # fmt: skip
def test_refused_with_a_reason(bases, adapters, tmp_path, kind, edit, config, message):
    with pytest.raises(StageError, match=message):
        merge(bases["bfloat16"], spoiled(adapters[kind], tmp_path / "adapter", edit, **config), tmp_path / "out")


def test_an_empty_folder_is_no_adapter(tmp_path):
    with pytest.raises(StageError, match=r"neither adapter_config.json nor \*.safetensors there"):
        fold.read(tmp_path, "cpu")


def test_a_shard_cut_short_is_named(bases, adapters, tmp_path):
    base = shutil.copytree(bases["bfloat16"], tmp_path / "base")
    for path in base.glob("*.safetensors"):
        os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(StageError, match=r"model-.*safetensors ends before its tensors do"):
        merge(base, adapters["lora"], tmp_path / "out")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_cuda_without_a_device_says_what_to_set(adapters):
    with pytest.raises(
        StageError, match=r"merged.device: 'cuda', but PyTorch sees no CUDA device.*set merged.device to cpu"
    ):
        fold.read(adapters["lora"], "cuda")
