"""A base's tensors, held against what its config.json asks for."""

from __future__ import annotations

from pathlib import Path

from ingot.console.progress import StageError, foreign
from ingot.model import weights
from ingot.model.base_files import headers


def load_config(folder: Path):
    """config.json as transformers reads it; never by code of the folder's own."""
    from transformers import AutoConfig

    with foreign(f"{folder}/config.json: transformers cannot read it", "fetch the base again, or take another"):
        return AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)


def tensors_of(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's type, as safetensors calls it, and shape."""
    found = {}
    for path, some in headers(folder).items():
        if twice := found.keys() & some.keys():
            raise StageError(
                f"{path}: {min(twice)} is in another file, too\nhint: remove the file that is not the model's"
            )
        found |= some
    return found


def check_rows(folder: Path, config: dict, tensors: dict, tokens: int) -> None:
    """Tokens, config.json and the embedding itself must agree: what lies beyond would be read out of bounds."""
    vocabulary = config.get("vocab_size")
    rows = next((shape[0] for name, (_, shape) in tensors.items() if name.endswith("embed_tokens.weight")), None)
    if rows != vocabulary or vocabulary is None:
        raise StageError(
            f"{folder}: config.json says vocab_size {vocabulary}, but the embedding has {rows} rows: the files are not "
            "of one model; fetch the base again"
        )
    if tokens > vocabulary:
        raise StageError(
            f"{folder}: the tokenizer has {tokens} tokens but the embedding only {vocabulary} rows: "
            "tokens beyond them would be read out of bounds"
        )


def check_tensors(folder: Path, tensors: dict) -> None:
    """Every weight that the architecture has must be there, of its shape, 16 or 32 bits wide, and finite: transformers
    would draw missing ones at random, and say so among its notes alone.
    """
    import torch
    from transformers import AutoModelForCausalLM

    config, hint = load_config(folder), "fetch the base again, or take another"
    with foreign(f"{folder}/config.json: no model can be made by it", hint), torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    if packed := [name for name in tensors if name.endswith((".qweight", ".qzeros"))]:
        raise StageError(
            f"{folder}: {min(packed)}: its weights are quantised (by GPTQ or AWQ)\n"
            "hint: take the 16-bit repository that they were made from"
        )
    if strange := sorted(tensors.keys() - model.state_dict().keys()):
        raise StageError(
            f"{folder}: {strange[0]} is no tensor of {type(model).__name__} ({len(strange)} such): a merge would keep "
            "it, and no GGUF can hold it\nhint: take the 16-bit weights of the plain language model"
        )
    if "lm_head.weight" in tensors and getattr(model.config, "tie_word_embeddings", False) and not _tied(folder):
        raise StageError(
            f"{folder}: lm_head.weight is not the embedding, but config.json ties them: transformers would train with "
            "one, llama.cpp serve with the other\nhint: set tie_word_embeddings to false, or take the original files"
        )
    for name, weight in model.named_parameters():  # of tied ones the first alone
        if name not in tensors:
            raise StageError(f"{folder}: {name} is missing, which config.json asks for: fetch the base again")
        dtype, shape = tensors[name]
        if shape != tuple(weight.shape):
            raise StageError(
                f"{folder}: {name} is {list(shape)}, by config.json it is {list(weight.shape)}: the files are not of "
                "one model; fetch the base again"
            )
        if dtype not in ("BF16", "F16", "F32"):
            raise StageError(f"{folder}: {name} is {dtype}; take a base in 16 or 32 bits")
    if name := weights.not_finite(folder):
        raise StageError(f"{folder}: {name} holds NaN or infinity: the base is damaged; fetch it again")


def _tied(folder: Path) -> bool:
    """Whether the output's matrix, which has a copy of its own, is the embedding."""
    import torch

    pair = [
        tensor for name, tensor in weights.tensors_of(folder) if name in ("lm_head.weight", "model.embed_tokens.weight")
    ]
    return len(pair) == 2 and torch.equal(*pair)
