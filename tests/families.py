"""Tiny bases of every family that is carried: its architecture, and its own tokenizer as a hub repository holds it.

The vocabularies of Qwen2, Llama 3 and Llama 2 are llama.cpp's real ones. Others are made of them: Phi-4's is the first
100,256 tokens of Llama 3's, which are OpenAI's cl100k; the DeepSeek-R1 distills' are Qwen2's and Llama 3's with other
control tokens. That they are the real ones the converter says, which knows a pre-tokenizer by the ids of a text. Llama
2's words, laid out as the family lays out its own, stand for CodeLlama, Mistral v0.3 and Gemma, which no file here has.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingot.chat.encoding import jinja
from ingot.llama import gguf_check
from ingot.model import tiny

ROOT = Path(__file__).parent.parent
VOCABULARIES = ROOT / "llama.cpp/models"
SHAPE = {
    "hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "hidden_act": "silu", "attention_dropout": 0.0, "attention_bias": False, "initializer_range": 0.02,
    "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "transformers_version": "4.57.6",
}  # fmt: skip
GEMMA = {"head_dim": 64, "hidden_activation": "gelu_pytorch_tanh", "query_pre_attn_scalar": 64, "sliding_window": 256}
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Family:
    template: str
    architecture: str
    model_type: str
    tokenizer: str  # a function below makes its files
    config: dict[str, Any] = field(default_factory=dict)
    targets: list[str] = field(default_factory=lambda: LINEAR)


FAMILIES = {
    "qwen2": Family("chatml", "Qwen2ForCausalLM", "qwen2", "qwen2"),
    "qwen3": Family("chatml", "Qwen3ForCausalLM", "qwen3", "qwen2", {"head_dim": 64}),
    "llama3": Family("llama3", "LlamaForCausalLM", "llama", "llama3", {"rope_theta": 500000.0}),
    "llama2": Family("llama2", "LlamaForCausalLM", "llama", "llama2"),
    "codellama": Family("llama2", "LlamaForCausalLM", "llama", "codellama", {"rope_theta": 1e6}),
    "mistral": Family("mistral", "MistralForCausalLM", "mistral", "mistral", {"sliding_window": None, "head_dim": 64}),
    "gemma2": Family(
        "gemma", "Gemma2ForCausalLM", "gemma2", "gemma",
        GEMMA | {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    ),
    "gemma3": Family(
        "gemma", "Gemma3ForCausalLM", "gemma3_text", "gemma",
        GEMMA | {"rope_local_base_freq": 10000.0, "sliding_window_pattern": 6, "rope_scaling": None},
    ),
    "phi4": Family(
        "phi4", "Phi3ForCausalLM", "phi3", "phi4",
        {"sliding_window": None, "original_max_position_embeddings": 512, "rope_scaling": None,
         "resid_pdrop": 0.0, "embd_pdrop": 0.0},
        ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
    ),
    "r1-qwen": Family("deepseek-r1", "Qwen2ForCausalLM", "qwen2", "r1_qwen"),
    "r1-llama": Family("deepseek-r1", "LlamaForCausalLM", "llama", "r1_llama", {"rope_theta": 500000.0}),
}  # fmt: skip


def make(name: str, out: Path) -> None:
    """Write the base into the folder `out`, which exists."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = FAMILIES[name]
    marks = TOKENIZERS[family.tokenizer](out)
    config = SHAPE | family.config | marks | {"architectures": [family.architecture], "model_type": family.model_type}
    (out / "config.json").write_text(json.dumps(config, indent=2))
    (out / "generation_config.json").write_text(
        json.dumps({key: marks[key] for key in ("bos_token_id", "eos_token_id")})
    )
    loaded = AutoConfig.from_pretrained(str(out))
    tiny.draw(out, AutoModelForCausalLM._model_mapping[type(loaded)], loaded, seed=1, std=0.08)


