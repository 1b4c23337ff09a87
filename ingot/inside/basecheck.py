"""Is this base model one that the whole pipeline can carry? Asked before anything is trained on it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ingot.inside import chat, llamacpp, parity, shipped
from ingot.inside.progress import StageError
from ingot.inside.weights import not_finite, parameters

# What goes through every stage in tests/test_families.py, by the architecture in config.json.
ARCHITECTURES = {
    "Qwen2ForCausalLM": "Qwen2, Qwen2.5, DeepSeek-R1-Distill-Qwen",
    "Qwen3ForCausalLM": "Qwen3",
    "LlamaForCausalLM": "Llama 2, Llama 3.x, CodeLlama, DeepSeek-R1-Distill-Llama",
    "MistralForCausalLM": "Mistral 7B, Nemo, Small without eyes",
    "Gemma2ForCausalLM": "Gemma 2",
    "Gemma3ForCausalLM": "Gemma 3 without eyes (270M, 1B)",
    "Phi3ForCausalLM": "Phi-4 14B",
}
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
SENSES = ("vision_config", "audio_config")


def check(folder: Path, template: str) -> int:
    """Raise StageError, naming what is missing, unless the folder is a complete base that every stage can carry.

    Returns the number of parameters in its safetensors files.
    """
    config = _json(folder / "config.json")
    check_architecture(folder, config)
    _check_files(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        if (folder / name).is_file():
            _json(folder / name)
    tokenizer = chat.load_tokenizer(folder)
    chat.check_template(tokenizer, template)
    tensors = _tensors(folder)
    _check_rows(folder, config, tensors, len(tokenizer))
    _check_tensors(folder, tensors)
    _check_converted(folder, template)
    return parameters(folder)


def check_architecture(folder: Path, config: dict) -> None:
    """Raise StageError, with the reason, unless the architecture is one that is carried."""
    name = (config.get("architectures") or ["none"])[0]
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method:
        why = f"its weights are quantised ({method}); take the 16-bit repository that they were made from"
    elif name in ARCHITECTURES:
        return
    elif any(config.get(key) for key in EXPERTS):
        why = (
            "it is a mixture of experts: transformers keeps a layer's experts stacked in one tensor, no linear layers that "
            "an adapter could target or a merge fold back"
        )
    elif any(key in config for key in SENSES) or name.endswith("ForConditionalGeneration"):
        why = (
            "it sees or hears: only its text part would be converted, under tensor names that the adapter does not have"
        )
    elif not name.endswith("ForCausalLM"):
        why = "it is no causal language model: it cannot answer"
    else:
        why = "nothing proves that it comes through training, merge and conversion unchanged"
    raise StageError(
        f"{folder}: the architecture {name} is not carried: {why}. Those that are: "
        + "; ".join(f"{known} ({families})" for known, families in ARCHITECTURES.items())
    )


def _check_files(folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StageError(
            f"{folder}: no model*.safetensors; pickled weights (.bin, .pt) are not read, for they can run code"
        )
    index = folder / "model.safetensors.index.json"
    if len(weights) > 1 or index.is_file():
        listed = set(_json(index).get("weight_map", {}).values())
        present = {path.name for path in weights}
        if missing := sorted(listed - present):
            raise StageError(
                f"{folder}: {index.name} lists {', '.join(missing)}, which is not there: fetch the base again"
            )
        if extra := sorted(present - listed):
            raise StageError(
                f"{folder}: {', '.join(extra)} is in no {index.name}; the converter would merge it in: remove it"
            )
    if not ((folder / "tokenizer.json").is_file() or (folder / "tokenizer.model").is_file()):
        raise StageError(f"{folder}: neither tokenizer.json nor tokenizer.model: the base has no tokenizer")
    if not (folder / "tokenizer_config.json").is_file():
        raise StageError(
            f"{folder}: no tokenizer_config.json: without it the converter writes no chat template and no BOS; take the "
            "file from the model's own repository"
        )


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's type, as safetensors calls it, and shape."""
    from safetensors import SafetensorError, safe_open

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(str(path), framework="numpy") as file:
                for key in file.keys():  # noqa: SIM118
                    part = file.get_slice(key)
                    found[key] = part.get_dtype(), tuple(part.get_shape())
        except SafetensorError as error:
            raise StageError(f"{path}: damaged or cut off ({error}): fetch the base again") from None
    return found


