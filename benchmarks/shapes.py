"""Random bases in the shapes of real models, with the real Qwen2 tokenizer, and random conversations: for benchmarks.

A model's speed and memory do not depend on what its weights are. Drawn on the GPU, 7 B parameters take 20 s.
"""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import Qwen2Config

from ingot.chat import encoding
from ingot.model import tiny
from ingot.model.params import Tiny
from tests.conftest import tokenise, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
WORDS = ROOT / "benchmarks/words.txt"  # never change it: hashes of other machines are compared
# hidden, intermediate, layers, heads, key and value heads, vocabulary, one matrix for embedding and output
SHAPES = {
    "7b": (3584, 18944, 28, 28, 4, 152064, False),
    "3b": (2048, 11008, 36, 16, 2, 151936, True),
    "0.5b": (896, 4864, 24, 14, 2, 151936, True),
    "small": (512, 1536, 6, 8, 2, 151936, True),
}


def base(folder: Path, shape: str) -> Path:
    """A base in bfloat16, one shard for each layer; made once."""
    if (folder / "model.safetensors.index.json").is_file():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    hidden, middle, layers, heads, kv_heads, vocabulary, tied = SHAPES[shape]
    made = Tiny(seed=1, hidden_size=256, intermediate_size=256, layers=1, heads=4, kv_heads=2, positions=256, std=0.08)
    tiny.make(folder, made, ROOT / "llama.cpp/models")  # for its tokenizer
    (folder / "model.safetensors").unlink()
    Qwen2Config(
        vocab_size=vocabulary, hidden_size=hidden, intermediate_size=middle, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=32768, rms_norm_eps=1e-6,
        tie_word_embeddings=tied, dtype="bfloat16", architectures=["Qwen2ForCausalLM"],
    ).save_pretrained(folder)  # fmt: skip
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)

    def drawn(*size: int) -> torch.Tensor:
        return torch.empty(size, device=device, dtype=torch.bfloat16).normal_(std=0.02).cpu()

    narrow = hidden // heads * kv_heads
    linear = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (narrow, hidden),
        "self_attn.v_proj": (narrow, hidden), "self_attn.o_proj": (hidden, hidden),
        "mlp.gate_proj": (middle, hidden), "mlp.up_proj": (middle, hidden), "mlp.down_proj": (hidden, middle),
    }  # fmt: skip

    def ones() -> torch.Tensor:
        return torch.ones(hidden, dtype=torch.bfloat16)

    index = {}

    def write(name: str, weights: dict[str, torch.Tensor]) -> None:
        save_file(weights, folder / name, metadata={"format": "pt"})
        index.update(dict.fromkeys(weights, name))

    write("model-00.safetensors", {"model.embed_tokens.weight": drawn(vocabulary, hidden), "model.norm.weight": ones()})
    if not tied:
        write("model-99.safetensors", {"lm_head.weight": drawn(vocabulary, hidden)})
    for layer in range(layers):
        path, weights = f"model.layers.{layer}.", {}
        for name, size in linear.items():
            weights[f"{path}{name}.weight"] = drawn(*size)
            if name[10:] in ("q_proj", "k_proj", "v_proj"):
                weights[f"{path}{name}.bias"] = drawn(size[0])
        weights |= {f"{path}{name}_layernorm.weight": ones() for name in ("input", "post_attention")}
        write(f"model-{layer + 1:02}.safetensors", weights)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


def parameters(base: Path) -> int:
    """How many numbers the shards hold."""
    count = 0
    for path in base.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            count += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return count


def dataset(folder: Path, base: Path, tokens: int, longest: int) -> None:
    """Conversations of random words, as many as make up `tokens`, none longer than `longest`."""
    draw = random.Random(0)
    words = WORDS.read_text().split()
    rows, count = [], 0
    while count < tokens:
        length = draw.randint(longest // 14, longest // 3)  # about 1.5 tokens a word
        said = " ".join(draw.choice(words) for _ in range(length // 2))
        turns = [
            {"role": "user", "content": said[: len(said) // 4]},
            {"role": "assistant", "content": said[len(said) // 4 :]},
        ]
        rows.append({"source": "drawn", "row": len(rows), "tokens": 0, "messages": turns})
        count += length
    folder.mkdir(parents=True, exist_ok=True)
    write_jsonl(folder / "train.jsonl", rows[2:])
    write_jsonl(folder / "eval.jsonl", rows[:2])
    (folder / "chat_template.jinja").write_text(encoding.jinja("chatml"))
    tokenise(folder, base)