def small(out: Path, seed: int = 1) -> None:
    """Write a base into the folder `out`, which exists: Llama's architecture and 2,700 of Llama 2's words, for ChatML.

    The least that llama.cpp quantises, for tests that ask what a build does and not what a model knows.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    pieces = _pieces()
    longer = [piece for piece in pieces[259:2600] if piece[0].replace("▁", "").isascii()]
    letters = [piece for piece in pieces[259:] if re.fullmatch(r"[\x00-\x7f가-힣▁]", piece[0])]
    words = list(dict.fromkeys(longer + letters))
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    pieces = pieces[:259] + words + [(mark, 0.0, CONTROL) for mark in marks]
    _sentencepiece(out, pieces, ["<unk>", "<s>", "</s>", *marks], None, after_controls=None)
    _config(
        out, "LlamaTokenizer", None, "<|im_end|>", add_bos_token=False, add_prefix_space=False, legacy=False,
        unk_token="<unk>", pad_token="<|endoftext|>",
    )  # fmt: skip
    pad, end = len(pieces) - 3, len(pieces) - 1
    marks = {"vocab_size": len(pieces), "bos_token_id": pad, "eos_token_id": end, "pad_token_id": pad}
    config = (
        SHAPE | marks | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "max_position_embeddings": 1024}
    )
    (out / "config.json").write_text(json.dumps(config, indent=2))
    (out / "generation_config.json").write_text(json.dumps({"eos_token_id": end}))
    (out / "chat_template.jinja").write_text(jinja("chatml"))
    tiny.draw(out, LlamaForCausalLM, LlamaConfig.from_pretrained(str(out)), seed=seed, std=0.08)


def cut(base: Path) -> None:
    """Put a base's one file into two shards, under odd names, without metadata, and an index of the least."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(base / "model.safetensors")
    (base / "model.safetensors").unlink()
    parts = {"model-00.safetensors": sorted(tensors)[:4], "model-99.safetensors": sorted(tensors)[4:]}
    for name, keys in parts.items():
        save_file({key: tensors[key] for key in keys}, base / name)
    index = {"metadata": {}, "weight_map": {key: name for name, keys in parts.items() for key in keys}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def change(file: Path, **values: Any) -> None:
    """Set keys of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | values, ensure_ascii=False))


# --- tokenizers: each writes its files and returns config.json's vocab_size and special ids


def qwen2(out: Path) -> dict[str, int]:
    words, merges = _bpe("qwen2", 151_643)
    controls = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    _byte_level(out, words, merges, controls, SINGLE_DIGITS, None, nfc=True)
    _config(out, "Qwen2Tokenizer", None, "<|im_end|>", add_prefix_space=False, pad_token="<|endoftext|>")
    return {"vocab_size": 151_936, "bos_token_id": 151_643, "eos_token_id": 151_645}


def llama3(out: Path) -> dict[str, int]:
    words, merges = _bpe("llama-bpe", 128_000)
    controls = _metadata("llama-bpe")["tokenizer.ggml.tokens"][128_000:]
    _byte_level(out, words, merges, controls, THREE_DIGITS, "<|begin_of_text|>", whole_words=True)
    _config(out, "PreTrainedTokenizerFast", "<|begin_of_text|>", "<|eot_id|>")
    return {"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_009}


def phi4(out: Path) -> dict[str, int]:
    words, merges = _bpe("llama-bpe", 100_256)
    controls = [f"<|dummy_{number}|>" for number in range(96)]
    for number, token in {
        1: "<|endoftext|>", 2: "<|fim_prefix|>", 3: "<|fim_middle|>", 4: "<|fim_suffix|>",
        8: "<|im_start|>", 9: "<|im_end|>", 10: "<|im_sep|>", 20: "<|endofprompt|>",
    }.items():  # fmt: skip
        controls[number] = token
    _byte_level(out, words, merges, controls, THREE_DIGITS, None)
    _config(out, "GPT2Tokenizer", "<|endoftext|>", "<|im_end|>", add_prefix_space=False, pad_token="<|endoftext|>")
    return {"vocab_size": 100_352, "bos_token_id": 100_257, "eos_token_id": 100_265}


def r1_qwen(out: Path) -> dict[str, int]:
    words, merges = _bpe("qwen2", 151_643)
    controls = [
        "<｜end▁of▁sentence｜>",
        "<｜User｜>",
        "<｜Assistant｜>",
        "<｜begin▁of▁sentence｜>",
        "<|EOT|>",
        "<think>",
        "</think>",
    ]
    _byte_level(out, words, merges, controls, SINGLE_DIGITS, controls[3], special={controls[0], controls[3]})
    _config(
        out,
        "LlamaTokenizerFast",
        controls[3],
        controls[0],
        add_bos_token=True,
        legacy=True,
        unk_token=None,
        pad_token=controls[0],
    )
    return {"vocab_size": 151_936, "bos_token_id": 151_646, "eos_token_id": 151_643}


def r1_llama(out: Path) -> dict[str, int]:
    words, merges = _bpe("llama-bpe", 128_000)
    controls = _metadata("llama-bpe")["tokenizer.ggml.tokens"][128_000:]
    begin, end = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
    controls[0:2] = [begin, end]
    controls[11:15] = ["<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"]
    special = {*controls} - {*controls[11:15]}
    _byte_level(out, words, merges, controls, THREE_DIGITS, begin, whole_words=True, special=special)
    _config(out, "LlamaTokenizerFast", begin, end, add_bos_token=True, legacy=True, unk_token=None, pad_token=end)
    return {"vocab_size": 128_256, "bos_token_id": 128_000, "eos_token_id": 128_001}


def llama2(out: Path) -> dict[str, int]:
    _sentencepiece(out, _pieces(), ["<unk>", "<s>", "</s>"], "<s>", after_controls=True)
    _config(out, "LlamaTokenizer", "<s>", "</s>", add_bos_token=True, legacy=False, unk_token="<unk>")
    return {"vocab_size": 32_000, "bos_token_id": 1, "eos_token_id": 2}


def codellama(out: Path) -> dict[str, int]:
    fill = {32_007: "▁<PRE>", 32_008: "▁<SUF>", 32_009: "▁<MID>", 32_010: "▁<EOT>"}
    pieces = _pieces() + [(fill.get(token, f"▁<EXTRA_{token}>"), 0.0, CONTROL) for token in range(32_000, 32_016)]
    _sentencepiece(out, pieces, ["<unk>", "<s>", "</s>", *fill.values()], "<s>", after_controls=True)
    _config(out, "CodeLlamaTokenizer", "<s>", "</s>", add_bos_token=True, legacy=None, unk_token="<unk>")
    return {"vocab_size": 32_016, "bos_token_id": 1, "eos_token_id": 2}


def mistral(out: Path) -> dict[str, int]:
    marks = [
        "[INST]",
        "[/INST]",
        "[TOOL_CALLS]",
        "[AVAILABLE_TOOLS]",
        "[/AVAILABLE_TOOLS]",
        "[TOOL_RESULTS]",
        "[/TOOL_RESULTS]",
    ]
    pieces = _pieces()
    pieces[3:3] = [(mark, 0.0, CONTROL) for mark in marks]
    _sentencepiece(out, pieces, ["<unk>", "<s>", "</s>", *marks], "<s>", after_controls=False)
    _config(
        out, "LlamaTokenizer", "<s>", "</s>", add_bos_token=True, legacy=False, add_prefix_space=True, unk_token="<unk>"
    )
    return {"vocab_size": len(pieces), "bos_token_id": 1, "eos_token_id": 2}


def gemma(out: Path) -> dict[str, int]:
    marks = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>"]
    lines = ["\n", "\n\n", "\n\n\n"]
    types = {"<unk>": UNKNOWN, "<mask>": USER_DEFINED, "<start_of_turn>": USER_DEFINED, "<end_of_turn>": USER_DEFINED}
    pieces = [(mark, 0.0, types.get(mark, CONTROL)) for mark in marks] + [(line, 0.0, USER_DEFINED) for line in lines]
    pieces += _pieces()[3:]
    _sentencepiece(out, pieces, [*marks, *lines], "<bos>", after_controls=None, special={*marks})
    _config(out, "GemmaTokenizer", "<bos>", "<eos>", add_bos_token=True, unk_token="<unk>", pad_token="<pad>")
    return {"vocab_size": len(pieces), "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}


TOKENIZERS = {
    make.__name__: make for make in (qwen2, llama3, phi4, r1_qwen, r1_llama, llama2, codellama, mistral, gemma)
}  # fmt: skip

# --- byte-level BPE

CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SINGLE_DIGITS, THREE_DIGITS = CL100K % "", CL100K % "{1,3}"


def _bpe(name: str, count: int) -> tuple[list[str], list[str]]:
    """The first `count` tokens of a real vocabulary, and the merges that make them."""
    known = _metadata(name)
    words = known["tokenizer.ggml.tokens"][:count]
    there = set(words)
    pairs = [merge.split(" ") for merge in known["tokenizer.ggml.merges"]]
    return words, [f"{a} {b}" for a, b in pairs if a in there and b in there and a + b in there]


def _byte_level(
    out: Path, words: list[str], merges: list[str], controls: list[str], split: str, bos: str | None, *,
    nfc: bool = False, whole_words: bool = False, special: set[str] | None = None,
) -> None:  # fmt: skip
    model = {
        "type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": whole_words,
        "vocab": {word: token for token, word in enumerate(words)}, "merges": merges,
    }  # fmt: skip
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    pre = {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": split}, "behavior": "Isolated", "invert": False}, bytes_,
    ]}  # fmt: skip
    added = {token: control for token, control in enumerate(controls, len(words))}
    post = _begins(bos, {control: token for token, control in added.items()}) if bos else bytes_
    _tokenizer(out, model, {"type": "NFC"} if nfc else None, pre, post, bytes_, added, special)


# --- SentencePiece

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def _pieces() -> list[tuple[str, float, int]]:
    """Llama 2's: text, score, type."""
    known = _metadata("llama-spm")
    return list(zip(*(known[f"tokenizer.ggml.{key}"] for key in ("tokens", "scores", "token_type")), strict=True))


def _sentencepiece(
    out: Path, pieces: list[tuple[str, float, int]], added: list[str], bos: str | None, *,
    after_controls: bool | None, special: set[str] | None = None,
) -> None:  # fmt: skip
    """tokenizer.model and tokenizer.json; a space is put before what follows a control token, or the first word alone
    (False), or nothing (None)."""
    from sentencepiece import sentencepiece_model_pb2 as proto

    trained = proto.ModelProto()
    trained.trainer_spec.model_type = proto.TrainerSpec.BPE
    trained.trainer_spec.byte_fallback = True
    trained.trainer_spec.vocab_size = len(pieces)
    ids = {text: token for token, (text, _, _) in enumerate(pieces)}
    trained.trainer_spec.unk_id, trained.trainer_spec.bos_id = ids["<unk>"], ids[bos or "<s>"]
    trained.normalizer_spec.name = "identity"
    trained.normalizer_spec.add_dummy_prefix = after_controls is not None
    trained.normalizer_spec.remove_extra_whitespaces = False
    for text, score, kind in pieces:
        trained.pieces.add(piece=text, score=score, type=kind)
    (out / "tokenizer.model").write_bytes(trained.SerializeToString())

    # As transformers makes it of tokenizer.model: every way to make a word of two is a merge, the best words first.
    normal = {text: (token, score) for token, (text, score, kind) in enumerate(pieces) if kind == NORMAL}
    ranked = []
    for text, (_, score) in normal.items():
        pairs = [(text[:cut], text[cut:]) for cut in range(1, len(text))]
        pairs = [(a, b) for a, b in pairs if a in normal and b in normal]
        ranked += [(-score, normal[a][0], normal[b][0], f"{a} {b}") for a, b in pairs]
    model = {
        "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": True, "ignore_merges": False,
        "vocab": ids, "merges": [merge for *_, merge in sorted(ranked)],
    }  # fmt: skip
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    normalizer, pre = None, None
    if after_controls:
        normalizer = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, spaces]}
    elif after_controls is None:
        normalizer = spaces
        pre = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
    else:
        pre = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
    decoders = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if after_controls is not None:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    decoder = {"type": "Sequence", "decoders": decoders}
    post = _begins(bos, ids) if bos else None
    _tokenizer(out, model, normalizer, pre, post, decoder, {ids[text]: text for text in added}, special)