def _check_rows(folder: Path, config: dict, tensors: dict, tokens: int) -> None:
    """Tokens, config.json and the embedding itself must agree: what lies beyond would be read out of bounds."""
    vocabulary = config.get("vocab_size")
    rows = next((shape[0] for name, (_, shape) in tensors.items() if name.endswith("embed_tokens.weight")), None)
    if rows != vocabulary:
        raise StageError(
            f"{folder}: config.json says vocab_size {vocabulary}, but the embedding has {rows} rows: the files are not of "
            "one model; fetch the base again"
        )
    if tokens > vocabulary:
        raise StageError(
            f"{folder}: the tokenizer has {tokens} tokens but the embedding only {vocabulary} rows: "
            "tokens beyond them would be read out of bounds"
        )


def _check_tensors(folder: Path, tensors: dict) -> None:
    """Every weight that the architecture has must be there, of its shape, 16 or 32 bits wide, and finite: transformers
    would draw missing ones at random, and say so among its notes alone.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(folder), local_files_only=True))
    for name, weight in model.named_parameters():  # of tied ones the first alone
        if name not in tensors:
            raise StageError(f"{folder}: {name} is missing, which config.json asks for: fetch the base again")
        dtype, shape = tensors[name]
        if shape != tuple(weight.shape):
            raise StageError(
                f"{folder}: {name} is {list(shape)}, by config.json it is {list(weight.shape)}: the files are not of one "
                "model; fetch the base again"
            )
        if dtype not in ("BF16", "F16", "F32"):
            raise StageError(f"{folder}: {name} is {dtype}; take a base in 16 or 32 bits")
    if name := not_finite(folder):
        raise StageError(f"{folder}: {name} holds NaN or infinity: the base is damaged; fetch it again")


def _check_converted(folder: Path, template: str) -> None:
    """Let the real converter read config and vocabulary, then the real engines render by them, before any training."""
    with tempfile.TemporaryDirectory() as scratch:
        model, vocabulary = Path(scratch) / "model", Path(scratch) / "vocabulary.gguf"
        model.mkdir()
        shipped.files(folder, chat.jinja(template), model)
        for index in model.glob("*.index.json"):  # the converter would open the shards that it lists
            index.unlink()
        try:
            llamacpp.convert(model, vocabulary, "vocabulary", "f16", vocabulary_only=True)
        except StageError as error:
            said = str(error)
            known = "pre-tokenizer was not recognized" not in said and "get_vocab_base_pre" not in said
            reason = "cannot read its vocabulary" if known else "does not know its pre-tokenizer"
            raise StageError(
                f"{folder}: this base cannot become a GGUF: llama.cpp's converter {reason}{_saved_anew(folder)}. Choose "
                f"another base. The converter said:\n{said}"
            ) from None
        try:
            parity.check(
                model, chat.jinja(template), vocabulary, chat.go_template(template), "Answer briefly.", template
            )
        except StageError as error:
            raise StageError(
                f"{folder}: its tokenizer, as it was trained with, and the one that its GGUF would carry do not agree"
                f"{_saved_anew(folder)}. Choose another base, or template.\n{error}"
            ) from None


def _saved_anew(folder: Path) -> str:
    if _json(folder / "tokenizer_config.json").get("tokenizer_class") != "TokenizersBackend":
        return ""
    return " (transformers 5 has saved its tokenizer anew, without what the converter reads: take the original's files)"


def _json(path: Path) -> dict:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is no complete model repository")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StageError(f"{path}: no JSON ({error}): fetch the base again") from None
    if not isinstance(found, dict):
        raise StageError(f"{path}: no JSON object: fetch the base again")
    return found
