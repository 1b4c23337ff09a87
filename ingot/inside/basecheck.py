"""Is this base model one that the whole pipeline can carry? Asked before anything is trained on it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ingot.inside import chat, llamacpp
from ingot.inside.progress import StageError
from ingot.inside.weights import parameters


def check(folder: Path, template: str) -> int:
    """Raise StageError, naming what is missing, unless the folder is a complete, convertible base.

    Returns the number of parameters in its safetensors files.
    """
    config = _json(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise StageError(f"{folder}: no *.safetensors; pickled weights (.bin, .pt) are not read, for they can run code")
    index = folder / "model.safetensors.index.json"
    if len(weights) > 1 or index.is_file():
        listed = set(_json(index)["weight_map"].values())
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

    tokenizer = chat.load_tokenizer(folder)
    chat.check_template(tokenizer, template)
    vocabulary = config.get("vocab_size") or config.get("text_config", {}).get("vocab_size", 0)
    if len(tokenizer) > vocabulary:
        raise StageError(
            f"{folder}: the tokenizer has {len(tokenizer)} tokens but the embedding only {vocabulary} rows: "
            "tokens beyond them would be read out of bounds"
        )
    _check_converter(folder, (config.get("architectures") or ["none"])[0])
    return parameters(folder)


def _check_converter(folder: Path, architecture: str) -> None:
    """Let the real converter read config and vocabulary, which is where it refuses what it does not know."""
    with tempfile.TemporaryDirectory() as scratch:
        try:
            llamacpp.convert(folder, Path(scratch) / "vocabulary.gguf", "vocabulary", "f16", vocabulary_only=True)
        except StageError as error:
            said = str(error)
            if "pre-tokenizer was not recognized" in said or "get_vocab_base_pre" in said:
                reason = "llama.cpp's converter does not know its pre-tokenizer"
            elif "is not supported" in said:
                reason = f"llama.cpp's converter does not know its architecture, {architecture}"
            else:
                reason = "llama.cpp's converter cannot read its vocabulary"
            raise StageError(
                f"{folder}: this base cannot become a GGUF: {reason}. Choose another base. The converter said:\n{said}"
            ) from None


def _json(path: Path) -> dict:
    if not path.is_file():
        raise StageError(f"{path}: missing; the folder is no complete model repository")
    return json.loads(path.read_text(encoding="utf-8"))