# --- files


def _begins(bos: str, ids: dict[str, int]) -> dict[str, Any]:
    """A post-processor that puts the BOS before every text."""
    first, a, b = ({"SpecialToken": {"id": bos, "type_id": 0}}, *({"Sequence": {"id": x, "type_id": 0}} for x in "AB"))
    return {
        "type": "TemplateProcessing", "single": [first, a], "pair": [first, a, first, b],
        "special_tokens": {bos: {"id": bos, "ids": [ids[bos]], "tokens": [bos]}},
    }  # fmt: skip


def _tokenizer(
    out: Path, model, normalizer, pre, post, decoder, added: dict[int, str], special: set[str] | None
) -> None:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    tokens = [
        {"id": token, "content": text, **flags, "special": special is None or text in special}
        for token, text in sorted(added.items())
    ]
    parts = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": tokens, "normalizer": normalizer,
        "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": model,
    }  # fmt: skip
    (out / "tokenizer.json").write_text(json.dumps(parts, ensure_ascii=False), encoding="utf-8")
    decoded = {str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in tokens}
    (out / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": decoded}, ensure_ascii=False))


def _config(out: Path, kind: str, bos: str | None, eos: str, **more: Any) -> None:
    path = out / "tokenizer_config.json"
    config = json.loads(path.read_text()) | {"tokenizer_class": kind, "bos_token": bos, "eos_token": eos, **more}
    config |= {"clean_up_tokenization_spaces": False, "model_max_length": 512}
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2))


@functools.cache
def _metadata(name: str) -> dict[str, Any]:
    return gguf_check.metadata(VOCABULARIES / f"ggml-vocab-{name}.gguf")
